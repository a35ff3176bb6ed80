"""A checked request becomes a QUEUED run, in one transaction. Knows nothing of HTTP or of providers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.errors import KeyReused
from app.models import Attachment, RunEvent, RunTag, WorkflowRun
from app.runs import counts
from app.states import State


@dataclass(frozen=True, slots=True)
class NewAttachment:
    """A file already in artifact storage."""

    path: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class NewRun:
    """A request that was checked and routed. `run_id` is made by the caller, so that a lost COMMIT can be looked up."""

    run_id: str
    owner: str
    name: str
    provider_type: str
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    workflow_params: dict[str, Any]
    workflow_engine: str | None = None
    workflow_engine_version: str | None = None
    workflow_engine_parameters: dict[str, str | None] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    attachments: tuple[NewAttachment, ...] = ()
    idempotency_key: str | None = None
    parent_id: str | None = None
    step: str | None = None
    shard: int = 0  # of a scattered step
    try_number: int = 1
    reused_from: str | None = None
    note: str = "accepted"  # of the first event

    @property
    def fingerprint(self) -> str:
        """The same for the same request: what an Idempotency-Key is held against."""
        said = [
            self.workflow_type, self.workflow_type_version, self.workflow_url, self.workflow_params,
            self.workflow_engine, self.workflow_engine_version, self.workflow_engine_parameters, self.tags,
            sorted((file.path, file.sha256) for file in self.attachments), self.name,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def accept(session: Session, new: NewRun, now: datetime) -> str:
    """Insert the run, due at once, and return its run_id: an earlier one's where this run_id, its Idempotency-Key or
    its place in a pipeline is taken. So it may be called again when the outcome of a COMMIT is not known.

    Raises KeyReused where the key came with another request. Of two that race, the later one finds the earlier.
    """
    while not _insert_if_new(session, _row(new, now)):
        if earlier := _accepted_before(session, new):
            return earlier
    if new.attachments:
        session.execute(
            insert(Attachment),
            [{"run_id": new.run_id, "path": a.path, "sha256": a.sha256, "size": a.size} for a in new.attachments],
        )
    if new.tags:
        session.execute(
            insert(RunTag), [{"run_id": new.run_id, "key": key, "value": value} for key, value in new.tags.items()]
        )
    counts.appeared(session, new.owner, State.QUEUED)
    by = f"parent {new.parent_id}" if new.parent_id else new.owner
    session.execute(insert(RunEvent).values(run_id=new.run_id, at=now, to_state=State.QUEUED, by=by, note=new.note))
    return new.run_id


def _insert_if_new(session: Session, row: dict[str, Any]) -> bool:
    """False where a unique constraint says that the run is there; waits for another transaction's word on it."""
    insert_into = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    new = insert_into(WorkflowRun).values(row).on_conflict_do_nothing().returning(WorkflowRun.run_id)
    return session.scalar(new) is not None


def _accepted_before(session: Session, new: NewRun) -> str | None:
    """None where it is gone again."""
    run = WorkflowRun
    same = [run.run_id == new.run_id]
    if new.idempotency_key is not None:
        same.append(and_(run.owner == new.owner, run.idempotency_key == new.idempotency_key))
    if new.parent_id is not None:
        place = (run.step == new.step, run.shard == new.shard, run.try_number == new.try_number)
        same.append(and_(run.parent_id == new.parent_id, *place))
    found = session.execute(select(run.run_id, run.idempotency_fingerprint).where(or_(*same))).first()
    if found is None:
        return None
    if new.idempotency_key is not None and found.idempotency_fingerprint != new.fingerprint:
        raise KeyReused(
            f"This Idempotency-Key was used for run {found.run_id} with a different request. Use a new key."
        )
    return str(found.run_id)


def _row(new: NewRun, now: datetime) -> dict[str, Any]:
    copied = (
        "run_id", "owner", "name", "provider_type", "workflow_type", "workflow_type_version", "workflow_url",
        "workflow_params", "workflow_engine", "workflow_engine_version", "workflow_engine_parameters", "tags",
        "idempotency_key", "parent_id", "step", "shard", "try_number", "reused_from",
    )  # fmt: skip
    return {name: getattr(new, name) for name in copied} | {
        "state": State.QUEUED,
        "submitted_at": now,
        "due_at": now,
        "idempotency_fingerprint": new.fingerprint if new.idempotency_key else None,
        "provider_metadata": {},
    }
