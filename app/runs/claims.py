"""Who works on a run now, and when it is due again: one column is queue, lease, poll timer and back-off.

A claim is a token in the row until `due_at`; its holder writes with `WHERE claim = token`. A crashed holder's runs
become due by themselves. Outsiders only count `hints`, so no wake is lost and no claim is cut short.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from app.models import IS_KNOWN, IS_QUEUED, RUNS, OwedCancel
from app.runs import owed_cancels
from app.states import TERMINAL, State

SUSPECT_AFTER = 3
"""Claims in a row that were never released, after which a run is only claimed alone."""

LONGEST_WAIT = timedelta(days=1)
"""Nothing puts a run off for longer: one that is due later was put off by a clock that was wrong."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who asks: one daemon for one provider, with the token that these claims will carry:
    `<daemon id>:<number>`, another for every tick."""

    provider: str
    host: str
    token: str
    lease: timedelta


@dataclass(slots=True, eq=False)
class ClaimedRun:
    """A run as its claimant saw it: columns of WorkflowRun, without what may be large. What the claimant writes since
    then is brought up to date here."""

    run_id: str
    name: str
    state: State
    owner: str
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    workflow_engine: str | None
    workflow_engine_version: str | None
    workflow_engine_parameters: dict[str, Any]
    tags: dict[str, Any]
    submitted_at: datetime
    processed_at: datetime | None
    start_time: datetime | None
    provider_type: str
    provider_id: str | None
    provider_status: str | None
    provider_metadata: dict[str, Any]
    submit_key: str | None
    submit_sent_at: datetime | None
    attempt: int
    cmd: list[str] | None
    claim: str
    unreleased_claims: int
    failures: int
    refusals: int
    misses: int
    missing_since: datetime | None
    waiting_for: str | None
    log_wanted_at: datetime | None
    parent_id: str | None

    def update(self, values: Mapping[str, Any]) -> None:
        """These columns were written."""
        for name in self.__slots__ & values.keys():
            setattr(self, name, values[name])


_COLUMNS = [RUNS.c[field.name] for field in fields(ClaimedRun)]
_RUN = RUNS.c
_OURS = and_(_RUN.provider_type == bindparam("provider"), or_(_RUN.host.is_(None), _RUN.host == bindparam("own_host")))
_DUE = and_(_OURS, _RUN.due_at <= bindparam("now"))
_SOUND = _RUN.unreleased_claims <= SUSPECT_AFTER
_SUSPICIOUS = _RUN.unreleased_claims > SUSPECT_AFTER


def _claiming(which: TextClause, suspicion: ColumnElement[bool]) -> ReturningUpdate[Any]:
    """Made once, like all statements of every tick: making one costs more than running it."""
    due = (
        select(_RUN.run_id)
        .where(which, _DUE, suspicion)
        .order_by(_RUN.due_at)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)  # dropped on SQLite, where the one UPDATE is atomic
        .cte("due")
    )
    return (
        update(RUNS)
        .where(_RUN.run_id.in_(select(due.c.run_id)))
        .values(
            due_at=bindparam("until"),
            claim=bindparam("token"),
            hints=0,
            unreleased_claims=_RUN.unreleased_claims + 1,
        )
        .returning(*_COLUMNS)
    )


_CLAIM_KNOWN, _CLAIM_NEW = _claiming(IS_KNOWN, _SOUND), _claiming(IS_QUEUED, _SOUND)
_CLAIM_SUSPECTS = (_claiming(IS_KNOWN, _SUSPICIOUS), _claiming(IS_QUEUED, _SUSPICIOUS))


def claim_known(session: Session, who: Claimant, now: datetime, limit: int) -> list[ClaimedRun]:
    """Due runs that are past QUEUED, oldest due first."""
    return _claim(session, _CLAIM_KNOWN, who, now, limit)


def claim_new(session: Session, who: Claimant, now: datetime, limit: int) -> list[ClaimedRun]:
    """Due QUEUED runs, oldest due first."""
    return _claim(session, _CLAIM_NEW, who, now, limit)


def claim_suspect(session: Session, who: Claimant, now: datetime, limit: int = 1) -> list[ClaimedRun]:
    """Due runs whose handlers kept dying with them; work on one while nothing else is claimed."""
    found = (_claim(session, statement, who, now, limit) for statement in _CLAIM_SUSPECTS)
    return next((runs for runs in found if runs), [])


def _claim(
    session: Session, statement: ReturningUpdate[Any], who: Claimant, now: datetime, limit: int
) -> list[ClaimedRun]:
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
    return sorted(_claimed(session, statement, values), key=lambda run: (run.submitted_at, run.run_id))


def _claimed(session: Session, statement: ReturningUpdate[Any], values: Mapping[str, Any]) -> list[ClaimedRun]:
    return [ClaimedRun(*row) for row in session.connection().execute(statement, values)]


def claim_lost(session: Session, token: str, hosts: Sequence[str], now: datetime, lease: timedelta) -> list[ClaimedRun]:
    """Runs past QUEUED whose host is gone for good, to be ended by whoever claims them; at most 100."""
    lost = (
        select(_RUN.run_id)
        .where(IS_KNOWN, _RUN.host.in_(hosts), _RUN.due_at <= now)
        .limit(100)
        .with_for_update(skip_locked=True)
        .cte("lost")
    )
    taken = (
        update(RUNS)
        .where(_RUN.run_id.in_(select(lost.c.run_id)))
        .values(due_at=now + lease, claim=token)
        .returning(*_COLUMNS)
    )
    return _claimed(session, taken, {})


def renew(
    session: Session, tokens: Collection[str], run_ids: Sequence[str], now: datetime, lease: timedelta
) -> set[str]:
    """Hold these claims for another lease; returns the run ids that are still held, the others are lost."""
    renewing = update(RUNS).where(_RUN.run_id.in_(run_ids), _RUN.claim.in_(tokens)).values(due_at=now + lease)
    return set(session.scalars(renewing.returning(_RUN.run_id)))


_RELEASE = (
    update(RUNS)
    .where(_RUN.run_id.in_(bindparam("run_ids", expanding=True)), _RUN.claim == bindparam("token"))
    .values(
        claim=None,
        unreleased_claims=0,
        due_at=case((_RUN.hints > 0, bindparam("now")), else_=bindparam("later")),
        waiting_for=bindparam("why"),
    )
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
    return session.connection().execute(_RELEASE_OBSERVED if observed else _RELEASE, values).rowcount


def release_dead(session: Session, daemon_ids: Iterable[str], now: datetime) -> int:
    """Make the runs of daemons that are certainly dead due at once. Their unreleased claims stay counted."""
    theirs = or_(false(), *(_RUN.claim.startswith(f"{dead}:") for dead in daemon_ids))
    freed = 0
    for living in (IS_KNOWN, IS_QUEUED):  # each has its index; without them every run that ever was is looked at
        freeing = update(RUNS).where(living, theirs).values(claim=None, due_at=now)
        freed += session.connection().execute(freeing).rowcount
    return freed


def bring_back(session: Session, now: datetime) -> int:
    """Make due what a clock that was wrong put off until further than LONGEST_WAIT; returns how many runs."""
    far = OwedCancel.due_at > now + LONGEST_WAIT
    session.execute(update(OwedCancel).where(far).values(due_at=now), execution_options={"synchronize_session": False})
    brought = 0
    for living in (IS_KNOWN, IS_QUEUED):  # each has its index
        bringing = update(RUNS).where(living, _RUN.due_at > now + LONGEST_WAIT).values(due_at=now)
        brought += session.connection().execute(bringing).rowcount
    return brought


def woken_values(now: datetime | BindParameter[Any]) -> dict[str, object]:
    """What an outsider sets to wake a run."""
    sleeping = and_(_RUN.claim.is_(None), _RUN.due_at > now)  # one that is due keeps its place
    return {"hints": _RUN.hints + 1, "due_at": case((sleeping, now), else_=_RUN.due_at)}


_NAMED = and_(_RUN.run_id.in_(bindparam("run_ids", expanding=True)), _RUN.state.not_in(TERMINAL))
_IS_DUE = and_(_RUN.claim.is_(None), _RUN.due_at <= bindparam("now"))
_WAKE = update(RUNS).where(_NAMED, not_(_IS_DUE)).values(woken_values(bindparam("now")))


def hint(session: Session, run_ids: Collection[str], now: datetime) -> None:
    """Make runs due: a claimed one once its claim is released. One that is due already keeps its place."""
    session.connection().execute(_WAKE, {"run_ids": list(run_ids), "now": now})


_WAITING = select(_RUN.provider_type, _IS_DUE).where(_NAMED)


def waiting_at(session: Session, run_id: str, now: datetime) -> tuple[str, bool] | None:
    """The provider type of a run that has not ended, and whether it is due already and nobody's: then a hint for it,
    a new one say, needs no write."""
    found = session.connection().execute(_WAITING, {"run_ids": [run_id], "now": now}).one_or_none()
    return (found[0], bool(found[1])) if found else None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is due for one provider on one host, so that nothing is claimed in vain."""

    known: bool  # a run past QUEUED is due now
    new: bool  # a QUEUED one is
    next_known: datetime | None  # when the next run past QUEUED is due, or was
    owed: bool  # a cancel that is owed is


_OWED = owed_cancels.is_due(bindparam("provider"), bindparam("own_host"), bindparam("now"))
_OUTLOOK = select(
    select(func.min(_RUN.due_at)).where(IS_KNOWN, _OURS).scalar_subquery(),
    exists().where(IS_QUEUED, _DUE),
    exists().where(_OWED),
)
_HAS_SUSPECT = select(or_(exists().where(IS_KNOWN, _DUE, _SUSPICIOUS), exists().where(IS_QUEUED, _DUE, _SUSPICIOUS)))
_BESIDE = _RUN.run_id.not_in(bindparam("beside", expanding=True))
_COUNT_ACTIVE = (
    select(func.count()).select_from(RUNS).where(IS_KNOWN, _RUN.provider_type == bindparam("provider"), _BESIDE)
)
_COUNT_ACTIVE_HERE = _COUNT_ACTIVE.where(_RUN.host == bindparam("own_host"))


def look_ahead(session: Session, provider: str, host: str, now: datetime) -> Outlook:
    """A cheap read: the first entry of each index."""
    values = {"provider": provider, "own_host": host, "now": now}
    next_known, new, owed = session.connection().execute(_OUTLOOK, values).one()
    return Outlook(next_known is not None and next_known <= now, new, next_known, owed)


def has_suspect(session: Session, provider: str, host: str, now: datetime) -> bool:
    """True where `claim_suspect` would find one. Reads all that is due."""
    values = {"provider": provider, "own_host": host, "now": now}
    return bool(session.connection().execute(_HAS_SUSPECT, values).scalar_one())


def count_active(session: Session, provider: str, host: str | None, beside: Collection[str] = ()) -> int:
    """Runs past QUEUED and not ended at this provider, but for those in `beside`; on one host where `host` is given."""
    values = {"provider": provider, "own_host": host, "beside": list(beside)}
    return session.connection().execute(_COUNT_ACTIVE_HERE if host else _COUNT_ACTIVE, values).scalar_one()
