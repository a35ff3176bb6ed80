"""A CWL workflow of several documents as the one JSON document that Seven Bridges installs as an app.

Pure but for `read`, which gets a document by its place: an attachment's path, or an address.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

import yaml

from app.daemon.engines.cwl_documents import Excessive, Unreadable, parse
from app.errors import InvalidRequest, Rejected
from app.strict import load_json

MAX_DOCUMENTS = 500
MAX_BYTES = 5 * 1024 * 1024
PROCESSES = frozenset({"Workflow", "CommandLineTool", "ExpressionTool"})
NOT_CWL = "workflow_not_cwl"

NAMES = frozenset({"id", "out", "scatter", "symbols"})
LINKS = frozenset({"source", "outputSource"})
"""Fields that name something at its place, and from elsewhere in its process."""

Read = Callable[[str], bytes]
Place = tuple[str, str]
"""A document, and which process of it: "" is the one, or the main one."""


class _Loader(yaml.CSafeLoader):
    """Dates stay text, since JSON has none."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def packed(place: str, read: Read, part: str = "") -> dict[str, Any]:
    """The document at `place` with all that it refers to in the place of the references; of a packed one its main
    process, or the one named `part`. Raises Rejected."""
    try:
        document = _Packing(read).process((place, part), ())
    except RecursionError:
        raise Rejected(f"{place} nests its workflows too deeply.", NOT_CWL) from None
    if not isinstance(document, dict) or "cwlVersion" not in document or document.get("class") not in PROCESSES:
        raise Rejected(f"{place} is not a CWL process: it needs a cwlVersion and a class.", NOT_CWL)
    return document


def content_hash(document: Mapping[str, Any]) -> str:
    """The same for the same content, however it was written down."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class _Packing:
    """One workflow's; counts what it has read."""

    def __init__(self, read: Read) -> None:
        self._read, self._documents, self._bytes = read, 0, 0
        self._graphs: dict[str, Mapping[str, Any]] = {}

    def process(self, place: Place, parents: tuple[Place, ...]) -> Any:
        where, part = place
        if where not in self._graphs:
            value = self._parsed(where)
            if not isinstance(value, dict) or "$graph" not in value:
                _check_only(value, place)
                return self._below(value, place, parents)
            self._graphs[where] = value
        process = _of_graph(self._graphs[where], place)
        self._count(len(json.dumps(process)))
        return self._below(process, (where, part or "main"), parents)

    def _below(self, value: Any, place: Place, parents: tuple[Place, ...]) -> Any:
        if place in parents:
            raise Rejected(f"{_shown(place)} refers to itself, by way of {_shown(parents[-1])}.", NOT_CWL)
        return self._resolved(_relative(value, _own_id(value)), place[0], (*parents, place))

    def _resolved(self, value: Any, place: str, parents: tuple[Place, ...]) -> Any:
        if isinstance(value, list):
            return [self._resolved(element, place, parents) for element in value]
        if not isinstance(value, dict):
            return value
        if isinstance(target := value.get("$import"), str):
            imported = _joined(place, target)
            return self._below(self._parsed(imported), (imported, ""), parents)
        if isinstance(target := value.get("$include"), str):
            return self._text(_joined(place, target))
        resolved = {key: self._resolved(element, place, parents) for key, element in value.items()}
        if isinstance(target := value.get("run"), str) and {"in", "out"} & set(value):
            where, _, part = target.partition("#")
            resolved["run"] = self.process((_joined(place, where) if where else place, part), parents)
        return resolved

    def _parsed(self, place: str) -> Any:
        source = self._source(place)
        try:
            parse(source)  # not too deep, no aliases that multiply
            return load_json(json.dumps(yaml.load(source, Loader=_Loader), ensure_ascii=False), place)  # noqa: S506
        except (Unreadable, Excessive, InvalidRequest, yaml.YAMLError, ValueError, TypeError) as error:
            raise Rejected(f"{place} is not a CWL document: {' '.join(str(error).split())[:300]}", NOT_CWL) from None

    def _text(self, place: str) -> str:
        try:
            return self._source(place).decode()
        except UnicodeDecodeError:
            raise Rejected(f"{place} is not text.", NOT_CWL) from None

    def _source(self, place: str) -> bytes:
        source = self._read(place)
        self._count(len(source))
        return source

    def _count(self, size: int) -> None:
        self._documents += 1
        self._bytes += size
        if self._documents > MAX_DOCUMENTS or self._bytes > MAX_BYTES:
            words = f"The workflow has more than {MAX_DOCUMENTS} documents or {MAX_BYTES} bytes."
            raise Rejected(words, "workflow_too_large")


def _of_graph(document: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """One process of a packed document, with what the document says for all of them."""
    listed = document["$graph"] if isinstance(document["$graph"], list) else []
    named: dict[str, dict[str, Any]] = {_own_id(one): one for one in listed if _own_id(one)}
    process = named.get(place[1] or "main")
    if process is None:
        names = ", ".join(sorted(named)[:10]) or "it has none"
        raise Rejected(f"{place[0]}: {place[1] or 'main'!r} is none of its processes: {names}.", NOT_CWL)
    return {name: value for name, value in document.items() if name != "$graph"} | process


def _check_only(value: Any, place: Place) -> None:
    """Raises Rejected where a part is asked for of a document that is one process."""
    if place[1] not in ("", "main", _own_id(value)):
        raise Rejected(f"{_shown(place)}: the document is one process, which has no parts.", NOT_CWL)


def _own_id(process: Any) -> str:
    return str(process.get("id") or "").removeprefix("#") if isinstance(process, dict) else ""


def _relative(value: Any, process: str, key: str = "") -> Any:
    """Names as they are within the process, where packing wrote them as of the whole document: `#main/say/out`."""
    if isinstance(value, list):
        return [_relative(element, process, key) for element in value]
    if isinstance(value, dict):
        return {name: one if name == "default" else _relative(one, process, name) for name, one in value.items()}
    if key not in NAMES | LINKS or not isinstance(value, str) or not value.startswith(f"#{process}/"):
        return value
    return value.rpartition("/")[2] if key in NAMES else value.removeprefix(f"#{process}/")


def _shown(place: Place) -> str:
    return "#".join(filter(None, place))


def _joined(place: str, target: str) -> str:
    """Where a reference in the document at `place` leads. Raises Rejected for a part of one, which only `run` takes."""
    if "#" in target:
        raise Rejected(f"{place} refers to {target!r}, a part of a document, where a whole one is needed.", NOT_CWL)
    if "://" in place or "://" in target:
        return urljoin(place, target)
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
