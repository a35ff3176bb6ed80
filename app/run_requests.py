"""A run request as WES defines it, checked field by field. Pure: knows neither its encoding nor what is offered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidRequest, TooLarge
from app.strict import check_text, load_json

MAX_TAGS = 1000
MAX_KEY_BYTES = 255
MAX_TAG_VALUE_BYTES = 1024
MAX_URL_BYTES = 8192
TEXT_FIELDS = {
    "workflow_url": MAX_URL_BYTES,
    "workflow_type": 32,
    "workflow_type_version": 32,
    "workflow_engine": 64,
    "workflow_engine_version": 64,
    "name": 255,
}
"""Fields of one line, with the most bytes that each may have. `name` is our addition."""
JSON_FIELDS = ("workflow_params", "workflow_engine_parameters", "tags")
FIELDS = frozenset((*TEXT_FIELDS, *JSON_FIELDS))


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the client asks for, in its own spelling. A None in `workflow_engine_parameters` is a bare flag."""

    workflow_url: str
    workflow_params: dict[str, Any] = field(default_factory=dict)
    workflow_type: str | None = None
    workflow_type_version: str | None = None
    workflow_engine: str | None = None
    workflow_engine_version: str | None = None
    workflow_engine_parameters: dict[str, str | None] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    given_name: str | None = None
    attachments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What lists call the run: its name, its tag `name`, or the last part of the workflow_url."""
        last = self.workflow_url.partition("#")[0].rstrip("/").rpartition("/")[2]
        name = self.given_name or self.tags.get("name") or last or self.workflow_url
        return "".join(character for character in name if character.isprintable())[:255]


def read_fields(fields: Mapping[str, Any], attachments: tuple[str, ...] = ()) -> RunRequest:
    """Check the fields of a form or of a JSON object. `""`, None and absent mean the same. Raises InvalidRequest."""
    texts = {name: _read_text(fields, name) for name in TEXT_FIELDS}
    if not texts["workflow_url"]:
        raise InvalidRequest("workflow_url is missing.")
    return RunRequest(
        workflow_url=texts.pop("workflow_url") or "",
        workflow_params=_read_object(fields, "workflow_params"),
        workflow_engine_parameters=_read_engine_parameters(fields),
        tags=_read_tags(fields),
        given_name=texts.pop("name"),
        attachments=attachments,
        **texts,
    )


def _read_text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string.")
    return check_text(value.strip(), name, TEXT_FIELDS[name]) or None


def _read_object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if isinstance(value, str):
        value = load_json(value, name) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a JSON object.")
    return value


def _read_engine_parameters(fields: Mapping[str, Any]) -> dict[str, str | None]:
    name = "workflow_engine_parameters"
    given = _read_object(fields, name)
    return {check_text(key, f"{name}: a key", MAX_KEY_BYTES): _scalar(given, name, key) or None for key in given}


def _read_tags(fields: Mapping[str, Any]) -> dict[str, str]:
    given = _read_object(fields, "tags")
    if len(given) > MAX_TAGS:
        raise TooLarge(f"tags: a run may have at most {MAX_TAGS} tags.")
    return {check_text(key, "tags: a key", MAX_KEY_BYTES): _tag_value(given, key) for key in given}


def _tag_value(given: dict[str, Any], key: str) -> str:
    value = _scalar(given, "tags", key)
    if len(value.encode()) > MAX_TAG_VALUE_BYTES:
        raise InvalidRequest(f"tags: the value of {key!r} is longer than {MAX_TAG_VALUE_BYTES} bytes.")
    return value


def _scalar(given: dict[str, Any], name: str, key: str) -> str:
    """A scalar as text: False is `false`, None is empty."""
    value = given[key]
    if isinstance(value, dict | list):
        raise InvalidRequest(f"{name}: the value of {key!r} is not a string, a number or a boolean.")
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
