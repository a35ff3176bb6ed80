"""The steps of pipelines, which are runs: accepted while their parent lives, read together, cancelled together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session, defer

from app.models import TaskLog, WorkflowRun
from app.runs import acceptance, transitions
from app.runs.acceptance import NewRun
from app.runs.transitions import End
from app.states import TERMINAL, Actor, State

_ORDER = (WorkflowRun.submitted_at, WorkflowRun.step, WorkflowRun.shard, WorkflowRun.try_number)
_STEP = select(WorkflowRun.run_id, WorkflowRun.step, WorkflowRun.shard, WorkflowRun.try_number, WorkflowRun.state)
_BATCH = 500

StepRow = Row[str, str | None, int, int, State]
"""(run_id, step, shard, try_number, state)"""


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step to be accepted. `end`: it is over at once, reused from an earlier run or refused."""

    run: NewRun
    end: End | None = None


def accept_steps(session: Session, parent_id: str, steps: Iterable[NewStep], now: datetime) -> bool:
    """Accept them all, each once however often this is called; False where the parent is to end or has ended."""
    state = select(WorkflowRun.state).where(WorkflowRun.run_id == parent_id)
    if session.scalar(state.with_for_update(key_share=True)) in {None, State.CANCELING, *TERMINAL}:
        return False
    for step in steps:
        accepted = acceptance.accept(session, step.run, now)
        if step.end is not None:
            transitions.end_at_once(session, accepted, step.end, now, by=f"parent {parent_id}")
    return True


def state_of(session: Session, run_id: str) -> State | None:
    """A pipeline's state."""
    state = session.scalar(select(WorkflowRun.state).where(WorkflowRun.run_id == run_id))
    return None if state is None else State(state)


def parent_of_steps(session: Session, run_id: str) -> WorkflowRun:
    """A pipeline without what may be large of it: reading its parameters, outputs or request raises."""
    large = (WorkflowRun.workflow_params, WorkflowRun.outputs, WorkflowRun.submit_request)
    options = [defer(column, raiseload=True) for column in large]
    return session.scalars(select(WorkflowRun).options(*options).where(WorkflowRun.run_id == run_id)).one()


def place_of(session: Session, parent_id: str, run_id: str) -> tuple[str, int] | None:
    """Which step and which shard of this pipeline a run is; None where it is none of them."""
    query = select(WorkflowRun.step, WorkflowRun.shard)
    row = session.execute(query.where(WorkflowRun.run_id == run_id, WorkflowRun.parent_id == parent_id)).one_or_none()
    return None if row is None else (str(row.step), int(row.shard))


def count_steps(session: Session, parent_id: str) -> int:
    """How many runs of steps a pipeline has; an index knows."""
    return session.scalar(select(func.count()).where(WorkflowRun.parent_id == parent_id)) or 0


def steps_of(session: Session, parent_id: str) -> Sequence[StepRow]:
    """Every run of a step."""
    return session.execute(_STEP.where(WorkflowRun.parent_id == parent_id)).all()


def steps_named(session: Session, run_ids: Collection[str]) -> Sequence[StepRow]:
    """These runs of steps."""
    return [row for some in _batches(run_ids) for row in session.execute(_STEP.where(WorkflowRun.run_id.in_(some)))]


def runs_of(session: Session, parent_id: str) -> Sequence[WorkflowRun]:
    """Every run of a step, in the order in which they were accepted."""
    return session.scalars(select(WorkflowRun).where(WorkflowRun.parent_id == parent_id).order_by(*_ORDER)).all()


def values_of(session: Session, run_ids: Collection[str]) -> dict[str, tuple[dict[str, Any], dict[str, Any] | None]]:
    """run_id -> (parameters, outputs)."""
    query = select(WorkflowRun.run_id, WorkflowRun.workflow_params, WorkflowRun.outputs)
    return {
        row.run_id: (row.workflow_params, row.outputs)
        for some in _batches(run_ids)
        for row in session.execute(query.where(WorkflowRun.run_id.in_(some)))
    }


def completed_step(session: Session, parent_id: str, step: str, shard: int) -> WorkflowRun | None:
    """The run with which this step of a pipeline succeeded."""
    run = WorkflowRun
    query = select(run).where(run.parent_id == parent_id, run.step == step, run.shard == shard)
    return session.scalars(query.where(run.state == State.COMPLETE)).first()


def cancel_steps(session: Session, parent_id: str, now: datetime) -> list[str]:
    """Cancel what runs; returns the provider types concerned."""
    query = select(WorkflowRun.run_id, WorkflowRun.provider_type).where(WorkflowRun.parent_id == parent_id)
    living = session.execute(query.where(WorkflowRun.state.not_in({*TERMINAL, State.CANCELING}))).all()
    for row in living:
        transitions.cancel(session, row.run_id, now, by=f"parent {parent_id}", actor=Actor.PARENT)
    return sorted({row.provider_type for row in living})


def tasks_of(session: Session, parent_id: str, after: int = -1, limit: int | None = None) -> list[TaskLog]:
    """The runs of the steps as tasks, in the order in which they were accepted. `position` counts from 0."""
    query = select(WorkflowRun).where(WorkflowRun.parent_id == parent_id).order_by(*_ORDER)
    runs = session.scalars(query.offset(after + 1).limit(limit)).all()
    return [_task(run, position) for position, run in enumerate(runs, after + 1)]


def task_of(session: Session, parent_id: str, run_id: str) -> TaskLog | None:
    """One step's run as a task."""
    run = session.get(WorkflowRun, run_id)
    return _task(run, 0) if run is not None and run.parent_id == parent_id else None


def failed_task_of(session: Session, parent_id: str) -> TaskLog | None:
    """The first step's run that failed."""
    failed = WorkflowRun.state.in_({State.EXECUTOR_ERROR, State.SYSTEM_ERROR})
    query = select(WorkflowRun).where(WorkflowRun.parent_id == parent_id, failed)
    run = session.scalars(query.order_by(WorkflowRun.end_time).limit(1)).first()
    return _task(run, 0) if run is not None else None


def task_name(run: WorkflowRun) -> str:
    """`align`, `align[7]` where it is scattered, `align[7] try 2`."""
    shard = f"[{run.shard}]" if run.shard or run.name.endswith("]") else ""
    return f"{run.step}{shard}" + (f" try {run.try_number}" if run.try_number > 1 else "")


def _batches(run_ids: Collection[str]) -> Iterator[list[str]]:
    """Few enough for the parameters of one statement."""
    ids = list(run_ids)
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _task(run: WorkflowRun, position: int) -> TaskLog:
    said = [str(run.state), *([run.waiting_for] if run.waiting_for else [])]
    return TaskLog(
        run_id=run.parent_id,
        task_id=run.run_id,
        position=position,
        name=task_name(run),
        cmd=run.cmd or [],
        start_time=run.start_time,
        end_time=run.end_time,
        exit_code=run.exit_code,
        system_logs=said + ([run.error_message] if run.error_message else []),
        has_stdout=True,
        has_stderr=True,
    )
