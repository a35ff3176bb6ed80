"""Is anybody there to run what is submitted? Every page says so where nobody is."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app import fleet


def daemon_lives(session: Session, now: datetime) -> bool:
    """True where a daemon was seen lately and has not stopped."""
    return bool(fleet.living(session, now - fleet.ALIVE_FOR))
