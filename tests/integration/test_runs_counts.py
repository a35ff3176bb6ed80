"""Counts by state: right after every change, folded or not, by several at once."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

from sqlalchemy import func, select

from app.database import Database
from app.models import RunCount, WorkflowRun
from app.runs import acceptance, claims, counts, deletion, transitions
from app.runs.acceptance import NewRun
from app.runs.transitions import End
from app.states import State
from tests.conftest import Clock


def accept(database: Database, clock: Clock, owner: str = "ann") -> str:
    new = NewRun(str(uuid.uuid4()), owner, "n", "scripted", "CWL", "v1.2", "a.cwl", {})
    return database.transact(lambda session: acceptance.accept(session, new, clock()))


def counted(database: Database, owner: str | None) -> dict[State, int]:
    with database.reading() as session:
        return {state: n for state, n in counts.by_state(session, owner).items() if n}


def test_counts_follow_every_change(database: Database, clock: Clock) -> None:
    first, second = accept(database, clock), accept(database, clock)
    accept(database, clock, "bob")
    assert counted(database, "ann") == {State.QUEUED: 2}
    database.transact(lambda session: transitions.cancel(session, second, clock(), by="ann"))
    assert counted(database, "ann") == {State.QUEUED: 1, State.CANCELED: 1}
    who = claims.Claimant("scripted", "h", "d:1", timedelta(seconds=60))
    (run,) = (
        r for r in database.transact(lambda session: claims.claim_new(session, who, clock(), 9)) if r.run_id == first
    )
    assert database.transact(lambda session: transitions.move(session, run, State.INITIALIZING, clock(), by="d"))
    assert database.transact(
        lambda session: transitions.finish(session, run, End(State.COMPLETE, "ok"), clock(), by="d")
    )
    assert counted(database, "ann") == {State.COMPLETE: 1, State.CANCELED: 1}
    assert counted(database, None) == {State.COMPLETE: 1, State.CANCELED: 1, State.QUEUED: 1}
    database.transact(lambda session: deletion.delete_run(session, first, "ann"))
    assert counted(database, "ann") == {State.CANCELED: 1}


def test_accepting_again_counts_once(database: Database, clock: Clock) -> None:
    new = NewRun(str(uuid.uuid4()), "ann", "n", "scripted", "CWL", "v1.2", "a.cwl", {})
    for _ in range(3):
        database.transact(lambda session: acceptance.accept(session, new, clock()))
    assert counted(database, "ann") == {State.QUEUED: 1}


def test_folding_keeps_the_counts_while_others_change_them(database: Database, clock: Clock) -> None:
    def work() -> None:
        for _ in range(20):
            accept(database, clock)
            database.transact(counts.fold)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while database.transact(counts.fold):
        pass
    assert counted(database, "ann") == {State.QUEUED: 60}
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(RunCount)) == 1
        assert session.scalar(select(func.count()).select_from(WorkflowRun)) == 60
