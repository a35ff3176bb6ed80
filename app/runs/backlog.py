"""Runs that are not over, by provider and state: what it costs grows with those alone, not with what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import IS_KNOWN, IS_QUEUED, WorkflowRun
from app.states import State


@dataclass(frozen=True, slots=True)
class Waiting:
    """The runs of one provider in one state."""

    provider: str
    state: State
    runs: int
    steps: int  # how many of them are steps of pipelines
    oldest: datetime  # when the first of them was submitted


def read_backlog(session: Session) -> Sequence[Waiting]:
    """One entry for each provider and state that any living run has."""
    run = WorkflowRun
    query = select(
        run.provider_type, run.state, func.count(), func.count(run.parent_id), func.min(run.submitted_at)
    ).group_by(run.provider_type, run.state)
    rows = [row for living in (IS_QUEUED, IS_KNOWN) for row in session.execute(query.where(living)).all()]
    return [Waiting(provider, State(state), runs, steps, oldest) for provider, state, runs, steps, oldest in rows]
