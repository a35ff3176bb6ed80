"""WesClient: every call of WES 1.1, and our additions, as methods. Works against any WES server.

What it raises is in `app.client.errors`. It imports nothing of this project but `app.client`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

from app.client.connection import Auth, Connection, Json
from app.client.errors import Invalid, RunNotFound
from app.client.multipart import Content, MultipartBody
from app.client.transfers import Download, Output, files_in, inside, read_log, read_log_tail
from app.client.waiting import Watch

DEFAULT_URL = "http://localhost:5000/ga4gh/wes/v1"
UPLOAD_ANSWER_SECONDS = 300.0

Attachment = tuple[str, Content] | tuple[str, Content, str]
"""(name with '/', content, content type). A str is the content itself; a Path or file object is streamed from disk."""


class RunRequest(TypedDict, total=False):
    """A run request as WES names its fields. `workflow_params` may be JSON text or a mapping."""

    workflow_params: str | Mapping[str, Any]
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    workflow_attachment: Iterable[Attachment]
    tags: Mapping[str, str]
    workflow_engine: str | None
    workflow_engine_version: str | None
    workflow_engine_parameters: Mapping[str, str | None]


class WesClient:
    """A WES server. `token`: a bearer token; `auth`: anything requests takes; `timeout`: seconds for one answer."""

    def __init__(
        self, base_url: str = DEFAULT_URL, token: str | None = None, auth: Auth | None = None, timeout: float = 30.0
    ) -> None:
        self._connection = Connection(base_url, token, auth, timeout)

    @property
    def base_url(self) -> str:
        return self._connection.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def get_service_info(self) -> Json:
        return self._connection.json("GET", "service-info")

    def run_workflow(self, *, idempotency_key: str | None = None, **request: Unpack[RunRequest]) -> Json:
        """`{"run_id": …}`. With a key, a server that knows Idempotency-Key answers a repetition with the same run."""
        return self._post_request("runs", request, {"Idempotency-Key": idempotency_key} if idempotency_key else {})

    def validate_run(self, **request: Unpack[RunRequest]) -> Json:
        """What the server would say to this request, without a run (our addition to WES)."""
        return self._post_request("runs/validate", request, {})

    def get_run_status(self, run_id: str, wait: float | None = None) -> Json:
        """`{"run_id", "state"}`. `wait`: seconds for which our server may hold the answer until the state changes."""
        options = {} if wait is None else {"params": {"wait": f"{wait:.3f}"}}
        seconds = self._connection.timeout + (wait or 0)
        return self._connection.json("GET", _run(run_id, "status"), read_seconds=seconds, **options)

    def get_run_log(self, run_id: str) -> Json:
        return self._connection.json("GET", _run(run_id))

    def list_runs(self, page_size: int | None = None, page_token: str | None = None, **filters: Any) -> Json:
        """One page: `{"runs": […], "next_page_token": …}`. Other servers than ours may ignore `filters`."""
        return self._page("runs", page_size, page_token, filters)

    def iter_runs(self, page_size: int | None = None, **filters: Any) -> Iterator[Json]:
        """The runs of all pages, fetched as they are needed."""
        return self._pages("runs", "runs", page_size, filters)

    def cancel_run(self, run_id: str) -> Json:
        return self._connection.json("POST", _run(run_id, "cancel"))

    def delete_run(self, run_id: str) -> Json:
        """Remove an ended run with its logs and outputs (our addition to WES)."""
        return self._connection.json("DELETE", _run(run_id))

    def rerun_run(self, run_id: str) -> Json:
        """The same request as a new run: `{"run_id": …}` (our addition to WES)."""
        return self._connection.json("POST", _run(run_id, "rerun"))

    def list_tasks(self, run_id: str, page_size: int | None = None, page_token: str | None = None) -> Json:
        """One page: `{"task_logs": […], "next_page_token": …}`."""
        return self._page(_run(run_id, "tasks"), page_size, page_token, {})

    def iter_tasks(self, run_id: str, page_size: int | None = None) -> Iterator[Json]:
        """The tasks of all pages; from the run log where a WES 1.0 server has no task list."""
        try:
            yield from self._pages(_run(run_id, "tasks"), "task_logs", page_size, {})
        except RunNotFound:
            yield from self.get_run_log(run_id).get("task_logs") or ()

    def get_task(self, run_id: str, task_id: str) -> Json:
        return self._connection.json("GET", _run(run_id, "tasks", task_id))

    def wait_for_run_completion(self, run_id: str, timeout: float | None = None) -> Json:
        """The status in its end state. Survives restarts of the server. Raises TimeoutError after `timeout` seconds."""
        return deque(Watch(self, run_id, timeout).statuses(), maxlen=1).pop()

    def find_log(self, run_id: str, stream: str = "stdout", task_id: str | None = None) -> str:
        """The address of a run's or a task's `stdout` or `stderr`, `""` while there is none. It may change later."""
        log = self.get_task(run_id, task_id) if task_id else self.get_run_log(run_id).get("run_log") or {}
        return str(log.get(stream) or "")

    def iter_log(self, address: str, offset: int = 0) -> Iterator[bytes]:
        """The log at an address from `find_log`, from byte `offset` on, in chunks."""
        return read_log(self._connection, address, offset)

    def get_log(self, run_id: str, stream: str = "stdout", task_id: str | None = None, offset: int = 0) -> bytes:
        """The whole rest of a log from byte `offset` on; the next offset is `offset` plus what came."""
        return b"".join(self.iter_log(self.find_log(run_id, stream, task_id), offset))

    def get_log_tail(self, run_id: str, stream: str = "stderr", task_id: str | None = None, lines: int = 20) -> bytes:
        """The last lines of a log, however long it is."""
        return read_log_tail(self._connection, self.find_log(run_id, stream, task_id), lines)

    def list_outputs(self, run_id: str) -> list[Output]:
        """The files that the run left; on servers without our listing those of its output object."""
        try:
            listed = self._connection.json("GET", _run(run_id, "outputs"))["outputs"]
        except RunNotFound:
            return files_in(self.get_run_log(run_id).get("outputs"))
        return [Output(file["path"], file["url"], file.get("size")) for file in listed]

    def download_output(self, run_id: str, output: Output, target: Path) -> Path:
        """Stream one output to the file `target`; goes on where an earlier download of it was cut off."""
        return Download(self._connection, output, target, run_id).run()

    def download_outputs(self, run_id: str, directory: Path) -> list[Path]:
        """All outputs, below `directory`, by their paths."""
        wanted = [(output, inside(directory, output.path)) for output in self.list_outputs(run_id)]
        return [self.download_output(run_id, output, target) for output, target in wanted]

    def _post_request(self, path: str, request: RunRequest, headers: Mapping[str, str]) -> Json:
        body = MultipartBody()
        for name, value in request.items():
            if name != "workflow_attachment" and value is not None:
                body.add_field(name, value if isinstance(value, str) else _to_json(name, value))
        for attachment in request.get("workflow_attachment") or ():
            name, content, *kind = attachment
            body.add_file("workflow_attachment", name, content, str(kind[0]) if kind else "application/octet-stream")
        every_header = {"Content-Type": body.content_type, **headers}
        return self._connection.json("POST", path, read_seconds=UPLOAD_ANSWER_SECONDS, data=body, headers=every_header)

    def _page(self, path: str, size: int | None, token: str | None, filters: Mapping[str, Any]) -> Json:
        parameters = {"page_size": size, "page_token": token or None, **filters}
        return self._connection.json("GET", path, params=parameters)

    def _pages(self, path: str, key: str, size: int | None, filters: Mapping[str, Any]) -> Iterator[Json]:
        """Ends also where a server hands out the same token twice."""
        token, seen = "", {""}
        while True:
            page = self._page(path, size, token, filters)
            yield from page.get(key) or ()
            token = str(page.get("next_page_token") or "")
            if token in seen:
                return
            seen.add(token)


def _run(run_id: str, *rest: str) -> str:
    """The path of a run's resource. An id that URLs would swallow is no run's id."""
    names = (run_id, *rest)
    if any(name in ("", ".", "..") for name in names):
        raise RunNotFound(f"{run_id!r} is no run id", 404)
    return "/".join(("runs", *(quote(name, safe="") for name in names)))


def _to_json(name: str, value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Invalid(f"{name} is not JSON: {error}") from error
