"""What one Seven Bridges token may ask of the platform, and when it is worth looking at tasks again. Sends nothing.

The platform counts 1000 requests in five minutes for a token, whoever uses it, and says after each how many are left.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from app.daemon.providers.http_outcomes import retry_after_seconds
from app.daemon.providers.pacing import TokenBucket
from app.daemon.providers.provider_interface import Pace
from app.states import State

BURST = 20
USUAL_LIMIT = 1000.0
RESERVE = 0.1
"""The share of a window's requests that is kept for submits and cancels: looks wait for the next window."""
WINDOW_SECONDS = 300.0
LONGEST_WAIT_SECONDS = 10.0
CALLS_OF_A_SUBMIT = 2
IDS_A_CALL = 100
SHARE_OF_LOOKS = 0.5
TURN_SECONDS = 30.0
FORGET_SECONDS = 900.0
AGES = ((600.0, 30.0), (3600.0, 60.0), (21_600.0, 120.0))
"""Running for less than the first: a look every so many seconds. After them: OLD_SECONDS."""
OLD_SECONDS = 300.0


class Budget:
    """Thread-safe. Every request takes a token; looks ask first whether they may."""

    def __init__(
        self,
        per_second: float,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        words = f"At most {per_second:g} requests a second are made to Seven Bridges."
        self._calls = TokenBucket(
            per_second,
            words,
            burst=BURST,
            longest_wait_seconds=LONGEST_WAIT_SECONDS,
            monotonic=monotonic,
            sleep=sleep,
        )
        self._looks = TokenBucket(1e9, "", longest_wait_seconds=0.0, monotonic=monotonic, sleep=sleep)
        self._now = now

    def take(self) -> None:
        """Wait for a request's turn; raises NotReady where that would be long."""
        self._calls.take()

    def check_look(self) -> None:
        """Raises NotReady while what is left of the limit is kept for submits and cancels."""
        self._looks.take()

    def served(self, headers: Mapping[str, str]) -> None:
        """The platform took a request."""
        self._calls.served()
        left = _number(headers, "X-RateLimit-Remaining")
        limit = _number(headers, "X-RateLimit-Limit") or USUAL_LIMIT
        if left is not None and left < RESERVE * limit:
            words = (
                f"Only {left:g} requests are left to this Seven Bridges token: they are kept for submits and cancels."
            )
            self._looks.close(self._seconds_to_reset(headers), words)

    def refused(self, words: str, headers: Mapping[str, str]) -> float:
        """The platform says that it is asked too often. Returns for how many seconds nothing is asked now."""
        wait = retry_after_seconds(headers.get("Retry-After"), self._now()) or 0.0
        if _number(headers, "X-RateLimit-Remaining") == 0:
            wait = max(wait, self._seconds_to_reset(headers))
        return self._calls.refused(words, wait)

    def pace(self) -> Pace:
        """How many submits may begin now."""
        calls = self._calls.pace()
        submits = (calls.submits or 0) // CALLS_OF_A_SUBMIT
        return calls if submits == 0 and calls.problem else Pace(submits, 0.0 if submits else 1.0)

    def _seconds_to_reset(self, headers: Mapping[str, str]) -> float:
        """The header is Unix time. A window is no longer than five minutes, whatever the clocks say."""
        reset = _number(headers, "X-RateLimit-Reset")
        seconds = WINDOW_SECONDS if reset is None else reset - self._now().timestamp()
        return min(max(seconds, 1.0), WINDOW_SECONDS)


class Turns:
    """When runs are looked at again: so that all whose time has come share the calls, which hold a hundred each.

    Turns are 30 seconds apart, at moments of this process's own, so that several daemons do not ask at once. With many
    runs the turns of each become rarer, so that looks take no more than their share of the token's rate.
    """

    def __init__(
        self,
        per_second: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        phase: Callable[[], float] = lambda: random.uniform(0, TURN_SECONDS),  # noqa: S311
    ) -> None:
        self._runs_a_second = per_second * SHARE_OF_LOOKS * IDS_A_CALL
        self._monotonic, self._phase = monotonic, phase()
        self._lock = threading.Lock()
        self._looked: dict[str, float] = {}

    def note(self, provider_ids: Collection[str]) -> None:
        """These runs are looked at now."""
        now = self._monotonic()
        with self._lock:
            recent = {one: at for one, at in self._looked.items() if at > now - FORGET_SECONDS}
            self._looked = recent | dict.fromkeys(provider_ids, now)

    def seconds_to_next(self, state: State, running_seconds: float) -> float:
        """Whole seconds, so that runs which wait alike are postponed by one statement."""
        turns_of_all = math.ceil(len(self._looked) / self._runs_a_second / TURN_SECONDS)
        interval = max(_interval(state, running_seconds), turns_of_all * TURN_SECONDS)
        now = int(self._monotonic() + self._phase)
        turn = (now + interval) // TURN_SECONDS * TURN_SECONDS
        return turn - now if turn - now >= TURN_SECONDS / 2 else turn - now + TURN_SECONDS


def _interval(state: State, running_seconds: float) -> float:
    if state != State.RUNNING:
        return TURN_SECONDS
    return next((seconds for age, seconds in AGES if running_seconds < age), OLD_SECONDS)


def _number(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name, "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
