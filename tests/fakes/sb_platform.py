"""What all parts of the Seven Bridges fake share: calls, errors, pages, projects, the user and the rate limit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

from tests.fakes.faults import Request
from tests.fakes.timeline import Timeline

MOST = 100
PAGE = 50
WINDOW = timedelta(minutes=5)

Row = TypeVar("Row")
Json = dict[str, Any]


@dataclass(slots=True)
class Options:
    """What the platform's guides leave open, so that a client can meet every answer.

    `wrong_state`: the HTTP status for running what is no draft, aborting what has ended, deleting what has run. `shuffle`:
    do lists come in another order at every call unless one is asked for? (The guides warn that pages then repeat and miss rows.)
    `rate_limit`: requests in five minutes for a token.
    """

    wrong_state: int = 400
    shuffle: bool = True
    rate_limit: int = 1000


class ApiError(Exception):
    """A refusal. The codes up to 4xxx are documented; of the others only that each area has its thousand."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.record = {"status": status, "code": code, "message": message, "more_info": "https://docs.sevenbridges.com"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the names in its path, its query, its JSON body."""

    path: str
    names: Mapping[str, str]
    query: Mapping[str, list[str]]
    body: Any

    @classmethod
    def of(cls, request: Request, path: str, names: Mapping[str, str]) -> Call:
        if request.method == "POST" and request.headers.get("Content-Type") != "application/json":
            raise ApiError(400, 1001, "Content-Type is not application/json")
        try:
            body = json.loads(request.body or b"null")
        except ValueError:
            raise ApiError(400, 1001, "The body is not JSON") from None
        return cls(path, names, parse_qs(request.query), body)

    def asks(self, name: str) -> str | None:
        return self.query.get(name, [None])[-1]

    def number(self, name: str, default: int, most: int) -> int:
        text = self.asks(name) or str(default)
        if not text.isdigit() or int(text) > most:
            raise ApiError(400, 1001, f"{name} is not a number up to {most}: {text}")
        return int(text)

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> Json:
        """The body, an object with these fields and no others."""
        if not isinstance(self.body, dict):
            raise ApiError(400, 1001, "The body is not an object")
        if wrong := set(self.body) - set(required) - set(optional):
            raise ApiError(400, 1001, f"Unknown fields: {', '.join(sorted(wrong))}")
        if missing := [name for name in required if self.body.get(name) in (None, "")]:
            raise ApiError(400, 1001, f"Missing fields: {', '.join(missing)}")
        return self.body

    def ids(self, name: str) -> list[Any]:
        """The elements of a bulk request."""
        elements = self.fields([name])[name]
        if not isinstance(elements, list) or len(elements) > MOST:
            raise ApiError(400, 1001, f"{name} is not a list of up to {MOST} elements")
        return elements


class Platform:
    """`base`: where this fake is seen from outside, with /v2."""

    def __init__(self, timeline: Timeline, options: Options, user: str, seed: int) -> None:
        self.timeline, self.options, self.user = timeline, options, user
        self.base = ""
        self.projects: dict[str, str] = {f"{user}/wes": "WES"}
        self._random = random.Random(seed)
        self._spent: dict[str, _Window] = {}

    def now(self) -> str:
        return stamp(self.timeline.now()) or ""

    def check_project(self, project: Any) -> None:
        if project not in self.projects:
            raise ApiError(404, 3002, "Requested project does not exist.")

    def page(
        self, call: Call, rows: Sequence[Row], describe: Callable[[Row], Json], ordered: bool = False
    ) -> tuple[Json, int]:
        """One page of a list, with links to its neighbours, and how many rows there are in all."""
        offset, limit = call.number("offset", 0, 10**9), call.number("limit", PAGE, MOST)
        if self.options.shuffle and not ordered:
            rows = self._random.sample(rows, len(rows))
        links = []
        if offset + limit < len(rows):
            links.append({"href": self._href(call, offset + limit, limit), "rel": "next", "method": "GET"})
        if offset:
            links.append({"href": self._href(call, max(0, offset - limit), limit), "rel": "prev", "method": "GET"})
        items = [describe(row) for row in rows[offset : offset + limit]]
        return {"href": self._href(call, offset, limit), "items": items, "links": links}, len(rows)

    def spend(self, token: str) -> dict[str, str]:
        """Count a request against its token; the headers that say what is left."""
        now = self.timeline.now()
        window = self._spent.get(token)
        if window is None or window.until <= now:
            self._spent[token] = window = _Window(now + WINDOW)
        window.count += 1
        return self._rate(window)

    def is_spent(self, token: str) -> bool:
        return self._spent[token].count > self.options.rate_limit

    def rate(self, token: str) -> Json:
        """What /rate_limit answers."""
        headers = self._rate(self._spent[token])
        values = {name.rpartition("-")[2].lower(): int(value) for name, value in headers.items()}
        return {"rate": values, "instance_limit": {"limit": -1, "remaining": 10_000}}

    def _rate(self, window: _Window) -> dict[str, str]:
        left = max(0, self.options.rate_limit - window.count)
        reset = str(int(window.until.timestamp()))
        return {
            "X-RateLimit-Limit": str(self.options.rate_limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": reset,
        }

    def _href(self, call: Call, offset: int, limit: int) -> str:
        query = {**call.query, "offset": [offset], "limit": [limit]}
        return f"{self.base}{call.path}?{urlencode(query, doseq=True)}"


@dataclass(slots=True)
class _Window:
    until: datetime
    count: int = 0


class Projects:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def query(self, call: Call) -> tuple[Json, int]:
        owner, name = call.names["owner"], call.asks("name")
        found = [
            project
            for project, title in self._platform.projects.items()
            if owner in ("", project.partition("/")[0]) and (name or "").lower() in title.lower()
        ]
        return self._platform.page(call, found, self._describe)

    def get(self, call: Call) -> Json:
        self._platform.check_project(call.names["id"])
        return self._describe(call.names["id"])

    def _describe(self, project: str) -> Json:
        href = f"{self._platform.base}/projects/{project}"
        return {"href": href, "id": project, "name": self._platform.projects[project], "type": "v2", "tags": []}


class Users:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def me(self, call: Call) -> Json:
        user = self._platform.user
        return {"href": f"{self._platform.base}/users/{user}", "username": user, "email": f"{user}@example.org"}


def known(kept: Mapping[str, Any], key: Any, code: int, what: str) -> Any:
    if not isinstance(key, str) or key not in kept:
        raise ApiError(404, code, f"Requested {what} does not exist.")
    return kept[key]


def stamp(at: datetime | None) -> str | None:
    return at and at.strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """A date of a filter; those without a zone are UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ApiError(400, 1001, f"Not a date: {text}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def bulk(elements: Iterable[Any], answer: Callable[[Any], Json]) -> Json:
    """The answer to a bulk request: each element's resource, or the error in its place."""
    items: list[Json] = []
    for element in elements:
        try:
            items.append({"resource": answer(element)})
        except ApiError as error:
            items.append({"error": error.record})
    return {"items": items}
