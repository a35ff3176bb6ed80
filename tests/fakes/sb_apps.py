"""Apps of the Seven Bridges fake: CWL by revision, and what of a task's inputs an app cannot take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.sb_platform import ApiError, Call, Json, Platform

FILE_CLASSES = ("File", "Directory")
NUMBER = (int, float)
PRIMITIVES: dict[str, Any] = {
    "string": str,
    "int": int,
    "long": int,
    "float": NUMBER,
    "double": NUMBER,
    "boolean": bool,
}
CWL_FIELDS = {"class", "cwlVersion", "inputs", "outputs"}

HELLO = {
    "class": "CommandLineTool",
    "cwlVersion": "v1.2",
    "baseCommand": "echo",
    "inputs": [{"id": "message", "type": "string?"}, {"id": "reads", "type": "File?"}],
    "outputs": [{"id": "result", "type": "File"}],
}


class Apps:
    """Raw CWL by app id, a list of revisions each."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._apps: dict[str, list[Json]] = {f"{platform.user}/wes/hello": [HELLO]}

    def find(self, app_id: Any) -> tuple[str, int, Json]:
        """An app by its id, with or without a revision: id, revision, raw."""
        name, _, last = str(app_id).rpartition("/")
        app, asked = (name, int(last)) if last.isdigit() else (str(app_id), None)
        revisions = self._apps.get(app, [])
        revision = len(revisions) - 1 if asked is None else asked
        if not 0 <= revision < len(revisions):
            raise ApiError(404, 6002, "Requested app does not exist.")
        return app, revision, revisions[revision]

    def query(self, call: Call) -> tuple[Json, int]:
        project = call.asks("project")
        found = [app for app in self._apps if project in (None, app.rpartition("/")[0])]
        return self._platform.page(call, found, lambda app: self._describe(*self.find(app)))

    def get(self, call: Call) -> Json:
        return self._describe(*self.find(call.names["id"]))

    def get_revision(self, call: Call) -> Json:
        return self._describe(*self.find(f"{call.names['id']}/{call.names['revision']}"))

    def install(self, call: Call) -> Json:
        if call.names["id"] in self._apps:
            raise ApiError(409, 6003, "App exists: create a revision of it")
        return self._add(call, 0)

    def create_revision(self, call: Call) -> Json:
        _, latest, _ = self.find(call.names["id"])
        if int(call.names["revision"]) != latest + 1:
            raise ApiError(409, 6003, f"The next revision is {latest + 1}")
        return self._add(call, latest + 1)

    def _add(self, call: Call, revision: int) -> Json:
        app, raw = call.names["id"], call.body
        self._platform.check_project(app.rpartition("/")[0])
        if not isinstance(raw, dict) or not set(raw) >= CWL_FIELDS:
            raise ApiError(400, 6001, "The body is not a CWL document")
        stored = {**raw, "sbg:id": f"{app}/{revision}", "sbg:revision": revision}
        self._apps.setdefault(app, []).append(stored)
        return stored

    def _describe(self, app: str, revision: int, raw: Json) -> Json:
        names = {"id": f"{app}/{revision}", "project": app.rpartition("/")[0], "name": raw.get("label", app)}
        return {"href": f"{self._platform.base}/apps/{app}/{revision}", **names, "revision": revision, "raw": raw}


IsFile = Callable[[Any], bool]
"""Is this the id of a file that the task may use?"""


def input_errors(raw: Json, given: Json, is_file: IsFile) -> Iterator[str]:
    """What of a task's inputs its app cannot take."""
    for name, (kind, optional) in ports(raw["inputs"]).items():
        if given.get(name) is not None:
            yield from _misfits(kind, given[name], is_file, name)
        elif not optional:
            yield f"Required input is missing: {name}"


def _misfits(kind: Any, value: Any, is_file: IsFile, name: str) -> Iterator[str]:
    if isinstance(kind, dict) and kind.get("type") == "array":
        if not isinstance(value, list):
            yield f"Input is not a list: {name}"
        for element in value if isinstance(value, list) else ():
            yield from _misfits(kind["items"], element, is_file, name)
    elif kind in FILE_CLASSES:
        if not isinstance(value, dict) or value.get("class") != kind or not is_file(value.get("path")):
            yield f"Input is not a {kind} of the project: {name}"
    elif isinstance(kind, str) and kind in PRIMITIVES and not _is_a(kind, value):
        yield f"Input is not a {kind}: {name}"


def _is_a(kind: str, value: Any) -> bool:
    return isinstance(value, PRIMITIVES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def ports(declared: Any) -> dict[str, tuple[Any, bool]]:
    """A CWL document's inputs or outputs by name: type, and whether it may be missing."""
    listed = (
        declared
        if isinstance(declared, list)
        else [
            {"id": name, **(entry if isinstance(entry, dict) and "type" in entry else {"type": entry})}
            for name, entry in declared.items()
        ]
    )
    ports = {}
    for entry in listed:
        kind, optional = _plain(entry.get("type"))
        ports[entry["id"].lstrip("#").rpartition("/")[2]] = kind, optional or "default" in entry
    return ports


def _plain(kind: Any) -> tuple[Any, bool]:
    """A CWL type without its shorthands, and whether null is one of its values."""
    if isinstance(kind, list):
        kinds = [one for one in kind if one != "null"]
        return _plain(kinds[0])[0] if len(kinds) == 1 else "Any", "null" in kind
    if isinstance(kind, str) and kind.endswith("?"):
        return _plain(kind[:-1])[0], True
    if isinstance(kind, str) and kind.endswith("[]"):
        return {"type": "array", "items": _plain(kind[:-2])[0]}, False
    return kind, False
