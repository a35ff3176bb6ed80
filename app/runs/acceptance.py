"""A checked request becomes a QUEUED run, in one transaction. Knows nothing of HTTP or of providers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.errors import KeyReused
from app.models import Attachment, RunEvent, RunTag, WorkflowRun
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
    shard: int | None = None
    try_number: int | None = None
    reused_from: str | None = None

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
    """Insert the run, due at once, and return its run_id: an earlier one where the Idempotency-Key came before.

    Raises KeyReused where that key came with another request. A race of two equal keys ends in an IntegrityError for
    the later one; calling again then finds the winner.
    """
    if earlier := _accepted_before(session, new):
        return earlier
    session.execute(insert(WorkflowRun).values(_row(new, now)))
    if new.attachments:
        session.execute(
            insert(Attachment),
            [{"run_id": new.run_id, "path": a.path, "sha256": a.sha256, "size": a.size} for a in new.attachments],
        )
    if new.tags:
        session.execute(
            insert(RunTag), [{"run_id": new.run_id, "key": key, "value": value} for key, value in new.tags.items()]
        )
    by = f"parent {new.parent_id}" if new.parent_id else new.owner
    session.execute(insert(RunEvent).values(run_id=new.run_id, at=now, to_state=State.QUEUED, by=by, note="accepted"))
    return new.run_id


def _accepted_before(session: Session, new: NewRun) -> str | None:
    if new.idempotency_key is None:
        return None
    found = session.execute(
        select(WorkflowRun.run_id, WorkflowRun.idempotency_fingerprint).where(
            WorkflowRun.owner == new.owner, WorkflowRun.idempotency_key == new.idempotency_key
        )
    ).one_or_none()
    if found is None:
        return None
    if found.idempotency_fingerprint != new.fingerprint:
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
