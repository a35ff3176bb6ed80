"""Telling the daemon that a run may be due: sign, send, verify. A hint that is lost costs a poll, nothing more.

A hint is `POST /` with `{"run_id": …}`. With a secret it carries the Unix time and the HMAC-SHA256 of `<time>.<body>`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Mapping

import requests

log = logging.getLogger(__name__)

TIMESTAMP = "X-WES-Timestamp"
SIGNATURE = "X-WES-Signature"
MAX_AGE_SECONDS = 300
TIMEOUT_SECONDS = 2


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


def send(url: str, run_id: str, secret: str) -> None:
    """Send one hint; two seconds of silence end it. Raises requests.RequestException."""
    body = json.dumps({"run_id": run_id}).encode()
    headers = {"Content-Type": "application/json"} | signed_headers(body, secret, time.time())
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
        )
        with answer:
            answer.raise_for_status()


class Hinter:
    """Sends hints off the caller's thread. A full queue drops the hint: the next poll finds the run."""

    def __init__(self, url: str, secret: str, room: int = 1000) -> None:
        self._url, self._secret = url, secret
        self._waiting: queue.Queue[str] = queue.Queue(room)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def hint(self, run_id: str) -> None:
        """Returns at once; never raises."""
        try:
            self._waiting.put_nowait(run_id)
        except queue.Full:
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="hinter", daemon=True)
                self._thread.start()

    def _send_all(self) -> None:
        while True:
            run_id = self._waiting.get()
            try:
                send(self._url, run_id, self._secret)
            except requests.RequestException as error:
                log.info("the daemon did not take a hint", extra={"run_id": run_id, "error": str(error)})


def _mac(body: bytes, secret: str, timestamp: str) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
