"""What every fake of a cloud shares: an HTTP server with faults, counters and a control API. Knows no vendor.

In a test: `with InThread(HealthOmics(frozen=True)) as fake:` or `with InProcess("tests.fakes.healthomics", "--frozen") as
fake:`; then `fake.url` is for the client under test and `fake.control` for the test, the same in both.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.fakes.faults import REFUSALS, Fault, Faults, Reply, Request
from tests.fakes.timeline import Plans, Timeline

ROOT = Path(__file__).parents[2]
CONTROL = "/_control/"
VIOLATION_HEADER = "x-fake-violation"
KEPT_REQUESTS = 10_000

Verb = TypeVar("Verb", bound=Callable[..., Any])


def verb(method: Verb) -> Verb:
    """Offer a method of a service to tests, as `control.<name>(**arguments)`; arguments and result are JSON."""
    method.is_verb = True  # type: ignore[attr-defined]
    return method


class Service(ABC):
    """One vendor's fake: what it answers, and what tests may ask of it. Everything runs under one lock but hangs."""

    def __init__(self, frozen: bool = False, speed: float = 1.0, seed: int = 0) -> None:
        self.timeline = Timeline(frozen, speed)
        self.plans = Plans()
        self.violations: list[str] = []
        self._lock = threading.RLock()
        self._faults = Faults(seed)
        self._calls: Counter[str] = Counter()
        self._requests: deque[dict[str, Any]] = deque(maxlen=KEPT_REQUESTS)
        self.gate = threading.Event()
        self._hanging = 0

    @abstractmethod
    def operation(self, request: Request) -> str:
        """The vendor's name for what is asked; it names faults and counters."""

    @abstractmethod
    def handle(self, request: Request) -> Reply:
        """Do what is asked. The timeline has caught up."""

    @abstractmethod
    def refusal(self, kind: str, seconds: float | None) -> Reply:
        """The vendor's own words for one of `faults.REFUSALS`; `seconds`: when to come again."""

    def answer(self, request: Request) -> Reply | None:
        """The answer, spoilt by the fault that hits it; None: close the connection."""
        with self._lock:
            name = self.operation(request)
            fault = self._faults.take(name, request)
            self._calls[name] += 1
            self._requests.append(_record(name, request, fault))
        if fault is None:
            return self._do(request)
        with self._hang(fault.seconds) if fault.kind == "hang" else nullcontext():
            reply = self._do(request) if fault.commits else Reply(200)
        return self.refusal(fault.kind, fault.seconds) if fault.kind in REFUSALS else fault.spoil(reply)

    def command(self, name: str, arguments: Mapping[str, Any]) -> Reply:
        """Run a verb for a test."""
        method = getattr(self, name, None)
        if not getattr(method, "is_verb", False):
            return Reply.of_json(404, f"no such verb: {name}")
        try:
            with self._lock:
                self.timeline.catch_up()
                return Reply.of_json(200, method(**arguments))
        except (TypeError, ValueError, KeyError) as error:
            return Reply.of_json(400, f"{name}: {error!r}")

    def broken(self, problem: str) -> Reply:
        """A loud answer where the fake is at fault, and a record of it."""
        self.violations.append(problem)
        return Reply.of_json(500, {"message": problem}, {VIOLATION_HEADER: "1"})

    def _do(self, request: Request) -> Reply:
        with self._lock:
            try:
                self.timeline.catch_up()
                return self.handle(request)
            except Exception:
                return self.broken(traceback.format_exc())

    @contextmanager
    def _hang(self, seconds: float | None) -> Iterator[None]:
        """What has waited counts as hanging until it is done."""
        with self._lock:
            self._hanging += 1
            gate = self.gate
        gate.wait(seconds)
        try:
            yield
        finally:
            with self._lock:
                self._hanging -= 1

    @verb
    def fail(self, kind: str, **fault: Any) -> None:
        """Set a fault: see `faults.Fault`."""
        self._faults.add(Fault(kind, **fault))

    @verb
    def clear(self) -> None:
        """Forget all faults and let what hangs go on."""
        self._faults.clear()
        self.release()

    @verb
    def release(self) -> None:
        """Let what hangs go on."""
        self.gate.set()
        self.gate = threading.Event()

    @verb
    def hanging(self) -> int:
        """How many requests hang now."""
        return self._hanging

    @verb
    def advance(self, seconds: float) -> None:
        """Move the clock, and let happen what falls due."""
        self.timeline.advance(seconds)
        self.timeline.catch_up()

    @verb
    def plan(self, match: str = "", times: int | None = None, **plan: Any) -> None:
        """How executions go whose request contains `match`: see `timeline.Plan`."""
        self.plans.add(plan, match, times)

    @verb
    def calls(self) -> dict[str, int]:
        """Requests so far by operation, failed ones too."""
        return dict(self._calls)

    @verb
    def requests(self, operation: str = "") -> list[dict[str, Any]]:
        """The last requests, oldest first: operation, method, path, query, body, fault."""
        return [record for record in self._requests if operation in ("", record["operation"])]

    @verb
    def reset(self) -> None:
        """Forget counted calls and recorded requests."""
        self._calls.clear()
        self._requests.clear()

    @verb
    def problems(self) -> list[str]:
        """Where this fake broke its vendor's model, or was asked for what it does not do: a test wants none."""
        return self.violations


def _record(name: str, request: Request, fault: Fault | None) -> dict[str, Any]:
    return {
        "operation": name,
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "body": request.body.decode(errors="replace"),
        "fault": fault and fault.kind,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        target = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # whoever asked was killed: half a request is none
            self.close_connection = True
            return
        service = self.server.service
        if target.path.startswith(CONTROL):
            reply: Reply | None = service.command(target.path.removeprefix(CONTROL), json.loads(body))
        else:
            reply = service.answer(Request(self.command, target.path, target.query, self.headers, body))
        if reply is None:
            self.close_connection = True
        else:
            self._send(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        gate = self.server.service.gate
        for piece in [reply.body] if not reply.pause else [bytes([byte]) for byte in reply.body]:
            gate.wait(reply.pause)
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `requests` tells what came."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, service: Service, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.service = service
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news; anything else is a fault of the fake."""
        if not isinstance(sys.exception(), OSError | ValueError):
            self.service.broken(traceback.format_exc())

    def close(self) -> None:
        """Stop serving, hang up on every client and wait for the threads."""
        self.shutdown()
        self.service.clear()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class Control:
    """A test's hand on a fake: every verb of its service is a method here."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **arguments: self._call(name, arguments)

    def heal(self) -> None:
        """No more faults; what hangs has been done when this returns."""
        self.clear()
        while self.hanging():
            self.release()
            time.sleep(0.01)

    def _call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        connection = HTTPConnection(self._host, timeout=60)
        try:
            connection.request("POST", CONTROL + name, json.dumps(arguments))
            response = connection.getresponse()
            result = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(result)
        return result


class InThread:
    """A fake in this process."""

    def __init__(self, service: Any, port: int = 0) -> None:
        self.service = service
        self._server = _Server(service, port)
        self.url = self._server.url
        self.control = Control(self.url)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._thread.join()


class InProcess:
    """A fake in a process of its own, which outlives whatever the test kills."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, "--port", "0", *arguments]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            raise RuntimeError(f"{self._command} ended with {self._process.wait()}")
        self.url = first.split()[-1]
        self.control = Control(self.url)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def serve(service: Service, port: int, settings: Callable[[str], Mapping[str, str]]) -> None:
    """Run by hand until interrupted: prints where, and the settings to export."""
    server = _Server(service, port)
    print(f"# listening on {server.url}", flush=True)
    print("".join(f"export {name}={value}\n" for name, value in settings(server.url).items()), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.close()
