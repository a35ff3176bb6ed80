"""What a task left behind: its job result and files in the user's Workspace, and its logs at the service.

Results stay in the Workspace, which lasts; an output object names them by `ws:` and their path. Only logs are copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote

from app.bvbrc_token import BvbrcToken
from app.daemon.providers.bvbrc_api import BvbrcService, Refusal
from app.daemon.providers.bvbrc_apps import LOCATION
from app.daemon.providers.bvbrc_records import Details, Task, read_one
from app.daemon.providers.provider_interface import LogSink
from app.errors import InvalidRequest, OutcomeUnknown, Rejected
from app.strict import load_json

FOLDERS = frozenset({"folder", "modelfolder"})
REPORTS = ("JobFailed.txt", "JobFailed.html")
REPORT_CHARACTERS = 1500
SKIPS_RESULT = "skip_workspace_output"
"""A parameter with which apps leave nothing in the Workspace."""
CHUNK_BYTES = 65_536


class Workspace:
    """The service that keeps users' files. Its tuples of metadata: name, type, path, time, id, owner, size, …"""

    def __init__(self, service: BvbrcService) -> None:
        self._service = service

    def text(self, token: BvbrcToken, path: str) -> str:
        """What a small object holds; empty for one that is kept elsewhere. Raises Rejected where there is none."""
        match self._ask(token, "get", {"objects": [path]}):
            case [[[_, str(text), *_], *_], *_]:
                return text
        return ""

    def files(self, token: BvbrcToken, folder: str) -> dict[str, int | None]:
        """Full paths of the files at any depth below a folder, with their sizes in bytes where they are known."""
        try:
            answer = self._ask(token, "ls", {"paths": [folder], "recursive": 1})
        except Rejected:
            return {}
        listed = answer[0] if answer and isinstance(answer[0], Mapping) else {}
        return dict(_files(entry for entries in listed.values() if isinstance(entries, list) for entry in entries))

    def _ask(self, token: BvbrcToken, method: str, what: Mapping[str, Any]) -> list[Any]:
        """Its two definite answers about an object come as text in an error; PROVIDERS.md, C1."""
        try:
            return self._service.call(token, method, what)
        except Refusal as refusal:
            words = str(refusal).casefold()
            if "not found" in words:
                raise Rejected(str(refusal), "outputs_lost") from None
            if "permission" in words:
                raise Rejected(str(refusal), "outputs_unreadable") from None
            raise


def read_outputs(workspace: Workspace, token: BvbrcToken, task: Task) -> dict[str, Any]:
    """What the app itself answered, and every file of the task by its path below the hidden folder.

    Raises Rejected where the job result is gone or may not be read, and what the service raises.
    """
    if task.parameters.get(SKIPS_RESULT):
        return {}
    result = _json_object(workspace.text(token, task.result_path))
    files = workspace.files(token, task.folder_path) or dict.fromkeys(_listed(result))
    answer = result.get("job_output")
    said = answer if isinstance(answer, dict) else {"job_output": answer} if answer not in (None, "") else {}
    found = {path.removeprefix(f"{task.folder_path}/").lstrip("/"): _file(path, size) for path, size in files.items()}
    return {**said, **found, "job_result": _file(task.result_path, None)}


def read_report(workspace: Workspace, token: BvbrcToken, task: Task) -> str:
    """Why the app says that it failed; empty where it says nothing."""
    for name in REPORTS:
        try:
            if text := workspace.text(token, f"{task.folder_path}/{name}"):
                return token.hidden_in(" ".join(text.split()))[:REPORT_CHARACTERS]
        except (Rejected, Refusal):
            continue
    return ""


def read_details(service: BvbrcService, token: BvbrcToken, task_id: str) -> Details:
    """The exit code, the machine and the addresses of the logs of a task."""
    answer = service.call(token, "query_task_details", task_id)
    return read_one(Details, answer[0] if answer else None)


def append_logs(service: BvbrcService, token: BvbrcToken, task_id: str, sink: LogSink, seconds: float) -> None:
    """Append what is new in both logs, each read within `seconds`. The service itself takes tokens out of them."""
    details = read_details(service, token, task_id)
    for stream, url in (("stdout", details.stdout_url), ("stderr", details.stderr_url)):
        path = service.path_of(url) or f"/task_info/{task_id}/{stream}"  # nowhere else is the token sent
        with service.open(token, path, seconds) as answer:
            if answer.content_type.startswith("text/html"):
                raise OutcomeUnknown("BV-BRC sent a web page for a log.")
            if answer.status == 200 and _skip(answer.body, sink.size(stream)):
                sink.append(stream, answer.body)


def _skip(body: BinaryIO, size: int) -> bool:
    """Read past what is kept: the service takes no ranges. False where there is no more than that."""
    while size and (skipped := len(body.read(min(size, CHUNK_BYTES)))):
        size -= skipped
    return size == 0


def _files(entries: Iterable[Any]) -> Iterator[tuple[str, int | None]]:
    for entry in entries:
        match entry:
            case [str(name), str(kind), str(path), _, _, _, size, *_] if name and kind not in FOLDERS:
                yield f"{path.rstrip('/')}/{name}", size if isinstance(size, int) else None


def _listed(result: Mapping[str, Any]) -> Iterator[str]:
    """The paths in a job result's `output_files`, which are pairs of path and id; folders too, without a type."""
    pairs = result.get("output_files")
    for pair in pairs if isinstance(pairs, list) else []:
        match pair:
            case [str(path), *_] if path.startswith("/"):
                yield path


def _file(path: str, size: int | None) -> dict[str, Any]:
    basename = path.rpartition("/")[2]
    known = {} if size is None else {"size": size}
    return {"class": "File", "location": f"{LOCATION}{quote(path)}", "basename": basename, **known}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = load_json(text, "the job result")
    except InvalidRequest:
        return {}
    return value if isinstance(value, dict) else {}
