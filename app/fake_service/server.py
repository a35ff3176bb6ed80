"""The fake cloud over HTTP: routes, faults on the way, and a control API for people and tests.

POST   /v1/jobs                 with an Idempotency-Key: start a job, once for a key (201, repeated 200)
POST   /v1/drafts               make a draft (201)
POST   /v1/jobs/{id}/start      start a draft (200; 409 where it was started)
POST   /v1/jobs/{id}/cancel     ask for its end (202, also repeated or too late; 409 for a draft)
DELETE /v1/jobs/{id}            delete a draft (204)
GET    /v1/jobs?name=|key=      find jobs, oldest first
GET    /v1/jobs/{id}            one job; POST /v1/jobs/statuses {"ids": […]}: those that are known of so many
GET    /v1/jobs/{id}/tasks      its steps; /log?name=stdout&offset=0; /outputs; /files/{name}
POST   /_control/{verb}         arguments as a JSON object: see `VERBS`
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from app.fake_service.cloud import FakeCloud, Refused, checked_request
from app.fake_service.faults import Answer, Fault, Faults
from app.fake_service.jobs import Job

MAX_BODY_BYTES = 64 * 1024 * 1024
CONTROL = "/_control/"


@dataclass(frozen=True, slots=True)
class Call:
    """A request: `labels` from its path, the first value of each query parameter."""

    cloud: FakeCloud
    url: str  # of the service
    labels: Mapping[str, str]
    query: Mapping[str, str]
    key: str | None  # the Idempotency-Key header
    body: bytes

    @property
    def job_id(self) -> str:
        return self.labels["id"]

    def show(self, *jobs: Job) -> list[dict[str, Any]]:
        now = self.cloud.clock.now()
        return [job.view(now) for job in jobs]


def submit(call: Call) -> Answer:
    if not call.key:
        raise Refused(400, "no_key", "A job needs an Idempotency-Key; or make a draft.")
    job, is_new = call.cloud.submit(checked_request(call.body), call.key)
    return Answer.of_json(201 if is_new else 200, call.show(job)[0])


def draft(call: Call) -> Answer:
    return Answer.of_json(201, call.show(call.cloud.draft(checked_request(call.body)))[0])


def start(call: Call) -> Answer:
    return Answer.of_json(200, call.show(call.cloud.start(call.job_id))[0])


def cancel(call: Call) -> Answer:
    return Answer.of_json(202, call.show(call.cloud.cancel(call.job_id))[0])


def delete(call: Call) -> Answer:
    call.cloud.delete(call.job_id)
    return Answer(204)


def find(call: Call) -> Answer:
    return Answer.of_json(
        200, {"jobs": call.show(*call.cloud.find(name=call.query.get("name"), key=call.query.get("key")))}
    )


def status(call: Call) -> Answer:
    return Answer.of_json(200, call.show(call.cloud.job(call.job_id))[0])


def statuses(call: Call) -> Answer:
    try:
        wanted = [str(job_id) for job_id in json.loads(call.body)["ids"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(400, "no_ids", 'Send {"ids": […]}.') from None
    return Answer.of_json(200, {"jobs": call.show(*call.cloud.jobs(wanted))})


def tasks(call: Call) -> Answer:
    return Answer.of_json(200, {"tasks": call.cloud.job(call.job_id).task_views(call.cloud.clock.now())})


def log(call: Call) -> Answer:
    offset = call.query.get("offset", "0")
    if not re.fullmatch("[0-9]{1,18}", offset):
        raise Refused(400, "bad_offset", "The offset is a number of bytes.")
    page = call.cloud.log_page(call.job_id, call.query.get("name", "stdout"), int(offset))
    return Answer(200, page, {"Content-Type": "text/plain; charset=utf-8"})


def outputs(call: Call) -> Answer:
    return Answer.of_json(200, {"outputs": call.cloud.outputs(call.job_id, f"{call.url}/v1/jobs/{call.job_id}/files")})


def file(call: Call) -> Answer:
    return Answer(200, call.cloud.file(call.job_id, call.labels["name"]), {"Content-Type": "application/octet-stream"})


_JOB = "/v1/jobs/(?P<id>[^/]+)"
ROUTES: dict[str, tuple[str, str, Callable[[Call], Answer]]] = {
    "submit": ("POST", "/v1/jobs", submit),
    "statuses": ("POST", "/v1/jobs/statuses", statuses),
    "draft": ("POST", "/v1/drafts", draft),
    "start": ("POST", f"{_JOB}/start", start),
    "cancel": ("POST", f"{_JOB}/cancel", cancel),
    "delete": ("DELETE", _JOB, delete),
    "find": ("GET", "/v1/jobs", find),
    "status": ("GET", _JOB, status),
    "tasks": ("GET", f"{_JOB}/tasks", tasks),
    "log": ("GET", f"{_JOB}/log", log),
    "outputs": ("GET", f"{_JOB}/outputs", outputs),
    "file": ("GET", f"{_JOB}/files/(?P<name>[^/]+)", file),
}
"""Operation -> method, pattern of the path, what answers; faults name operations so."""


class FakeService(ThreadingHTTPServer):
    """Listens on loopback. As a context manager it serves from a thread and is closed, with all its connections."""

    daemon_threads = False
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, cloud: FakeCloud, faults: Faults | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.cloud = cloud
        self.faults = faults or Faults()
        self.calls: Counter[str] = Counter()
        self.hanging = 0
        self.closing = threading.Event()
        self._gate = threading.Event()
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method: str, target: str, key: str | None, body: bytes) -> Answer | None:
        """The answer, or what a fault makes of it; None: the connection is closed without one."""
        operation, call = self._understand(method, target, key, body)
        with self.cloud.lock:
            self.calls[operation] += 1
            fault = self.faults.take(operation, target + body.decode(errors="replace"))
        if fault is None:
            return self._do(operation, call)
        answer = self._do(operation, call) if fault.does_the_work else Answer(200)
        if fault.kind == "hang":
            self._hang(fault.seconds)
        return fault.spoil(answer)

    def command(self, verb: str, body: bytes) -> Answer:
        """A verb of the control API."""
        try:
            arguments = json.loads(body or b"{}")
            return Answer.of_json(200, VERBS[verb](self, **arguments))
        except (KeyError, TypeError, ValueError, Refused) as error:
            return Answer.refusal(400, "bad_command", f"{verb}: {error}. There are {', '.join(VERBS)}.")

    def release(self) -> None:
        """Let hang up what hangs."""
        with self.cloud.lock:
            gate, self._gate = self._gate, threading.Event()
        gate.set()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, name="fake service")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._thread.join()

    def close(self) -> None:
        """Stop serving, hang up on everybody and close the cloud's ledger."""
        self.shutdown()
        self.closing.set()
        self.release()
        for connection in list(self._connections):
            _hang_up(connection)
        self.server_close()
        self.cloud.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()

    def _understand(self, method: str, target: str, key: str | None, body: bytes) -> tuple[str, Call]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for operation, (verb, pattern, _) in ROUTES.items():
            if verb == method and (match := re.fullmatch(pattern, parts.path)):
                labels = {name: unquote(value) for name, value in match.groupdict().items()}
                return operation, Call(self.cloud, self.url, labels, query, key, body)
        return "unknown", Call(self.cloud, self.url, {}, query, key, body)

    def _do(self, operation: str, call: Call) -> Answer:
        if operation not in ROUTES:
            return Answer.refusal(404, "no_such_route", "There is nothing here.")
        try:
            return ROUTES[operation][2](call)
        except Refused as error:
            return Answer.refusal(error.status, error.code, str(error))

    def _hang(self, seconds: float | None) -> None:
        with self.cloud.lock:
            self.hanging += 1
            gate = self._gate
        gate.wait(seconds)
        with self.cloud.lock:
            self.hanging -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FakeService

    def _serve(self) -> None:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self._send(Answer.refusal(413, "too_large", "The body is too large."))
        body = self.rfile.read(int(length))
        if self.path.startswith(CONTROL) and self.command == "POST":
            return self._send(self.server.command(self.path.removeprefix(CONTROL), body))
        answer = self.server.answer(self.command, self.path, self.headers.get("Idempotency-Key"), body)
        if answer is None:
            self.close_connection = True
            return None
        return self._send(answer)

    do_GET = do_POST = do_DELETE = _serve

    def _send(self, answer: Answer) -> None:
        if answer.pause:
            return self._drip(answer)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(10**15 if answer.endless else len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        while answer.endless and not self.server.closing.is_set():
            self.wfile.write(answer.body)
        return self.wfile.flush()

    def _drip(self, answer: Answer) -> None:
        """Every byte comes late, the status line's too."""
        self.close_connection = True
        head = f"HTTP/1.1 {answer.status} OK\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode()
        for byte in head + answer.body:
            if self.server.closing.wait(answer.pause):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the ledger tells what happened."""


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


def _fail(service: FakeService, kind: str, **fault: Any) -> None:
    service.faults.add(Fault(kind, **fault))


def _clear(service: FakeService) -> None:
    service.faults.clear()
    service.release()


VERBS: dict[str, Callable[..., Any]] = {
    "fail": _fail,  # set a fault: the fields of `faults.Fault`
    "clear": _clear,  # forget all faults, let go what hangs
    "release": FakeService.release,
    "hanging": lambda service: service.hanging,
    "calls": lambda service: dict(service.calls),  # requests so far, by operation
    "jobs": lambda service: service.cloud.counts(),  # by status word
    "advance": lambda service, seconds: service.cloud.advance(seconds),
    "finish": lambda service, job_id, word: service.cloud.finish(job_id, word),
}
