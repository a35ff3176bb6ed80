"""Everything that the live part of the runs page shows, read in one go. Knows the database, not HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.context import Context
from app.models import WorkflowRun
from app.runs import listing
from app.states import State, is_terminal
from app.web.daemons import daemon_lives
from app.web.run_query import TABS, RunQuery, format_cursor

PAGE_SIZE = 50
COUNT_CEILING = 1000
ACTIVE_POLL_SECONDS, IDLE_POLL_SECONDS = 3, 60


@dataclass(frozen=True, slots=True)
class Tab:
    """The same filter for some states; `count` is bounded and says so."""

    label: str
    states: tuple[State, ...]
    count: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class RunList:
    """A page of runs. `newer`, `older`: where the pages beside it are, None where there is none."""

    runs: Sequence[WorkflowRun]
    newer: str | None
    older: str | None
    tabs: Sequence[Tab]
    daemon_lives: bool

    @property
    def poll_seconds(self) -> int:
        """When to look again."""
        return IDLE_POLL_SECONDS if all(is_terminal(run.state) for run in self.runs) else ACTIVE_POLL_SECONDS


def read_run_list(context: Context, owner: str, query: RunQuery) -> RunList:
    """`query` must be without problems."""
    with context.database.reading() as session:
        runs, has_newer, has_older = _read_page(session, owner, query)
        return RunList(
            runs,
            newer=_place(runs[0]) if runs and has_newer else None,
            older=_place(runs[-1]) if runs and has_older else None,
            tabs=[_tab(session, owner, query, label) for label in TABS],
            daemon_lives=daemon_lives(session, context.now()),
        )


def _read_page(session: Session, owner: str, query: RunQuery) -> tuple[Sequence[WorkflowRun], bool, bool]:
    if query.newer_than:
        page = listing.list_newer(session, owner, query.which, PAGE_SIZE, query.newer_than)
        return page.runs, page.next is not None, True
    page = listing.list_runs(session, owner, query.which, PAGE_SIZE, query.older_than)
    return page.runs, query.older_than is not None, page.next is not None


def _place(run: WorkflowRun) -> str:
    return format_cursor((run.submitted_at, run.run_id))


def _tab(session: Session, owner: str, query: RunQuery, label: str) -> Tab:
    states = TABS[label]
    count = listing.count_runs(session, owner, query.which_with(states), COUNT_CEILING + 1)
    words = f"{COUNT_CEILING}+" if count > COUNT_CEILING else str(count)
    return Tab(label, states, words, set(query.which.states) == set(states))
