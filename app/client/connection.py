"""One WES server: its address, our credentials, and HTTP answers turned into JSON or into client errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.auth import AuthBase

from app.client.errors import Invalid, NotAuthenticated, RunNotFound, Unreachable, WesClientError

Json = dict[str, Any]
Auth = AuthBase | tuple[str, str]
Statuses = frozenset[int]

CONNECT_SECONDS = 10.0
DEFAULT_PATH = "/ga4gh/wes/v1"
NONE: Statuses = frozenset()
_WORDS_BYTES = 64 * 1024
_TRY_LATER = frozenset({429, 502, 503, 504})
_KINDS = {401: NotAuthenticated, 403: NotAuthenticated, 404: RunNotFound}


class HeaderAuth(AuthBase):
    """Credentials in one header. Being an AuthBase, it is not overruled by a .netrc file."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers[self.name] = self._value
        return request

    @classmethod
    def parse(cls, text: str) -> HeaderAuth:
        """`Header: value`, or just the value of Authorization, as wes-client writes it."""
        name, colon, value = text.partition(":")
        return cls(name.strip(), value.strip()) if colon else cls("Authorization", text.strip())


class NoAuth(AuthBase):
    """No credentials at all, not even from a .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """Also takes credentials in other headers than Authorization away when a redirect leaves the server."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        before, after = str(response.request.url), str(prepared_request.url)
        leaves = self.should_strip_auth(before, after)  # type: ignore[no-untyped-call]
        if leaves and isinstance(self.auth, HeaderAuth):
            prepared_request.headers.pop(self.auth.name, None)


class Connection:
    """Calls to one server. Not for several threads at once."""

    def __init__(self, base_url: str, token: str | None, auth: Auth | None, timeout: float) -> None:
        self.base_url = complete_base_url(base_url)
        self.timeout = timeout
        self._session = _Session()
        self._session.headers["Accept"] = "application/json"
        self._session.auth = HeaderAuth("Authorization", f"Bearer {token}") if token else auth

    def close(self) -> None:
        self._session.close()

    def url(self, path: str) -> str:
        return f"{self.base_url}/{path}"

    def json(self, method: str, path: str, *, read_seconds: float | None = None, **options: Any) -> Json:
        """The JSON object that the server answers with. Blocks for the time-out at most."""
        response = self._send(method, self.url(path), read_seconds, **options)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            kind = response.headers.get("Content-Type", "nothing")
            raise WesClientError(f"{response.url} answered {kind}, not a JSON object: is this a WES server?")
        return answer

    def open(self, url: str, headers: Mapping[str, str], accept_status: Statuses = NONE) -> requests.Response:
        """GET a log or an output, to be streamed and closed by the caller; `url` may be relative to the base.

        Credentials go to the server's own origin only. Statuses in `accept_status` are not errors.
        """
        absolute = urljoin(f"{self.base_url}/", url)
        if _split(absolute).scheme not in ("http", "https"):
            raise Invalid(f"{absolute} is not offered over HTTP: fetch it with its own tools")
        auth = None if _origin(absolute) == _origin(self.base_url) else NoAuth()
        every_header = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        return self._send("GET", absolute, None, accept_status, headers=every_header, auth=auth, stream=True)

    def _send(
        self,
        method: str,
        url: str,
        read_seconds: float | None,
        accept_status: Statuses = NONE,
        **options: Any,
    ) -> requests.Response:
        """A redirect is followed for GET only: for others it would turn the call into a GET."""
        timeout = (min(CONNECT_SECONDS, self.timeout), read_seconds or self.timeout)
        try:
            response = self._session.request(method, url, timeout=timeout, allow_redirects=method == "GET", **options)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Unreachable(f"{self.base_url} does not answer: {_reason(error)}") from error
        except (requests.RequestException, UnicodeError) as error:  # UnicodeError: a header that is no Latin-1
            raise Invalid(f"Cannot call {url}: {error}") from error
        if response.status_code not in accept_status:
            raise_for_answer(response)
        return response


def complete_base_url(url: str) -> str:
    """`http://host:5000` is enough: the path that WES servers use is added where there is none."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Invalid(f"{url!r} is no http(s) address of a WES server, such as http://localhost:5000{DEFAULT_PATH}")
    return url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{DEFAULT_PATH}"


def raise_for_answer(response: requests.Response) -> None:
    """Raises the client error that the status stands for, and closes the response then."""
    status = response.status_code
    if status < 300:
        return
    with response:
        words = _words(response)
    if status in _TRY_LATER:
        raise Unreachable(words, status, _seconds(response.headers.get("Retry-After")))
    if status < 400:
        target = response.headers.get("Location", "another address")
        raise WesClientError(f"The server points to {target}: use that as its address", status)
    raise _KINDS.get(status, Invalid if status < 500 else WesClientError)(words, status)


def _words(response: requests.Response) -> str:
    """The server's own words, in WES's shape, in RFC 9457's, or the bare status."""
    body = next(response.iter_content(_WORDS_BYTES), b"")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        for key in ("msg", "detail", "message", "title"):
            if answer.get(key):
                return str(answer[key])
    return f"{response.status_code} {response.reason or ''}".strip() + f" from {response.url}"


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdigit() else None


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests and urllib3 wrap it in three layers of representation."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner) or type(inner).__name__


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only now: it may be no number
    except ValueError as error:
        raise Invalid(f"{url!r} is no address: {error}") from error
    return parts


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = _split(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
