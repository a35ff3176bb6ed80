"""The state table at work: every move is one guarded UPDATE and one event, in one transaction.

A daemon writes only where the row still has the state it saw and the claim it holds; a late writer changes nothing and
is told so by False.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Update, bindparam, delete, insert, or_, select, update
from sqlalchemy.orm import Session

from app import credentials
from app.models import EVENTS, RUNS, TASKS, WorkflowRun
from app.runs import counts, news
from app.runs.claims import ClaimedRun, woken_values
from app.states import CANCELABLE_REMOTELY, TERMINAL, Actor, State, is_terminal, may_move

log = logging.getLogger(__name__)

_RUN = RUNS.c
_INSERT_EVENT, _INSERT_TASK = insert(EVENTS), insert(TASKS)
_SELECT_ID = select(_RUN.state, _RUN.provider_id).where(_RUN.run_id == bindparam("its_run_id")).with_for_update()
_DELETE_TASKS = delete(TASKS).where(TASKS.c.run_id == bindparam("its_run_id"))
_OF_RUN = update(RUNS).where(_RUN.run_id == bindparam("its_run_id"))
_HELD = _OF_RUN.where(_RUN.claim == bindparam("its_claim"))
_SEEN = _HELD.where(
    _RUN.state == bindparam("its_state"), _RUN.provider_id.is_not_distinct_from(bindparam("its_provider_id"))
)
"""What is set is said when it is executed. Of a run, under this claim; and, as seen by the claim's holder: the provider
id too, since a late answer may have brought one, and then what was decided without it is void."""
_FACTS = (_RUN.parent_id, _RUN.provider_type, _RUN.workflow_type, _RUN.workflow_url)
"""What is told of a run."""


@dataclass(frozen=True, slots=True)
class End:
    """All that is written together with a terminal state. Raises ValueError for a SYSTEM_ERROR without a reason."""

    state: State
    note: str
    reason: str | None = None  # machine-readable; required for SYSTEM_ERROR
    exit_code: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    outputs: Mapping[str, Any] | None = None
    tasks: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # columns of TaskLog but run_id and position
    values: Mapping[str, Any] = field(default_factory=dict)  # further columns of the run

    def __post_init__(self) -> None:
        if self.state == State.SYSTEM_ERROR and not self.reason:
            raise ValueError("a SYSTEM_ERROR needs a machine-readable reason")


def add_event(session: Session, run_id: str, now: datetime, by: str, note: str) -> None:
    """Record a notable fact that changes no state."""
    session.connection().execute(_INSERT_EVENT, {"run_id": run_id, "at": now, "by": by, "note": note})
    news.note(session, run_id)


def move(
    session: Session, run: ClaimedRun, to: State, now: datetime, *, by: str, note: str | None = None, **values: Any
) -> bool:
    """A daemon moves the run that it claimed from the state it saw to a state that is not the end.

    `run` is the row as it was claimed; on success it is brought up to date. Back in QUEUED it belongs to no host.
    """
    if not may_move(Actor.DAEMON, run.state, to) or is_terminal(to):
        log.warning("refused move", extra={"run_id": run.run_id, "from": run.state, "to": to})
        return False
    values |= {"state": to} | ({"host": None} if to == State.QUEUED else {})
    if not _is_written(session, _SEEN, run, values):
        return False
    _add_change(session, run.run_id, now, run.state, to, by, note)
    run.update(values)
    return True


def finish(session: Session, run: ClaimedRun, end: End, now: datetime, *, by: str) -> bool:
    """A daemon ends the run that it claimed, with everything that an end brings, and wakes its parent. Secrets go."""
    if not may_move(Actor.DAEMON, run.state, end.state) or not is_terminal(end.state):
        log.warning("refused end", extra={"run_id": run.run_id, "from": run.state, "to": end.state})
        return False
    _lock_parent(session, run.parent_id)
    values = _end_values(run, end, now)
    if not _is_written(session, _SEEN, run, values):
        return False
    _replace_tasks(session, run.run_id, end.tasks)
    words = f"{end.reason}: {end.note}" if end.reason else end.note
    _add_change(session, run.run_id, now, run.state, end.state, by, words)
    news.note_ended(session, run, end.state, _seconds(run, values))
    _wake_parent(session, run.parent_id, now)
    credentials.wipe(session, run.parent_id or run.run_id)
    return True


def end_at_once(session: Session, run_id: str, end: End, now: datetime, *, by: str) -> bool:
    """A parent ends a step that it has just accepted and that nobody has claimed: done by an earlier run, or refused.

    The parent is not woken: it knows.
    """
    run = session.get(WorkflowRun, run_id)
    if run is None or run.claim is not None or not may_move(Actor.PARENT, run.state, end.state):
        return False
    unclaimed = (_RUN.run_id == run_id, _RUN.state == run.state, _RUN.claim.is_(None))
    ending = update(RUNS).where(*unclaimed).values(_end_values(run, end, now))
    if session.connection().execute(ending).rowcount != 1:
        return False
    _add_change(session, run_id, now, run.state, end.state, by, end.note)
    if run.reused_from is None:
        news.note_ended(session, run, end.state, None)
    return True


def cancel(session: Session, run_id: str, now: datetime, *, by: str, actor: Actor = Actor.USER) -> None:
    """A user or a parent ends an unstarted run at once and asks for the end of a started one; else nothing happens."""
    run = session.execute(select(*_FACTS).where(_RUN.run_id == run_id)).one_or_none()
    if run is None:
        return
    _lock_parent(session, run.parent_id)
    state = session.scalar(select(_RUN.state).where(_RUN.run_id == run_id).with_for_update())
    if state is None:
        return
    to = State.CANCELED if state == State.QUEUED else State.CANCELING
    if not may_move(actor, state, to):
        return
    values = _OVER | {"end_time": now} if to == State.CANCELED else woken_values(now)
    session.execute(update(RUNS).where(_RUN.run_id == run_id).values({"state": to, **values}))
    _add_change(session, run_id, now, state, to, by, "cancel requested")
    if to == State.CANCELED:
        news.note_ended(session, run, to, None)
        _wake_parent(session, run.parent_id, now)
        credentials.wipe(session, run.parent_id or run_id)


def record_provider_id(
    session: Session, run_id: str, provider_id: str, now: datetime, *, by: str, **values: Any
) -> str | None:
    """The first id wins, whoever holds the claim. Returns the id that the run has now; None where the run is deleted or
    has ended without one: then, and where it is another id, a cancel of `provider_id` is owed (see owed_cancels).

    Raises IntegrityError where another run has this id.
    """
    row = session.connection().execute(_SELECT_ID, {"its_run_id": run_id}).one_or_none()
    if row is None:
        return None
    if row.provider_id is None and not is_terminal(row.state):
        _record_first_id(session, run_id, row.state, provider_id, now, by, values)
        return provider_id
    if row.provider_id != provider_id:
        add_event(session, run_id, now, by, f"a second provider run {provider_id} was found and is being cancelled")
    return None if row.provider_id is None else str(row.provider_id)


def _record_first_id(
    session: Session, run_id: str, state: State, provider_id: str, now: datetime, by: str, values: Mapping[str, Any]
) -> None:
    """A run that went back to QUEUED before a late answer came is INITIALIZING again: nobody may submit it anew."""
    to = State.INITIALIZING if state == State.QUEUED else state
    first = {"provider_id": provider_id, "processed_at": now, "failures": 0, "state": to, **values}
    _execute(session, _OF_RUN, {"its_run_id": run_id}, first)
    words = f"accepted by the provider as {provider_id}"
    if to == state:
        add_event(session, run_id, now, by, words)
    else:
        _add_change(session, run_id, now, state, to, by, words)


def note_run(session: Session, run: ClaimedRun, **values: Any) -> bool:
    """Write columns other than `state` of a claimed run; False where the claim is lost."""
    if not _is_written(session, _HELD, run, values):
        return False
    run.update(values)
    return True


def want_logs(session: Session, run_id: str, now: datetime, before: datetime) -> bool:
    """Somebody watches this run's log: say so and wake it, unless that was said after `before`. True where said now."""
    is_news = or_(_RUN.log_wanted_at.is_(None), _RUN.log_wanted_at < before)
    living = _RUN.state.in_(CANCELABLE_REMOTELY | {State.CANCELING})
    wanting = update(RUNS).where(_RUN.run_id == run_id, living, is_news)
    return session.connection().execute(wanting.values(log_wanted_at=now, **woken_values(now))).rowcount == 1


def note_tasks(session: Session, run: ClaimedRun, tasks: Sequence[Mapping[str, Any]]) -> bool:
    """Keep the provider's present list of steps of a claimed run, in its order; False where the claim is lost."""
    held = (_RUN.run_id == run.run_id, _RUN.claim == run.claim)
    if session.scalar(select(_RUN.run_id).where(*held).with_for_update()) is None:
        return False
    _replace_tasks(session, run.run_id, tasks)
    return True


def _replace_tasks(session: Session, run_id: str, tasks: Sequence[Mapping[str, Any]]) -> None:
    """All with the same keys: those of the first are what is written."""
    session.connection().execute(_DELETE_TASKS, {"its_run_id": run_id})
    named = {task["task_id"]: task for task in tasks}  # a provider that names one twice means the later
    if named:
        rows = [{**task, "run_id": run_id, "position": place} for place, task in enumerate(named.values())]
        session.execute(_INSERT_TASK, rows)


def _is_written(session: Session, change: Update, run: ClaimedRun, values: Mapping[str, Any]) -> bool:
    """False where the row is not as `change` wants it, and nothing was written."""
    seen: dict[str, Any] = {"its_run_id": run.run_id, "its_claim": run.claim}
    if change is _SEEN:
        seen |= {"its_state": run.state, "its_provider_id": run.provider_id}
    return _execute(session, change, seen, values) == 1


def _execute(session: Session, change: Update, which: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """How many rows were changed. Raises KeyError for what is no column, which `execute` would leave out in silence."""
    if unknown := values.keys() - RUNS.c.keys():
        raise KeyError(*unknown)
    return session.connection().execute(change, {**which, **values}).rowcount


_OVER: dict[str, Any] = {"due_at": None, "claim": None, "hints": 0, "unreleased_claims": 0, "waiting_for": None}


def _end_values(run: ClaimedRun | WorkflowRun, end: End, now: datetime) -> dict[str, Any]:
    return {
        **_OVER,
        "state": end.state,
        "observed_at": now,
        "start_time": end.start_time or run.start_time,
        "end_time": end.end_time or now,
        "exit_code": end.exit_code,
        "outputs": dict(end.outputs) if end.outputs is not None else None,
        "error_message": None if end.state in (State.COMPLETE, State.CANCELED) else end.note,
        **end.values,
    }


def _seconds(run: ClaimedRun, values: Mapping[str, Any]) -> float | None:
    """How long a run that ends with these values ran; None where it had not begun."""
    began = values["start_time"] or run.processed_at
    return max(0.0, (values["end_time"] - began).total_seconds()) if began else None


def _lock_parent(session: Session, parent_id: str | None) -> None:
    """Parents before children, everywhere: two transactions that end siblings must not wait for each other.

    `scalar`, as a result that nobody reads to its end keeps SQLite's read lock past the COMMIT.
    """
    if parent_id:
        parent = select(_RUN.run_id).where(_RUN.run_id == parent_id)
        session.scalar(parent.with_for_update(key_share=True))


def _wake_parent(session: Session, parent_id: str | None, now: datetime) -> None:
    if parent_id:
        living = (_RUN.run_id == parent_id, _RUN.state.not_in(TERMINAL))
        session.execute(update(RUNS).where(*living).values(woken_values(now)))


def _add_change(
    session: Session, run_id: str, now: datetime, start: State, to: State, by: str, note: str | None
) -> None:
    values = {"run_id": run_id, "at": now, "from_state": start, "to_state": to, "by": by, "note": note}
    session.connection().execute(_INSERT_EVENT, values)
    counts.moved(session, run_id, start, to)
    news.note(session, run_id)
