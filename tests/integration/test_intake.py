"""Runs that are accepted at the same time share a transaction, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from traceback import format_exception
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import KeyReused
from app.intake import Intake
from app.runs import counts, listing
from app.runs.acceptance import SMALL_CHARACTERS, SMALL_PARTS, AttachedFile, NewRun
from app.runs.listing import RunFilter
from app.states import State
from tests.conftest import Clock
from tests.rows import changes, new_run

T = TypeVar("T")
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Held(Database):
    """The first transaction waits until the others may join those who wait for their turn."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine)
        self.began, self.may_go_on, self.transactions, self.singles = Event(), Event(), 0, 0

    def _transact(self, begin: Any, work: Callable[[Session], T]) -> T:
        self.transactions += 1
        self.singles += begin == self._singles.begin
        self.began.set()
        self.may_go_on.wait()
        return super()._transact(begin, work)


@contextmanager
def accepted_together(database: Held, clock: Clock, *runs: NewRun) -> Iterator[list[Future[str]]]:
    """One run holds the turn while `runs` come to wait for it."""
    intake = Intake()
    with ThreadPoolExecutor(1 + len(runs)) as pool:
        first = pool.submit(intake.accept, database, new_run(run_id="first"), clock())
        database.began.wait()
        others = [pool.submit(intake.accept, database, run, clock()) for run in runs]
        while len(intake._waiting) < len(runs):
            time.sleep(0.001)
        database.may_go_on.set()
        assert first.result() == "first"
        yield others


def stored(database: Database) -> list[str]:
    with database.reading() as session:
        return sorted(run.run_id for run in listing.list_runs(session, None, RunFilter(), 100).runs)


def test_those_who_wait_share_a_transaction(database: Database, clock: Clock) -> None:
    held = Held(database)
    files = (AttachedFile("a.cwl", "0" * 64, 1),)
    runs = [new_run(run_id=f"r-{n}", tags={"n": str(n)}, attachments=files[: n % 2]) for n in range(5)]
    with accepted_together(held, clock, *runs) as others:
        assert [other.result() for other in others] == [run.run_id for run in runs]
    assert held.transactions == 2
    assert stored(database) == ["first", *(run.run_id for run in runs)]
    for run in runs:
        assert changes(database, run.run_id) == [(None, "QUEUED")]
        with database.reading() as session:
            assert len(listing.get_attachments(session, run.run_id)) == len(run.attachments)
            tagged = RunFilter(tags=tuple(run.tags.items()))
            assert [found.run_id for found in listing.list_runs(session, None, tagged, 9).runs] == [run.run_id]
    with database.reading() as session:
        assert counts.by_state(session, None)[State.QUEUED] == 6


def test_request_that_comes_twice_is_one_run(database: Database, clock: Clock) -> None:
    runs = [new_run(run_id="a", idempotency_key="k"), new_run(run_id="b", idempotency_key="k"), new_run(run_id="c")]
    with accepted_together(Held(database), clock, *runs) as (one, again, other):
        assert one.result() == again.result() in ("a", "b")
        assert other.result() == "c"
    assert stored(database) == sorted([one.result(), "c", "first"])


def test_run_that_cannot_be_written_fails_alone(database: Database, clock: Clock) -> None:
    """Also where the one whose turn it is is another: drivers refuse some values with errors of their own."""
    runs = [new_run(run_id="a"), new_run(run_id="b", name="\ud800"), new_run(run_id="c")]
    with accepted_together(Held(database), clock, *runs) as (one, bad, other):
        assert (one.result(), other.result()) == ("a", "c")
        with pytest.raises((UnicodeEncodeError, DBAPIError)):
            bad.result()
    assert stored(database) == ["a", "c", "first"]


def test_failure_is_of_the_run_that_fails(database: Database, clock: Clock) -> None:
    runs = [
        new_run(run_id="a"),
        new_run(run_id="b", parent_id="nobody", step="s"),
        new_run(run_id="c", idempotency_key="k"),
    ]
    with accepted_together(Held(database), clock, *runs) as (good, bad, keyed):
        assert good.result() == "a" and keyed.result() == "c"
        with pytest.raises(IntegrityError):
            bad.result()
    with accepted_together(
        Held(database), clock, new_run(run_id="d"), new_run(run_id="e", idempotency_key="k", name="other")
    ) as (good, reused):
        assert good.result() == "d"
        with pytest.raises(KeyReused):
            reused.result()
    assert stored(database) == ["a", "c", "d", "first"]


@POSTGRESQL
@pytest.mark.parametrize(
    "said",
    [
        {"workflow_params": {"text": "x" * SMALL_CHARACTERS}},
        {"tags": {str(n): "" for n in range(SMALL_PARTS + 1)}},
        {"attachments": tuple(AttachedFile(str(n), "0" * 64, 1) for n in range(SMALL_PARTS + 1))},
    ],
    ids=["params", "tags", "attachments"],
)
def test_large_run_goes_alone(database: Database, clock: Clock, said: dict[str, Any]) -> None:
    """All who share its statement would wait for it."""
    held = Held(database)
    large = new_run(run_id="large", **said)
    with accepted_together(held, clock, new_run(run_id="a"), new_run(run_id="b")) as others:
        assert [other.result() for other in others] == ["a", "b"]
    assert held.transactions == 2
    assert Intake().accept(held, large, clock()) == "large"
    assert stored(database) == ["a", "b", "first", "large"]
    assert held.singles == 2


def test_lone_run_that_fails_is_tried_once(database: Database, clock: Clock) -> None:
    held = Held(database)
    held.may_go_on.set()
    with pytest.raises(IntegrityError):
        Intake().accept(held, new_run(parent_id="nobody", step="s"), clock())
    assert held.transactions == 1


@POSTGRESQL
def test_value_that_cannot_be_stored_is_in_no_log(database: Database, clock: Clock) -> None:
    secret = uuid4().hex
    with pytest.raises(DataError, match="NUL") as caught:
        Intake().accept(database, new_run(tags={"token": f"{secret}\0"}), clock())
    assert secret not in "".join(format_exception(caught.value))
