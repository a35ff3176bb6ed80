"""How fast a platform may be called: a token bucket for each provider and account. Knows no platform.

A call that would have to wait longer than a moment does not hold its thread: it is NotReady, with the exact time at
which it is worth coming again. Buckets live in one process: daemons that share an account share its rate by setting
each to its part.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from app.daemon.providers.provider_interface import Pace
from app.errors import NotReady

LONGEST_WAIT_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 300.0
MOST_ACCOUNTS = 1000


class TokenBucket:
    """`per_second` calls on average, up to `burst` at once. Thread-safe; who waits goes in the order of coming.

    `words` say who asks for this pace: they are the message of a NotReady, which is shown on a run's page. `jitter`
    picks something between nothing and so many seconds. `lead_seconds`: `pace` invites so much before the time, as who
    comes has a way to `take`, where the rest is waited.
    """

    def __init__(
        self,
        per_second: float,
        words: str,
        *,
        burst: int = 1,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
        lead_seconds: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[float], float] = lambda most: random.uniform(0, most),  # noqa: S311
    ) -> None:
        self._interval, self._burst, self._words = 1.0 / per_second, burst, words
        self._longest_wait, self._monotonic, self._sleep = longest_wait_seconds, monotonic, sleep
        self._lead, self._jitter = lead_seconds, jitter
        self._lock = threading.Lock()
        self._full_at = monotonic()  # when every token will be there again
        self._closed_until, self._closed_words = self._full_at, ""
        self._refusals = 0

    def take(self) -> None:
        """Take a token, waiting for it at most `longest_wait_seconds`. Raises NotReady where that is too short, and at
        once in a pause that the platform asked for."""
        with self._lock:
            wait, is_closed = self._seconds_to_next(), self._is_closed()
            if is_closed or wait > self._longest_wait:
                raise NotReady(self._closed_words if is_closed else self._words, wait)
            self._full_at = max(self._full_at, self._monotonic()) + self._interval
        if wait > 0:
            self._sleep(wait)

    def pace(self) -> Pace:
        """How many calls could be made at once now; if none, when one could, and why not."""
        with self._lock:
            if self._is_closed():
                return Pace(0, self._seconds_to_next(), self._closed_words)
            missing = max(0.0, self._full_at - self._monotonic() - self._lead) / self._interval
            return Pace(int(self._burst - missing + 1e-9), max(0.0, self._seconds_to_next() - self._lead))

    def close(self, seconds: float, words: str) -> None:
        """No token for so long: the platform asked for it, or a limit is nearly used up."""
        with self._lock:
            self._close(seconds, words)

    def refused(self, words: str, at_least: float = 0.0) -> float:
        """The platform says that it is asked too often or for too much. No token for a while, longer after each refusal
        in a row, with full jitter; at least so many seconds. Returns how many."""
        with self._lock:
            self._refusals += 1
            pause = max(at_least, self._jitter(min(LONGEST_PAUSE_SECONDS, 2.0 ** min(self._refusals, 16))))
            self._close(pause, words)
        return pause

    def served(self) -> None:
        """The platform took a call: the next refusal is the first again."""
        with self._lock:
            self._refusals = 0

    def _close(self, seconds: float, words: str) -> None:
        until = self._monotonic() + seconds
        if until > self._closed_until:
            self._closed_until, self._closed_words = until, words

    def _is_closed(self) -> bool:
        return self._closed_until > self._monotonic()

    def _seconds_to_next(self) -> float:
        now = self._monotonic()
        return max(0.0, self._full_at - (self._burst - 1) * self._interval - now, self._closed_until - now)


class TokenBuckets:
    """One bucket for each account (a token, a user) or kind of call, made when it is first asked for. Thread-safe."""

    def __init__(self, make: Callable[[], TokenBucket]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._buckets: dict[str, TokenBucket] = {}

    def of(self, account: str) -> TokenBucket:
        """The bucket of this account; those that nobody has to wait for are forgotten when there are many."""
        with self._lock:
            if account not in self._buckets and len(self._buckets) >= MOST_ACCOUNTS:
                self._buckets = {name: one for name, one in self._buckets.items() if one.pace().submits == 0}
            return self._buckets.setdefault(account, self._make())
