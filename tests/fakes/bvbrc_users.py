"""What all parts of the BV-BRC fake share: options, errors, and users who are known by signed tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.fakes.timeline import Timeline

PERL_ERROR = -32603
SECRET = "known to the fake alone"


@dataclass(slots=True)
class Options:
    """Where deployments differ, or the sources leave it open, so that a client can meet every answer.

    `qstat`: is enumerate_tasks_qstat deployed? `running_word`: query_tasks' word for a task that runs. `enabled`: does the
    service take submits? `row`: is start_app2 answered with the database's row, with its numbers and without a status?
    `ignores_filters`: do lists show all of a user's tasks? `page`: rows in a list, at most.
    """

    qstat: bool = True
    running_word: str = "in-progress"
    enabled: bool = True
    row: bool = True
    ignores_filters: bool = False
    page: int = 1000


class RpcError(Exception):
    """An error in the JSON-RPC envelope, with HTTP status 500."""

    def __init__(self, message: str, code: int = PERL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Users:
    """Makes tokens, and believes those that it signed, until they expire or are revoked."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._revoked: set[str] = set()
        self._number = 0

    def token(self, user: str, seconds: float) -> str:
        self._number += 1
        expiry = int((self._timeline.now() + timedelta(seconds=seconds)).timestamp())
        said = (
            f"un={user}|tokenid=7f1e-{self._number}|expiry={expiry}|client_id={user}|token_type=Bearer"
            "|SigningSubject=https://user.patricbrc.org/public_key"
        )
        return f"{said}|sig={_signature(said)}"

    def revoke(self, user: str) -> None:
        self._revoked.add(user)

    def check(self, token: str | None) -> str:
        """The user whose token this is."""
        if not token:
            raise RpcError("Authentication required for AppService but no authentication header was passed")
        said, _, signature = token.rpartition("|sig=")
        if signature != _signature(said):
            raise RpcError(f"Token validation failed: Token signature did not verify: {token}")
        fields = dict(pair.split("=", 1) for pair in said.split("|"))
        if self._timeline.now() >= datetime.fromtimestamp(int(fields["expiry"]), self._timeline.now().tzinfo):
            raise RpcError(f"Token validation failed: Token expired: {token}")
        if fields["un"] in self._revoked:
            raise RpcError(f"Token validation failed: Token was revoked: {token}")
        return fields["un"]


def _signature(said: str) -> str:
    return hashlib.sha512(f"{SECRET}{said}".encode()).hexdigest()
