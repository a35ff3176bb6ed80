"""The Seven Bridges API as sevenbridges-python itself declares it: its paths, and the fields that it reads from answers.

What the library does not declare cannot be asked of the fake, and what it could not read is not answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from sevenbridges.errors import SbgError
from sevenbridges.meta.fields import CompoundField, CompoundListField, DateTimeField, Field
from sevenbridges.models.app import App
from sevenbridges.models.compound.error import Error
from sevenbridges.models.compound.files.download_info import DownloadInfo
from sevenbridges.models.compound.limits.rate import Rate
from sevenbridges.models.execution_details import ExecutionDetails
from sevenbridges.models.file import File
from sevenbridges.models.project import Project
from sevenbridges.models.rate_limit import RateLimit
from sevenbridges.models.storage_import import Import
from sevenbridges.models.task import Task
from sevenbridges.models.user import User
from sevenbridges.models.volume import Volume

Shape = Literal["one", "page", "bulk", "raw", "none"]

SEGMENTS = {App: 3, Project: 2, Volume: 2}
"""How many names with slashes between them make an id; one where nothing is said."""

UNREADABLE = {(Rate, "reset")}
"""Fields in which the platform answers what the library cannot read: it declares a date, and gets epoch seconds."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A call of the library. `answer` is the class that reads what comes back."""

    name: str
    method: str
    path: re.Pattern[str]
    answer: Any
    shape: Shape


def _operation(name: str, method: str, owner: Any, url: str, shape: Shape = "one", answer: Any = None) -> Operation:
    ids = "/".join(["[^/]+"] * SEGMENTS.get(owner, 1))
    pattern = owner._URL[url].replace("{id}", f"(?P<id>{ids})").replace("{revision}", r"(?P<revision>\d+)")
    return Operation(name, method, re.compile(pattern.replace("{owner}", "(?P<owner>[^/]*)")), answer or owner, shape)


OPERATIONS = (
    _operation("tasks.query", "GET", Task, "query", "page"),
    _operation("tasks.create", "POST", Task, "query"),
    _operation("tasks.get", "GET", Task, "get"),
    _operation("tasks.delete", "DELETE", Task, "delete", "none"),
    _operation("tasks.run", "POST", Task, "run"),
    _operation("tasks.abort", "POST", Task, "abort"),
    _operation("tasks.clone", "POST", Task, "clone"),
    _operation("tasks.execution_details", "GET", Task, "execution_details", answer=ExecutionDetails),
    _operation("tasks.bulk_get", "POST", Task, "bulk_get", "bulk"),
    _operation("apps.query", "GET", App, "query", "page"),
    _operation("apps.get", "GET", App, "get"),
    _operation("apps.get_revision", "GET", App, "get_revision"),
    _operation("apps.install", "POST", App, "raw", "raw"),
    _operation("apps.create_revision", "POST", App, "create_revision", "raw"),
    _operation("projects.query", "GET", Project, "query", "page"),
    _operation("projects.get", "GET", Project, "get"),
    _operation("files.query", "GET", File, "query", "page"),
    _operation("files.create_folder", "POST", File, "create_folder"),
    _operation("files.get", "GET", File, "get"),
    _operation("files.download_info", "GET", File, "download_info", answer=DownloadInfo),
    _operation("files.bulk_get", "POST", File, "bulk_get", "bulk"),
    _operation("volumes.query", "GET", Volume, "query", "page"),
    _operation("volumes.create", "POST", Volume, "query"),
    _operation("volumes.get", "GET", Volume, "get"),
    _operation("imports.query", "GET", Import, "query", "page"),
    _operation("imports.submit", "POST", Import, "query"),
    _operation("imports.get", "GET", Import, "get"),
    _operation("imports.bulk_get", "POST", Import, "bulk_get", "bulk"),
    _operation("imports.bulk_submit", "POST", Import, "bulk_create", "bulk"),
    _operation("users.me", "GET", User, "me"),
    _operation("rate_limit.get", "GET", RateLimit, "get"),
)


def find(method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation at a path below /v2, and the names in the path."""
    for operation in OPERATIONS:
        if operation.method == method and (found := operation.path.fullmatch(unquote(path))):
            return operation, found.groupdict()
    return None


def problems(operation: Operation, answer: Any) -> Iterator[str]:
    """What of an answer the library would not read, or not as what it is."""
    match operation.shape:
        case "one":
            yield from _unreadable(operation.answer, answer, operation.name)
        case "page":
            if missing := {"href", "items", "links"} - set(answer):
                yield f"{operation.name}: no {missing}"
            for item in answer.get("items", []):
                yield from _unreadable(operation.answer, item, operation.name)
        case "bulk":
            for record in answer["items"]:
                [(kind, value)] = record.items()
                yield from _unreadable({"resource": operation.answer, "error": Error}[kind], value, operation.name)


def _unreadable(owner: Any, data: Mapping[str, Any], where: str) -> Iterator[str]:
    fields = {field.name: (attribute, field) for attribute, field in vars(owner).items() if isinstance(field, Field)}
    for name in set(data) - set(fields):
        yield f"{where}.{name}: not a field of {owner.__name__}"
    for name, (attribute, field) in fields.items():
        if data.get(name) is not None and (owner, name) not in UNREADABLE:
            yield from _field_problems(owner, attribute, field, data[name], f"{where}.{name}")


def _field_problems(owner: Any, attribute: str, field: Any, value: Any, where: str) -> Iterator[str]:
    if isinstance(field, CompoundField):
        if not issubclass(field.cls, dict):
            yield from _unreadable(field.cls, value, where)
    elif isinstance(field, CompoundListField):
        for item in value:
            yield from _unreadable(field.cls, item, where)
    else:
        try:
            field.validate(value)
            if isinstance(field, DateTimeField):
                getattr(owner(api=None, **{field.name: value}), attribute)
        except (SbgError, TypeError, ValueError) as error:
            yield f"{where}: {value!r}: {error}"
