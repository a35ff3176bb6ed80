"""Query parameters of lists: filters, page sizes and page tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import request
from werkzeug.datastructures import MultiDict

from app.context import current
from app.errors import InvalidRequest
from app.routing import canonical_type
from app.runs.listing import RunFilter
from app.states import State
from app.strict import check_text, load_json

MAX_VALUE_BYTES = 8192
_TEXTS = ("name", "workflow_type", "workflow_url", "provider", "user", "parent")
_TIMES = ("since", "until")
_TAG = "tag."
_FILTERS = frozenset((*_TEXTS, *_TIMES, "state", "tags"))


def read_page_size() -> int:
    """Clamped to the most that is allowed. Raises InvalidRequest for less than 1 and for what is no number."""
    settings = current().settings
    text = request.args.get("page_size", "")
    if not text:
        return settings.default_page_size
    if not (text.isascii() and text.isdigit()) or not text.strip("0"):
        raise InvalidRequest("page_size must be a whole number of at least 1.")
    return min(int(text[:10]), settings.max_page_size) if len(text.lstrip("0")) <= 10 else settings.max_page_size


def read_page_token(scope: object) -> list[Any] | None:
    """Where the page begins; None for the first one. Raises InvalidRequest."""
    token = request.args.get("page_token", "")
    return current().page_tokens.read(scope, token) if token else None


def read_filter(args: MultiDict[str, str]) -> RunFilter:
    """From single parameters and from the JSON parameter `filters`; all of them narrow. Raises InvalidRequest."""
    given: dict[str, Any] = {name: args[name] for name in (*_TEXTS, *_TIMES) if args.get(name)}
    states: list[Any] = [word for value in args.getlist("state") for word in value.split(",") if word]
    tags: list[tuple[str, Any]] = [
        (key.removeprefix(_TAG), value) for key, value in args.items(multi=True) if key.startswith(_TAG)
    ]
    if args.get("filters"):
        more = _read_filters(args["filters"])
        states += _words(more.pop("state", None))
        tags += _object(more.pop("tags", None), "filters.tags").items()
        given |= {name: value for name, value in more.items() if value not in (None, "")}
    texts = {name: _text(value, name) for name, value in given.items()}
    if "workflow_type" in texts:
        texts["workflow_type"] = canonical_type(texts["workflow_type"])
    return RunFilter(
        states=tuple(_state(word) for word in states),
        tags=tuple((_text(key, "tag"), _text(value, "tag")) for key, value in tags),
        since=_time(texts, "since"),
        until=_time(texts, "until"),
        **{name: texts[name] for name in _TEXTS if name in texts},
    )


def _read_filters(text: str) -> dict[str, Any]:
    given = _object(load_json(text, "filters"), "filters")
    if unknown := sorted(set(given) - _FILTERS):
        raise InvalidRequest(f"filters: there is no filter {unknown[0]!r}. Known: {', '.join(sorted(_FILTERS))}.")
    return given


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a JSON object.")
    return dict(value or {})


def _words(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.")
    return check_text(value, name, MAX_VALUE_BYTES)


def _state(word: Any) -> State:
    try:
        return State(word)
    except ValueError:
        raise InvalidRequest(f"state: {word!r} is none of {', '.join(State)}.") from None


def _time(texts: Mapping[str, str], name: str) -> datetime | None:
    if name not in texts:
        return None
    try:
        at = datetime.fromisoformat(texts[name])
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} must be a time such as 2026-11-20T22:00:00Z.") from None
