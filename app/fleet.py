"""The daemons: which were seen alive, and what is really installed where they run. Service-info and health read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.models import Daemon

ALIVE_FOR = timedelta(seconds=60)
"""A daemon seen within this time is alive: it shows a sign of life every ten seconds at least."""


def sign_on(session: Session, daemon: Daemon) -> list[str]:
    """Register a daemon that holds its host's lock; returns the ids of its dead predecessors there, now removed."""
    dead = list(session.scalars(select(Daemon.id).where(Daemon.host == daemon.host, Daemon.id != daemon.id)))
    session.execute(delete(Daemon).where(Daemon.id.in_(dead)))
    session.merge(daemon)
    return dead


def beat(session: Session, daemon_id: str, now: datetime, offers: Mapping[str, Any] | None = None) -> bool:
    """The daemon lives; `offers` given: what it offers from now on. False where it is not registered."""
    values: dict[str, Any] = {"last_seen": now} | ({} if offers is None else {"offers": dict(offers)})
    beaten = session.execute(update(Daemon).where(Daemon.id == daemon_id).values(values))
    return beaten.rowcount == 1  # type: ignore[attr-defined, no-any-return]


def sign_off(session: Session, daemon_id: str, now: datetime) -> None:
    """The daemon stops in good order; its row stays, so that its host is known and missed."""
    session.execute(update(Daemon).where(Daemon.id == daemon_id).values(stopped_at=now, last_seen=now))


def living(session: Session, since: datetime) -> Sequence[Daemon]:
    """Daemons seen since then that have not stopped, the longest running first."""
    alive = (Daemon.last_seen >= since, Daemon.stopped_at.is_(None))
    return session.scalars(select(Daemon).where(*alive).order_by(Daemon.started_at)).all()


def known(session: Session) -> Sequence[Daemon]:
    """Every daemon that is remembered, also those that stopped or died."""
    return session.scalars(select(Daemon).order_by(Daemon.started_at)).all()


def offered(session: Session, now: datetime) -> list[Mapping[str, Any]]:
    """What living daemons wrote down of themselves; where none lives, what was written last."""
    return [daemon.offers for daemon in living(session, now - ALIVE_FOR) or known(session)]


def silent_hosts(session: Session, before: datetime) -> dict[str, datetime]:
    """Hosts on which no daemon has been seen since then, and when one was last."""
    last = func.max(Daemon.last_seen)
    found = session.execute(select(Daemon.host, last).group_by(Daemon.host).having(last < before))
    return dict(found.all())
