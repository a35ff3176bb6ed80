"""References in a pipeline document: `${…}` is found and replaced here, and nowhere is anything else looked up.

    ${name}                     a name of base_context
    ${params.x}                 this step's own parameter            in a step's outputs
    ${run.outputs.o}            what this step's run put out         in a step's outputs
    ${steps.s.outputs.o}        an output of step s                  makes s a dependency
    ${steps.s.params.x}         a parameter of step s, as bound      makes s a dependency
    ${item} or ${item.column}   the element of a scatter, under the name that the scatter gives it

A longer path goes on into objects and lists: `${steps.s.outputs.o.location}`, `${steps.s.outputs.files.0}`. A text that
is one reference becomes the value itself; inside a longer text only texts, numbers and truth values can be put.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_WHOLE = re.compile(r"\$\{([^{}]*)\}\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")

CONTEXT, PARAMS, RUN, STEP_OUTPUTS, STEP_PARAMS = "base_context", "params", "run.outputs", "outputs", "step params"


class Unresolved(Exception):
    """A reference that cannot be given a value; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`kind` is one of the five above, or CONTEXT for a scatter's item too; `path` goes on into the value."""

    text: str
    kind: str
    step: str | None
    name: str
    path: tuple[str, ...]


def parse(inner: str) -> Reference | None:
    """What stands between the braces; None where it has no meaning."""
    parts = inner.strip().split(".")
    if not all(_NAME.match(part) for part in parts):
        return None
    match parts:
        case ["steps", step, "outputs", name, *path]:
            return Reference(inner, STEP_OUTPUTS, step, name, tuple(path))
        case ["steps", step, "params", name, *path]:
            return Reference(inner, STEP_PARAMS, step, name, tuple(path))
        case ["run", "outputs", name, *path]:
            return Reference(inner, RUN, None, name, tuple(path))
        case ["params", name, *path]:
            return Reference(inner, PARAMS, None, name, tuple(path))
        case ["steps" | "run" | "params", *_]:
            return None
        case [name, *path]:
            return Reference(inner, CONTEXT, None, name, tuple(path))
    return None


def find(value: Any, pointer: str = "") -> Iterator[tuple[str, str, Reference | None]]:
    """Every reference in a JSON value: (JSON pointer of its text, what stands in the braces, the reference or None)."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            yield pointer, match[1], parse(match[1])
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from find(inner, f"{pointer}/{escape(key)}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from find(inner, f"{pointer}/{place}")


def substitute(value: Any, look_up: Callable[[Reference], Any]) -> Any:
    """The value with every reference replaced. What was put in is not looked at again. Raises Unresolved."""
    if isinstance(value, str):
        return _substitute_text(value, look_up)
    if isinstance(value, dict):
        return {key: substitute(inner, look_up) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner, look_up) for inner in value]
    return value


def follow(reference: Reference, value: Any) -> Any:
    """Go on into `value` along the reference's path. Raises Unresolved."""
    for part in reference.path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise Unresolved(f"${{{reference.text}}}: there is no {part!r} in it.")
    return value


def escape(key: str) -> str:
    """A key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _substitute_text(text: str, look_up: Callable[[Reference], Any]) -> Any:
    if whole := _WHOLE.match(text):
        return _value(whole[1], look_up)

    def as_text(match: re.Match[str]) -> str:
        value = _value(match[1], look_up)
        if isinstance(value, (dict, list)) or value is None:
            raise Unresolved(f"${{{match[1]}}} is no text, so it cannot stand inside one: {json.dumps(value)[:100]}")
        return value if isinstance(value, str) else json.dumps(value)

    return _REFERENCE.sub(as_text, text)


def _value(inner: str, look_up: Callable[[Reference], Any]) -> Any:
    reference = parse(inner)
    if reference is None:
        raise Unresolved(f"${{{inner}}} is no reference.")
    return look_up(reference)
