"""How the steps of stored pipelines stand, worked out from their rows: for whoever shows them and for the daemon."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.dag.document import Document
from app.dag.pipeline import Pipeline
from app.dag.planning import Outlook, StepRun, look
from app.models import WorkflowRun
from app.runs import pipelines
from app.states import State


def read_step_runs(
    session: Session, run_id: str, ended: Collection[str] = (), living: Collection[str] = ()
) -> dict[str, StepRun]:
    """Run id -> run of a step, without those of `ended`; parameters and outputs only of those that are COMPLETE.

    `living`: the others that the caller knows of. Where there are no more, only they are read.
    """
    if (ended or living) and pipelines.count_steps(session, run_id) == len(ended) + len(living):
        rows = pipelines.steps_named(session, living)
    else:
        rows = [row for row in pipelines.steps_of(session, run_id) if row.run_id not in ended]
    values = pipelines.values_of(session, [row.run_id for row in rows if row.state == State.COMPLETE])
    return {
        row.run_id: StepRun(
            row.step or "", row.shard, row.try_number, State(row.state), *values.get(row.run_id, ({}, None))
        )
        for row in rows
    }


def stored_pipeline(request: Mapping[str, Any]) -> Pipeline:
    """The pipeline that the daemon checked and kept with the run when it took it."""
    return Pipeline(Document.model_validate(request["document"]), request["sheets"])


def read_outlook(session: Session, run: WorkflowRun) -> Outlook | None:
    """How every step of a pipeline stands; None where no daemon has taken it yet. Nothing begins."""
    if not run.submit_request or "document" not in run.submit_request:
        return None
    canceling = run.state in (State.CANCELING, State.CANCELED)
    steps = read_step_runs(session, run.run_id).values()
    return look(stored_pipeline(run.submit_request), steps, 0, canceling=canceling)
