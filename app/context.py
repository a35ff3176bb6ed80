"""What a request needs of the process that serves it: settings, database, artifact storage, hints and the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Semaphore

from flask import current_app

from app.artifacts import ArtifactStorage
from app.clock import utc_now
from app.credentials import Vault
from app.database import Database
from app.hints import Hinter
from app.intake import Intake
from app.paging import PageTokens
from app.recent_offers import RecentOffers
from app.watching import Waiters
from config import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """One for each application, kept in `app.extensions["wes"]`."""

    settings: Settings
    database: Database
    storage: ArtifactStorage
    intake: Intake
    recent_offers: RecentOffers
    hinter: Hinter
    page_tokens: PageTokens
    waiters: Waiters
    vault: Vault
    upload_seats: Semaphore  # see app/uploads.py
    now: Callable[[], datetime] = utc_now


def current() -> Context:
    """The context of the application that serves this request."""
    context: Context = current_app.extensions["wes"]
    return context
