"""One provider's loop: claim what is due, hand it on, say how long nothing will be. Safe beside any number of others.

while not stopping: delay = tick(); wait(delay or until woken)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.daemon import measures
from app.daemon.alarm import Alarm
from app.daemon.claimed_runs import ClaimedRuns, Policy
from app.daemon.following import Follower
from app.daemon.holds import ClaimLost, Holds
from app.daemon.owed_cancels import OwedCancels
from app.daemon.patience import Breaker, backoff_seconds
from app.daemon.providers.provider_interface import Status, Unsure, WorkflowProviderInterface
from app.daemon.submitting import Submitter
from app.database import Database
from app.errors import NotReady, ProviderError
from app.runs import claims, transitions
from app.runs.claims import SUSPECT_AFTER, Claimant, ClaimedRun, Outlook
from app.runs.transitions import End
from app.states import State

log = logging.getLogger(__name__)

BATCH = 1000
"""Known runs in one bulk question to the provider."""
CHUNK, GIVE_WAY_SECONDS = 50, 0.01
"""Rows that one transaction of a look writes, and the pause before the next: SQLite keeps no queue of those who want to
write, and without it whoever submits meanwhile would come last."""
IN_HAND_SECONDS = 1.0
SOON_SECONDS = 0.01
"""After a piece of work the loop goes on so soon: several pieces that end together cost one tick."""

Claim = Callable[[Session, Claimant, datetime, int], list[ClaimedRun]]


class ProviderLoop:
    """Everything one daemon does for one provider. `tick` may be called by a test with its own clock."""

    def __init__(
        self,
        provider: WorkflowProviderInterface,
        database: Database,
        storage: ArtifactStorage,
        holds: Holds,
        *,
        daemon_id: str,
        host: str,
        now: Callable[[], datetime],
        poll_seconds: float = 10.0,
        workers: int = 10,
        policy: Policy | None = None,
        pool: Executor | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        ended: Callable[[ClaimedRun], None] = lambda run: None,
    ) -> None:
        """`ended` is told of every run that ends here."""
        self.provider, self.breaker = provider, Breaker(monotonic)
        self._database, self._holds, self._now = database, holds, now
        self._daemon_id, self._host, self._poll_seconds, self._workers = daemon_id, host, poll_seconds, workers
        self._claimed = ClaimedRuns(database, storage, holds, self.breaker, host, now, policy or Policy(), ended)
        self._called = measures.measured(provider)
        self._submitter = Submitter(self._called, self._claimed, monotonic)
        self._follower = Follower(self._called, self._claimed, self._submitter.start, self.wake)
        self._owed = OwedCancels(self._called, self._claimed)
        self._pool = pool or ThreadPoolExecutor(workers, thread_name_prefix=provider.name)
        self._looker = pool or ThreadPoolExecutor(1, thread_name_prefix=f"{provider.name}-look")
        self._look: Future[None] | None = None  # the bulk question under way: at most one, beside the submits
        self._ticks = count(1)
        self._busy: set[Future[None]] = set()
        self._in_hand: set[str] = set()  # run ids that a worker of this loop has not finished with
        self._submitting: set[str] = set()
        self._defect: str | None = None
        self._alarm, self._stopping = Alarm(), threading.Event()

    def run(self) -> None:
        """Tick until `stop`; a tick that fails (the database is away, say) is tried again after a while."""
        failures = 0
        while not self._stopping.is_set():
            try:
                with measures.poll_cycle():
                    delay, failures, self._defect = self.tick(), 0, None
            except Exception as error:
                failures += 1
                self._defect = f"this daemon fails at it, see its log: {type(error).__name__}"
                delay = min(self._poll_seconds, backoff_seconds(failures))
                log.exception("a tick failed", extra={"provider": self.provider.name, "again_in": round(delay, 1)})
            self._alarm.sleep(delay)

    @property
    def problem(self) -> str | None:
        """Why nothing moves at this provider now, in words for operators; None where all is well."""
        return self._defect or self.breaker.problem or self.provider.pace().problem

    def wake(self) -> None:
        """Tick again now."""
        self._alarm.ring()

    def stop(self) -> None:
        """Claim no more and finish the steps that are under way."""
        self._stopping.set()
        self._alarm.ring()
        self._looker.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def tick(self) -> float:
        """Claim what is due and set it moving. Returns how many seconds nothing will be due; 0 to go on at once."""
        if (closed := self.breaker.seconds_open()) > 0:
            return min(closed, self._poll_seconds)
        who = Claimant(self.provider.name, self._host, f"{self._daemon_id}:{next(self._ticks)}", self._holds.lease)
        outlook = self._look_ahead()
        if self._may_be_suspect(outlook) and (suspects := self._claim(claims.claim_suspect, who, 1)):
            self._watch_closely(suspects[0])
            return 0.0
        for owed in self._owed.take(self._workers - len(self._busy)) if outlook.owed else ():
            self._begin(self._owed.end, owed)
        known = self._claim_known(who) if outlook.known and not self._is_looking() else []
        if submitted := [run for run in known if run.provider_id is not None]:
            self._look = self._looker.submit(self._look_after, submitted)
            self._look.add_done_callback(self._looked)
        for run in known:
            if run.provider_id is None:
                self._spawn(run, self._submitter.settle)
        room = self._room() if outlook.new else 0
        new = self._claim(claims.claim_new, who, room) if room else []
        self._measure_lag(outlook, known, new)
        for run in new:
            self._submitting.add(run.run_id)
            self._spawn(run, self._submitter.submit)
        if self._is_looking():
            return self._longest_delay()
        return 0.0 if len(known) == BATCH else self._seconds_to(self._look_ahead() if known else outlook)

    def _claim_known(self, who: Claimant) -> list[ClaimedRun]:
        """A batch in chunks; where the database fails on the way, what is had goes on."""
        known: list[ClaimedRun] = []
        while len(known) < BATCH:
            if known:
                time.sleep(GIVE_WAY_SECONDS)
            try:
                runs = self._claim(claims.claim_known, who, CHUNK)
            except DBAPIError:
                if not known:
                    raise
                break
            known += runs
            if len(runs) < CHUNK:
                break
        return known

    def _claim(self, claim: Claim, who: Claimant, limit: int) -> list[ClaimedRun]:
        """Claimed runs, less those that a worker of this loop still has in hand, stalled past its lease."""
        runs = self._database.transact(lambda session: claim(session, who, self._now(), limit))
        if in_hand := [run for run in runs if run.run_id in self._in_hand]:
            self._postpone(in_hand, IN_HAND_SECONDS)
        free = [run for run in runs if run not in in_hand]
        self._holds.add(free)
        return free

    def _measure_lag(self, outlook: Outlook, known: list[ClaimedRun], new: list[ClaimedRun]) -> None:
        """How late the runs were that are claimed now; new ones from their acceptance on, once each."""
        if known and outlook.next_known:
            measures.saw_lag(self.provider.name, "known", outlook.next_known, self._now())
        if never_seen := [run.submitted_at for run in new if not run.attempt and run.waiting_for is None]:
            measures.saw_lag(self.provider.name, "new", min(never_seen), self._now())

    def _room(self) -> int:
        """How many more runs may be submitted now."""
        free, paced = self._workers - len(self._busy), self.provider.pace().submits
        free = free if paced is None else min(free, paced)
        if free <= 0 or self.provider.max_active is None:
            return max(free, 0)
        host = self._host if self.provider.capabilities.host_bound else None
        submitting = list(self._submitting)  # some are stored as active already, and none may count twice
        with self._database.reading() as session:
            active = claims.count_active(session, self.provider.name, host, submitting) - len(self._follower.collecting)
        return max(0, min(free, self.provider.max_active - active - len(submitting)))

    def _look_ahead(self) -> Outlook:
        with self._database.reading() as session:
            return claims.look_ahead(session, self.provider.name, self._host, self._now())

    def _may_be_suspect(self, outlook: Outlook) -> bool:
        """A run is due that must be worked on alone, and nothing else is in hand."""
        if self._busy or self._is_looking() or not (outlook.known or outlook.new):
            return False
        with self._database.reading() as session:
            return claims.has_suspect(session, self.provider.name, self._host, self._now())

    def _seconds_to(self, outlook: Outlook) -> float:
        if outlook.next_known is None:
            return self._longest_delay()
        return min(self._longest_delay(), max(0.01, (outlook.next_known - self._now()).total_seconds()))

    def _longest_delay(self) -> float:
        """Until the next look at the database, or until the provider takes another submit."""
        return min(self._poll_seconds, self.provider.pace().again_in_seconds or self._poll_seconds)

    def _is_looking(self) -> bool:
        return self._look is not None and not self._look.done()

    def _looked(self, look: Future[None]) -> None:
        """Go on with what fell due meanwhile. After a failure the leases bring the runs back."""
        if not look.cancelled() and (error := look.exception()):
            log.error("a look at runs failed", exc_info=error, extra={"provider": self.provider.name})
        self._alarm.ring(SOON_SECONDS)

    def _look_after(self, runs: list[ClaimedRun]) -> None:
        """One bulk question; whatever comes of it, no claim is kept that no handler has."""
        try:
            self._sort(runs, self._called.get_workflow_statuses([run.provider_id for run in runs if run.provider_id]))
        except ProviderError as error:
            self._leave_alone(runs, error)
        finally:
            self._holds.drop([run for run in runs if run.run_id not in self._in_hand])

    def _sort(self, runs: list[ClaimedRun], statuses: Mapping[str, Status | Unsure]) -> None:
        """What changed goes to a handler, the rest is postponed in a few statements."""
        self.breaker.succeeded()
        quiet: dict[float, list[ClaimedRun]] = {}
        unsure: dict[tuple[float, str], list[ClaimedRun]] = {}
        for run in runs:
            status = statuses.get(run.provider_id or "")
            if status is None:
                self._spawn(run, self._follower.miss)
            elif isinstance(status, Unsure):
                unsure.setdefault((self._follower.seconds_to_next_look(run), status.why), []).append(run)
            elif self._follower.asks_for_work(run, status):
                self._spawn(run, partial(self._follower.follow, status=status))
            else:
                quiet.setdefault(self._follower.seconds_to_next_look(run), []).append(run)
        for delay, unchanged in quiet.items():
            self._postpone(unchanged, delay, observed=True)
        for (delay, why), waiting in unsure.items():
            self._postpone(waiting, delay, waiting_for=why)

    def _leave_alone(self, runs: list[ClaimedRun], error: ProviderError) -> None:
        """The provider did not answer: nothing is known, so nothing changes but when to ask again."""
        retry_after = getattr(error, "retry_after", None)
        if isinstance(error, NotReady):
            self._postpone(runs, error.retry_after or 0.0, waiting_for=str(error))
            return
        self.breaker.failed(str(error), retry_after)
        log.warning("no statuses", extra={"provider": self.provider.name, "error": str(error), "runs": len(runs)})
        delay = backoff_seconds(2, retry_after)  # the breaker waits for longer, where it goes on
        self._postpone(runs, delay, waiting_for=f"{self.provider.name} does not answer: {error}")

    def _postpone(
        self, runs: list[ClaimedRun], delay: float, *, observed: bool = False, waiting_for: str | None = None
    ) -> None:
        self._holds.drop(runs)
        for begin in range(0, len(runs), CHUNK):
            if begin:
                time.sleep(GIVE_WAY_SECONDS)
            run_ids = [run.run_id for run in runs[begin : begin + CHUNK]]
            self._database.transact(
                lambda session, run_ids=run_ids: claims.release(  # type: ignore[misc]
                    session,
                    runs[0].claim,
                    run_ids,
                    self._now(),
                    timedelta(seconds=delay),
                    observed=observed,
                    waiting_for=waiting_for,
                )
            )

    def _watch_closely(self, run: ClaimedRun) -> None:
        """A run with which handlers kept dying: nothing else is in hand now. Dying again with it is its end."""
        self._holds.add([run])
        if run.unreleased_claims > SUSPECT_AFTER + 2:
            words = f"Whoever worked on this run died {run.unreleased_claims - 1} times in a row."
            end = End(State.SYSTEM_ERROR, words, "poison")
            self._database.transact(lambda session: transitions.finish(session, run, end, self._now(), by="daemon"))
            self._holds.drop([run])
        elif run.state == State.QUEUED:
            self._handle(run, self._submitter.submit)
        else:
            self._handle(run, self._submitter.settle if run.provider_id is None else self._follower.miss)

    def _spawn(self, run: ClaimedRun, work: Callable[[ClaimedRun], None]) -> None:
        self._in_hand.add(run.run_id)
        self._begin(self._handle, run, work)

    def _begin(self, work: Callable[..., None], *what: Any) -> None:
        future = self._pool.submit(work, *what)
        self._busy.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        self._busy.discard(future)
        self._alarm.ring(SOON_SECONDS)

    def _handle(self, run: ClaimedRun, work: Callable[[ClaimedRun], None]) -> None:
        """Do one run's work; whatever it raises, the run comes back."""
        try:
            self._holds.check(run)
            work(run)
        except ClaimLost:
            log.info("a claim was lost", extra={"run_id": run.run_id})
        except DBAPIError:
            log.exception("the database failed; the lease brings the run back", extra={"run_id": run.run_id})
        except Exception as error:
            try:
                self._claimed.fail(run, error)
            except Exception:
                log.exception("the lease brings the run back", extra={"run_id": run.run_id})
        finally:
            self._holds.drop([run])
            self._in_hand.discard(run.run_id)
            self._submitting.discard(run.run_id)
