"""The claims that this daemon holds, kept alive while work goes on. A worker asks `check` before each side effect."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from app.database import Database
from app.runs import claims
from app.runs.claims import ClaimedRun


class ClaimLost(Exception):
    """Somebody else may work on this run by now: stop without another word."""


class Holds:
    """Thread-safe. `monotonic` is a clock that no one sets, in seconds."""

    def __init__(
        self,
        database: Database,
        lease: timedelta,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease = lease
        self._database, self._now, self._monotonic = database, now, monotonic
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}  # run_id -> (token, when it was last made sure)

    def add(self, runs: Iterable[ClaimedRun]) -> None:
        """These runs were just claimed."""
        sure = self._monotonic()
        with self._lock:
            self._held |= {run.run_id: (run.claim, sure) for run in runs}

    def drop(self, runs: Iterable[ClaimedRun]) -> None:
        """These claims are released, or their runs have ended; a newer claim of the same run stays."""
        with self._lock:
            for run in runs:
                if self._held.get(run.run_id, ("", 0.0))[0] == run.claim:
                    del self._held[run.run_id]

    def check(self, run: ClaimedRun) -> None:
        """Raises ClaimLost unless this claim was made sure of less than a lease ago."""
        with self._lock:
            token, sure = self._held.get(run.run_id, ("", 0.0))
        if token != run.claim or self._monotonic() - sure >= self.lease.total_seconds():
            raise ClaimLost(run.run_id)

    def renew(self) -> None:
        """Hold everything for another lease; what is lost is forgotten, so that `check` says so."""
        with self._lock:
            held = dict(self._held)
        if not held:
            return
        tokens = {token for token, _ in held.values()}
        sure = self._monotonic()
        kept = self._database.transact(
            lambda session: claims.renew(session, tokens, list(held), self._now(), self.lease)
        )
        with self._lock:
            for run_id, (token, _) in held.items():
                if self._held.get(run_id, ("", 0))[0] == token:
                    if run_id in kept:
                        self._held[run_id] = (token, sure)
                    else:
                        del self._held[run_id]
