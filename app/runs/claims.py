"""Who works on a run now, and when it is due again: one column is queue, lease, poll timer and back-off.

A claim is a token in the row until `due_at`; its holder writes with `WHERE claim = token`. A crashed holder's runs
become due by themselves. Outsiders only count `hints`, so no wake is lost and no claim is cut short.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    TextClause,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, defer
from sqlalchemy.sql.dml import ReturningUpdate

from app.models import IS_KNOWN, IS_QUEUED, OwedCancel, WorkflowRun
from app.runs import owed_cancels
from app.states import TERMINAL

SUSPECT_AFTER = 3
"""Claims in a row that were never released, after which a run is only claimed alone."""

LONGEST_WAIT = timedelta(days=1)
"""Nothing puts a run off for longer: one that is due later was put off by a clock that was wrong."""

_UNSYNCED = {"synchronize_session": False}
_LEFT_OUT = tuple(
    defer(column, raiseload=True)
    for column in (WorkflowRun.workflow_params, WorkflowRun.submit_request, WorkflowRun.outputs)
)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks: one daemon for one provider, with the token that these claims will carry:
    `<daemon id>:<number>`, another for every tick."""

    provider: str
    host: str
    token: str
    lease: timedelta


_OURS = and_(
    WorkflowRun.provider_type == bindparam("provider"),
    or_(WorkflowRun.host.is_(None), WorkflowRun.host == bindparam("own_host")),
)
_DUE = and_(_OURS, WorkflowRun.due_at <= bindparam("now"))
_SOUND = WorkflowRun.unreleased_claims <= SUSPECT_AFTER
_SUSPICIOUS = WorkflowRun.unreleased_claims > SUSPECT_AFTER


def _claiming(which: TextClause, suspicion: ColumnElement[bool]) -> ReturningUpdate[WorkflowRun]:
    """Made once, like all statements of every tick: making one costs more than running it."""
    due = (
        select(WorkflowRun.run_id)
        .where(which, _DUE, suspicion)
        .order_by(WorkflowRun.due_at)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)  # dropped on SQLite, where the one UPDATE is atomic
        .cte("due")
    )
    return (
        update(WorkflowRun)
        .where(WorkflowRun.run_id.in_(select(due.c.run_id)))
        .values(
            due_at=bindparam("until"),
            claim=bindparam("token"),
            hints=0,
            unreleased_claims=WorkflowRun.unreleased_claims + 1,
        )
        .returning(WorkflowRun)
        .options(*_LEFT_OUT)
        .execution_options(**_UNSYNCED)
    )


_CLAIM_KNOWN, _CLAIM_NEW = _claiming(IS_KNOWN, _SOUND), _claiming(IS_QUEUED, _SOUND)
_CLAIM_SUSPECTS = (_claiming(IS_KNOWN, _SUSPICIOUS), _claiming(IS_QUEUED, _SUSPICIOUS))


def claim_known(session: Session, who: Claimant, now: datetime, limit: int) -> list[WorkflowRun]:
    """Due runs that are past QUEUED, oldest due first. Like all claimed rows they come without what
    may be large: reading `workflow_params`, `submit_request` or `outputs` of one raises."""
    return _claim(session, _CLAIM_KNOWN, who, now, limit)


def claim_new(session: Session, who: Claimant, now: datetime, limit: int) -> list[WorkflowRun]:
    """Due QUEUED runs, oldest due first."""
    return _claim(session, _CLAIM_NEW, who, now, limit)


def claim_suspect(session: Session, who: Claimant, now: datetime, limit: int = 1) -> list[WorkflowRun]:
    """Due runs whose handlers kept dying with them; work on one while nothing else is claimed."""
    found = (_claim(session, statement, who, now, limit) for statement in _CLAIM_SUSPECTS)
    return next((runs for runs in found if runs), [])


def _claim(
    session: Session, statement: ReturningUpdate[WorkflowRun], who: Claimant, now: datetime, limit: int
) -> list[WorkflowRun]:
    if limit < 1:
        return []
    values = {
        "provider": who.provider,
        "own_host": who.host,
        "now": now,
        "most": limit,
        "until": now + who.lease,
        "token": who.token,
    }
    return sorted(session.scalars(statement, values), key=lambda run: (run.submitted_at, run.run_id))


def claim_lost(
    session: Session, token: str, hosts: Sequence[str], now: datetime, lease: timedelta
) -> list[WorkflowRun]:
    """Runs past QUEUED whose host is gone for good, to be ended by whoever claims them; at most 100."""
    lost = (
        select(WorkflowRun.run_id)
        .where(IS_KNOWN, WorkflowRun.host.in_(hosts), WorkflowRun.due_at <= now)
        .limit(100)
        .with_for_update(skip_locked=True)
        .cte("lost")
    )
    taken = (
        update(WorkflowRun)
        .where(WorkflowRun.run_id.in_(select(lost.c.run_id)))
        .values(due_at=now + lease, claim=token)
        .returning(WorkflowRun)
        .options(*_LEFT_OUT)
    )
    return list(session.scalars(taken, execution_options=_UNSYNCED))


def renew(
    session: Session, tokens: Collection[str], run_ids: Sequence[str], now: datetime, lease: timedelta
) -> set[str]:
    """Hold these claims for another lease; returns the run ids that are still held, the others are lost."""
    held = session.scalars(
        update(WorkflowRun)
        .where(WorkflowRun.run_id.in_(run_ids), WorkflowRun.claim.in_(tokens))
        .values(due_at=now + lease)
        .returning(WorkflowRun.run_id),
        execution_options=_UNSYNCED,
    )
    return set(held)


_RELEASE = (
    update(WorkflowRun)
    .where(WorkflowRun.run_id.in_(bindparam("run_ids", expanding=True)), WorkflowRun.claim == bindparam("token"))
    .values(
        claim=None,
        unreleased_claims=0,
        due_at=case((WorkflowRun.hints > 0, bindparam("now")), else_=bindparam("later")),
        waiting_for=bindparam("why"),
    )
    .execution_options(**_UNSYNCED)
)
_RELEASE_OBSERVED = _RELEASE.values(observed_at=bindparam("now"), missing_since=None, misses=0, refusals=0, failures=0)


def release(
    session: Session,
    token: str,
    run_ids: Sequence[str],
    now: datetime,
    delay: timedelta,
    *,
    observed: bool = False,
    waiting_for: str | None = None,
) -> int:
    """Give the claims back, due after `delay`, or now where a hint came meanwhile. Returns how many were still held.

    `observed`: the provider was just heard of these runs. `waiting_for` is what the run page says meanwhile.
    """
    values = {"run_ids": run_ids, "token": token, "now": now, "later": now + delay, "why": waiting_for}
    return int(session.execute(_RELEASE_OBSERVED if observed else _RELEASE, values).rowcount)  # type: ignore[attr-defined]


def release_dead(session: Session, daemon_ids: Iterable[str], now: datetime) -> int:
    """Make the runs of daemons that are certainly dead due at once. Their unreleased claims stay counted."""
    theirs = or_(false(), *(WorkflowRun.claim.startswith(f"{dead}:") for dead in daemon_ids))
    freed = 0
    for living in (IS_KNOWN, IS_QUEUED):  # each has its index; without them every run that ever was is looked at
        freeing = update(WorkflowRun).where(living, theirs).values(claim=None, due_at=now)
        freed += session.execute(freeing, execution_options=_UNSYNCED).rowcount  # type: ignore[attr-defined]
    return freed


def bring_back(session: Session, now: datetime) -> int:
    """Make due what a clock that was wrong put off until further than LONGEST_WAIT; returns how many runs."""
    far = OwedCancel.due_at > now + LONGEST_WAIT
    session.execute(update(OwedCancel).where(far).values(due_at=now), execution_options=_UNSYNCED)
    brought = 0
    for living in (IS_KNOWN, IS_QUEUED):  # each has its index
        bringing = update(WorkflowRun).where(living, WorkflowRun.due_at > now + LONGEST_WAIT).values(due_at=now)
        brought += session.execute(bringing, execution_options=_UNSYNCED).rowcount  # type: ignore[attr-defined]
    return brought


def woken_values(now: datetime | BindParameter[Any]) -> dict[str, object]:
    """What an outsider sets to wake a run."""
    sleeping = and_(WorkflowRun.claim.is_(None), WorkflowRun.due_at > now)  # one that is due keeps its place
    return {"hints": WorkflowRun.hints + 1, "due_at": case((sleeping, now), else_=WorkflowRun.due_at)}


_NAMED = and_(WorkflowRun.run_id.in_(bindparam("run_ids", expanding=True)), WorkflowRun.state.not_in(TERMINAL))
_IS_DUE = and_(WorkflowRun.claim.is_(None), WorkflowRun.due_at <= bindparam("now"))
_WAKE = (
    update(WorkflowRun)
    .where(_NAMED, not_(_IS_DUE))
    .values(woken_values(bindparam("now")))
    .returning(WorkflowRun.provider_type)
    .execution_options(**_UNSYNCED)
)
_AWAKE = select(WorkflowRun.provider_type).where(_NAMED, _IS_DUE)


def hint(session: Session, run_ids: Sequence[str], now: datetime) -> list[str]:
    """Make runs due; a claimed one is due again when its claim is released. Returns the provider types concerned.

    A run that is due already, and nobody's, is left as it is, so that the hint for a new run waits for no disk.
    """
    values = {"run_ids": run_ids, "now": now}
    woken = session.scalars(_WAKE, values).all()
    return sorted({*woken, *session.scalars(_AWAKE, values)})


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is due for one provider on one host, so that nothing is claimed in vain."""

    known: bool  # a run past QUEUED is due now
    new: bool  # a QUEUED one is
    next_known: datetime | None  # when the next run past QUEUED is due, or was
    owed: bool  # a cancel that is owed is


_OWED = owed_cancels.is_due(bindparam("provider"), bindparam("own_host"), bindparam("now"))
_OUTLOOK = select(
    select(func.min(WorkflowRun.due_at)).where(IS_KNOWN, _OURS).scalar_subquery(),
    exists().where(IS_QUEUED, _DUE),
    exists().where(_OWED),
)
_HAS_SUSPECT = select(or_(exists().where(IS_KNOWN, _DUE, _SUSPICIOUS), exists().where(IS_QUEUED, _DUE, _SUSPICIOUS)))
_COUNT_ACTIVE = select(func.count()).select_from(WorkflowRun).where(
    IS_KNOWN, WorkflowRun.provider_type == bindparam("provider")
)  # fmt: skip
_COUNT_ACTIVE_HERE = _COUNT_ACTIVE.where(WorkflowRun.host == bindparam("own_host"))


def look_ahead(session: Session, provider: str, host: str, now: datetime) -> Outlook:
    """A cheap read: the first entry of each index."""
    next_known, new, owed = session.execute(_OUTLOOK, {"provider": provider, "own_host": host, "now": now}).one()
    return Outlook(next_known is not None and next_known <= now, new, next_known, owed)


def has_suspect(session: Session, provider: str, host: str, now: datetime) -> bool:
    """True where `claim_suspect` would find one. Reads all that is due."""
    return bool(session.scalar(_HAS_SUSPECT, {"provider": provider, "own_host": host, "now": now}))


def count_active(session: Session, provider: str, host: str | None) -> int:
    """Runs past QUEUED and not ended at this provider; on one host where `host` is given."""
    query = _COUNT_ACTIVE_HERE if host else _COUNT_ACTIVE
    return session.scalar(query, {"provider": provider, "own_host": host}) or 0
