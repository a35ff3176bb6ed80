"""Rows of ended runs go; their files go later, by a sweep of artifact storage."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.models import OwedCancel, WorkflowRun
from app.runs import counts
from app.states import is_terminal


def delete_run(session: Session, run_id: str, owner: str | None) -> list[str]:
    """Remove an ended run with its events, tasks, attachments and tags; its Idempotency-Key is free again.

    Returns the run ids that are gone: this one and those of its steps. Raises NotFound, and Conflict where the run has
    not ended, is a step of another, or was started twice and the second is not over: that may need its credentials.
    """
    run = session.get(WorkflowRun, run_id, with_for_update=True)
    if run is None or (owner is not None and run.owner != owner):
        raise NotFound(f"There is no run {run_id!r}.")
    if not is_terminal(run.state):
        raise Conflict(f"Run {run_id} is {run.state}. Cancel it, or wait for its end, before deleting it.")
    if run.parent_id is not None:
        raise Conflict(f"Run {run_id} is a step of run {run.parent_id}. Delete that run.")
    if second := session.scalar(select(OwedCancel.provider_id).where(OwedCancel.run_id == run_id).limit(1)):
        raise Conflict(f"Run {run_id} was started twice, and {second} is still being cancelled. Delete it after that.")
    gone = [run_id]
    for child in session.scalars(select(WorkflowRun.run_id).where(WorkflowRun.parent_id == run_id)).all():
        session.execute(update(WorkflowRun).where(WorkflowRun.run_id == child).values(parent_id=None))
        gone += delete_run(session, child, None)
    session.execute(delete(WorkflowRun).where(WorkflowRun.run_id == run_id))
    counts.disappeared(session, run.owner, run.state)
    return gone
