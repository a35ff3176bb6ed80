"""A job of the fake platform: what it shows at a given time. Pure: everything follows from its phases and its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.fake_service.plans import Plan

OVER = frozenset({"SUCCEEDED", "FAILED", "ERROR", "PREEMPTED", "CANCELLED", "GONE"})
Phase = tuple[datetime, str]

_MESSAGES = {
    "FAILED": "The workflow ended with an error.",
    "ERROR": "The platform could not run the workflow.",
    "PREEMPTED": "The machine was taken away.",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a running job that has begun; `end` and `exit_code` None while it runs."""

    step_id: str
    name: str
    begin: datetime
    end: datetime | None
    exit_code: int | None
    lines: int  # in its log so far


@dataclass(slots=True)
class Job:
    """`phases`: status words by the time at which each begins, ascending, also those to come."""

    id: str
    name: str
    key: str | None
    request: dict[str, Any]
    plan: Plan
    created: datetime
    phases: list[Phase] = field(default_factory=list)

    def start(self, now: datetime) -> None:
        """Plan everything that will happen from now on."""
        self.phases += [(now + timedelta(seconds=seconds), word) for seconds, word in self.plan.phases()]

    def stop(self, now: datetime) -> None:
        """Drop what was still to happen: it stops, then it is cancelled."""
        self._drop_after(now)
        self.phases += [(now, "STOPPING"), (now + timedelta(seconds=self.plan.stop_seconds), "CANCELLED")]

    def end(self, now: datetime, word: str) -> None:
        """Drop what was still to happen: it is over, now."""
        self._drop_after(now)
        self.phases.append((now, word))

    @property
    def end_time(self) -> datetime | None:
        """When it is over, or will be; None while that is open."""
        at, word = self.phases[-1]
        return at if word in OVER else None

    def word(self, now: datetime) -> str:
        """The platform's status word."""
        return next((word for at, word in reversed(self.phases) if at <= now), self.phases[0][1])

    def view(self, now: datetime) -> dict[str, Any]:
        """What the platform tells of it."""
        word = self.word(now)
        codes = {"SUCCEEDED": 0, "FAILED": self.plan.exit_code}
        return {
            "id": self.id,
            "name": self.name,
            "status": word,
            "created": self.created.isoformat(),
            "started": _iso(self._since("RUNNING", now)),
            "ended": _iso(self.end_time if word in OVER else None),
            "exit_code": codes.get(word),
            "message": _MESSAGES.get(word),
        }

    def task_views(self, now: datetime) -> list[dict[str, Any]]:
        """What the platform tells of the steps."""
        return [
            {
                "id": step.step_id,
                "name": step.name,
                "started": step.begin.isoformat(),
                "ended": _iso(step.end),
                "exit_code": step.exit_code,
                "command": ["fake-step", step.name],
            }
            for step in self.steps(now)
        ]

    def log(self, name: str, now: datetime) -> str | None:
        """The whole log so far: `stdout`, `stderr` or `tasks/<step id>/stdout`; None where there is none of that name.

        Text that was there stays; more only comes at its end.
        """
        steps = self.steps(now)
        message = _MESSAGES.get(self.word(now))
        logs = {"stdout": "".join(_story(steps)), "stderr": f"{message}\n" if message else ""}
        for step in steps:
            logs[f"tasks/{step.step_id}/stdout"] = "".join(f"{step.name}: line {n}\n" for n in range(1, step.lines + 1))
        return logs.get(name)

    def outputs(self, url: str) -> dict[str, Any]:
        """The output object; `url`: below it the files are."""
        files = {
            name: {"class": "File", "location": f"{url}/{name}", "basename": name, "size": len(text.encode())}
            for name, text in self.plan.files.items()
        }
        return {**self.plan.outputs, **files}

    def steps(self, now: datetime) -> list[Step]:
        """The steps that have begun: they share the running time, one after the other."""
        first = self._since("RUNNING", now)
        names = self.plan.steps[:1] if self.plan.outcome == "hang" else self.plan.steps
        if first is None:
            return []
        length = timedelta(seconds=self.plan.seconds) / max(len(names), 1)
        latest = min(now, self._cut(now)[0])
        begins = [first + number * length for number in range(len(names))]
        return [self._step(number, begin, length, now) for number, begin in enumerate(begins) if begin <= latest]

    def _step(self, number: int, begin: datetime, length: timedelta, now: datetime) -> Step:
        cut, word = self._cut(now)
        is_last = number == len(self.plan.steps) - 1
        due = now + length if self.plan.outcome == "hang" else begin + length
        end = min(due, cut)
        share = (min(end, now) - begin) / length if length else 1.0
        lines = min(self.plan.log_lines, int(share * self.plan.log_lines))
        codes = {"STOPPING": 143, "FAILED": self.plan.exit_code}
        code = codes.get(word, 0) if cut < due or (is_last and word == "FAILED") else 0
        over = end <= now
        return Step(
            str(number + 1), self.plan.steps[number], begin, end if over else None, code if over else None, lines
        )

    def _cut(self, now: datetime) -> Phase:
        """When and by what word the work ended; in the far future where it goes on."""
        ends = (phase for phase in self.phases if phase[0] <= now and phase[1] in OVER | {"STOPPING"})
        return next(ends, (datetime.max.replace(tzinfo=now.tzinfo), ""))

    def _since(self, wanted: str, now: datetime) -> datetime | None:
        return next((at for at, word in self.phases if word == wanted and at <= now), None)

    def _drop_after(self, now: datetime) -> None:
        self.phases = [phase for phase in self.phases if phase[0] <= now]


def _story(steps: list[Step]) -> Iterator[str]:
    for step in steps:
        yield f"{step.name} started\n"
        if step.end is not None:
            yield f"{step.name} ended with {step.exit_code}\n"


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
