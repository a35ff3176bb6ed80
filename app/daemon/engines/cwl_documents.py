"""CWL documents as text: which files one refers to, and the same text with references replaced. Pure; opens nothing.

A document is never built as objects: only its node tree is looked at, so aliases cannot multiply and tags mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_NESTING = 100
MAX_NODES = 1_000_000  # with every alias written out

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")


class Unreadable(Exception):
    """Not YAML, not UTF-8, or not one document."""


class Excessive(Exception):
    """Too deep, or too large once its aliases are written out."""


class Kind(Enum):
    """What a reference leads to."""

    DOCUMENT = "run, $import, $mixin: read, and followed in turn"
    TEXT = "$include"
    SCHEMA = "$schemas: a run does without where it cannot be had"
    FILE = "location of a File"
    DIRECTORY = "location of a Directory"
    MENTION = "a web address anywhere else: only matters where that document is fetched for another reason"


@dataclass(frozen=True, slots=True)
class Reference:
    """`value` as written; `start` and `end`: where it stands in the text, quotes included."""

    kind: Kind
    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Document:
    text: str
    references: tuple[Reference, ...]
    is_collection: bool  # a mapping or a sequence: what `run` and `$import` may lead to
    has_version: bool  # it says cwlVersion, as whatever is run itself must

    def replaced(self, changes: Iterable[tuple[Reference, str]]) -> str:
        """The text with these references written differently; lines and comments stay where they are."""
        text = self.text
        for reference, value in sorted(changes, key=lambda change: change[0].start, reverse=True):
            text = text[: reference.start] + f'"{value}"' + text[reference.end :]
        return text


def parse(source: bytes) -> Document:
    """Raises Unreadable or Excessive."""
    try:
        text = source.decode("utf-8-sig")
        _check_nesting(text)
        root = yaml.compose(text, Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from error
    if root is None:
        raise Unreadable("It is empty.")
    if _expanded(root, {}) > MAX_NODES:
        raise Excessive(f"It has more than {MAX_NODES} nodes once its aliases are written out.")
    has_version = isinstance(root, MappingNode) and "cwlVersion" in _fields(root)
    references = tuple(_located(text, kind, node) for kind, node in _references(root))
    return Document(text, references, not isinstance(root, ScalarNode), has_version)


def _check_nesting(text: str) -> None:
    """Before composing, which recurses: the C parser's recursion ends the process at a great depth."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_NESTING:
                raise Excessive(f"It is nested deeper than {MAX_NESTING} levels.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _expanded(node: Node, sizes: dict[int, int | None]) -> int:
    known = sizes.setdefault(id(node), None) if id(node) in sizes else -1
    if known is None:
        raise Excessive("It contains itself.")
    if known < 0:
        sizes[id(node)] = None
        known = 1 + sum(_expanded(child, sizes) for child in _children(node))
        sizes[id(node)] = known
    return known


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _references(root: Node) -> Iterator[tuple[Kind, ScalarNode]]:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            for kind, found in _named_references(_fields(node)):
                if id(found) not in seen:
                    seen.add(id(found))
                    yield kind, found
        elif isinstance(node, ScalarNode) and node.value.startswith(("http://", "https://")):
            yield Kind.MENTION, node
        waiting += _children(node)


def _named_references(fields: dict[str, Node]) -> Iterator[tuple[Kind, ScalarNode]]:
    named: list[tuple[Kind, Node | None]] = [
        (Kind.DOCUMENT, fields.get("$import")),
        (Kind.DOCUMENT, fields.get("$mixin")),
        (Kind.TEXT, fields.get("$include")),
    ]
    if "in" in fields or "out" in fields:  # else `run` is a user's word, not a step's
        named.append((Kind.DOCUMENT, fields.get("run")))
    schemas = fields.get("$schemas")
    named += [(Kind.SCHEMA, node) for node in ([schemas, *_children(schemas)] if schemas else [])]
    kind = getattr(fields.get("class"), "value", None)
    if kind in ("File", "Directory"):
        named.append((Kind[kind.upper()], fields.get("location") or fields.get("path")))
    yield from ((kind, node) for kind, node in named if isinstance(node, ScalarNode))


def _fields(node: MappingNode) -> dict[str, Node]:
    return {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}


def _located(text: str, kind: Kind, node: ScalarNode) -> Reference:
    """A node's mark begins at its anchor or tag, which must stay."""
    start, end = node.start_mark.index, node.end_mark.index
    properties = _PROPERTIES.match(text, start, end)
    return Reference(kind, node.value, properties.end() if properties else start, end)
