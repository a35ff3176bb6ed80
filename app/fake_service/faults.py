"""What goes wrong on the fake platform, on command or at seeded rates. Knows neither sockets nor jobs."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. `pause`: seconds before each byte of it. `endless`: the body is repeated for ever."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    endless: bool = False

    @classmethod
    def of_json(cls, status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    @classmethod
    def refusal(cls, status: int, code: str, message: str) -> Answer:
        return cls.of_json(status, {"code": code, "message": message})


REFUSALS = {
    "throttle": Answer.refusal(429, "too_many_requests", "Slow down."),
    "quota": Answer.refusal(402, "quota_exceeded", "You have as many jobs as your quota allows."),
    "expired": Answer.refusal(401, "token_expired", "Your token has expired."),
    "denied": Answer.refusal(403, "denied", "You may not do this."),
    "missing": Answer.refusal(404, "not_found", "There is no such job."),
    "error": Answer.refusal(500, "internal_error", "Something went wrong here."),
    "unavailable": Answer.refusal(503, "unavailable", "Come back later."),
}
"""Answered instead of the truth; the work is done all the same where the fault says `commit`."""

SPOILS = ("garbage", "html", "redirect", "empty", "huge", "drip", "alter", "reply")
"""Done, then answered badly. `alter` puts other values into the true answer, `reply` sends any body."""

SILENCES = ("drop", "hang")
"""The connection is closed, at once or after `seconds` (of a hang; None: when released), without an answer."""

KINDS = (*REFUSALS, *SPOILS, *SILENCES)


@dataclass(slots=True)
class Fault:
    """Trouble for the next calls that fit.

    `operation`: one of `server.ROUTES`, or `*`. `match`: a text in path or body. `skip`: how many calls that fit go
    well before. `times`: how many it hits, None: all. `rate`: the chance of each. `commit`: whether the work is done
    all the same, where that is open. `seconds`: Retry-After, the length of a hang, or the pause before each byte of a
    drip.
    """

    kind: str
    operation: str = "*"
    match: str = ""
    skip: int = 0
    times: int | None = 1
    rate: float = 1.0
    commit: bool = False
    seconds: float | None = None
    alter: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    body: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}, only {', '.join(KINDS)}.")

    @classmethod
    def at_rate(cls, words: str) -> Fault:
        """From `KIND=RATE` or `KIND+commit=RATE`, as the command line has it; hits again and again."""
        name, _, rate = words.partition("=")
        kind, _, commit = name.partition("+")
        if commit not in ("", "commit") or not 0 <= float(rate) <= 1:
            raise ValueError(f"{words!r} is not KIND=RATE or KIND+commit=RATE with a rate from 0 to 1")
        return cls(kind, times=None, rate=float(rate), commit=bool(commit), seconds=_RATED_SECONDS.get(kind))

    @property
    def does_the_work(self) -> bool:
        return self.commit or self.kind in SPOILS

    def fits(self, operation: str, text: str) -> bool:
        return self.times != 0 and self.operation in ("*", operation) and self.match in text

    def spoil(self, answer: Answer) -> Answer | None:
        """What is sent instead of the true answer; None: nothing, the connection is closed."""
        if refusal := REFUSALS.get(self.kind):
            wait = {} if self.seconds is None else {"Retry-After": f"{self.seconds:g}"}
            return replace(refusal, headers={**refusal.headers, **wait})
        match self.kind:
            case "garbage":
                return replace(answer, body=b'{"id": "job-')
            case "html":
                return Answer(200, b"<html><body>Sign in to the network.</body></html>", {"Content-Type": "text/html"})
            case "redirect":
                return Answer(302, headers={"Location": "/v1/jobs"})
            case "empty":
                return replace(answer, body=b"")
            case "huge":
                return replace(answer, body=b'{"id": ["' + b"x" * 65_536, endless=True)
            case "drip":
                return replace(answer, pause=self.seconds or 1.0)
            case "alter":
                return replace(answer, body=json.dumps(_altered(json.loads(answer.body), self.alter)).encode())
            case "reply":
                return Answer(self.status, self.body.encode(), {"Content-Type": "application/json"})
        return None


_RATED_SECONDS = {"hang": 30.0, "throttle": 1.0}


class Faults:
    """The faults that are set. The same seed and the same calls in the same order meet the same trouble."""

    def __init__(self, seed: int = 0) -> None:
        self._set: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311

    def add(self, fault: Fault) -> None:
        self._set.append(fault)

    def clear(self) -> None:
        self._set.clear()

    def take(self, operation: str, text: str) -> Fault | None:
        """The first fault that hits this call, one use of it spent."""
        for fault in self._set:
            if fault.fits(operation, text) and self._random.random() < fault.rate:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None


def _altered(value: Any, changes: Mapping[str, Any]) -> Any:
    """Set these fields in an object, in the objects of a list, and in the lists that an object holds."""
    if isinstance(value, list):
        return [_altered(element, changes) for element in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _altered(part, changes) if isinstance(part, list) else part for name, part in value.items()}
    return inner | {name: change for name, change in changes.items() if name in value}
