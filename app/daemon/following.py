"""Following runs that a provider has: what it says of them, their tasks and logs while they run, and their end.

Every method may be the second after a crash; what was collected and not committed is collected again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from app.daemon.claimed_runs import ClaimedRuns
from app.daemon.patience import backoff_seconds
from app.daemon.providers.provider_interface import LogSink, Status, Task, WorkflowProviderInterface
from app.errors import Rejected
from app.runs import transitions
from app.runs.claims import ClaimedRun
from app.runs.transitions import End
from app.states import State, is_terminal

log = logging.getLogger(__name__)

LOGS_WANTED_FOR = timedelta(seconds=60)
CANCEL_AGAIN_SECONDS = 5.0
CANCELED_UNSEEN_SECONDS = 60.0
"""How long a run that is to end may be unknown to its provider until that is its end."""


class Follower:
    """Works on runs of one provider that have a provider id. `start_draft` starts one that is still a draft.

    `freed` is called when a run has ended there and only its leavings are fetched: it is one of `collecting` then, and
    its place may be given away.
    """

    def __init__(
        self,
        provider: WorkflowProviderInterface,
        runs: ClaimedRuns,
        start_draft: Callable[[ClaimedRun, str], None],
        freed: Callable[[], None],
    ) -> None:
        self._provider, self._runs, self._start_draft, self._freed = provider, runs, start_draft, freed
        self.collecting: set[str] = set()
        self._tasks_seen: dict[str, list[Task]] = {}
        self._odd_words: set[str] = set()

    def follow(self, run: ClaimedRun, status: Status) -> None:
        """The provider has said something of a run that asks for work: see `asks_for_work`."""
        provider_id = _id(run)
        self._runs.keep(run, misses=0, missing_since=None)
        if status.perhaps_canceled and run.state == State.CANCELING:
            status = replace(status, state=State.CANCELED, reason=None)
        if status.state is not None and is_terminal(status.state):
            self._collect(run, status)
            return
        if run.state == State.CANCELING:
            self._provider.cancel_workflow(provider_id)
            again = max(CANCEL_AGAIN_SECONDS, self.seconds_to_next_look(run))
            self._runs.release(run, again, "Waiting for the provider to end it.", observed=True)
            return
        if status.needs_start:
            self._start_draft(run, provider_id)
        self._note(run, status)
        try:
            self._sync(run)
        except Rejected as error:  # what may not be read is no trouble of the run
            log.warning("no live logs or tasks", extra={"run_id": run.run_id, "error": str(error)})
        self._runs.release(run, self.seconds_to_next_look(run), observed=True)

    def asks_for_work(self, run: ClaimedRun, status: Status) -> bool:
        """False where nothing has changed and nobody watches: then a postponement for many runs at once will do."""
        if status.state is None and status.provider_status not in self._odd_words:
            self._odd_words.add(status.provider_status)
            log.warning("unknown word of a provider", extra={"word": status.provider_status, "run_id": run.run_id})
        return (
            run.state == State.CANCELING
            or status.needs_start
            or (status.state is not None and status.state != run.state)
            or status.provider_status != run.provider_status
            or self._is_watched(run)
            or self._provider.capabilities.host_bound
        )

    def miss(self, run: ClaimedRun) -> None:
        """A bulk answer lacked this run, which proves nothing: one careful look, and patience."""
        status = self._provider.get_workflow_status(_id(run))
        if status is not None:
            self.follow(run, status)
            return
        now = self._runs.now()
        since = run.missing_since or now
        looks = run.misses + 1
        patience = self._runs.policy.lost_seconds
        if run.state == State.CANCELING:  # a draft, say, that the cancel deleted
            with suppress(Rejected):
                self._provider.cancel_workflow(_id(run))
            patience = min(patience, CANCELED_UNSEEN_SECONDS)
        if looks >= self._runs.policy.lost_looks and (now - since).total_seconds() >= patience:
            words = f"The provider has not known {run.provider_id} since {since:%Y-%m-%d %H:%M:%S} UTC."
            lost = End(State.SYSTEM_ERROR, words, "provider_lost_run")
            self._runs.finish(run, End(State.CANCELED, words) if run.state == State.CANCELING else lost)
            return
        self._runs.keep(run, misses=looks, missing_since=since)
        self._runs.release(run, backoff_seconds(looks + 3), f"The provider does not know {run.provider_id} at present.")

    def seconds_to_next_look(self, run: ClaimedRun) -> float:
        """The provider's word, under the configured ceiling."""
        running = (self._runs.now() - (run.start_time or run.processed_at or run.submitted_at)).total_seconds()
        return min(self._provider.seconds_to_next_look(run.state, running), self._runs.policy.longest_look_seconds)

    def _note(self, run: ClaimedRun, status: Status) -> None:
        """Bring the row up to what the provider says of a run that goes on."""
        values: dict[str, Any] = {"provider_status": status.provider_status, **_facts(run, status)}
        to = State.INITIALIZING if status.state == State.QUEUED else status.state
        now = self._runs.now()
        if to is None or to in (run.state, State.CANCELING, State.INITIALIZING):
            self._runs.keep(run, **values)
        else:
            moved = self._runs.database.transact(
                lambda session: transitions.move(
                    session, run, to, now, by="daemon", note=status.message or status.provider_status, **values
                )
            )
            if not moved:
                log.info("a report was overtaken", extra={"run_id": run.run_id, "state": run.state, "to": to})

    def _sync(self, run: ClaimedRun) -> None:
        """Live tasks and logs: always where they are at hand, else while somebody watches."""
        if not (self._provider.capabilities.host_bound or self._is_watched(run)):
            return
        provider_id = _id(run)
        tasks = self._provider.get_tasks(provider_id)
        if tasks != self._tasks_seen.get(run.run_id):
            rows = [asdict(task) for task in tasks]
            self._runs.database.transact(lambda session: transitions.note_tasks(session, run, rows))
            self._tasks_seen[run.run_id] = tasks
        if self._is_watched(run):
            self._runs.holds.check(run)
            self._provider.get_logs(provider_id, self._log_sink(run))

    def _is_watched(self, run: ClaimedRun) -> bool:
        return run.log_wanted_at is not None and self._runs.now() - run.log_wanted_at < LOGS_WANTED_FOR

    def _collect(self, run: ClaimedRun, status: Status) -> None:
        """Fetch everything first, then write it with the end, so that COMPLETE implies that the outputs are there."""
        self._runs.holds.check(run)
        try:
            with self._place_free(run):
                outputs = None
                if status.state == State.COMPLETE:
                    outputs = self._provider.get_outputs(_id(run), self._runs.storage.output_sink(run.run_id))
                end = _end(run, status, self._fetch_records(run), outputs)
        except Rejected as error:
            self._outputs_refused(run, status, error)
            return
        self._runs.breaker.succeeded()
        self._tasks_seen.pop(run.run_id, None)
        self._runs.finish(run, end)

    @contextmanager
    def _place_free(self, run: ClaimedRun) -> Iterator[None]:
        """Over before the run's end is in the database, so that no place is given away twice."""
        self.collecting.add(run.run_id)
        self._freed()
        try:
            yield
        finally:
            self.collecting.discard(run.run_id)

    def _fetch_records(self, run: ClaimedRun) -> list[Task]:
        """The last look at tasks and logs; what the provider definitely no longer has is done without."""
        tasks: list[Task] = []
        try:
            tasks = self._provider.get_tasks(_id(run))
            self._runs.holds.check(run)
            self._provider.get_logs(_id(run), self._log_sink(run))
        except Rejected as error:
            words = f"Some logs or tasks cannot be had: {error}"
            self._runs.database.transact(
                lambda session: transitions.add_event(session, run.run_id, self._runs.now(), "daemon", words)
            )
        return tasks

    def _log_sink(self, run: ClaimedRun) -> LogSink:
        return self._runs.storage.log_sink(run.run_id, self._runs.policy.max_log_bytes)

    def _outputs_refused(self, run: ClaimedRun, status: Status, error: Rejected) -> None:
        tries = run.refusals + 1
        words = f"It completed, but its outputs cannot be had: {error}"
        if tries >= self._provider.outputs_tries:
            lost = replace(status, state=State.SYSTEM_ERROR, reason=error.reason, message=words)
            self._runs.finish(run, _end(run, lost, self._fetch_records(run), None))
            return
        self._runs.keep(run, refusals=tries)
        self._runs.release(run, backoff_seconds(tries), words)


def _id(run: ClaimedRun) -> str:
    assert run.provider_id is not None  # noqa: S101  the loop hands runs without an id to the submitter
    return run.provider_id


def _facts(run: ClaimedRun, status: Status) -> dict[str, Any]:
    """What a status adds to the row, where it says anything."""
    facts: dict[str, Any] = {}
    if status.start_time:
        facts["start_time"] = status.start_time
    if status.cmd:
        facts["cmd"] = list(status.cmd)
    if status.metadata:
        facts["provider_metadata"] = {**run.provider_metadata, **status.metadata}
    return facts


def _end(run: ClaimedRun, status: Status, tasks: list[Task], outputs: dict[str, Any] | None) -> End:
    assert status.state is not None  # noqa: S101
    return End(
        state=status.state,
        note=status.message or status.provider_status,
        reason=status.reason or ("unexplained" if status.state == State.SYSTEM_ERROR else None),
        exit_code=status.exit_code,
        start_time=status.start_time,
        end_time=status.end_time,
        outputs=outputs,
        tasks=[asdict(task) for task in tasks],
        values={"provider_status": status.provider_status, **_facts(run, status)},
    )
