"""moto's S3 on loopback, behind a layer that counts requests and spoils some on command.

with S3Server() as server:
    server.bucket                       # app.artifacts.bucket.Bucket
    server.fail("error", times=2)       # the next two requests are answered 503
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from typing import Any, Self
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server
from werkzeug.wsgi import get_input_stream

from app.artifacts.bucket import Access, Bucket

ACCOUNT = "123456789012"
KEY = "testing"
REGION = "eu-central-1"
_BEGUN = b"2010-11-10T20:48:33.000Z"
"""When every unfinished upload in parts was begun, as moto has it."""
_ERROR = b"<Error><Code>%s</Code><Message>told to</Message></Error>"
_REFUSALS = {
    "error": ("503 Slow Down", _ERROR % b"SlowDown"),
    "denied": ("403 Forbidden", _ERROR % b"AccessDenied"),
    "expired": ("400 Bad Request", _ERROR % b"ExpiredToken"),
    "slow": ("400 Bad Request", _ERROR % b"RequestTimeout"),
    "lost": ("500 Internal Server Error", _ERROR % b"InternalError"),
}


@dataclass
class Fault:
    """What the next `times` requests run into, after `skip`, of this method whose path and query contain `match`.

    error: 503; denied: 403; expired and slow: 400, as S3 has them; lost: it is done, then 500; cut: half of the body, then the end; hang: until `heal`;
    pass: nothing.
    `then` is called after the request was served, before it is answered.
    """

    kind: str
    times: int = 1
    skip: int = 0
    method: str = ""
    match: str = ""
    then: Callable[[], object] | None = None

    def hits(self, method: str, target: str) -> bool:
        if self.times <= 0 or self.method not in ("", method) or self.match not in target:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class S3Server:
    """One for many tests, which keep to prefixes of their own in one bucket, and `heal` what they broke."""

    def __init__(self) -> None:
        self.name = f"wes-{secrets.token_hex(8)}"
        self._moto, self._app = s3_backends[ACCOUNT]["aws"], create_backend_app("s3")
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3")
        self._lock, self._numbers = threading.Lock(), count(1)
        self._faults: list[Fault] = []
        self._healed = threading.Event()
        self._begun = time.time()
        self.requests: list[str] = []  # method, path and query, in the order in which they came

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def access(self, timeout_seconds: float = 10.0) -> Access:
        return Access(self.name, self.url, REGION, KEY, KEY, timeout_seconds=timeout_seconds)

    @cached_property
    def bucket(self) -> Bucket:
        """Making a client takes a while, so tests share this one."""
        return Bucket(self.access())

    def new_prefix(self) -> str:
        return f"prefix/{next(self._numbers)}"

    def age(self, seconds: float) -> None:
        """All that is stored came so much earlier."""
        for key in self._moto.buckets[self.name].keys.values():
            key.last_modified -= timedelta(seconds=seconds)
        self._begun -= seconds

    def keys(self, prefix: str) -> list[str]:
        """What is stored below it, without it."""
        found = self._moto.buckets[self.name].keys
        return sorted(key.removeprefix(f"{prefix}/") for key in found if key.startswith(f"{prefix}/"))

    def unfinished(self) -> int:
        """Uploads in parts that were neither completed nor aborted."""
        return len(self._moto.buckets[self.name].multiparts)

    def fail(self, kind: str, **how: Any) -> None:
        self._faults.append(Fault(kind, **how))

    def heal(self) -> None:
        """No more faults; what hangs goes on."""
        self._faults.clear()
        self._healed.set()
        self._healed = threading.Event()

    def __enter__(self) -> Self:
        self._moto.create_bucket(self.name, REGION)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        del self._moto.buckets[self.name]

    def _serve(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, target = environ["REQUEST_METHOD"], f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        with self._lock:
            self.requests.append(f"{method} {target}")
            if target.endswith("?uploads"):
                self._begun = time.time()
            fault = next((fault for fault in self._faults if fault.hits(method, target)), None)
            healed = self._healed
        if fault is None:
            return [self._dated(piece) for piece in self._app(environ, start)]
        return self._spoil(fault, environ, start, healed)

    def _dated(self, answer: bytes) -> bytes:
        """With the time at which the last upload in parts was begun."""
        begun = datetime.fromtimestamp(self._begun, UTC)
        return answer.replace(_BEGUN, f"{begun:%Y-%m-%dT%H:%M:%S}.000Z".encode())

    def _spoil(
        self, fault: Fault, environ: WSGIEnvironment, start: StartResponse, healed: threading.Event
    ) -> Iterable[bytes]:
        if fault.kind == "hang":
            healed.wait()
        if fault.kind in ("error", "denied", "expired", "slow"):
            get_input_stream(environ).read()  # else the client would see a reset
            return _refuse(fault.kind, environ, start)
        answer = list(self._app(environ, (lambda *_: None) if fault.kind == "lost" else start))  # type: ignore[arg-type]
        if fault.then:
            fault.then()
        if fault.kind == "lost":
            return _refuse("lost", environ, start)
        return _cut(b"".join(answer)) if fault.kind == "cut" else answer


def _refuse(kind: str, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    status, body = _REFUSALS[kind]
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _cut(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Quiet: `requests` tells what came."""
