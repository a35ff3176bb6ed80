"""Short ways to put runs into a database and to look at them. Knows `app.runs`, no fixture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import select

from app.database import Database
from app.models import RunEvent, WorkflowRun
from app.runs import acceptance, claims, transitions
from app.runs.acceptance import NewRun
from app.runs.claims import Claimant, ClaimedRun
from app.states import State

LEASE = timedelta(seconds=60)


def new_run(**changes: Any) -> NewRun:
    """A request that says no more than it must."""
    usual: dict[str, Any] = {
        "run_id": str(uuid4()),
        "owner": "ann",
        "name": "hello",
        "provider_type": "local",
        "workflow_type": "CWL",
        "workflow_type_version": "v1.2",
        "workflow_url": "hello.cwl",
        "workflow_params": {"who": "world"},
    }
    return NewRun(**usual | changes)


def accept(database: Database, now: datetime, **changes: Any) -> str:
    new = new_run(**changes)
    return database.transact(lambda session: acceptance.accept(session, new, now))


def who(token: str = "daemon:1", host: str = "here", provider: str = "local", lease: timedelta = LEASE) -> Claimant:
    return Claimant(provider, host, token, lease)


def claim_new(database: Database, now: datetime, claimant: Claimant | None = None, limit: int = 10) -> list[ClaimedRun]:
    return database.transact(lambda session: claims.claim_new(session, claimant or who(), now, limit))


def claim_known(
    database: Database, now: datetime, claimant: Claimant | None = None, limit: int = 10
) -> list[ClaimedRun]:
    return database.transact(lambda session: claims.claim_known(session, claimant or who(), now, limit))


def release(database: Database, run: ClaimedRun, now: datetime, seconds: float = 0, **how: Any) -> int:
    delay = timedelta(seconds=seconds)
    return database.transact(lambda session: claims.release(session, run.claim, [run.run_id], now, delay, **how))


def move(database: Database, run: ClaimedRun, to: State, now: datetime, **values: Any) -> bool:
    return database.transact(lambda session: transitions.move(session, run, to, now, by="daemon", **values))


def row(database: Database, run_id: str) -> WorkflowRun:
    with database.reading() as session:
        return session.get_one(WorkflowRun, run_id)


def events(database: Database, run_id: str) -> Sequence[RunEvent]:
    with database.reading() as session:
        return session.scalars(select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.id)).all()


def changes(database: Database, run_id: str) -> list[tuple[str | None, str | None]]:
    """The state changes in a run's history."""
    return [(event.from_state, event.to_state) for event in events(database, run_id) if event.to_state]


def bring_to(
    database: Database, state: State, now: datetime, claimant: Claimant | None = None, **new: Any
) -> WorkflowRun:
    """A new run in any state, reached by allowed moves. One that has not ended comes back claimed, any other as it is."""
    run_id = accept(database, now, **new)
    if state == State.CANCELED:
        database.transact(lambda session: transitions.cancel(session, run_id, now, by="ann"))
        return row(database, run_id)
    (run,) = [run for run in claim_new(database, now, claimant, 10_000) if run.run_id == run_id]
    if state == State.QUEUED:
        return run
    assert move(database, run, State.INITIALIZING, now)
    if state == State.CANCELING:
        database.transact(lambda session: transitions.cancel(session, run_id, now, by="ann"))
        return row(database, run_id)
    if state in (State.RUNNING, State.PAUSED):
        assert move(database, run, state, now)
    elif state != State.INITIALIZING:
        end = transitions.End(state, "over", reason="because" if state == State.SYSTEM_ERROR else None)
        assert database.transact(lambda session: transitions.finish(session, run, end, now, by="daemon"))
        return row(database, run_id)
    return run
