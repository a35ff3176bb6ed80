"""How many runs or tasks of a run's steps are alike: a row for each kind, so that a wide scatter is cheap to show."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Row, case, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.models import TaskLog, WorkflowRun
from app.states import State


def tally_runs(session: Session, parent_id: str) -> Sequence[Row[str | None, State, int, int, str]]:
    """(step, state, try_number, count, a run_id) of a pipeline's runs, of every step and shard only the latest."""
    run, later = WorkflowRun, aliased(WorkflowRun)
    same = (later.parent_id == run.parent_id, later.step == run.step, later.shard == run.shard)
    is_latest = ~exists().where(*same, later.try_number > run.try_number)
    alike = (run.step, run.state, run.try_number)
    counts = (func.count().label("tally"), func.min(run.run_id).label("run_id"))
    query = select(*alike, *counts).where(run.parent_id == parent_id, is_latest)
    return session.execute(query.group_by(*alike).order_by(*alike)).all()


def tally_tasks(
    session: Session, run_id: str, names: Collection[str]
) -> Sequence[Row[str, int, int, int | None, int, str, int]]:
    """(name, begun, ended, failed, count, a task_id, has_stderr) of a run's tasks: 1 or 0, NULL without an exit code.

    A task that has none of these names, but one of them and a number (`align_2`: cwltool's word for a further one of a
    scatter), counts as that one.
    """
    task = TaskLog
    stem = func.rtrim(func.rtrim(task.name, "0123456789"), "_")
    tasks = (
        select(
            case((task.name.in_(names), task.name), else_=stem).label("name"),
            case((task.start_time.is_not(None), 1), else_=0).label("begun"),
            case((task.end_time.is_not(None), 1), else_=0).label("ended"),
            case((task.exit_code == 0, 0), (task.exit_code.is_not(None), 1)).label("failed"),
            case((task.has_stderr, 1), else_=0).label("has_stderr"),
            task.task_id,
        )
        .where(task.run_id == run_id)
        .subquery()
    )
    alike = (tasks.c.name, tasks.c.begun, tasks.c.ended, tasks.c.failed)
    counts = (func.count().label("tally"), func.min(tasks.c.task_id).label("task_id"))
    query = select(*alike, *counts, func.max(tasks.c.has_stderr).label("has_stderr"))
    return session.execute(query.group_by(*alike).order_by(*alike)).all()
