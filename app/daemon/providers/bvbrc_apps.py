"""BV-BRC's apps, and a run's parameters held against their descriptions, before anything slow or costly begins.

An app's own preflight is the judge; what is refused here would fail there, or would be ignored. The descriptions are
those of enumerate_apps, whose forms are wider than its specification says: see `Parameter`.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BaseModel, BeforeValidator

from app.bvbrc_token import BvbrcToken
from app.daemon.providers.bvbrc_api import BvbrcService
from app.daemon.providers.bvbrc_records import read_many
from app.errors import OutcomeUnknown, Rejected

KEPT_FOR = timedelta(minutes=10)
OUTPUT_PATH, OUTPUT_FILE = "output_path", "output_file"
LOCATION = "ws:"
"""How an output object names what lies in the Workspace, before the percent-encoded path."""
MOST_PROBLEMS = 20
NEAR = 0.8
FILE_TYPES = frozenset({"wstype", "folder"})


def _is_required(value: Any) -> bool:
    return value in (1, True, "1", "true")


def _words(value: Any) -> tuple[str, ...]:
    """An enum is a list, or text with commas."""
    values = value.split(",") if isinstance(value, str) else value
    return tuple(str(one).strip() for one in values) if isinstance(values, list) else ()


class Parameter(BaseModel):
    """`type`: string, int, float, bool or boolean, enum, wstype, folder, wsid, group, list; no other is checked."""

    id: str
    required: Annotated[bool, BeforeValidator(_is_required)] = False
    default: Any = None
    type: str = ""
    enum: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    allow_multiple: Annotated[bool, BeforeValidator(_is_required)] = False
    group: Annotated[list[Parameter], BeforeValidator(lambda value: read_parameters(value))] = []


def read_parameters(values: Any) -> list[Parameter]:
    """Entries without an id are documentation."""
    entries = values if isinstance(values, list) else []
    return read_many(Parameter, (entry for entry in entries if isinstance(entry, dict) and entry.get("id")))


class App(BaseModel):
    id: str
    parameters: Annotated[list[Parameter], BeforeValidator(read_parameters)] = []


class Apps:
    """The apps that there are, asked for now and then with the token at hand: everybody sees the same. Thread-safe."""

    def __init__(self, service: BvbrcService, now: Callable[[], datetime]) -> None:
        self._service, self._now, self._lock = service, now, threading.Lock()
        self._apps: dict[str, App] = {}
        self._asked_at: datetime | None = None

    def find(self, token: BvbrcToken, app_id: str) -> App:
        """Raises Rejected where there is no such app, and what the service raises."""
        with self._lock:
            if self._asked_at is None or self._now() >= self._asked_at + KEPT_FOR:
                self._apps, self._asked_at = self._ask(token), self._now()
            apps = self._apps
        if app_id in apps:
            return apps[app_id]
        near = difflib.get_close_matches(app_id, apps, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise Rejected(f"BV-BRC has no app {app_id!r}.{hint}", "unknown_app")

    def _ask(self, token: BvbrcToken) -> dict[str, App]:
        answer = self._service.call(token, "enumerate_apps")
        apps = {app.id: app for app in read_many(App, answer[0])} if answer and isinstance(answer[0], list) else {}
        if not apps:
            raise OutcomeUnknown("BV-BRC does not say which apps it has.")
        return apps


def check_parameters(app: App, given: Mapping[str, Any]) -> None:
    """Raises Rejected with every problem in words. What an app does not list is passed on, unless it looks misspelt."""
    problems = list(_problems(app.parameters, given, ""))
    if problems:
        more = f" And {len(problems) - MOST_PROBLEMS} more." if len(problems) > MOST_PROBLEMS else ""
        raise Rejected(f"{app.id}: {' '.join(problems[:MOST_PROBLEMS])}{more}", "invalid_parameters")


def needed_defaults(app: App) -> dict[str, Any]:
    """What must be sent although it has a default: an app refuses a required parameter that is left out."""
    return {one.id: one.default for one in app.parameters if one.required and one.default is not None}


def workspace_paths(value: Any) -> Any:
    """The value with files and folders of the Workspace as the plain paths that apps take.

    Raises Rejected for a file that lies elsewhere.
    """
    if isinstance(value, list):
        return [workspace_paths(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") not in ("File", "Directory"):
        return {name: workspace_paths(one) for name, one in value.items()}
    location = value.get("location")
    if isinstance(location, str) and location.startswith(f"{LOCATION}/"):
        return unquote(location.removeprefix(LOCATION))
    words = f"A {value['class']} at {location!r} is not in the BV-BRC Workspace; apps read only from there."
    raise Rejected(words[:1000], "file_elsewhere")


def _problems(parameters: list[Parameter], given: Mapping[str, Any], place: str) -> Iterator[str]:
    known = {parameter.id: parameter for parameter in parameters}
    for name, parameter in known.items():
        value = given.get(name)
        if value is None:
            if parameter.required and parameter.default is None:
                yield f"{place}{name} is missing."
        else:
            yield from _wrong(parameter, value, f"{place}{name}")
    for name in given:
        near = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=NEAR)
        if near:
            yield f"{place}{name} is not known: did you mean {near[0]}?"


def _wrong(parameter: Parameter, value: Any, place: str) -> Iterator[str]:
    if isinstance(value, list):
        if not parameter.allow_multiple and parameter.type != "list":
            yield f"{place} takes one value, not a list."
            return
        for number, one in enumerate(value):
            yield from _wrong_one(parameter, one, f"{place}[{number}]")
    else:
        yield from _wrong_one(parameter, value, place)


def _wrong_one(parameter: Parameter, value: Any, place: str) -> Iterator[str]:
    if parameter.type == "group":
        if isinstance(value, Mapping):
            yield from _problems(parameter.group, value, f"{place}.")
        else:
            yield f"{place} must be an object."
    elif not _fits(parameter, value):
        allowed = f" one of {', '.join(parameter.enum)}" if parameter.type == "enum" else f" {_NOUNS[parameter.type]}"
        yield f"{place} is {value!r:.100}, which is not{allowed}."


def _fits(parameter: Parameter, value: Any) -> bool:
    match parameter.type:
        case "int" | "integer":
            return _is_number(value, int)
        case "float":
            return _is_number(value, float)
        case "bool" | "boolean":
            return isinstance(value, bool) or value in (0, 1, "0", "1", "true", "false")
        case "enum":
            return not parameter.enum or (not isinstance(value, dict | list) and _scalar(value) in parameter.enum)
        case "string" | "wsid":
            return not isinstance(value, dict | list)
        case kind if kind in FILE_TYPES:
            return isinstance(value, str) and value.startswith("/")
    return True


_NOUNS = {
    "int": "a whole number",
    "integer": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "boolean": "true or false",
    "string": "text",
    "wsid": "a name",
    "wstype": "a path in the Workspace, which begins with /",
    "folder": "a path in the Workspace, which begins with /",
}


def _is_number(value: Any, kind: type[int] | type[float]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return kind(value) == float(value)
    except (ValueError, OverflowError):
        return False


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
