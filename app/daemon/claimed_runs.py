"""What every handler may do with a run that was claimed: give it back, note something, end it. Knows no provider.

After each of these but `keep` the run is out of the handler's hands, unless the claim was lost before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.daemon.holds import Holds
from app.daemon.patience import Breaker, backoff_seconds
from app.database import Database
from app.errors import NotReady, ProviderError
from app.runs import claims, transitions
from app.runs.claims import ClaimedRun
from app.runs.transitions import End
from app.states import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """When to stop hoping, and how much to keep."""

    give_up_after: int = 20
    lost_looks: int = 5
    lost_seconds: float = 3600
    longest_look_seconds: float = 300
    max_log_bytes: int = 1024**3


class ClaimedRuns:
    """The claimed runs of one provider, and what handlers share: database, storage, holds, breaker and clock."""

    def __init__(
        self,
        database: Database,
        storage: ArtifactStorage,
        holds: Holds,
        breaker: Breaker,
        host: str,
        now: Callable[[], datetime],
        policy: Policy,
        ended: Callable[[ClaimedRun], None] = lambda run: None,
    ) -> None:
        """`ended` is told of every run that ends here."""
        self.database, self.storage, self.holds, self.breaker = database, storage, holds, breaker
        self.host, self.now, self.policy, self._ended = host, now, policy, ended
        self._waits: Counter[str] = Counter()  # how often in a row a run waited for something that failed

    def release(
        self,
        run: ClaimedRun,
        delay: float,
        waiting_for: str | None = None,
        *,
        observed: bool = False,
        first: Callable[[Session], object] = lambda session: None,
    ) -> None:
        """Give the claim back; the run is due again after `delay` seconds, or at once where a hint came.

        `first` writes in the same transaction.
        """
        self._waits.pop(run.run_id, None)
        self._give_back(run, delay, waiting_for, observed, first)

    def wait(self, run: ClaimedRun, words: str, retry_after: float | None = None) -> None:
        """Give the claim back for longer each time in a row; `words` say why on the run's page."""
        self._waits[run.run_id] += 1
        tries = max(self._waits[run.run_id], run.failures)
        self._give_back(run, backoff_seconds(tries, retry_after), words)

    def fail(self, run: ClaimedRun, error: Exception) -> None:
        """A handler raised something: a failed answer waits, a defect of ours is counted and in the end reported."""
        if isinstance(error, NotReady):
            self.release(run, error.retry_after or 0.0, str(error))
            return
        if isinstance(error, ProviderError):
            retry_after = getattr(error, "retry_after", None)
            self.breaker.failed(str(error), retry_after)
            self.wait(run, str(error), retry_after)
            return
        log.exception("a handler failed", exc_info=error, extra={"run_id": run.run_id})
        failures = run.failures + 1
        if failures >= self.policy.give_up_after:
            words = f"This service failed {failures} times at it: {type(error).__name__}: {error}"
            self.finish(run, End(State.SYSTEM_ERROR, words, "internal_error"))
            return
        self.keep(run, failures=failures)
        self.wait(run, f"This service failed at it and tries again: {type(error).__name__}")

    def finish(self, run: ClaimedRun, end: End) -> None:
        """End it; where it was overtaken (cancelled, say), it is due again at once."""
        now = self.now()
        if self.database.transact(lambda session: transitions.finish(session, run, end, now, by="daemon")):
            log.info("run ended", extra={"run_id": run.run_id, "state": end.state, "reason": end.reason})
            self._waits.pop(run.run_id, None)
            self.holds.drop([run])
            self._ended(run)
        else:
            self.release(run, 0)

    def keep(self, run: ClaimedRun, **values: Any) -> None:
        """Write what is not the state, where it is news."""
        news = {name: value for name, value in values.items() if getattr(run, name) != value}
        if news:
            self.database.transact(lambda session: transitions.note_run(session, run, **news))

    def _give_back(
        self,
        run: ClaimedRun,
        delay: float,
        waiting_for: str | None,
        observed: bool = False,
        first: Callable[[Session], object] = lambda session: None,
    ) -> None:
        now, token, pause = self.now(), run.claim, timedelta(seconds=delay)

        def work(session: Session) -> None:
            first(session)
            claims.release(session, token, [run.run_id], now, pause, observed=observed, waiting_for=waiting_for)

        self.holds.drop([run])
        self.database.transact(work)
