"""A process that claims runs; test_claims_processes.py starts several at once, and kills some.

    python -m tests.claimer <database url> <name> <file descriptor> <lease seconds> <ends>

It writes "<run_id> <token> <Unix time>" to the descriptor for each claim, once that is committed. With ends=0 it keeps
what it claims and stops when nothing is left to claim; with ends=1 it ends every run and stops when no run lives.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.clock import utc_now
from app.database import Database
from app.models import WorkflowRun
from app.runs import claims, transitions
from app.runs.claims import Claimant
from app.runs.transitions import End
from app.states import State

BATCH = 7


def work(database: Database, name: str, ledger: int, lease: timedelta, ends: bool) -> None:
    for number in count():
        who = Claimant("local", "here", f"{name}:{number}", lease)
        now = utc_now()
        runs = database.transact(lambda session, who=who, now=now: _claim(session, who, now))
        for run in runs:
            os.write(ledger, f"{run.run_id} {run.claim} {now.timestamp()}\n".encode())
        if ends and runs:
            database.transact(lambda session, runs=runs: _end(session, runs))
        elif not runs:
            if not ends or not _is_any_living(database):
                return
            time.sleep(0.05)


def _claim(session: Session, who: Claimant, now: datetime) -> list[WorkflowRun]:
    known = claims.claim_known(session, who, now, BATCH)
    return known or claims.claim_new(session, who, now, BATCH) or claims.claim_suspect(session, who, now)


def _end(session: Session, runs: Sequence[WorkflowRun]) -> None:
    """Under the claim, so that a late writer ends nothing."""
    for run in runs:
        by, now = run.claim or "", utc_now()
        if run.state != State.QUEUED or transitions.move(session, run, State.INITIALIZING, now, by=by):
            transitions.finish(session, run, End(State.COMPLETE, "over"), now, by=by)


def _is_any_living(database: Database) -> bool:
    with database.reading() as session:
        return session.scalar(select(WorkflowRun.run_id).where(WorkflowRun.due_at.is_not(None)).limit(1)) is not None


if __name__ == "__main__":
    url, name, descriptor, seconds, ends = sys.argv[1:]
    work(Database.connect(url), name, int(descriptor), timedelta(seconds=float(seconds)), ends == "1")
