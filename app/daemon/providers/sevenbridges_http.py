"""How sevenbridges-python's requests travel: paced, bounded in time and bytes, each failure one of the provider errors.

The library sends through a session of requests; what is here is mounted on it, below everything that the library does.
So its own retries, sleeping handlers and redirects, which would carry the token elsewhere, never get anything to do.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from app.daemon.providers.http_api import CHUNK_BYTES, MOST_CONNECTIONS, TimedAdapter
from app.daemon.providers.http_outcomes import error_of_exception, error_of_status
from app.daemon.providers.sevenbridges_budget import Budget
from app.errors import InvalidRequest, NotAccepted, OutcomeUnknown, ProviderError, Rejected
from app.strict import load_json

MAX_ANSWER_BYTES = 32 * 1024 * 1024
SHOWN_CHARACTERS = 250
DENIED_SECONDS = 60.0
SLOWEST_BYTES_A_SECOND = 100_000
MOST_HOPS = 4
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Missing(Rejected):
    """404: there is no such thing, or this token may not see it."""


class Denied(NotAccepted):
    """403: the token is known and may not do this."""


class TooLarge(OutcomeUnknown):
    """The answer is larger than is read here: ask for less at once."""


class Transport(TimedAdapter):
    """What comes through is a JSON object with a status of success, or nothing where none is due."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(pool_maxsize=MOST_CONNECTIONS)
        self._budget = budget

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Raises NotReady before anything is sent, else Missing, Denied, TooLarge and the provider errors."""
        self._budget.take()
        try:
            with super().send(request, *args, **kwargs) as response:
                body = _whole(response)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise error_of_exception(error) from None
        if not 200 <= response.status_code < 300:
            raise self._refusal(response, body)
        self._budget.served(response.headers)
        if request.method != "DELETE":
            _check_object(body)
        response.raw = io.BytesIO(body)
        response.headers.pop("Content-Encoding", None)
        return response

    def _refusal(self, response: requests.Response, body: bytes) -> ProviderError:
        status, words = response.status_code, _words(response, body)
        match status:
            case 401:
                hint = "Make a new token on the platform, set SEVENBRIDGES_API_TOKEN to it and restart the daemon."
                return NotAccepted(f"{words} {hint}", DENIED_SECONDS)
            case 403:
                return Denied(f"{words} The token's user needs the permission on the project.", DENIED_SECONDS)
            case 404:
                return Missing(words, "not_found")
            case 429:
                return NotAccepted(words, self._budget.refused(words, response.headers))
            case _:
                return error_of_status(status, words, reason="refused")


class Downloads:
    """Reads what is behind the signed URLs of the platform, which need no token and must not be seen by anyone."""

    def __init__(self, endpoint: str, timeout_seconds: float) -> None:
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # below, it tells every address
        self._home = urlsplit(endpoint)[:2]
        self._timeout = timeout_seconds
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"
        for scheme in "http://", "https://":
            self._session.mount(scheme, TimedAdapter(pool_maxsize=MOST_CONNECTIONS))

    @contextmanager
    def open(self, url: str, size: int, offset: int = 0) -> Iterator[BinaryIO]:
        """The bytes from `offset`; `size`: how many there should be, which sets how long that may take.

        Reading raises OutcomeUnknown where it breaks off. Raises Missing and Denied.
        """
        span = self._timeout / 2 + size / SLOWEST_BYTES_A_SECOND
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._answer(url, headers, (self._timeout / 4, span)) as response:
            yield cast(BinaryIO, io.BufferedReader(_Body(response, offset), CHUNK_BYTES))

    def _answer(self, url: str, headers: dict[str, str], timeouts: tuple[float, float]) -> requests.Response:
        """Storage may send on to another of its addresses: each is looked at like the first."""
        for _ in range(MOST_HOPS):
            self._check(url)
            try:
                response = self._session.get(url, headers=headers, timeout=timeouts, stream=True, allow_redirects=False)
            except (requests.RequestException, HTTPError, OSError) as error:
                raise error_of_exception(error) from None
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
        raise OutcomeUnknown("The storage of Seven Bridges sends a download from address to address.")

    def _check(self, url: str) -> None:
        """The platform names any storage of its own; nothing but TLS or its own address is believed."""
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if not parts.hostname or (parts.scheme != "https" and parts[:2] != self._home):
            raise OutcomeUnknown("Seven Bridges names a download address that is neither https nor its own.")


class _Body(io.RawIOBase):
    """A download's body, from the offset that was asked for; its failures are provider errors."""

    def __init__(self, response: requests.Response, offset: int) -> None:
        self._raw, self._skip = response.raw, 0
        match response.status_code:
            case 200:
                self._skip = offset  # the storage takes no ranges
            case 206 if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                pass
            case 416:
                self._raw = io.BytesIO()  # nothing beyond the offset
            case 403:
                raise Denied("The storage of Seven Bridges refuses a download.", DENIED_SECONDS)
            case 404 | 410:
                raise Missing("The storage of Seven Bridges no longer has a file.", "not_found")
            case status:
                raise OutcomeUnknown(f"The storage of Seven Bridges answered a download with {status}.")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._skip and (skipped := len(self._read(min(self._skip, CHUNK_BYTES)))):
            self._skip -= skipped
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        try:
            data: bytes = self._raw.read(size)
        except (HTTPError, OSError):
            raise OutcomeUnknown("A download from Seven Bridges broke off.") from None
        return data


def is_trusted(endpoint: str) -> bool:
    """May a token be sent there? Only over TLS, or to this machine."""
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


def _whole(response: requests.Response) -> bytes:
    body = bytearray()
    for chunk in response.raw.stream(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLarge(f"The answer of Seven Bridges is larger than {MAX_ANSWER_BYTES} bytes.")
    return bytes(body)


def _check_object(body: bytes) -> None:
    try:
        if body.lstrip()[:1] != b"{":
            raise InvalidRequest("no JSON object")
        load_json(body, "the answer")
    except InvalidRequest as error:
        raise OutcomeUnknown(f"Seven Bridges answered with something else: {one_line(str(error))}") from None


def _words(response: requests.Response, body: bytes) -> str:
    """The platform's own words: its errors have `message` and `code`."""
    try:
        answer = load_json(body, "")
    except InvalidRequest:
        answer = None
    said = f"{answer.get('message')} (code {answer.get('code')})" if isinstance(answer, dict) else response.reason
    return one_line(f"Seven Bridges: HTTP {response.status_code}: {said}.")


def one_line(words: str) -> str:
    """As much of it as a user can bear, without line breaks and control characters."""
    return "".join(character if character.isprintable() else " " for character in words)[:SHOWN_CHARACTERS]
