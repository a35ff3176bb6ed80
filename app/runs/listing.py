"""What is stored, read: pages newest first, one run with its parts, counts. Changes nothing.

`owner` is part of every query: None means all owners, and only an administrator's code passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Select, Tuple, bindparam, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session, defer

from app.database import UtcDateTime
from app.errors import NotFound
from app.models import ATTACHMENTS, IS_LISTED, RUNS, Attachment, RunEvent, RunTag, TaskLog, WorkflowRun
from app.runs import pipelines
from app.runs.acceptance import AttachedFile
from app.states import TERMINAL, State

_TAKE_NO_ATTACHMENTS = frozenset({"bvbrc"})
_Query = TypeVar("_Query", bound=Select[Any])

Cursor = tuple[datetime, str]
"""(submitted_at, run_id) of the last run of a page; the next page begins after it."""


_NOT_LISTED = [
    defer(column, raiseload=True)
    for column in (
        WorkflowRun.workflow_params,
        WorkflowRun.workflow_engine_parameters,
        WorkflowRun.outputs,
        WorkflowRun.submit_request,
    )
]
"""Columns that may be megabytes long: pages do not read them."""
_SUMMARY = (
    WorkflowRun.run_id,
    WorkflowRun.state,
    WorkflowRun.name,
    WorkflowRun.submitted_at,
    WorkflowRun.start_time,
    WorkflowRun.end_time,
    WorkflowRun.tags,
)

_STATE = select(RUNS.c.state, RUNS.c.owner).where(RUNS.c.run_id == bindparam("run_id"))
"""What is asked most, made once: making a statement costs more than running it."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; an empty field filters nothing. `name` may hold `*`; upper and lower case are the same in it.

    Steps of pipelines are found only by `parent`, their pipeline: a list that had them would have little else.
    """

    states: tuple[State, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    name: str | None = None
    workflow_type: str | None = None
    workflow_url: str | None = None
    provider: str | None = None
    user: str | None = None
    parent: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, and where the next page begins (None at the end)."""

    runs: Sequence[WorkflowRun]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class RunParts:
    """A run with its history and steps."""

    run: WorkflowRun
    events: Sequence[RunEvent] = field(default_factory=tuple)
    tasks: Sequence[TaskLog] = field(default_factory=tuple)


def get_run(session: Session, run_id: str, owner: str | None) -> WorkflowRun:
    """Raises NotFound for an unknown id and for another owner's run alike."""
    run = session.get(WorkflowRun, run_id)
    if run is None or (owner is not None and run.owner != owner):
        raise NotFound(f"There is no run {run_id!r}.")
    return run


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is: columns of WorkflowRun."""

    provider_type: str
    provider_id: str | None
    processed_at: datetime | None
    parent_id: str | None
    step: str | None


_PLACE = select(*(RUNS.c[column.name] for column in fields(RunPlace))).where(RUNS.c.run_id == bindparam("run_id"))


def get_place(session: Session, run_id: str) -> RunPlace | None:
    """None where there is no such run."""
    found = session.connection().execute(_PLACE, {"run_id": run_id}).one_or_none()
    return RunPlace(*found) if found else None


_REQUEST = select(RUNS.c.workflow_params, RUNS.c.submit_request).where(RUNS.c.run_id == bindparam("run_id"))


def get_request(session: Session, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What may be large of a run to be submitted: its workflow_params, and what its provider prepared, {} if nothing.

    Raises NotFound.
    """
    found = session.connection().execute(_REQUEST, {"run_id": run_id}).one_or_none()
    if found is None:
        raise NotFound(f"There is no run {run_id!r}.")
    return found.workflow_params, found.submit_request or {}


def ended_lately(session: Session, events: int) -> list[str]:
    """The runs that are over, of those of which the last so many events tell."""
    recent = select(RunEvent.run_id).order_by(RunEvent.id.desc()).limit(events).subquery()
    named = WorkflowRun.run_id.in_(select(recent.c.run_id))
    return list(session.scalars(select(WorkflowRun.run_id).where(named, WorkflowRun.due_at.is_(None))))


def get_state(session: Session, run_id: str, owner: str | None) -> State:
    """The state alone. Raises NotFound as get_run does."""
    found = session.execute(_STATE, {"run_id": run_id}).one_or_none()
    if found is None or (owner is not None and found.owner != owner):
        raise NotFound(f"There is no run {run_id!r}.")
    return State(found.state)


def get_events(session: Session, run_id: str, after: int = 0) -> Sequence[RunEvent]:
    """The run's history, oldest first, from the one after the event with that id."""
    query = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.id > after)
    return session.scalars(query.order_by(RunEvent.id)).all()


def get_tasks(session: Session, run_id: str, after: int = -1, limit: int | None = None) -> Sequence[TaskLog]:
    """Steps in the order in which they began, from the one after position `after`; a pipeline's are runs."""
    query = select(TaskLog).where(TaskLog.run_id == run_id, TaskLog.position > after).order_by(TaskLog.position)
    return session.scalars(query.limit(limit)).all() or pipelines.tasks_of(session, run_id, after, limit)


def get_task(session: Session, run_id: str, task_id: str) -> TaskLog:
    """Raises NotFound."""
    task = session.get(TaskLog, (run_id, task_id)) or pipelines.task_of(session, run_id, task_id)
    if task is None:
        raise NotFound(f"Run {run_id} has no task {task_id!r}.")
    return task


def get_failed_task(session: Session, run_id: str) -> TaskLog | None:
    """The first step that ended with an exit code other than 0."""
    failed = (TaskLog.run_id == run_id, TaskLog.exit_code.is_not(None), TaskLog.exit_code != 0)
    task = session.scalars(select(TaskLog).where(*failed).order_by(TaskLog.position).limit(1)).first()
    return task or pipelines.failed_task_of(session, run_id)


_FILE = ATTACHMENTS.c
_THIS: BindParameter[str] = bindparam("run_id")
_TAKING_PARENT = (
    select(RUNS.c.parent_id)
    .where(RUNS.c.run_id == _THIS, RUNS.c.provider_type.not_in(_TAKE_NO_ATTACHMENTS))
    .scalar_subquery()
)
_ANY_FILES = select(_FILE.path, _FILE.sha256, _FILE.size).order_by(_FILE.path, _FILE.run_id == _THIS)
_OWN_FILES = _ANY_FILES.where(_FILE.run_id == _THIS)
_FILES = _ANY_FILES.where(or_(_FILE.run_id == _THIS, _FILE.run_id == _TAKING_PARENT))


def get_attachments(session: Session, run_id: str) -> list[AttachedFile]:
    """The files of the request, by path; a step has those of its pipeline too, where its provider takes any."""
    return _files(session, _FILES, run_id)


def get_own_attachments(session: Session, run_id: str) -> list[AttachedFile]:
    """The files that are this run's alone, by path."""
    return _files(session, _OWN_FILES, run_id)


def _files(session: Session, query: Select[str, str, int], run_id: str) -> list[AttachedFile]:
    """Of two at the same path the later."""
    found = session.connection().execute(query, {"run_id": run_id})
    return list({path: AttachedFile(path, sha256, size) for path, sha256, size in found}.values())


def list_runs(session: Session, owner: str | None, which: RunFilter, limit: int, after: Cursor | None = None) -> Page:
    """A page of runs, newest first."""
    query = _page_query(select(WorkflowRun).options(*_NOT_LISTED), owner, which, limit, after)
    return _page(session.scalars(query).all(), limit)


def list_summaries(
    session: Session, owner: str | None, which: RunFilter, limit: int, after: Cursor | None = None
) -> Page:
    """As list_runs, but rows of the few columns that RunSummary has: at half the cost."""
    return _page(session.execute(_page_query(select(*_SUMMARY), owner, which, limit, after)).all(), limit)


def list_newer(session: Session, owner: str | None, which: RunFilter, limit: int, before: Cursor) -> Page:
    """The page that ends just before `before`, newest first; `next` is where still newer runs are (None: these are the
    newest)."""
    query = _matching(select(WorkflowRun).options(*_NOT_LISTED), owner, which)
    query = query.where(_row_position > _as_row(before))
    runs = session.scalars(query.order_by(WorkflowRun.submitted_at, WorkflowRun.run_id).limit(limit + 1)).all()
    more = len(runs) > limit
    page = runs[:limit][::-1]
    return Page(page, (page[0].submitted_at, page[0].run_id) if more else None)


def count_runs(session: Session, owner: str | None, which: RunFilter, ceiling: int = 10_000) -> int:
    """How many runs match, at most `ceiling`."""
    some = _matching(select(literal(1)).select_from(WorkflowRun), owner, which).limit(ceiling).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def known_runs(session: Session, run_ids: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Of these run ids: those stored and not ended, and all that are stored."""
    rows = [
        row
        for batch in _batches(run_ids)
        for row in session.execute(select(WorkflowRun.run_id, WorkflowRun.state).where(WorkflowRun.run_id.in_(batch)))
    ]
    return frozenset(row.run_id for row in rows if row.state not in TERMINAL), frozenset(row.run_id for row in rows)


def stored_blobs(session: Session, hashes: Iterable[str]) -> frozenset[str]:
    """Of these content hashes: those that an attachment of any run still has."""
    return frozenset(
        found
        for batch in _batches(hashes)
        for found in session.scalars(select(Attachment.sha256).where(Attachment.sha256.in_(batch)).distinct())
    )


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    """Few enough for the parameters of one statement."""
    rest = iter(values)
    while batch := list(islice(rest, 1000)):
        yield batch


def _page_query(query: _Query, owner: str | None, which: RunFilter, limit: int, after: Cursor | None) -> _Query:
    query = _matching(query, owner, which)
    if after:
        query = query.where(_row_position < _as_row(after))
    return query.order_by(WorkflowRun.submitted_at.desc(), WorkflowRun.run_id.desc()).limit(limit + 1)


def _page(runs: Sequence[Any], limit: int) -> Page:
    more = len(runs) > limit
    return Page(runs[:limit], (runs[limit - 1].submitted_at, runs[limit - 1].run_id) if more else None)


def _matching(query: _Query, owner: str | None, which: RunFilter) -> _Query:
    equal = {
        WorkflowRun.owner: owner,
        WorkflowRun.workflow_type: which.workflow_type,
        WorkflowRun.workflow_url: which.workflow_url,
        WorkflowRun.provider_type: which.provider,
    }
    query = query.where(*(column == value for column, value in equal.items() if value is not None))
    query = query.where(IS_LISTED if which.parent is None else WorkflowRun.parent_id == which.parent)
    if which.user is not None:
        query = query.where(WorkflowRun.owner == which.user)
    if which.states:
        query = query.where(WorkflowRun.state.in_(which.states))
    if which.name is not None:
        query = query.where(WorkflowRun.name.ilike(_like(which.name), escape="\\"))
    if which.since is not None:
        query = query.where(WorkflowRun.submitted_at >= which.since)
    if which.until is not None:
        query = query.where(WorkflowRun.submitted_at < which.until)
    for key, value in which.tags:
        tagged = select(RunTag.run_id).where(RunTag.key == key, RunTag.value == value)
        query = query.where(WorkflowRun.run_id.in_(tagged))
    return query


_row_position = tuple_(WorkflowRun.submitted_at, WorkflowRun.run_id)


def _as_row(cursor: Cursor) -> Tuple:
    return tuple_(literal(cursor[0], UtcDateTime()), cursor[1])


def _like(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
