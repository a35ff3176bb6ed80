"""Faults on command: what goes wrong with which of the next calls. Knows neither sockets nor any vendor."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as it came: `path` is still percent-encoded and without the query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `pause`: seconds before every byte of the body."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0

    @staticmethod
    def of_json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Reply:
        body = json.dumps(value, ensure_ascii=False).encode()
        return Reply(status, body, {"Content-Type": "application/json", **(headers or {})})


REFUSALS = ("throttle", "quota", "error", "unavailable", "expired", "denied", "missing")
"""Kinds that the vendor's fake words itself; `error` is its 500."""

SPOILS = ("drop", "hang", "drip", "garbage", "html", "empty", "huge", "alter", "reply")
"""Kinds that are the same everywhere."""

COMMITTED = frozenset(SPOILS) - {"drop", "reply"}
"""Kinds that do the work first where `commit` is not said."""


@dataclass(slots=True)
class Fault:
    """One kind of trouble for the calls it fits.

    `operation`: the vendor's name, or `*`. `match`: a text within path, query or body. `skip`: how many fitting calls pass
    before; `times`: how many are hit, None: all. `rate`: the chance of each. `commit`: is the work done all the same?
    `seconds`: of a hang (None: until released), before each byte of a drip, or of Retry-After. `alter`: a merge patch on
    the answer, applied to each element where it meets a list; it is not checked, so it can lie. `status`, `body`: of a reply.
    """

    kind: str
    operation: str = "*"
    match: str = ""
    skip: int = 0
    times: int | None = 1
    rate: float = 1.0
    commit: bool | None = None
    seconds: float | None = None
    alter: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    body: str = ""

    def __post_init__(self) -> None:
        if self.kind not in REFUSALS + SPOILS:
            raise TypeError(f"unknown kind of fault {self.kind!r}: one of {', '.join(REFUSALS + SPOILS)}")

    @property
    def commits(self) -> bool:
        return self.kind in COMMITTED if self.commit is None else self.commit

    def fits(self, operation: str, request: Request) -> bool:
        text = f"{request.path}?{request.query}\n".encode() + request.body
        return self.times != 0 and self.operation in ("*", operation) and self.match.encode() in text

    def spoil(self, reply: Reply) -> Reply | None:
        """What becomes of the true answer; None: nothing is sent and the connection is closed."""
        match self.kind:
            case "drop":
                return None
            case "hang" if not self.commits:
                return None
            case "drip":
                return replace(reply, pause=self.seconds or 0.0)
            case "garbage":
                return replace(reply, body=b'{"id": "12')
            case "html":
                return Reply(200, b"<html><body>Sign in to the network</body></html>", {"Content-Type": "text/html"})
            case "empty":
                return replace(reply, body=b"")
            case "huge":
                return replace(reply, body=b"[" + b"0," * 4_000_000 + b"0]")
            case "alter":
                return replace(reply, body=json.dumps(_merged(json.loads(reply.body), self.alter)).encode())
            case "reply":
                return Reply(self.status, self.body.encode(), {"Content-Type": "application/json"})
            case _:
                return reply


class Faults:
    """The faults that are set, oldest first."""

    def __init__(self, seed: int = 0) -> None:
        self._set: list[Fault] = []
        self._random = random.Random(seed)

    def add(self, fault: Fault) -> None:
        self._set.append(fault)

    def clear(self) -> None:
        self._set.clear()

    def take(self, operation: str, request: Request) -> Fault | None:
        """The fault that hits this call, used up by one."""
        for fault in self._set:
            if fault.fits(operation, request) and self._random.random() < fault.rate:
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times = fault.times and fault.times - 1
                return fault
        return None


def _merged(value: Any, patch: Any) -> Any:
    if isinstance(value, list) and isinstance(patch, Mapping):
        return [_merged(element, patch) for element in value]
    if not isinstance(value, dict) or not isinstance(patch, Mapping):
        return patch
    merged = {key: _merged(value.get(key), change) for key, change in patch.items() if change is not None}
    return {key: old for key, old in value.items() if key not in patch} | merged
