"""Waiting for a run's end without hurry or haste: on servers that can hold a status call, and on those that cannot."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from app.client.connection import Json
from app.client.errors import Invalid, Unreachable

END_STATES = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"})
"""PREEMPTED is an end on other servers; ours never says it."""

HOLD_SECONDS = 20.0
PATIENCE_SECONDS = 300.0


class StatusSource(Protocol):
    """What waiting needs of a client."""

    def get_run_status(self, run_id: str, wait: float | None = None) -> Json: ...


@dataclass
class Pace:
    """Growing pauses, in seconds, with jitter so that many clients do not call in step."""

    first: float = 0.1
    longest: float = 30.0
    growth: float = 1.5
    jitter: Callable[[], float] = field(default=random.random, repr=False)
    _base: float = field(default=0.0, repr=False)

    def next(self) -> float:
        """Between two thirds of the present pause and all of it."""
        self._base = min(self.longest, self._base * self.growth or self.first)
        return self._base * (2 + self.jitter()) / 3

    def reset(self) -> None:
        self._base = 0.0


@dataclass
class Watch:
    """Follows one run. `hold` is the least time, in seconds, that the server is asked to hold a status call."""

    source: StatusSource
    run_id: str
    timeout: float | None = None
    hold: float = HOLD_SECONDS
    pace: Pace = field(default_factory=Pace)
    patience: float = PATIENCE_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    on_outage: Callable[[Unreachable], None] = lambda _: None
    _holds: bool = True

    def statuses(self) -> Iterator[Json]:
        """Every answer of the server; the last one is an end state.

        An unreachable server is asked again until `patience` seconds have passed without an answer, then Unreachable is
        raised. Raises TimeoutError after `timeout` seconds, and the client's other errors at once.
        """
        deadline = None if self.timeout is None else self.clock() + self.timeout
        state, answered = "", self.clock()
        while state not in END_STATES:
            asked, pause = self.clock(), self.pace.next()
            try:
                status = self._ask(self._within(deadline, max(pause, self.hold)) if state else None)
            except Unreachable as error:
                if self.clock() - answered > self.patience:
                    raise
                self.on_outage(error)
                pause = max(pause, min(error.retry_after or 0, self.pace.longest))
            else:
                yield status
                answered = self.clock()
                if state != (state := str(status.get("state", "UNKNOWN"))):
                    self.pace.reset()
                    pause = self.pace.first
            self._rest(deadline, state, asked + pause)

    def _rest(self, deadline: float | None, state: str, until: float) -> None:
        if state in END_STATES:
            return
        if deadline is not None and self.clock() >= deadline:
            raise TimeoutError(f"Run {self.run_id} is still {state or 'unknown'} after {self.timeout:g} seconds")
        self.sleep(max(0.0, self._within(deadline, until - self.clock())))

    def _ask(self, wait: float | None) -> Json:
        """A server that refuses the unknown parameter `wait` is not sent it again."""
        if wait is not None and self._holds:
            try:
                return self.source.get_run_status(self.run_id, wait=wait)
            except Invalid:
                self._holds = False
        return self.source.get_run_status(self.run_id)

    def _within(self, deadline: float | None, seconds: float) -> float:
        return seconds if deadline is None else max(0.0, min(seconds, deadline - self.clock()))
