"""What a client call ran into, named by what the caller does next. Knows nothing of HTTP libraries.

WesClientError          the server's answer makes no sense, or it failed (5xx)
    Unreachable         no answer now (refused, timed out, 429, 502, 503, 504): try again later
    NotAuthenticated    no, wrong or insufficient credentials (401, 403)
    RunNotFound         no such run, task, log or output, or not yours (404)
    Invalid             the request cannot be served as it is: mend it (other 4xx, and what is refused before sending)
"""

from __future__ import annotations


class WesClientError(Exception):
    """`msg` is for people. `status_code` is the HTTP status, None where no answer came."""

    def __init__(self, msg: str, status_code: int | None = None) -> None:
        super().__init__(msg)
        self.msg = msg
        self.status_code = status_code


class Unreachable(WesClientError):
    """No usable answer now. `retry_after`: seconds the server asked for, None where it named none."""

    def __init__(self, msg: str, status_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(msg, status_code)
        self.retry_after = retry_after


class NotAuthenticated(WesClientError):
    """The credentials are missing, wrong or not enough."""


class RunNotFound(WesClientError):
    """The server knows no such thing, or does not show it to this user."""


class Invalid(WesClientError):
    """The request is wrong; sending it again unchanged is of no use."""
