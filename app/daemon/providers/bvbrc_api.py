"""BV-BRC's JSON-RPC services under a user's token: calls whose every failure has a name, and words without the token.

A JSON-RPC error is the service's own answer, with HTTP status 500; anything else that is no JSON comes from what stands
in front of it (PROVIDERS.md, C1). Knows no run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from app.bvbrc_token import BvbrcToken
from app.daemon.providers.bvbrc_tokens import TokenGate
from app.daemon.providers.http_api import Answer, HttpApi, OpenAnswer
from app.daemon.providers.http_outcomes import error_of_status
from app.daemon.providers.pacing import TokenBuckets
from app.errors import InvalidRequest, NotAccepted, OutcomeUnknown, ProviderError
from app.strict import load_json

NO_METHOD = -32601
BAD_ARGUMENTS = frozenset({NO_METHOD, -32600, -32602, -32700})
UNAUTHENTICATED = -32400
SHOWN_CHARACTERS = 400
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_FRONT = frozenset({402, 403, 429, 503})
_ANSWERS = frozenset(range(200, 600)) - _FRONT
_TOKEN_TROUBLE = re.compile(r"token validation|authentication (required|failed)|token (has )?expired", re.IGNORECASE)
_WRAPPED = re.compile(r"_ERROR_(.*)_ERROR_", re.DOTALL)
_PERL_PLACE = re.compile(r" at \S+ line \d+\.?\s*$")


class Refusal(OutcomeUnknown):
    """The service answered with an error of its own: it is done with the call. Who asked may know what that means."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


class _RpcError(BaseModel):
    code: int | None = None
    message: str | None = None


class _Reply(BaseModel):
    result: list[Any] | None = None
    error: _RpcError | str | None = None


class BvbrcService:
    """One JSON-RPC service; a call takes at most `timeout_seconds`, half of it for the answer. Thread-safe.

    Raises ValueError for an address to which no token may be sent: only over TLS, or to this machine.
    """

    def __init__(
        self,
        url: str,
        name: str,
        timeout_seconds: float,
        gate: TokenGate,
        buckets: TokenBuckets,
        now: Callable[[], datetime],
    ) -> None:
        _check_address(url)
        self._name, self._gate, self._buckets = name, gate, buckets
        self._http = HttpApi(url, timeout_seconds, now=now)

    def call(self, token: BvbrcToken, method: str, *arguments: Any) -> list[Any]:
        """What the method returns, as it returns it: a list of values.

        Raises Refusal, NotReady, NotAccepted and OutcomeUnknown; never Rejected, for the front is no judge of a run.
        """
        self._enter(token)
        request = {"jsonrpc": "2.0", "id": "1", "method": f"{self._name}.{method}", "params": list(arguments)}
        with _clean_words(token):
            answer = self._http.call("POST", "", _ANSWERS, json=request, headers={"Authorization": token.text})
            return self._result(token, answer)

    @contextmanager
    def open(self, token: BvbrcToken, path: str, seconds: float) -> Iterator[OpenAnswer]:
        """GET what lies below the service's address; statuses 200 and 404 are for the caller."""
        self._enter(token)
        headers = {"Authorization": f"OAuth {token.text}", "Accept-Encoding": "identity"}
        with ExitStack() as stack:
            with _clean_words(token):
                answer = stack.enter_context(self._http.open(path, (200, 404), seconds=seconds, headers=headers))
            yield answer

    def path_of(self, url: str) -> str | None:
        """The part of an address that lies below this service's; None for an address elsewhere."""
        return url.removeprefix(self._http.url) if url.startswith(f"{self._http.url}/") else None

    def _enter(self, token: BvbrcToken) -> None:
        self._gate.check(token)
        self._buckets.of(token.user).take()

    def _result(self, token: BvbrcToken, answer: Answer) -> list[Any]:
        try:
            if not answer.body.lstrip().startswith(b"{"):
                raise InvalidRequest("no JSON object")
            reply = _Reply.model_validate(load_json(answer.body, "the answer"))
        except (InvalidRequest, ValidationError):
            raise self._from_the_front(token, answer) from None
        if reply.error is not None:
            raise self._refusal(token, reply.error)
        if answer.status != 200 or reply.result is None:
            raise self._from_the_front(token, answer)
        return reply.result

    def _refusal(self, token: BvbrcToken, error: _RpcError | str) -> ProviderError:
        said = error if isinstance(error, str) else error.message or ""
        code = 0 if isinstance(error, str) else error.code or 0
        words = plain_words(token.hidden_in(said)) or "an error without words"
        if code == UNAUTHENTICATED or _TOKEN_TROUBLE.search(words):
            return self._gate.refused(token, words)
        return Refusal(f"BV-BRC says: {words}", code)

    def _from_the_front(self, token: BvbrcToken, answer: Answer) -> ProviderError:
        if answer.status == 401:
            return self._gate.refused(token, "HTTP 401")
        words = f"{self._name} of BV-BRC answered with something else (HTTP {answer.status})."
        return error_of_status(answer.status, words)


@contextmanager
def _clean_words(token: BvbrcToken) -> Iterator[None]:
    """Errors pass without the token, and without a verdict on the run: a front's 4xx is none."""
    try:
        yield
    except ProviderError as error:
        error.args = (token.hidden_in(str(error)),)
        if isinstance(error, Refusal | NotAccepted):
            raise
        raise OutcomeUnknown(str(error)) from None


def plain_words(said: str) -> str:
    """The service's words on one line, out of the marks and the places in Perl files that it wraps them in."""
    wrapped = _WRAPPED.search(said)
    return " ".join(_PERL_PLACE.sub("", wrapped[1] if wrapped else said).split())[:SHOWN_CHARACTERS]


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        raise ValueError("users' tokens are sent there, so it must be an https address, or on this machine")
