"""Is anybody there to run what is submitted, and does its provider take it? Pages say so where not."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app import fleet


def daemon_lives(session: Session, now: datetime) -> bool:
    """True where a daemon was seen lately and has not stopped."""
    return bool(fleet.living(session, now - fleet.ALIVE_FOR))


def provider_problem(session: Session, now: datetime, provider: str) -> str | None:
    """Why a provider takes no runs at present, as living daemons say; None where it takes them."""
    offers = (offered.get(provider, {}) for offered in fleet.offered(session, now))
    return next((str(offer["problem"]) for offer in offers if offer.get("problem")), None)
