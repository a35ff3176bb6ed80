"""Whose token a call is made with, and whether there is any use in sending it. Calls nothing, keeps no token."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from app.bvbrc_token import BvbrcToken, read_token
from app.clock import utc_now
from app.daemon.providers.bvbrc_records import TaskId
from app.daemon.providers.provider_interface import CredentialSource, Unsure
from app.errors import NotReady

FRESH_TOKEN = "Waiting for a fresh BV-BRC token"  # noqa: S105
HOW = "It can be sent in X-BVBRC-Token: PUT /runs/<run_id>/credentials."
NO_TOKEN = f"{FRESH_TOKEN}: none came with this run. {HOW}"
NO_KEY = (
    f"{FRESH_TOKEN}: this daemon has not the key to the one that came with this run. "
    "Give the API and the daemon the same CREDENTIALS_KEYS."
)
AGAIN_SECONDS = 60.0
REFUSED_FOR = timedelta(minutes=5)
MOST_REFUSED = 10_000


class UserTokens:
    """The tokens that came with runs."""

    def __init__(self, credentials: CredentialSource) -> None:
        self._credentials = credentials

    def of_run(self, run_id: str) -> BvbrcToken:
        """Raises NotReady where none can be used."""
        token = _readable(self._credentials([run_id]), run_id)
        if isinstance(token, Unsure):
            raise NotReady(token.why, AGAIN_SECONDS)
        return token

    def group(self, task_ids: Iterable[TaskId]) -> tuple[dict[BvbrcToken, list[TaskId]], dict[str, Unsure]]:
        """Tasks by the token that may ask for them; and why not, by provider id, for those without one."""
        task_ids = list(task_ids)
        credentials = self._credentials([task_id.run_id for task_id in task_ids])
        groups: dict[BvbrcToken, list[TaskId]] = {}
        without: dict[str, Unsure] = {}
        for task_id in task_ids:
            token = _readable(credentials, task_id.run_id)
            if isinstance(token, Unsure):
                without[str(task_id)] = token
            else:
                groups.setdefault(token, []).append(task_id)
        return groups, without


class TokenGate:
    """Keeps back a token that has expired, or that BV-BRC just refused. Thread-safe."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now, self._lock = now, threading.Lock()
        self._refused: dict[bytes, datetime] = {}  # digest of a token -> until when it is left alone

    def check(self, token: BvbrcToken) -> None:
        """Raises NotReady for a token that there is no use in sending."""
        now = self._now()
        if token.is_expired(now):
            words = f"{FRESH_TOKEN}: that of {token.user} expired at {token.expires_at:%Y-%m-%d %H:%M} UTC. {HOW}"
            raise NotReady(words, AGAIN_SECONDS)
        with self._lock:
            until = self._refused.get(_digest(token))
        if until is not None and now < until:
            raise NotReady(f"{FRESH_TOKEN}: BV-BRC refuses that of {token.user}.", (until - now).total_seconds())

    def refused(self, token: BvbrcToken, words: str) -> NotReady:
        """BV-BRC does not take it, perhaps for a reason of its own: it is left alone for a while."""
        until = self._now() + REFUSED_FOR
        with self._lock:
            if len(self._refused) >= MOST_REFUSED:
                self._refused.clear()
            self._refused[_digest(token)] = until
        return NotReady(f"{FRESH_TOKEN}: BV-BRC refuses that of {token.user}: {words}", REFUSED_FOR.total_seconds())


def _readable(credentials: Mapping[str, str | None], run_id: str) -> BvbrcToken | Unsure:
    if run_id not in credentials:
        return Unsure(NO_TOKEN)
    text = credentials[run_id]
    return Unsure(NO_KEY) if text is None else read_token(text) or Unsure(NO_TOKEN)


def _digest(token: BvbrcToken) -> bytes:
    return hashlib.sha256(token.text.encode()).digest()
