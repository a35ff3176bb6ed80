"""New runs, from all threads of a process, into the database: those that wait at the same time share a transaction.

Knows nothing of requests. A disk takes as long for the runs of eight threads as for one, and so does a round trip.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database import Database
from app.runs import acceptance
from app.runs.acceptance import NewRun

log = logging.getLogger(__name__)

TRIES = 3
Addition = Callable[[Session, str], object]
"""What else is to be written in the transaction that accepts a run, which is named by its run_id."""


@dataclass(eq=False, slots=True)
class _Entry:
    run: NewRun
    is_taken: bool = False  # somebody has seen to it, with success or without
    is_accepted: bool = False


class Intake:
    """One for each process. Whose turn it is accepts the runs of all who wait for their turn."""

    def __init__(self) -> None:
        self._waiting: deque[_Entry] = deque()
        self._turn = Lock()

    def accept(self, database: Database, run: NewRun, now: datetime, add: Addition | None = None) -> str:
        """The run_id, of an earlier run where `acceptance.accept` finds one; once this returns, it is on disk.

        What goes wrong with several runs is tried again with each alone, so nobody gets another's error. A large run
        goes alone, so that nobody waits for it. Raises KeyReused, and the database's errors where the outcome stays
        unknown.
        """
        if add is not None or not acceptance.is_small(run):
            return _accept_alone(database, run, now, add)
        entry = _Entry(run)
        self._waiting.append(entry)
        with self._turn:
            if not entry.is_taken:
                _accept_together(database, self._take(), now)
        return run.run_id if entry.is_accepted else _accept_alone(database, run, now)

    def _take(self) -> list[_Entry]:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for entry in entries:
            entry.is_taken = True
        return entries


def _accept_together(database: Database, entries: Sequence[_Entry], now: datetime) -> None:
    runs = [entry.run for entry in entries]
    try:
        accepted = database.transact_single(lambda session: acceptance.accept_new(session, runs, now))
    except Exception as error:  # of whichever run: alone, each gets its own
        if len(runs) == 1 and not getattr(error, "connection_invalidated", False):
            raise
        log.info("each run is accepted alone", extra={"runs": len(runs), "error": type(error).__name__})
        return
    for entry in entries:
        entry.is_accepted = entry.run.run_id in accepted


def _accept_alone(database: Database, run: NewRun, now: datetime, add: Addition | None = None) -> str:
    """Where the answer to COMMIT was lost it is asked again: `accept` finds the row."""

    def work(session: Session) -> str:
        run_id = acceptance.accept(session, run, now)
        if add is not None:
            add(session, run_id)
        return run_id

    for _ in range(TRIES - 1):
        try:
            return database.transact(work)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
    return database.transact(work)
