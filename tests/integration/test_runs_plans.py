"""Every query of a busy service goes by its index, as the databases' own EXPLAIN says, with tables that have statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, insert
from sqlalchemy.orm import Session

from app.database import Database
from app.models import RunTag, WorkflowRun
from app.runs import backlog, claims, listing
from app.runs.listing import RunFilter
from app.states import State
from tests.conftest import Clock
from tests.rows import LEASE, who

ROWS = 6000
LIVING = (State.QUEUED, State.RUNNING, State.CANCELING, State.INITIALIZING)
NEW, KNOWN = "ix_workflow_runs_new", "ix_workflow_runs_known"
BY_TIME = "ix_workflow_runs_listed"
BY_OWNER = "ix_workflow_runs_listed_owner"
BY_OWNER_AND_STATE = "ix_workflow_runs_listed_owner_state"
BY_TAG = "ix_run_tags_key_value_run_id"
SORTS = ("TEMP B-TREE FOR ORDER BY", "Sort Key")
FULL_SCANS = ("SCAN workflow_runs\n", "Seq Scan on workflow_runs")


def a_row(number: int, now: datetime) -> dict[str, Any]:
    """One in 25 is living, as in a service that has run for a while."""
    state = LIVING[number % 100] if number % 100 < len(LIVING) else State.COMPLETE
    return {
        "run_id": str(UUID(int=number)),
        "name": f"run {number % 50}",
        "state": state,
        "owner": f"user{number % 20}",
        "workflow_type": "CWL",
        "workflow_type_version": "v1.2",
        "workflow_url": f"w{number % 10}.cwl",
        "workflow_params": {},
        "workflow_engine_parameters": {},
        "tags": {"lane": str(number % 100)},
        "submitted_at": now - timedelta(seconds=number),
        "provider_type": ("local", "cloud", "dag")[number % 3],
        "provider_metadata": {},
        "due_at": None if state == State.COMPLETE else now + timedelta(seconds=number % 1000 - 500),
    }


@pytest.fixture
def full(database: Database, clock: Clock) -> Database:
    rows = [a_row(number, clock()) for number in range(ROWS)]
    tags = [{"run_id": row["run_id"], "key": "lane", "value": row["tags"]["lane"]} for row in rows]
    database.transact(lambda session: session.execute(insert(WorkflowRun), rows))
    database.transact(lambda session: session.execute(insert(RunTag), tags))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    return database


@contextmanager
def plans(database: Database) -> Iterator[list[str]]:
    """The plan of each statement that is executed meanwhile."""
    seen: list[str] = []
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"

    def look(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            raw = connection.connection.driver_connection
            rows = raw.execute(f"{explain} {statement}", parameters).fetchall()  # type: ignore[union-attr]
            seen.append("\n".join(str(row[-1]) for row in rows) + "\n")

    event.listen(database.engine, "before_cursor_execute", look)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", look)


def plan(database: Database, work: Callable[[Session], object]) -> str:
    with plans(database) as seen:
        database.transact(work)
    return "".join(seen)


CLAIMS: dict[str, tuple[Callable[[Session, datetime], object], tuple[str, ...]]] = {
    "claim_known": (lambda session, now: claims.claim_known(session, who(), now, 100), (KNOWN,)),
    "claim_new": (lambda session, now: claims.claim_new(session, who(), now, 10), (NEW,)),
    "claim_suspect": (lambda session, now: claims.claim_suspect(session, who(), now), (KNOWN, NEW)),
    "claim_lost": (lambda session, now: claims.claim_lost(session, "d:1", ["gone"], now, LEASE), (KNOWN,)),
    "release_dead": (lambda session, now: claims.release_dead(session, ["dead"], now), (KNOWN, NEW)),
    "bring_back": (lambda session, now: claims.bring_back(session, now), (KNOWN, NEW)),
    "look_ahead": (lambda session, now: claims.look_ahead(session, "local", "here", now), (KNOWN, NEW)),
    "has_suspect": (lambda session, now: claims.has_suspect(session, "local", "here", now), (KNOWN, NEW)),
    "read_backlog": (lambda session, now: backlog.read_backlog(session), (KNOWN, NEW)),
    "count_active": (lambda session, now: claims.count_active(session, "local", "here"), (KNOWN,)),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_look_at_living_runs_only(full: Database, clock: Clock, name: str) -> None:
    work, indexes = CLAIMS[name]
    seen = plan(full, lambda session: work(session, clock()))
    for index in indexes:
        assert index in seen
    assert not [scan for scan in FULL_SCANS if scan in seen], seen


def test_claim_walks_the_queue_in_order(full: Database, clock: Clock) -> None:
    """Where much is due the index gives the order: nothing is sorted to find the oldest."""
    full.transact(lambda session: session.execute(insert(WorkflowRun), [_queued(n, clock()) for n in range(2000)]))
    with full.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    seen = plan(full, lambda session: claims.claim_new(session, who(), clock(), 10))
    assert NEW in seen
    assert not [sort for sort in SORTS if sort in seen], seen


def _queued(number: int, now: datetime) -> dict[str, Any]:
    more = {"run_id": str(UUID(int=ROWS + number)), "state": State.QUEUED, "provider_type": "local"}
    return a_row(number, now) | more | {"due_at": now - timedelta(seconds=number)}


PAGES: dict[str, tuple[str | None, RunFilter, str]] = {
    "all": (None, RunFilter(), BY_TIME),
    "of an owner": ("user3", RunFilter(), BY_OWNER),
    "of an owner in a state": ("user3", RunFilter(states=(State.COMPLETE,)), BY_OWNER_AND_STATE),
}


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_pages_walk_their_index(full: Database, clock: Clock, name: str, newer: bool) -> None:
    owner, which, index = PAGES[name]
    cursor = (clock() - timedelta(seconds=ROWS / 2), "f")
    page = listing.list_newer if newer else listing.list_runs
    seen = plan(full, lambda session: page(session, owner, which, 20, cursor))
    assert index in seen
    assert not [word for word in SORTS + FULL_SCANS if word in seen], seen


def test_tags_are_looked_up(full: Database) -> None:
    seen = plan(full, lambda session: listing.list_runs(session, None, RunFilter(tags=(("lane", "7"),)), 20))
    assert BY_TAG in seen


def test_steps_are_found_by_their_parent(full: Database) -> None:
    seen = plan(full, lambda session: listing.list_runs(session, None, RunFilter(parent=str(UUID(int=1))), 20))
    assert "parent_id" in seen
    assert not [scan for scan in FULL_SCANS if scan in seen], seen
