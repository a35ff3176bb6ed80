"""How fast a platform may be called: a token bucket for each provider and account. Knows no platform.

A call that would have to wait longer than a moment does not hold its thread: it is NotAccepted, with the exact time at
which it is worth coming again. Buckets live in one process: daemons that share an account share its rate by setting
each to its part.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.errors import NotAccepted

LONGEST_WAIT_SECONDS = 2.0
MOST_ACCOUNTS = 1000


class TokenBucket:
    """`per_second` calls on average, up to `burst` at once. Thread-safe; who waits goes in the order of coming.

    `words` say who asks for this pace; they begin the message of a NotAccepted, which is shown on a run's page.
    """

    def __init__(
        self,
        per_second: float,
        words: str,
        *,
        burst: int = 1,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval, self._burst, self._words = 1.0 / per_second, burst, words
        self._longest_wait, self._monotonic, self._sleep = longest_wait_seconds, monotonic, sleep
        self._lock = threading.Lock()
        self._full_at = monotonic()  # when every token will be there again
        self._closed_until, self._closed_words = 0.0, ""

    def take(self) -> None:
        """Take a token, waiting for it at most `longest_wait_seconds`; raises NotAccepted where that is too short."""
        with self._lock:
            wait = self._seconds_to_next()
            if wait > self._longest_wait:
                raise NotAccepted(self._closed_words if self._is_closed() else f"{self._words}.", wait)
            self._full_at = max(self._full_at, self._monotonic()) + self._interval
        if wait > 0:
            self._sleep(wait)

    def count(self) -> int:
        """How many calls could be made at once now."""
        with self._lock:
            if self._is_closed():
                return 0
            missing = max(0.0, self._full_at - self._monotonic()) / self._interval
            return int(self._burst - missing + 1e-9)

    def seconds_to_next(self) -> float:
        """When the next call could be made; 0 for now."""
        with self._lock:
            return self._seconds_to_next()

    def close(self, seconds: float, words: str) -> None:
        """The platform asked for a pause (429, 402, a limit that is nearly used up): no token before it is over."""
        with self._lock:
            until = self._monotonic() + seconds
            if until > self._closed_until:
                self._closed_until, self._closed_words = until, words

    def closed_words(self) -> str | None:
        """Why there is no token for a while; None where nobody asked for a pause."""
        with self._lock:
            return self._closed_words if self._is_closed() else None

    def _is_closed(self) -> bool:
        return self._closed_until > self._monotonic()

    def _seconds_to_next(self) -> float:
        now = self._monotonic()
        return max(0.0, self._full_at - (self._burst - 1) * self._interval - now, self._closed_until - now)


class TokenBuckets:
    """One bucket for each account (a token, a user), made when it is first asked for. Thread-safe."""

    def __init__(self, make: Callable[[], TokenBucket]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._buckets: dict[str, TokenBucket] = {}

    def of(self, account: str) -> TokenBucket:
        """The bucket of this account; the ones that nobody waits for are forgotten when there are many."""
        with self._lock:
            if account not in self._buckets and len(self._buckets) >= MOST_ACCOUNTS:
                self._buckets = {name: one for name, one in self._buckets.items() if one.seconds_to_next() > 0}
            return self._buckets.setdefault(account, self._make())
