"""Provider runs that are one too many: kept until their provider says that they are over. Knows no provider.

A row outlives the end of its run, and every daemon. Taken, it is nobody else's for a lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from app import credentials
from app.models import OwedCancel, RunEvent, WorkflowRun


def owe(session: Session, run_id: str, provider: str, provider_id: str, host: str | None, now: datetime) -> None:
    """A cancel of this provider run is owed from now on; said again it changes nothing. `host`: who alone can do it."""
    if session.get(OwedCancel, (provider, provider_id)) is None:
        session.add(
            OwedCancel(provider_type=provider, provider_id=provider_id, run_id=run_id, host=host, since=now, due_at=now)
        )


def is_due(provider: Any, host: Any, now: Any) -> ColumnElement[bool]:
    """A condition on OwedCancel; each argument is a value or a bound parameter."""
    here = or_(OwedCancel.host.is_(None), OwedCancel.host == host)
    return and_(OwedCancel.provider_type == provider, here, OwedCancel.due_at <= now)


def take_due(
    session: Session, provider: str, host: str, now: datetime, lease: timedelta, limit: int
) -> Sequence[OwedCancel]:
    """Some that nobody else takes for a lease from now on. Each counts one more try."""
    due = select(OwedCancel).where(is_due(provider, host, now)).limit(limit)
    taken = session.scalars(due.with_for_update(skip_locked=True)).all()
    for owed in taken:
        owed.due_at, owed.tries = now + lease, owed.tries + 1
    return taken


def put_off(session: Session, owed: OwedCancel, until: datetime) -> None:
    """The next try is made then."""
    session.execute(update(OwedCancel).where(*_same(owed)).values(due_at=until))


def settle(session: Session, owed: OwedCancel, now: datetime) -> None:
    """It is over at the provider: the run's history says so, and what was kept for its sake may go."""
    session.execute(delete(OwedCancel).where(*_same(owed)))
    run = session.get(WorkflowRun, owed.run_id)
    if run is not None:
        words = f"the second provider run {owed.provider_id} is over"
        session.add(RunEvent(run_id=run.run_id, at=now, by="daemon", note=words))
        credentials.wipe(session, run.parent_id or run.run_id)


def _same(owed: OwedCancel) -> tuple[ColumnElement[bool], ...]:
    return (OwedCancel.provider_type == owed.provider_type, OwedCancel.provider_id == owed.provider_id)
