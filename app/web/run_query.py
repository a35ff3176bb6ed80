"""The query string of the runs page: words -> RunFilter and place, every wrong value said. Knows no database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from werkzeug.datastructures import MultiDict

from app.routing import TYPE_ALIASES
from app.runs.listing import Cursor, RunFilter
from app.states import State
from app.web.formatting import DAY, HOUR, MINUTE

FILTERS = ("state", "name", "tag", "workflow_type", "since")
PLACES = ("older", "newer")
MAX_WORD = 255
WORKFLOW_TYPES = tuple(dict.fromkeys(TYPE_ALIASES.values()))

TABS: Mapping[str, tuple[State, ...]] = {
    "All": (),
    "Queued": (State.QUEUED,),
    "Active": (State.INITIALIZING, State.RUNNING, State.PAUSED, State.CANCELING),
    "Complete": (State.COMPLETE,),
    "Failed": (State.EXECUTOR_ERROR, State.SYSTEM_ERROR),
    "Canceled": (State.CANCELED,),
}
_UNITS = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What the address asks for. `words` are its filters as given, for the form and for links; `place` its page."""

    words: dict[str, Any]  # each a list of texts
    place: dict[str, Any] = field(default_factory=dict)
    which: RunFilter = field(default_factory=RunFilter)
    older_than: Cursor | None = None
    newer_than: Cursor | None = None
    problems: dict[str, str] = field(default_factory=dict)  # parameter -> what is wrong with it

    def which_with(self, states: tuple[State, ...]) -> RunFilter:
        """The same filter for other states."""
        return replace(self.which, states=states)

    def first(self, name: str) -> str:
        return next(iter(self.words.get(name, [])), "")

    @property
    def chosen_states(self) -> str:
        """As the parameter `state` says it, in one spelling."""
        return ",".join(self.which.states)

    def state_choices(self) -> dict[str, str]:
        """Value -> words, for the form: the states, the tabs that hold several, and whatever is chosen now."""
        several = {",".join(states): f"{label} ({len(states)} states)" for label, states in TABS.items() if states[1:]}
        known = {"": "Any", **several, **{str(state): str(state) for state in State}}
        return {self.chosen_states: self.chosen_states.replace(",", ", ")} | known

    def with_state(self, states: tuple[State, ...]) -> dict[str, Any]:
        """These filters for other states, as arguments for a link to the first page."""
        others = {name: words for name, words in self.words.items() if name != "state"}
        return others | ({"state": [",".join(states)]} if states else {})

    def with_tag(self, key: str, value: str) -> dict[str, Any]:
        """These filters and one more tag."""
        return self.words | {"tag": list(dict.fromkeys([*self.words.get("tag", []), f"{key}={value}"]))}

    def without_tag(self, tag: str) -> dict[str, Any]:
        """These filters less one tag."""
        return self.words | {"tag": [word for word in self.words.get("tag", []) if word != tag]}


def parse_query(args: MultiDict[str, str], now: datetime) -> RunQuery:
    """Never raises: what is wrong is in `problems`, and then the rest must not be used."""
    given = {name: [word.strip() for word in args.getlist(name) if word.strip()] for name in args}
    reading = _Reading({name: words for name, words in given.items() if words})
    which = RunFilter(
        states=reading.states(),
        tags=reading.tags(),
        name=reading.name(),
        workflow_type=reading.workflow_type(),
        since=reading.since(now),
    )
    older, newer = reading.cursor("older"), reading.cursor("newer")
    if older and newer:
        reading.problems["newer"] = "A page is either older or newer, not both."
    words = {name: reading.given[name] for name in FILTERS if name in reading.given}
    place = {name: reading.given[name] for name in PLACES if name in reading.given}
    return RunQuery(words, place, which, older, newer, reading.problems)


def format_cursor(cursor: Cursor) -> str:
    return f"{cursor[0].astimezone(UTC).isoformat()}~{cursor[1]}"


class _Reading:
    """Reads one parameter after the other and collects what is wrong."""

    def __init__(self, given: dict[str, list[str]]) -> None:
        self.given = given
        self.problems: dict[str, str] = {}
        for name, words in given.items():
            if name not in FILTERS + PLACES:
                self.problems[name] = f"There is no filter {name!r}. There are: {', '.join(FILTERS)}."
            elif any(len(word) > MAX_WORD or "\0" in word for word in words):
                self.problems[name] = f"At most {MAX_WORD} characters, none of them NUL."

    def word(self, name: str) -> str | None:
        words = self.given.get(name, [])
        if len(words) > 1:
            self.problems[name] = "Give it once."
        return words[0] if words else None

    def states(self) -> tuple[State, ...]:
        words = [word.strip().upper() for given in self.given.get("state", []) for word in given.split(",")]
        words = [word for word in words if word]
        wrong = [word for word in words if word not in State.__members__]
        if wrong:
            self.problems["state"] = f"{wrong[0]!r} is not a state. States: {', '.join(State)}."
            return ()
        return tuple(State(word) for word in dict.fromkeys(words))

    def tags(self) -> tuple[tuple[str, str], ...]:
        pairs = [word.partition("=") for word in self.given.get("tag", [])]
        if not all(key and equals for key, equals, _ in pairs):
            self.problems["tag"] = "Write a tag as key=value."
        return tuple((key, value) for key, _, value in pairs)

    def name(self) -> str | None:
        """Without a `*`, a part of the name is enough."""
        word = self.word("name")
        return f"*{word}*" if word and "*" not in word else word

    def workflow_type(self) -> str | None:
        word = self.word("workflow_type")
        known = TYPE_ALIASES.get(word.lower()) if word else None
        if word and known is None:
            self.problems["workflow_type"] = f"{word!r} is no workflow type. Types: {', '.join(WORKFLOW_TYPES)}."
        return known

    def since(self, now: datetime) -> datetime | None:
        word = self.word("since")
        try:
            return _point_in_time(word, now) if word else None
        except (ValueError, OverflowError):
            self.problems["since"] = f"{word!r} is no time. Write 24h, 7d or a date as 2026-11-20 (UTC)."
            return None

    def cursor(self, name: str) -> Cursor | None:
        word = self.word(name)
        if not word:
            return None
        time, _, run_id = word.partition("~")
        try:
            return _utc(datetime.fromisoformat(time)), run_id
        except (ValueError, OverflowError):
            self.problems[name] = "This page address is not one of ours. Begin with the newest runs."
            return None


def _point_in_time(word: str, now: datetime) -> datetime:
    if ago := re.fullmatch(r"(\d{1,6})([mhdw])", word):
        return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    return _utc(datetime.fromisoformat(word))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
