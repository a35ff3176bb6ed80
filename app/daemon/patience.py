"""How long to wait before trying again: full-jitter back-off, and a circuit breaker for each provider."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

BASE_SECONDS = 1.0
CAP_SECONDS = 300.0
OPENS_AFTER = 5
"""Failed calls in a row after which a provider is left alone for a while."""


def backoff_seconds(failures: int, retry_after: float | None = None) -> float:
    """Anything up to twice as long as after the failure before; at least what the provider asked for."""
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(failures, 16))
    return max(retry_after or 0.0, random.uniform(0, ceiling))  # noqa: S311


class Breaker:
    """Counts failed calls in a row; open, it says how long to leave the provider alone, and why. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0
        self.problem: str | None = None

    def succeeded(self) -> None:
        """The provider answered."""
        with self._lock:
            self._failures, self._until, self.problem = 0, 0.0, None

    def failed(self, words: str, retry_after: float | None = None) -> None:
        """The provider did not take a call, or did not answer. Open, it counts no call that was still under way."""
        with self._lock:
            if self._until > self._monotonic():
                return
            self._failures += 1
            if self._failures >= OPENS_AFTER:
                wait = backoff_seconds(self._failures - OPENS_AFTER + 1, retry_after)
                self._until = max(self._until, self._monotonic() + wait)
                self.problem = words

    def seconds_open(self) -> float:
        """How long the provider is still to be left alone; 0 where it may be called."""
        with self._lock:
            return max(0.0, self._until - self._monotonic())
