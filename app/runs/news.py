"""What a transaction does to runs, for those who count and log: they are told once it is committed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session

from app.database import add_news
from app.locations import BVBRC_APP
from app.states import State


class Described(Protocol):
    """What a new run and a stored one have in common."""

    @property
    def parent_id(self) -> str | None: ...

    @property
    def provider_type(self) -> str: ...

    @property
    def workflow_type(self) -> str: ...

    @property
    def workflow_url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Noted:
    """The history of this run has another line."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """There is a new run. `app`: see `app_of`."""

    is_step: bool
    app: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A run is over. `seconds`: from its start to its end; None where it had not begun."""

    is_step: bool
    app: str
    provider: str
    state: State
    seconds: float | None


def note(session: Session, run_id: str) -> None:
    add_news(session, Noted(run_id))


def note_accepted(session: Session, run: Described) -> None:
    add_news(session, Accepted(run.parent_id is not None, app_of(run.workflow_type, run.workflow_url)))


def note_ended(session: Session, run: Described, state: State, seconds: float | None) -> None:
    app = app_of(run.workflow_type, run.workflow_url)
    add_news(session, Ended(run.parent_id is not None, app, run.provider_type, state, seconds))


def app_of(workflow_type: str, workflow_url: str) -> str:
    """The name of a BV-BRC app; of everything else its type, since a URL may hold anything, also a secret."""
    return workflow_url.partition(":")[2] if BVBRC_APP.fullmatch(workflow_url) else workflow_type
