"""The tables: columns, constraints and indexes. No behaviour; every change of `state` is made by `app/runs`.

`due_at` with `claim` is queue, lease, poll timer and back-off in one: a run is due when `due_at` has come, and
claimed while `claim` is set. `hints` counts wakes since the claim was taken (docs/decisions/0003).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry

from app.database import Prose, UtcDateTime
from app.states import TERMINAL, State


def _words(states: Any) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


IS_QUEUED = text("state = 'QUEUED'")
IS_KNOWN = text("state <> 'QUEUED' AND due_at IS NOT NULL")
IS_LISTED = text("step IS NULL")
"""Written out, without parameters: SQLite uses a partial index only where the query repeats its condition.

A run is listed that is no step. (By parent_id SQLite would go by the index that begins with it, and sort.)
"""

_LISTED: dict[str, Any] = {"sqlite_where": IS_LISTED, "postgresql_where": IS_LISTED}
_Id = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True)


class Base(DeclarativeBase):
    """All tables share this metadata; constraint names are fixed so that migrations can name them."""

    registry = registry(
        metadata=MetaData(
            naming_convention={
                "ix": "ix_%(table_name)s_%(column_0_N_name)s",
                "uq": "uq_%(table_name)s_%(column_0_N_name)s",
                "ck": "ck_%(table_name)s_%(constraint_name)s",
                "fk": "fk_%(table_name)s_%(column_0_name)s",
                "pk": "pk_%(table_name)s",
            }
        ),
        type_annotation_map={datetime: UtcDateTime, dict[str, Any]: _Json, list[str]: _Json},
    )


class WorkflowRun(Base):
    """One accepted request and all that became of it."""

    __tablename__ = "workflow_runs"

    run_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[State] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(255))

    # The request, as it is echoed
    workflow_type: Mapped[str] = mapped_column(String(32))
    workflow_type_version: Mapped[str] = mapped_column(String(32))
    workflow_url: Mapped[str] = mapped_column(Text)
    workflow_params: Mapped[dict[str, Any]]
    workflow_engine: Mapped[str | None] = mapped_column(String(64))
    workflow_engine_version: Mapped[str | None] = mapped_column(String(64))
    workflow_engine_parameters: Mapped[dict[str, Any]]
    tags: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_fingerprint: Mapped[str | None] = mapped_column(String(64))

    # When
    submitted_at: Mapped[datetime]
    processed_at: Mapped[datetime | None]  # the provider accepted it
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]

    # Where
    provider_type: Mapped[str] = mapped_column(String(32))
    provider_id: Mapped[str | None] = mapped_column(String(255))
    provider_status: Mapped[str | None] = mapped_column(Prose)
    provider_metadata: Mapped[dict[str, Any]] = mapped_column(default=dict)
    host: Mapped[str | None] = mapped_column(String(36))
    submit_key: Mapped[str | None] = mapped_column(String(128))
    submit_request: Mapped[dict[str, Any] | None]
    submit_sent_at: Mapped[datetime | None]  # the latest time at which a submit was about to be sent
    attempt: Mapped[int] = mapped_column(default=0)  # submits so far

    # What came out
    cmd: Mapped[list[str] | None]
    exit_code: Mapped[int | None]
    outputs: Mapped[dict[str, Any] | None]
    error_message: Mapped[str | None] = mapped_column(Prose)

    # The queue
    due_at: Mapped[datetime | None]
    claim: Mapped[str | None] = mapped_column(String(64))
    hints: Mapped[int] = mapped_column(default=0)
    unreleased_claims: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)  # of this service, in a row
    refusals: Mapped[int] = mapped_column(default=0, server_default="0")  # of its outputs, definite ones in a row
    misses: Mapped[int] = mapped_column(default=0, server_default="0")  # looks in a row that found no such run
    missing_since: Mapped[datetime | None]  # the provider has not known it since
    observed_at: Mapped[datetime | None]  # when the provider was last heard of it
    waiting_for: Mapped[str | None] = mapped_column(Prose)  # why nothing happens now, in plain words
    log_wanted_at: Mapped[datetime | None]

    # Pipelines of runs
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("workflow_runs.run_id"))
    step: Mapped[str | None] = mapped_column(String(255))
    shard: Mapped[int] = mapped_column(default=0)  # never NULL: a unique constraint would not see it
    try_number: Mapped[int] = mapped_column("try", default=1)
    reused_from: Mapped[str | None] = mapped_column(String(36))

    __table_args__ = (
        CheckConstraint(f"state IN ({_words(State)})", name="state"),
        CheckConstraint(f"(due_at IS NULL) = (state IN ({_words(TERMINAL)}))", name="due"),
        UniqueConstraint("provider_type", "provider_id"),
        UniqueConstraint("parent_id", "step", "shard", "try"),
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_workflow_runs_new", "provider_type", "due_at", sqlite_where=IS_QUEUED, postgresql_where=IS_QUEUED),
        Index("ix_workflow_runs_known", "provider_type", "due_at", sqlite_where=IS_KNOWN, postgresql_where=IS_KNOWN),
        *(
            Index(f"ix_workflow_runs_listed{name}", *columns, "submitted_at", "run_id", **_LISTED)
            for name, columns in {"": (), "_owner": ("owner",), "_owner_state": ("owner", "state")}.items()
        ),
    )


class RunEvent(Base):
    """One line of a run's history: every state change and notable fact, written with what it tells of."""

    __tablename__ = "run_events"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey(WorkflowRun.run_id, ondelete="CASCADE"), index=True)
    at: Mapped[datetime]
    from_state: Mapped[State | None] = mapped_column(String(16))
    to_state: Mapped[State | None] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(255))
    note: Mapped[str | None] = mapped_column(Prose)


class TaskLog(Base):
    """A step that the provider reported. `position` is the order in which the steps began."""

    __tablename__ = "task_logs"

    run_id: Mapped[str] = mapped_column(ForeignKey(WorkflowRun.run_id, ondelete="CASCADE"), primary_key=True)
    task_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[int]
    name: Mapped[str] = mapped_column(Prose)
    cmd: Mapped[list[str]]
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    system_logs: Mapped[list[str]]
    has_stdout: Mapped[bool]
    has_stderr: Mapped[bool]

    __table_args__ = (Index(None, "run_id", "position"),)


class Attachment(Base):
    """A file of the request; its bytes lie in artifact storage under their hash."""

    __tablename__ = "attachments"

    run_id: Mapped[str] = mapped_column(ForeignKey(WorkflowRun.run_id, ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


class RunTag(Base):
    """A tag of a run, for filters; `WorkflowRun.tags` is what is shown."""

    __tablename__ = "run_tags"

    run_id: Mapped[str] = mapped_column(ForeignKey(WorkflowRun.run_id, ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(String(1024))

    __table_args__ = (Index(None, "key", "value", "run_id"),)


class RunCount(Base):
    """Changes of how many runs an owner has in a state; the count is the sum of `n` (app/runs/counts.py)."""

    __tablename__ = "run_counts"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    state: Mapped[State] = mapped_column(String(16))
    n: Mapped[int]

    __table_args__ = (Index(None, "owner", "state"),)


class RunCredential(Base):
    """A secret that came with a root run, encrypted; the row goes when that run has ended. See `app/credentials.py`."""

    __tablename__ = "run_credentials"

    root_run_id: Mapped[str] = mapped_column(ForeignKey(WorkflowRun.run_id, ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret: Mapped[str] = mapped_column(Text)


class OwedCancel(Base):
    """A provider run that is one too many and has to be ended there. It outlives the end of its run, and its row."""

    __tablename__ = "owed_cancels"

    provider_type: Mapped[str] = mapped_column(String(32), primary_key=True)
    provider_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(36), index=True)
    host: Mapped[str | None] = mapped_column(String(36))  # where it runs, if only a daemon there can end it
    since: Mapped[datetime]
    due_at: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0)


class Daemon(Base):
    """A daemon process that was seen alive, and what is really installed where it runs."""

    __tablename__ = "daemons"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    host: Mapped[str] = mapped_column(String(36), index=True)
    hostname: Mapped[str] = mapped_column(String(255))
    version: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime]
    last_seen: Mapped[datetime]
    stopped_at: Mapped[datetime | None]  # it stopped in good order
    offers: Mapped[dict[str, Any]]  # provider -> {"engines": […], "capabilities": {…}, "problem": str | None}


RUNS, EVENTS, TASKS, ATTACHMENTS, TAGS, COUNTS = (
    Base.metadata.tables[model.__tablename__]
    for model in (WorkflowRun, RunEvent, TaskLog, Attachment, RunTag, RunCount)
)
"""For what is done for every run: the ORM's statements cost more to make than to run."""
