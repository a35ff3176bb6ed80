"""What text, JSON and YAML the edge lets through, so that both databases and every later reader take it alike. Pure."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from itertools import chain
from typing import Any

import yaml

from app.errors import InvalidRequest

MAX_DEPTH = 64
MAX_YAML_EVENTS = 100_000
MAX_DIGITS = 300
"""As many as the largest double has; Python itself reads no more than 4,300."""


def load_json(text: str | bytes, field: str) -> Any:
    """Parse strictly: no NaN, duplicate keys, NUL, lone surrogates, deep nesting or absurd numbers.

    Raises InvalidRequest, which names `field`.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = _DECODER.decode(text)
        if not _is_plain(text):
            _check_values(value)
    except RecursionError:
        raise InvalidRequest(f"{field}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise InvalidRequest(f"{field} is not JSON that can be used: {error}") from None
    return value


def check_yaml(text: str) -> None:
    """By its events, before anything is built: aliases and depth can make much of little. Raises ValueError and
    yaml.YAMLError."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, _YAML)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("anchors and aliases are not used here")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        if count > MAX_YAML_EVENTS:
            raise ValueError("more than this service reads as YAML; JSON may be longer")


def check_text(value: str, field: str, max_bytes: int) -> str:
    """One line of text. Raises InvalidRequest, which names `field`."""
    if len(value) > max_bytes or len(value.encode(errors="replace")) > max_bytes:
        raise InvalidRequest(f"{field} is longer than {max_bytes} bytes.")
    if not value.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise InvalidRequest(f"{field} holds control characters or lone surrogates.")
    return value


_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _is_plain(text: str) -> bool:
    """True for JSON in which `_check_values` would find nothing: NUL and surrogates can only be written as escapes."""
    return text.isascii() and "\\u" not in text and text.count("[") + text.count("{") <= MAX_DEPTH


def _check_values(value: Any) -> None:
    """Level by level, since a recursive walk would be the very trouble that it looks for."""
    _check_string(value)
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        children = list(chain.from_iterable(_children(container) for container in containers))
        for child in children:
            _check_string(child)
        containers = [child for child in children if isinstance(child, dict | list)]
        if not containers:
            return
    raise ValueError(_TOO_DEEP)


def _children(container: dict[str, Any] | list[Any]) -> Any:
    return chain(container, container.values()) if isinstance(container, dict) else container


def _check_string(value: Any) -> None:
    if not isinstance(value, str):
        return
    if "\0" in value:
        raise ValueError("a string holds NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds a lone surrogate") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counted = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counted.most_common(1)[0][0][:100]!r} comes twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=_refuse)
