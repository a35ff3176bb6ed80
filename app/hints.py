"""Telling the daemon that a run may be due: sign, send, verify. A hint that is lost costs a poll, nothing more.

A hint is `POST /` with `{"run_id": …}`. With a secret it carries the Unix time and the HMAC-SHA256 of `<time>.<body>`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

TIMESTAMP = "X-WES-Timestamp"
SIGNATURE = "X-WES-Signature"
MAX_AGE_SECONDS = 300
TIMEOUT_SECONDS = 2
MAX_ANSWER_BYTES = 1000
GATHER_SECONDS, MAX_GATHER_SECONDS = 0.02, 0.1
"""After a hint for a new run the next waits so long, as it may stand for many then: each costs 2 ms of CPU here and at
the daemon. While many come it waits ever longer."""


def signed_headers(body: bytes, secret: str, now: float) -> dict[str, str]:
    """The headers of a hint; none without a secret. `now` is Unix time."""
    if not secret:
        return {}
    timestamp = str(int(now))
    return {TIMESTAMP: timestamp, SIGNATURE: f"sha256={_mac(body, secret, timestamp)}"}


def is_genuine(body: bytes, headers: Mapping[str, str], secret: str, now: float) -> bool:
    """Signed with `secret` less than five minutes ago; without a secret everything is (the listener is on loopback)."""
    if not secret:
        return True
    timestamp, signature = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
    if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > MAX_AGE_SECONDS:
        return False
    expected = f"sha256={_mac(body, secret, timestamp)}"
    return hmac.compare_digest(signature.encode(), expected.encode())


class NotTaken(Exception):
    """Nobody answered a hint."""


class Refused(NotTaken):
    """Somebody answered, and did not take it."""


def send(url: str, run_id: str, secret: str) -> None:
    """Send one hint; two seconds of silence end it. Raises NotTaken.

    One goes with every accepted run: `requests` would take three times the CPU for it.
    """
    body = json.dumps({"run_id": run_id}).encode()
    headers = {"Content-Type": "application/json"} | signed_headers(body, secret, time.time())
    try:
        place = urlsplit(url)
        with closing(HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT_SECONDS)) as connection:
            connection.request("POST", place.path, body, headers)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES) if answer.status >= HTTPStatus.BAD_REQUEST else b""
    except (OSError, HTTPException, ValueError) as error:
        raise NotTaken(f"No daemon listens at {url}: {error}") from error
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise Refused(f"{url} answered {answer.status}: {text.decode(errors='replace')}")


class Hinter:
    """Sends hints off the caller's thread. Those that find no room are dropped: the next poll finds the run."""

    def __init__(self, url: str, secret: str, room: int = 1000) -> None:
        self._url, self._secret, self._room = url, secret, room
        self._waiting: dict[str, tuple[str, int]] = {}  # what for -> run_id, how many; in the order of sending
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hint(self, run_id: str) -> None:
        """Returns at once; never raises."""
        self._add(run_id, run_id)

    def hint_new(self, run_id: str, provider: str) -> None:
        """As `hint`, of a run that is due already: one hint wakes its provider for all that came before it is sent."""
        self._add(f"new for {provider}", run_id)

    def _add(self, purpose: str, run_id: str) -> None:
        with self._changed:
            earlier = self._waiting.get(purpose)
            if earlier is not None:
                self._waiting[purpose] = run_id, earlier[1] + 1
                return
            if len(self._waiting) >= self._room:
                return
            self._waiting[purpose] = run_id, 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="hinter", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _next(self, new_from: float) -> tuple[str, str, int]:
        """(what for, run_id, how many runs it stands for); of new runs not before that time."""
        with self._changed:
            while not (ready := [what for what in self._waiting if self._is_ready(what, new_from)]):
                self._changed.wait(max(0.0, new_from - time.monotonic()) if self._waiting else None)
            return ready[0], *self._waiting.pop(ready[0])

    def _is_ready(self, purpose: str, new_from: float) -> bool:
        return purpose == self._waiting[purpose][0] or time.monotonic() >= new_from

    def _send_all(self) -> None:
        pause, new_from = GATHER_SECONDS, 0.0
        while True:
            purpose, run_id, count = self._next(new_from)
            try:
                send(self._url, run_id, self._secret)
            except NotTaken as error:
                log.info("the daemon did not take a hint", extra={"run_id": run_id, "error": str(error)})
            if purpose != run_id:
                pause = min(2 * pause, MAX_GATHER_SECONDS) if count > 1 else GATHER_SECONDS
                new_from = time.monotonic() + pause


def _mac(body: bytes, secret: str, timestamp: str) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
