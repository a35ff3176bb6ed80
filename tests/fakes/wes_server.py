"""Another team's WES server, in the plainest form that the specification allows: no `wait`, no listing of outputs, no
filters, old runs first, page tokens of its own. A real HTTP server on loopback; its runs survive a restart.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

BASE = "/ga4gh/wes/v1"
PAGE = 3
"""It never hands out more than this, whatever is asked for."""


@dataclass
class FakeRun:
    """`states`: one is used up by every look at the run; the last one stays. `files`: served below the run."""

    run_id: str
    states: list[str] = field(default_factory=lambda: ["COMPLETE"])
    request: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    system_logs: list[str] = field(default_factory=list)

    def look(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@dataclass
class Fault:
    """An answer that replaces the next one for a path that matches."""

    pattern: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class WesServer:
    """Use as a context manager. Tests put `runs` and `faults` in, and read `requests`: (method, path with query)."""

    def __init__(self, token: str | None = None) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.headers: dict[str, str] = {}  # of the last request
        self.token = token
        self.cut_after: int | None = None  # bytes of a file that are sent before the connection breaks, each time
        self.knows_ranges = True
        self.refuses_long_suffixes = False  # `bytes=-99` of a shorter file is 416, as Werkzeug has it, against RFC 9110
        self.next_states = ["QUEUED", "RUNNING", "COMPLETE"]  # of submitted runs
        self._port = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return self.origin + BASE

    def add(self, run: FakeRun) -> FakeRun:
        self.runs[run.run_id] = run
        return run

    def start(self) -> None:
        """On the port that it had before, if any."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"fake": self})

    def submit(self, content_type: str, body: bytes) -> str:
        run = self.add(FakeRun(f"run-{len(self.runs) + 1:04}", list(self.next_states)))
        for part in body.split(b"--" + content_type.partition("boundary=")[2].encode())[1:-1]:
            headers, _, content = part.removesuffix(b"\r\n").partition(b"\r\n\r\n")
            named = dict(re.findall(r'(\w*name)="(.*?)"', headers.decode()))
            if named["name"] == "workflow_attachment":
                run.attachments[named["filename"]] = content
            else:
                run.request[named["name"]] = content.decode()
        return run.run_id


class _Handler(BaseHTTPRequestHandler):
    fake: WesServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve({
            r"/service-info": lambda: self._json({"workflow_type_versions": {"CWL": {"workflow_type_version": ["v1.0"]}}}),
            r"/runs": self._list_runs,
            r"/runs/([^/]+)/status": lambda run: self._json({"run_id": run.run_id, "state": run.look()}),
            r"/runs/([^/]+)": lambda run: self._json(self._run_log(run)),
            r"/runs/([^/]+)/tasks": lambda run: self._page(run.tasks, "task_logs"),
            r"/runs/([^/]+)/tasks/([^/]+)": self._task,
            r"/runs/([^/]+)/files/(.+)": lambda run, name: self._file(run.files.get(name)),
        })  # fmt: skip

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve({
            r"/runs": lambda: self._json({"run_id": self.fake.submit(self.headers["Content-Type"], body)}),
            r"/runs/([^/]+)/cancel": self._cancel,
        })  # fmt: skip

    def do_DELETE(self) -> None:
        self._serve({})

    def _serve(self, routes: dict[str, Any]) -> None:
        fake, path = self.fake, urlsplit(self.path).path
        fake.requests.append((self.command, self.path))
        fake.headers = dict(self.headers)
        if fault := next((fault for fault in fake.faults if re.search(fault.pattern, self.path)), None):
            fake.faults.remove(fault)
            return self._answer(fault.status, fault.body, fault.headers)
        if fake.token and self.headers.get("Authorization") != f"Bearer {fake.token}":
            return self._error(401, "Who are you?")
        for pattern, handle in routes.items():
            if found := re.fullmatch(BASE + pattern, path):
                run_id, *rest = found.groups() or (None,)
                if run_id is None:
                    return handle()
                run = fake.runs.get(run_id)
                return handle(run, *rest) if run else self._error(404, f"No run {run_id}")
        return self._error(404, "No such route")

    def _list_runs(self) -> None:
        runs = self.fake.runs.values()
        self._page([{"run_id": run.run_id, "state": run.states[0]} | self._tags(run) for run in runs], "runs")

    def _tags(self, run: FakeRun) -> dict[str, Any]:
        return {"tags": json.loads(run.request.get("tags", "{}"))}

    def _page(self, items: list[dict[str, Any]], key: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        start = int(query.get("page_token", "at0").removeprefix("at"))
        end = start + min(PAGE, int(query.get("page_size", PAGE)))
        self._json({key: items[start:end], "next_page_token": f"at{end}" if end < len(items) else ""})

    def _task(self, run: FakeRun, task_id: str) -> None:
        found = next((task for task in run.tasks if task["id"] == task_id), None)
        return self._json(found) if found else self._error(404, f"No task {task_id}")

    def _cancel(self, run: FakeRun) -> None:
        run.states = ["CANCELED"]
        self._json({"run_id": run.run_id})

    def _run_log(self, run: FakeRun) -> dict[str, Any]:
        streams = {
            name: f"{self.fake.url}/runs/{run.run_id}/files/{name}"
            for name in ("stdout", "stderr")
            if name in run.files
        }
        return {
            "run_id": run.run_id,
            "state": run.states[0],
            "request": {**run.request, "workflow_url": run.request.get("workflow_url", "w.cwl")},
            "run_log": {**streams, "system_logs": run.system_logs, "start_time": "2026-11-20T10:00:00Z"},
            "task_logs": run.tasks,
            "outputs": run.outputs,
        }

    def _file(self, content: bytes | None) -> None:
        if content is None:
            return self._error(404, "No such file")
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")) if self.fake.knows_ranges else None
        if not asked:
            return self._answer(200, content, {}, self.fake.cut_after)
        start = int(asked[1]) if asked[1] else max(0, len(content) - int(asked[2]))
        is_too_long = not asked[1] and int(asked[2]) > len(content) and self.fake.refuses_long_suffixes
        if start >= len(content) or is_too_long:
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(206, content[start:], {"Content-Range": place}, self.fake.cut_after)

    def _json(self, value: dict[str, Any]) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, msg: str) -> None:
        body = json.dumps({"msg": msg, "status_code": status}).encode()
        self._answer(status, body, {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut_after: int | None = None) -> None:
        """HTTP/1.0: the connection ends with the answer."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_after])
