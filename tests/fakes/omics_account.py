"""An account of the HealthOmics fake: names, tokens, pages, tags, run groups and caches. Knows neither HTTP nor runs."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from tests.fakes.aws_model import Refused
from tests.fakes.timeline import Timeline

PAGE = 50

Members = dict[str, Any]


@dataclass(slots=True)
class Options:
    """What the model and the guides leave open, so that a client can meet every answer.

    `duplicates`: what a repeated requestId is answered, "same" (what the first was) or "conflict"; with other parameters it
    is always refused, as `reuse` says. `expired_key`: requests of this access key are refused. `token_seconds`: how long a requestId is known, None: for ever. `name_match`: does
    ListRuns match names "whole" or by "prefix"? `list_lag_seconds`: how long a new run is missing from lists. `outputs_name`: the
    output document under runOutputUri. `max_runs`: StartRun is refused at so many runs. `quotas`: throttle as documented.
    """

    duplicates: Literal["same", "conflict"] = "same"
    reuse: Literal["ConflictException", "ValidationException"] = "ConflictException"
    expired_key: str | None = None
    token_seconds: float | None = None
    name_match: Literal["whole", "prefix"] = "prefix"
    list_lag_seconds: float = 0
    outputs_name: str = "logs/outputs.json"
    max_runs: int | None = None
    quotas: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    asked: str
    answer: Members
    at: datetime


class Account:
    """What all parts share. The methods named as operations take checked members and return the answer's."""

    def __init__(self, region: str, number: str, timeline: Timeline, options: Options) -> None:
        self.region, self.number, self.timeline, self.options = region, number, timeline, options
        self.tags: dict[str, dict[str, str]] = {}
        self.groups: dict[str, Members] = {}
        self.caches: dict[str, Members] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._last = 1_000_000

    def new_id(self) -> str:
        """Digits, never given before, ordered."""
        self._last += 1
        return str(self._last)

    def arn(self, path: str, service: str = "omics") -> str:
        return f"arn:aws:{service}:{'' if service == 'iam' else self.region}:{self.number}:{path}"

    def now(self) -> str:
        return stamp(self.timeline.now()) or ""

    def once(self, kind: str, asked: Members, make: Callable[[Members], Members]) -> Members:
        """Do what is asked once for a requestId."""
        key, now, text = (kind, asked["requestId"]), self.timeline.now(), json.dumps(asked, sort_keys=True)
        known = self._tokens.get(key)
        window = self.options.token_seconds
        if known is None or (window is not None and now - known.at > timedelta(seconds=window)):
            self._tokens[key] = known = _Token(text, make(asked), now)
        elif known.asked != text:
            raise Refused(self.options.reuse, f"requestId {key[1]} was used with other parameters")
        elif self.options.duplicates == "conflict":
            raise Refused("ConflictException", f"requestId {key[1]} was used before")
        return known.answer

    def create_run_group(self, asked: Members) -> Members:
        return self.once("group", asked, lambda given: self._add(self.groups, "runGroup", given))

    def list_run_groups(self, asked: Members) -> Members:
        return page(self.groups, asked, lambda group: asked.get("name") in (None, group.get("name")), dict)

    def create_run_cache(self, asked: Members) -> Members:
        added = self.once("cache", asked, lambda given: self._add(self.caches, "runCache", given))
        return {**added, "status": "ACTIVE"}

    def tag_resource(self, asked: Members) -> None:
        tags = known_in(self.tags, asked["resourceArn"], "resource")
        require(len(tags | asked["tags"]) <= 50, "more than 50 tags")
        tags.update(asked["tags"])

    def list_tags_for_resource(self, asked: Members) -> Members:
        return {"tags": known_in(self.tags, asked["resourceArn"], "resource")}

    def _add(self, kept: dict[str, Members], kind: str, given: Members) -> Members:
        new_id = self.new_id()
        arn = self.arn(f"{kind}/{new_id}")
        facts = {name: value for name, value in given.items() if name not in ("requestId", "tags")}
        kept[new_id] = {**facts, "arn": arn, "id": new_id, "creationTime": self.now()}
        self.tags[arn] = dict(given.get("tags", {}))
        return {"arn": arn, "id": new_id, "tags": self.tags[arn]}


def require(holds: Any, message: str) -> None:
    if not holds:
        raise Refused("ValidationException", message)


def known_in(kept: Mapping[Any, Any], key: Any, what: str) -> Any:
    if key not in kept:
        raise Refused("ResourceNotFoundException", f"{what} {key} does not exist")
    return kept[key]


def present(**members: Any) -> Members:
    return {name: value for name, value in members.items() if value is not None}


def stamp(at: datetime | None) -> str | None:
    return at and at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(
    rows: Mapping[Any, Any], asked: Mapping[str, Any], fits: Callable[[Any], bool], show: Callable[[Any], Members]
) -> Members:
    """One page of a list, by number; the token says after which number it goes on."""
    token = asked.get("startingToken", "after-0")
    require(re.fullmatch(r"after-\d+", token), "startingToken is not one of ours")
    keys = sorted(rows, key=int)
    begin = bisect_right(keys, int(token.removeprefix("after-")), key=int)
    limit, items, last = asked.get("maxResults", PAGE), [], None
    for key in keys[begin:]:
        if fits(rows[key]):
            if len(items) == limit:
                return {"items": items, "nextToken": f"after-{last}"}
            items.append(show(rows[key]))
            last = key
    return {"items": items}
