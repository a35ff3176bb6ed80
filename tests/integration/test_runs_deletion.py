"""delete_run: all of an ended run goes, and nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from app.database import Database
from app.errors import Conflict, NotFound
from app.models import Attachment, Base, RunEvent, RunTag, TaskLog, WorkflowRun
from app.runs import deletion, listing, transitions
from app.runs.acceptance import AttachedFile
from app.states import TERMINAL, State
from tests.conftest import Clock
from tests.rows import accept, bring_to, row

PARTS = (RunEvent, TaskLog, Attachment, RunTag)
TASK = {"task_id": "t", "name": "t", "cmd": [], "system_logs": [], "has_stdout": False, "has_stderr": False}


def delete(database: Database, run_id: str, owner: str | None = None) -> None:
    database.transact(lambda session: deletion.delete_run(session, run_id, owner))


def ended(database: Database, clock: Clock, state: State = State.COMPLETE, **new: object) -> str:
    return bring_to(database, state, clock(), **new).run_id


def size(database: Database, table: type[Base]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_everything_of_the_run_goes_and_nothing_else(database: Database, clock: Clock) -> None:
    made = []
    for _ in range(2):
        run = bring_to(database, State.RUNNING, clock(), tags={"a": "b"}, attachments=(AttachedFile("a", "a" * 64, 1),))
        end = transitions.End(State.COMPLETE, "over", tasks=[TASK])
        database.transact(lambda session, run=run, end=end: transitions.finish(session, run, end, clock(), by="daemon"))
        made.append(run.run_id)
    before = {table: size(database, table) for table in PARTS}
    delete(database, made[0])
    assert {table: size(database, table) for table in PARTS} == {table: count // 2 for table, count in before.items()}
    with database.reading() as session:
        with pytest.raises(NotFound):
            listing.get_run(session, made[0], None)
        assert listing.get_run(session, made[1], None).state == State.COMPLETE
        assert [task.task_id for task in listing.get_tasks(session, made[1])] == ["t"]


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_every_ended_run_may_go(database: Database, clock: Clock, state: State) -> None:
    delete(database, ended(database, clock, state))
    assert size(database, WorkflowRun) == 0


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL))
def test_living_run_stays(database: Database, clock: Clock, state: State) -> None:
    run = bring_to(database, state, clock())
    with pytest.raises(Conflict, match=state):
        delete(database, run.run_id)
    assert row(database, run.run_id).state == state


def test_unknown_and_foreign_runs_are_not_there(database: Database, clock: Clock) -> None:
    run_id = ended(database, clock)
    for asked, owner in ((run_id, "bob"), ("no-such-run", "ann"), ("no-such-run", None)):
        with pytest.raises(NotFound):
            delete(database, asked, owner)
    delete(database, run_id, "ann")
    with pytest.raises(NotFound):
        delete(database, run_id, "ann")


def test_key_is_free_again(database: Database, clock: Clock) -> None:
    first = ended(database, clock, idempotency_key="k")
    delete(database, first)
    assert accept(database, clock(), idempotency_key="k", workflow_url="other.cwl") != first


def test_steps_go_with_their_run(database: Database, clock: Clock) -> None:
    parent, other = ended(database, clock), ended(database, clock)
    steps = [ended(database, clock, parent_id=parent, step=f"s{number}") for number in range(3)]
    ended(database, clock, parent_id=steps[0], step="inner")
    survivor = ended(database, clock, parent_id=other, step="s0", reused_from=steps[0])
    delete(database, parent)
    with database.reading() as session:
        assert set(session.scalars(select(WorkflowRun.run_id))) == {other, survivor}


def test_step_alone_does_not_go(database: Database, clock: Clock) -> None:
    parent = ended(database, clock)
    step = ended(database, clock, parent_id=parent, step="s")
    with pytest.raises(Conflict, match=parent):
        delete(database, step)
    assert size(database, WorkflowRun) == 2


def test_living_step_keeps_the_whole_family(database: Database, clock: Clock) -> None:
    parent = ended(database, clock)
    ended(database, clock, parent_id=parent, step="s0")
    living = accept(database, clock(), parent_id=parent, step="s1")
    ended(database, clock, parent_id=parent, step="s2")
    with pytest.raises(Conflict, match=living):
        delete(database, parent)
    with database.reading() as session:
        children = session.scalars(select(WorkflowRun.run_id).where(WorkflowRun.parent_id == parent)).all()
    assert len(children) == 3
