"""A platform's HTTP API, bounded in time and bytes; every call ends with an answer or one of the three provider errors.

requests' own time-out starts anew with every byte that arrives, so a server that drips could hold a thread for days.
Here the time for an answer is one span, from its first byte to its last.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, TypeVar, cast

import requests
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from app.clock import utc_now
from app.daemon.providers.http_outcomes import error_of_exception, error_of_status, retry_after_seconds
from app.errors import InvalidRequest, OutcomeUnknown, ProviderError
from app.strict import load_json

Model = TypeVar("Model", bound=BaseModel)
CHUNK_BYTES = 65_536
MOST_CONNECTIONS = 256
SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with a status that the caller expects."""

    status: int
    content_type: str
    body: bytes

    def read(self, model: type[Model]) -> Model:
        """The body as what it should be; raises OutcomeUnknown where it is anything else."""
        try:
            return model.model_validate(load_json(self.body, "the answer"))
        except InvalidRequest as error:
            raise OutcomeUnknown(f"It answered with something else: {error}"[:SHOWN_CHARACTERS]) from None
        except ValidationError as error:
            where = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors()[:5])
            raise OutcomeUnknown(f"It answered with something else: see {where}"[:SHOWN_CHARACTERS]) from None


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """An answer that is still coming; reading `body` raises OutcomeUnknown where it breaks off."""

    status: int
    content_type: str
    body: BinaryIO


class HttpApi:
    """Safe to share between threads. A call takes at most `timeout_seconds`: a quarter each to connect and to send, and
    half for the answer, which has at most `max_bytes`."""

    def __init__(
        self,
        url: str,
        timeout_seconds: float,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 8 * 1024 * 1024,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeouts = timeout_seconds / 4, timeout_seconds / 2
        self._max_bytes, self._now = max_bytes, now
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc that nobody spoke of here
        self._session.headers.update(headers or {})
        for scheme in "http://", "https://":
            self._session.mount(scheme, TimedAdapter(pool_maxsize=MOST_CONNECTIONS))

    def call(self, method: str, path: str, expected: Collection[int] = (200,), **request: Any) -> Answer:
        """Send once, never again by itself. `request`: `json`, `params`, `headers`, as requests has them.

        Raises NotAccepted, OutcomeUnknown or Rejected where the answer has another status, or does not come whole.
        """
        try:
            with self._send(method, path, self._timeouts, request) as response:
                body = self._body(response)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise error_of_exception(error) from error
        if response.status_code in expected:
            return Answer(response.status_code, response.headers.get("Content-Type", ""), body)
        raise self._error(response, body)

    @contextmanager
    def open(
        self, path: str, expected: Collection[int] = (200,), *, seconds: float | None = None, **request: Any
    ) -> Iterator[OpenAnswer]:
        """GET an answer of any length, to be read inside the `with`, and within `seconds` where they are given.

        Raises what `call` raises.
        """
        timeouts = self._timeouts if seconds is None else (self._timeouts[0], seconds)
        try:
            response = self._send("GET", path, timeouts, request)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise error_of_exception(error) from error
        with response:
            if response.status_code not in expected:
                raise self._error(response, b"")
            body = cast(BinaryIO, io.BufferedReader(_Body(response), CHUNK_BYTES))
            yield OpenAnswer(response.status_code, response.headers.get("Content-Type", ""), body)

    def _send(
        self, method: str, path: str, timeouts: tuple[float, float], request: Mapping[str, Any]
    ) -> requests.Response:
        return self._session.request(
            method, self.url + path, timeout=timeouts, stream=True, allow_redirects=False, **request
        )

    def _error(self, response: requests.Response, body: bytes) -> ProviderError:
        wait = retry_after_seconds(response.headers.get("Retry-After"), self._now())
        return error_of_status(response.status_code, _words(response, body), wait)

    def _body(self, response: requests.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise OutcomeUnknown(f"The answer is larger than {self._max_bytes} bytes.")
        return bytes(body)


def _words(response: requests.Response, body: bytes) -> str:
    """The platform's own words, as far as a user can bear them."""
    text = body[: 4 * SHOWN_CHARACTERS].decode(errors="replace")
    try:
        answer = load_json(body, "")
        text = str(answer["message"]) if isinstance(answer, dict) and "message" in answer else text
    except InvalidRequest:
        text = text if text.isprintable() else ""
    return f"HTTP {response.status_code} {response.reason or ''}: {text[:SHOWN_CHARACTERS]}".rstrip(": ")


class _Body(io.RawIOBase):
    """What is left of a response; its failures are provider errors."""

    def __init__(self, response: requests.Response) -> None:
        self._chunks = response.iter_content(CHUNK_BYTES)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._rest = self._rest or next(self._chunks, b"")
        except (requests.RequestException, HTTPError, OSError) as error:
            raise error_of_exception(error) from error
        data = self._rest[: len(buffer)]
        buffer[: len(data)], self._rest = data, self._rest[len(data) :]
        return len(data)


class TimedReader(io.RawIOBase):
    """What a socket receives until a moment, whatever the pace."""

    def __init__(self, socket: Any, raw: io.RawIOBase, seconds: float) -> None:
        self._socket, self._raw = socket, raw
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not come whole in time")
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """The socket's time-out is the time for the whole answer."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if (seconds := sock.gettimeout()) is not None:
            self.fp = io.BufferedReader(TimedReader(sock, self.fp.detach(), seconds))


class _TimedConnection(HTTPConnection):
    response_class = _TimedResponse


class _TimedSecureConnection(HTTPSConnection):
    response_class = _TimedResponse


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TimedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _TimedSecureConnection


class TimedAdapter(HTTPAdapter):
    """For a session of requests: its read time-out is the time for the whole answer, and nothing is sent twice."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedSecurePool}
