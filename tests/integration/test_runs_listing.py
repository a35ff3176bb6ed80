"""Pages, filters and counts over what is stored; and who may see what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from app.database import Database
from app.errors import NotFound
from app.models import WorkflowRun
from app.runs import counts, listing, transitions
from app.runs.acceptance import AttachedFile
from app.runs.listing import Cursor, Page, RunFilter
from app.states import State
from tests.conftest import Clock
from tests.rows import accept, bring_to, events

ALL = RunFilter()


def ids(runs: Any) -> list[str]:
    return [run.run_id for run in runs]


def page(
    database: Database, which: RunFilter = ALL, limit: int = 50, after: Cursor | None = None, owner: Any = None
) -> Page:
    with database.reading() as session:
        return listing.list_runs(session, owner, which, limit, after)


def found(database: Database, owner: str | None = None, **which: Any) -> list[str]:
    return ids(page(database, RunFilter(**which), 1000, owner=owner).runs)


def walk(database: Database, limit: int, between: Callable[[], object] = lambda: None) -> list[str]:
    """All pages, one after the other; `between` happens after each."""
    seen, after = [], None
    while True:
        part = page(database, limit=limit, after=after)
        assert len(part.runs) <= limit
        seen += ids(part.runs)
        if (after := part.next) is None:
            return seen
        between()


# Pages


def test_newest_first(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.advance(seconds=1)) for _ in range(5)]
    assert found(database) == runs[::-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_hold_every_run_once(database: Database, clock: Clock, limit: int) -> None:
    """Also where many runs came in the same microsecond."""
    runs = {accept(database, clock.now + timedelta(seconds=number // 3)) for number in range(7)}
    seen = walk(database, limit)
    assert (len(seen), set(seen)) == (7, runs)


def test_last_page_says_so(database: Database, clock: Clock) -> None:
    assert page(database).next is None
    for _ in range(4):
        accept(database, clock.advance(seconds=1))
    assert page(database, limit=4).next is None
    assert page(database, limit=3).next is not None


def test_new_runs_do_not_shift_pages(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.advance(seconds=1)) for _ in range(9)]
    assert walk(database, 2, lambda: accept(database, clock.advance(seconds=1))) == runs[::-1]


def test_deleted_run_does_not_break_the_next_page(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.advance(seconds=1)) for _ in range(4)]
    first = page(database, limit=2)
    database.transact(lambda session: session.delete(session.get_one(WorkflowRun, runs[2])))
    assert ids(page(database, limit=2, after=first.next).runs) == [runs[1], runs[0]]


def test_cursor_in_another_zone_is_the_same_place(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.advance(seconds=1)) for _ in range(3)]
    at, run_id = page(database, limit=1).next or (clock(), "")
    assert ids(page(database, after=(at.astimezone(timezone(timedelta(hours=9))), run_id)).runs) == [runs[1], runs[0]]


def test_newer_pages_lead_back(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.now + timedelta(seconds=number // 2)) for number in range(9)]
    order = found(database)
    assert set(order) == set(runs)
    last = page(database, limit=3, after=page(database, limit=6).next)
    begin = (last.runs[0].submitted_at, last.runs[0].run_id)
    with database.reading() as session:
        middle = listing.list_newer(session, None, ALL, 3, begin)
        assert middle.next is not None
        newest = listing.list_newer(session, None, ALL, 3, middle.next)
    assert [ids(middle.runs), ids(newest.runs), newest.next] == [order[3:6], order[:3], None]


def test_listed_runs_leave_large_columns_in_the_database(database: Database, clock: Clock) -> None:
    accept(database, clock(), tags={"a": "b"})
    (run,) = page(database).runs
    assert run.tags == {"a": "b"}
    assert inspect(run).unloaded >= {"workflow_params", "outputs", "submit_request"}


# Filters


@pytest.fixture
def runs(database: Database, clock: Clock) -> dict[str, str]:
    """By name; each an hour after the one before."""
    made = {}
    for name, changes in {
        "plain": {},
        "bob's": {"owner": "bob"},
        "tagged": {"tags": {"project": "x", "lane": "1"}},
        "tagged otherwise": {"tags": {"project": "y", "lane": "1"}},
        "nextflow": {"workflow_type": "NFL", "workflow_url": "main.nf"},
        "cloud": {"provider_type": "cloud"},
    }.items():
        made[name] = accept(database, clock.advance(hours=1), name=name, **changes)
    made["step"] = accept(database, clock.advance(hours=1), name="step", parent_id=made["plain"], step="s")
    made["ended"] = bring_to(database, State.COMPLETE, clock.advance(hours=1), name="ended").run_id
    made["canceled"] = bring_to(database, State.CANCELED, clock.advance(hours=1), name="canceled").run_id
    return made


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ({"states": (State.COMPLETE,)}, ["ended"]),
        ({"states": (State.COMPLETE, State.CANCELED)}, ["canceled", "ended"]),
        ({"states": (State.PAUSED,)}, []),
        ({"tags": (("project", "x"),)}, ["tagged"]),
        ({"tags": (("lane", "1"),)}, ["tagged otherwise", "tagged"]),
        ({"tags": (("lane", "1"), ("project", "y"))}, ["tagged otherwise"]),
        ({"tags": (("project", "x"), ("project", "y"))}, []),
        ({"tags": (("project", "1"),)}, []),
        ({"workflow_type": "NFL"}, ["nextflow"]),
        ({"workflow_url": "main.nf"}, ["nextflow"]),
        ({"provider": "cloud"}, ["cloud"]),
        ({"user": "bob"}, ["bob's"]),
        ({"name": "tagged"}, ["tagged"]),
        ({"name": "TAG*"}, ["tagged otherwise", "tagged"]),
        ({"name": "*e*", "tags": (("lane", "1"),), "states": (State.QUEUED,)}, ["tagged otherwise", "tagged"]),
    ],
    ids=str,
)
def test_filters(database: Database, runs: dict[str, str], which: dict[str, Any], names: list[str]) -> None:
    assert found(database, **which) == [runs[name] for name in names]


def test_steps_are_listed_by_their_run_only(database: Database, runs: dict[str, str]) -> None:
    assert found(database, parent=runs["plain"]) == [runs["step"]]
    assert found(database, parent=runs["step"]) == []
    assert found(database, name="step") == []
    assert sorted(found(database)) == sorted(set(runs.values()) - {runs["step"]})
    with database.reading() as session:
        step, begin = listing.get_run(session, runs["step"], None), (datetime(2000, 1, 1, tzinfo=UTC), "")
        assert step.run_id not in ids(listing.list_newer(session, None, ALL, 100, begin).runs)
        assert step.run_id not in ids(listing.list_summaries(session, None, ALL, 100).runs)
        assert listing.count_runs(session, None, RunFilter(parent=runs["plain"])) == 1


def test_times_are_half_open(database: Database, runs: dict[str, str], clock: Clock) -> None:
    with database.reading() as session:
        at = listing.get_run(session, runs["tagged"], None).submitted_at
    hour = timedelta(hours=1)
    assert found(database, since=at, until=at + hour) == [runs["tagged"]]
    assert found(database, since=at, until=at) == []
    assert found(database, until=at) == [runs["bob's"], runs["plain"]]
    assert len(found(database, since=at)) == len(runs) - 3, "less one step"


def test_owner_is_part_of_every_question(database: Database, runs: dict[str, str]) -> None:
    """I6: what is another's is not there."""
    assert found(database, owner="bob") == [runs["bob's"]]
    assert found(database, owner="bob", user="ann") == found(database, owner="eve") == []
    assert found(database, owner="bob", tags=(("lane", "1"),)) == []
    with database.reading() as session:
        assert listing.count_runs(session, "bob", ALL) == 1
        assert sum(counts.by_state(session, "bob").values()) == 1
        assert listing.get_run(session, runs["plain"], "ann").run_id == runs["plain"]
        assert listing.get_state(session, runs["plain"], "ann") == State.QUEUED
        for owner, run_id in (("bob", runs["plain"]), ("ann", "no-such-run"), (None, "no-such-run"), ("bob", "")):
            for get in (listing.get_run, listing.get_state):
                with pytest.raises(NotFound):
                    get(session, run_id, owner)


NAMES = st.text(st.sampled_from("aB%_\\*[]?^é "), min_size=1, max_size=6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, pattern=NAMES)
def test_only_the_star_is_special_in_a_name(database: Database, clock: Clock, name: str, pattern: str) -> None:
    run_id = accept(database, clock(), name=name, owner=name)
    expected = _matches(pattern.lower(), name.lower())
    assert (run_id in found(database, owner=name, name=pattern)) is expected
    assert run_id in found(database, owner=name, name="*") and run_id in found(database, owner=name, name=f"{name[0]}*")


def _matches(pattern: str, name: str) -> bool:
    """Written without LIKE: a star is any text, everything else is itself."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(_matches(pattern[1:], name[start:]) for start in range(len(name) + 1))
    return bool(name) and pattern[0] == name[0] and _matches(pattern[1:], name[1:])


# Counts and parts


def test_counts(database: Database, runs: dict[str, str]) -> None:
    with database.reading() as session:
        assert listing.count_runs(session, None, ALL) == len(runs) - 1, "less one step"
        assert listing.count_runs(session, None, RunFilter(states=(State.QUEUED,))) == len(runs) - 3
        assert listing.count_runs(session, None, ALL, ceiling=4) == 4
        by_state = counts.by_state(session, None)
    assert list(by_state) == list(State)
    assert {state: count for state, count in by_state.items() if count} == {
        State.QUEUED: len(runs) - 2,
        State.COMPLETE: 1,
        State.CANCELED: 1,
    }


def test_empty_database(database: Database) -> None:
    with database.reading() as session:
        assert listing.count_runs(session, None, ALL) == 0
        assert set(counts.by_state(session, None).values()) == {0}


def test_tasks_in_order_and_in_parts(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    usual = {"cmd": [], "system_logs": [], "has_stdout": False, "has_stderr": False}
    exits = {"c": 0, "a": None, "b": 3, "d": 4}
    tasks = [usual | {"task_id": name, "name": name, "exit_code": code} for name, code in exits.items()]
    database.transact(lambda session: transitions.note_tasks(session, run, tasks))
    with database.reading() as session:
        assert [task.task_id for task in listing.get_tasks(session, run.run_id)] == ["c", "a", "b", "d"]
        assert [task.task_id for task in listing.get_tasks(session, run.run_id, after=0, limit=2)] == ["a", "b"]
        assert listing.get_tasks(session, run.run_id, after=3) == listing.get_tasks(session, "no-such-run") == []
        assert listing.get_task(session, run.run_id, "b").exit_code == 3
        failed = listing.get_failed_task(session, run.run_id)
        assert failed is not None and failed.task_id == "b"
        for run_id, task_id in ((run.run_id, "x"), ("no-such-run", "a")):
            with pytest.raises(NotFound):
                listing.get_task(session, run_id, task_id)


def test_events_oldest_first(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    with database.reading() as session:
        assert [event.to_state for event in listing.get_events(session, run.run_id)] == [
            "QUEUED",
            "INITIALIZING",
            "RUNNING",
        ]
    assert [event.id for event in events(database, run.run_id)] == sorted(
        event.id for event in events(database, run.run_id)
    )


def test_what_is_known_of_many_ids(database: Database, runs: dict[str, str]) -> None:
    """More ids than a statement takes parameters: a sweep asks for all that lie on a disk."""
    asked = [*runs.values(), *(f"gone-{number}" for number in range(40_000))]
    with database.reading() as session:
        living, stored = listing.known_runs(session, asked)
        assert stored == set(runs.values())
        assert living == stored - {runs["ended"], runs["canceled"]}
        assert listing.known_runs(session, []) == (frozenset(), frozenset())


def test_which_blobs_are_still_named(database: Database, clock: Clock) -> None:
    for _ in range(2):
        accept(database, clock(), attachments=(AttachedFile("a", "a" * 64, 1), AttachedFile("b", "b" * 64, 1)))
    asked = ["a" * 64, "b" * 64, *(f"{number:064}" for number in range(40_000))]
    with database.reading() as session:
        assert listing.stored_blobs(session, asked) == {"a" * 64, "b" * 64}
