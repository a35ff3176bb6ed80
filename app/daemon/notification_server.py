"""The HTTP listener for hints: authenticate, extract the run_id, call a callback. Knows no database and no provider.

`POST /` with `{"run_id": …}` answers 200; GET /healthz answers 200, GET /metrics the daemon's metrics. Small bodies and
few connections at a time only.
"""

from __future__ import annotations

import hmac
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from app import hints
from app.metrics import CONTENT_TYPE, exposition
from config import LOOPBACK_HOSTS

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4096
MAX_CONNECTIONS = 64
SOCKET_SECONDS = 5.0


class _Refused(Exception):
    def __init__(self, status: int, msg: str) -> None:
        super().__init__(msg)
        self.status = status


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """What GET /metrics answers, and to whom: to who has the token; where there is none, to this machine alone.

    There a Host of another name is refused: web pages reach loopback through names of their own (DNS rebinding).
    """

    read: Callable[[], bytes] = exposition
    token: str = ""
    is_on_loopback: bool = True

    def check(self, authorization: str, host: str) -> None:
        """Raises _Refused."""
        if self.token:
            if not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
                raise _Refused(401, "Authorization must be Bearer and the DAEMON_METRICS_TOKEN.")
        elif not self.is_on_loopback:
            raise _Refused(403, "Metrics are told beyond this machine only with a DAEMON_METRICS_TOKEN.")
        elif _hostname(host) not in LOOPBACK_HOSTS:
            raise _Refused(400, "The daemon is not known under that Host name.")


class NotificationServer:
    """Calls `callback(run_id)` for every genuine hint; a False answer means that no such run waits (404).

    `port` 0 takes a free one, see `.port`. Without a secret it takes hints from anybody who reaches it: loopback only.
    """

    def __init__(
        self,
        host: str,
        port: int,
        callback: Callable[[str], bool],
        secret: str = "",
        metrics: MetricsPage | None = None,
    ) -> None:
        self._server = _BoundedServer((host, port), _handler(callback, secret, metrics or MetricsPage()))
        self._thread = threading.Thread(target=self._server.serve_forever, name="listener")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more and return once the listener's thread has ended."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:  # a flood: the next poll finds the runs
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        words = f"{type(error).__name__}: {error}".partition("\n")[0]
        log.info("a hint broke off", extra={"error": words})


def _handler(callback: Callable[[str], bool], secret: str, metrics: MetricsPage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SOCKET_SECONDS  # for each read, so that a slow client holds no place for long

        def do_POST(self) -> None:
            try:
                body = self._body()
                if not hints.is_genuine(body, self.headers, secret, time.time()):  # type: ignore[arg-type]
                    raise _Refused(401, "The hint is not signed with the shared secret, or too old.")
                if not callback(_run_id(body)):
                    raise _Refused(404, "No such run waits for anything.")
            except _Refused as refusal:
                self._answer(refusal.status, {"msg": str(refusal), "status_code": refusal.status})
            else:
                self._answer(200, {"status": "success"})

        def do_GET(self) -> None:
            if self.path == "/healthz":
                self._answer(200, {"status": "ok"})
            elif self.path == "/metrics":
                self._answer_metrics()
            else:
                self._answer(404, {"msg": "There is only POST /, GET /healthz and GET /metrics.", "status_code": 404})

        def _answer_metrics(self) -> None:
            try:
                metrics.check(self.headers.get("Authorization", ""), self.headers.get("Host", ""))
            except _Refused as refusal:
                self._answer(refusal.status, {"msg": str(refusal), "status_code": refusal.status})
            else:
                self._send(200, CONTENT_TYPE, metrics.read())

        def _body(self) -> bytes:
            if self.path not in ("/", "/notify"):
                raise _Refused(404, "Send hints to /.")
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                raise _Refused(400, "Content-Length is missing or not a number.")
            if len(length) > 9 or int(length) > MAX_BODY_BYTES:
                raise _Refused(413, f"A hint has at most {MAX_BODY_BYTES} bytes.")
            return self.rfile.read(int(length))

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            self._send(status, "application/json", json.dumps(content).encode())

        def _send(self, status: int, content_type: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

    return Handler


def _run_id(body: bytes) -> str:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "The body is not JSON.") from None
    run_id = said.get("run_id") if isinstance(said, dict) else None
    if not isinstance(run_id, str) or not 0 < len(run_id) <= 36 or not run_id.isascii() or not run_id.isprintable():
        raise _Refused(400, 'The body must be {"run_id": "…"}.')
    return run_id


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
