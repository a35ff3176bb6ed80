"""A checked request becomes a QUEUED run, in one transaction. Knows nothing of HTTP or of providers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Table, and_, or_, select
from sqlalchemy.orm import Session

from app.database import dump_json
from app.errors import KeyReused
from app.models import ATTACHMENTS, EVENTS, TAGS, WorkflowRun
from app.runs import news
from app.runs.insertion import Insert, insert_at_once, insert_new
from app.states import State

SMALL_CHARACTERS, SMALL_PARTS = 64 * 1024, 100


@dataclass(frozen=True, slots=True)
class AttachedFile:
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
    attachments: tuple[AttachedFile, ...] = ()
    idempotency_key: str | None = None
    parent_id: str | None = None
    step: str | None = None
    shard: int = 0  # of a scattered step
    try_number: int = 1
    reused_from: str | None = None
    note: str = "accepted"  # of the first event

    @property
    def is_reused_step(self) -> bool:
        """A step that an earlier run did: nothing is begun for it."""
        return self.parent_id is not None and self.reused_from is not None

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
    while not _insert(session, [new], now, insert_new):
        if earlier := _accepted_before(session, new):
            return earlier
    return new.run_id


def accept_new(session: Session, runs: Sequence[NewRun], now: datetime) -> set[str]:
    """As `accept` does each that is new, with hardly more work than for one; on PostgreSQL in a single statement.

    Returns their run_ids. What became of the others, `accept` tells.
    """
    return _insert(
        session, runs, now, insert_at_once if session.get_bind().dialect.name == "postgresql" else insert_new
    )


def is_small(new: NewRun) -> bool:
    """It may share a transaction: nobody waits there for what is large, and PostgreSQL's 65,535 values are enough."""
    if len(new.attachments) + len(new.tags) > SMALL_PARTS:
        return False
    names = [file.path for file in new.attachments]
    return len(dump_json([new.workflow_params, new.workflow_engine_parameters, new.tags, names])) <= SMALL_CHARACTERS


def _insert(session: Session, runs: Sequence[NewRun], now: datetime, insert: Insert) -> set[str]:
    parts: dict[Table, list[dict[str, Any]]] = {
        ATTACHMENTS: [
            {"run_id": new.run_id, "path": file.path, "sha256": file.sha256, "size": file.size}
            for new in runs
            for file in new.attachments
        ],
        TAGS: [{"run_id": new.run_id, "key": key, "value": value} for new in runs for key, value in new.tags.items()],
        EVENTS: [
            {"run_id": new.run_id, "at": now, "to_state": State.QUEUED, "by": _author(new), "note": new.note}
            for new in runs
        ],
    }
    accepted = insert(session, [_row(new, now) for new in runs], parts)
    for new in runs:
        if new.run_id in accepted:
            news.note(session, new.run_id)
            if not new.is_reused_step:
                news.note_accepted(session, new)
    return accepted


def _author(new: NewRun) -> str:
    return f"parent {new.parent_id}" if new.parent_id else new.owner


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


_COPIED = (
    "run_id", "owner", "name", "provider_type", "workflow_type", "workflow_type_version", "workflow_url",
    "workflow_params", "workflow_engine", "workflow_engine_version", "workflow_engine_parameters", "tags",
    "idempotency_key", "parent_id", "step", "shard", "reused_from",
)  # fmt: skip
"""Columns that are called as the request's fields are."""


def _row(new: NewRun, now: datetime) -> dict[str, Any]:
    return {name: getattr(new, name) for name in _COPIED} | {
        "try": new.try_number,
        "state": State.QUEUED,
        "submitted_at": now,
        "due_at": now,
        "idempotency_fingerprint": new.fingerprint if new.idempotency_key else None,
    }
