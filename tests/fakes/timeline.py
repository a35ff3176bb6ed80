"""What will happen in a fake, and when: a clock with calls that fall due, and plans for executions.

Knows neither HTTP nor any vendor. Not locked: a service uses it under its own lock.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any


class Timeline:
    """A real clock, or a frozen one that only `advance` moves. Calls run late but in order, each at its own time."""

    def __init__(self, frozen: bool = False, speed: float = 1.0) -> None:
        """`speed` divides the seconds of every wait; the clock itself stays true, so that timestamps do."""
        self._frozen = frozen
        self._speed = speed
        self._start = datetime.now(UTC)
        self._started = time.monotonic()
        self._advanced = 0.0
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = count()
        self._at: datetime | None = None

    def now(self) -> datetime:
        """Aware UTC; inside a call that fell due, the time at which it was due."""
        if self._at is not None:
            return self._at
        passed = 0.0 if self._frozen else time.monotonic() - self._started
        return self._start + timedelta(seconds=self._advanced + passed)

    def advance(self, seconds: float) -> None:
        self._advanced += seconds

    def after(self, seconds: float | None, call: Callable[[], None]) -> None:
        """Have `call` run in so many seconds; None: never, something else will have to happen."""
        if seconds is not None:
            due = self.now() + timedelta(seconds=seconds / self._speed)
            heapq.heappush(self._due, (due, next(self._order), call))

    def catch_up(self) -> None:
        """Run what is due, and what that makes due."""
        now = self.now()
        while self._due and self._due[0][0] <= now:
            self._at, _, call = heapq.heappop(self._due)
            try:
                call()
            finally:
                self._at = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one execution goes. Words are the vendor's; `seconds` by state, None: stays there until told."""

    outcome: str = "COMPLETED"
    reason: str = ""
    message: str = ""
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    tasks: Sequence[Mapping[str, Any]] = ({"name": "main"},)
    outputs: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    log: Sequence[str] = ("started", "done")


@dataclass(slots=True)
class _Rule:
    plan: Plan
    match: str
    times: int | None


class Plans:
    """Which plan an execution gets: its own, else the newest rule that matches its request, else the default."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    def add(self, plan: Mapping[str, Any], match: str = "", times: int | None = None) -> None:
        """`match`: a text within the request's JSON; `times`: how many executions it serves. TypeError: unknown key."""
        self._rules.insert(0, _Rule(Plan(**plan), match, times))

    def choose(self, request: Mapping[str, Any], own: Any = None) -> Plan:
        """`own`: what the request itself asks for, a mapping or its JSON text."""
        if own:
            return Plan(**(json.loads(own) if isinstance(own, str) else own))
        text = json.dumps(request, ensure_ascii=False)
        for rule in self._rules:
            if rule.times != 0 and rule.match in text:
                rule.times = rule.times and rule.times - 1
                return rule.plan
        return Plan()
