"""How one job goes, as its `workflow_params` ask for it: so that people and tests can choose. Pure.

outcome        ok, fail (the workflow's fault), error (the platform's), preempt, lose (404 for ever), hang (runs until
               cancelled), wait (pending until cancelled), pause (paused on the way), reject (refused at once)
seconds        in which it runs (2); queue_seconds before (0.5); stop_seconds from a cancel to its end (0.5)
steps          names of its steps, or how many (2); log_lines: lines in each step's log (10)
exit_code      of a failure (1)
outputs        the output object; files: further outputs, {name: text}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ENDS = {
    "ok": "SUCCEEDED",
    "pause": "SUCCEEDED",
    "fail": "FAILED",
    "error": "ERROR",
    "preempt": "PREEMPTED",
    "lose": "GONE",
}
ENDLESS = frozenset({"hang", "wait"})
OUTCOMES = (*ENDS, *sorted(ENDLESS), "reject")
MOST_STEPS, MOST_LINES, MOST_TEXT = 1000, 100_000, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for; times in seconds."""

    outcome: str = "ok"
    seconds: float = 2.0
    queue_seconds: float = 0.5
    stop_seconds: float = 0.5
    steps: tuple[str, ...] = ("prepare", "compute")
    log_lines: int = 10
    exit_code: int = 1
    outputs: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=lambda: {"report.txt": "The fake platform ran this job.\n"})

    @classmethod
    def of(cls, params: Mapping[str, Any], speed: float = 1.0) -> Plan:
        """Read what is there and ignore what a real workflow would need; `speed` divides the times.

        Raises ValueError with words for the user.
        """
        asked = cls(**{name: read(name, params[name]) for name, read in _READERS.items() if name in params})
        return replace(
            asked, **{name: getattr(asked, name) / speed for name, read in _READERS.items() if read is _number}
        )

    def phases(self) -> list[tuple[float, str]]:
        """Status words with the seconds after the start at which each begins; the last one stays."""
        running = self.queue_seconds
        if self.outcome == "wait":
            return [(0, "PENDING")]
        if self.outcome == "hang":
            return [(0, "PENDING"), (running, "RUNNING")]
        half, end = running + self.seconds / 2, running + self.seconds
        pause = [(half, "PAUSED"), (half + self.seconds / 4, "RUNNING")] if self.outcome == "pause" else []
        return [(0, "PENDING"), (running, "RUNNING"), *pause, (end, ENDS[self.outcome])]


def _number(name: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (0 <= value <= 1e9 and math.isfinite(value))
    ):
        raise ValueError(f"{name} must be a number from 0 to 1e9, not {value!r:.40}")
    return float(value)


def _whole(most: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 0 to {most}, not {value!r:.40}")
        return value

    return read


def _outcome(name: str, value: Any) -> str:
    if value not in OUTCOMES:
        raise ValueError(f"{name} must be one of {', '.join(OUTCOMES)}, not {value!r:.40}")
    return str(value)


def _steps(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(f"step-{number}" for number in range(1, min(value, MOST_STEPS) + 1))
    if not isinstance(value, list) or len(value) > MOST_STEPS or not all(isinstance(step, str) for step in value):
        raise ValueError(f"{name} must be a number or a list of at most {MOST_STEPS} names")
    return tuple(value)


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    return value


def _texts(name: str, value: Any) -> Mapping[str, str]:
    texts = _object(name, value).values()
    if not all(isinstance(text, str) for text in texts) or sum(map(len, texts)) > MOST_TEXT:
        raise ValueError(f"{name} must be an object of texts by file name, together at most {MOST_TEXT} characters")
    return value  # type: ignore[no-any-return]


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "outcome": _outcome,
    "seconds": _number,
    "queue_seconds": _number,
    "stop_seconds": _number,
    "steps": _steps,
    "log_lines": _whole(MOST_LINES),
    "exit_code": _whole(255),
    "outputs": _object,
    "files": _texts,
}
