"""What a daemon does with one claimed run: submit it, find what became of a submit, follow it, collect its end.

Every method may be the second after a crash. Nothing here knows threads or timers; what lasts is in the database.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from sqlalchemy.exc import IntegrityError

from app.artifacts import ArtifactStorage
from app.daemon.holds import Holds
from app.daemon.patience import Breaker, backoff_seconds
from app.daemon.providers.provider_interface import (
    Absent,
    Found,
    LogSink,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.database import Database
from app.errors import NotAccepted, OutcomeUnknown, ProviderError, Rejected
from app.models import WorkflowRun
from app.runs import claims, listing, transitions
from app.runs.transitions import End
from app.states import State, is_terminal

log = logging.getLogger(__name__)

LOGS_WANTED_FOR = timedelta(seconds=60)
CANCEL_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Policy:
    """When to stop hoping, and how much to keep."""

    give_up_after: int = 20
    lost_looks: int = 5
    lost_seconds: float = 3600
    longest_look_seconds: float = 300
    max_log_bytes: int = 1024**3


@dataclass(frozen=True, slots=True)
class _StoredAttachment:
    path: str
    sha256: str
    size: int
    storage: ArtifactStorage

    def open(self) -> BinaryIO:
        return self.storage.blob(self.sha256).open()


class RunHandler:
    """Works on runs of one provider. The rows that come in are claimed and in `holds`; when a method returns, they are
    released or ended, unless the claim was lost (ClaimLost)."""

    def __init__(
        self,
        provider: WorkflowProviderInterface,
        database: Database,
        storage: ArtifactStorage,
        holds: Holds,
        breaker: Breaker,
        host: str,
        now: Callable[[], datetime],
        policy: Policy,
    ) -> None:
        self._provider, self._database, self._storage = provider, database, storage
        self._holds, self._breaker, self._host, self._now, self._policy = holds, breaker, host, now, policy
        self._tasks_seen: dict[str, list[Task]] = {}
        self._odd_words: set[str] = set()

    # Submitting

    def submit(self, run: WorkflowRun) -> None:
        """A QUEUED run is handed to the provider; the row says so before anything is sent."""
        submission = self._submission(run)
        try:
            request = self._provider.prepare_request(submission)
        except Rejected as error:
            self._refuse(run, error)
            return
        values = {"submit_key": submission.submit_key, "submit_request": request}
        if self._provider.capabilities.host_bound:
            values["host"] = self._host
        if self._about_to_send(run, State.INITIALIZING, values):
            self._send(run, replace(submission, request=request, sent_at=run.submit_sent_at))
        else:
            self.release(run, 0)

    def settle(self, run: WorkflowRun) -> None:
        """A run past QUEUED without a provider id: look whether a submit arrived before doing anything else."""
        submission = self._submission(run)
        match self._provider.find_workflow(submission):
            case Found(accepted):
                self._adopt(run, accepted)
            case Unsure(why):
                self._wait(run, f"Looking whether the submit arrived. {why}".strip())
            case Absent() if (wait := self._seconds_to_certainty(run)) > 0:
                self.release(run, wait, "Waiting until an unanswered submit can no longer arrive.")
            case Absent() if run.state == State.CANCELING:
                self._finish(run, End(State.CANCELED, "It had not been started."))
            case Absent():
                if self._about_to_send(run, None, {}):
                    self._send(run, replace(submission, sent_at=run.submit_sent_at))

    def _about_to_send(self, run: WorkflowRun, to: State | None, values: Mapping[str, Any]) -> bool:
        """Commit that a submit is about to be sent. False where the run was cancelled or claimed meanwhile."""
        now = self._now()
        values = {**values, "submit_sent_at": now, "attempt": run.attempt + 1}
        if to is None:
            return self._database.transact(lambda session: transitions.note_run(session, run, **values))
        return self._database.transact(lambda session: transitions.move(session, run, to, now, by="daemon", **values))

    def _send(self, run: WorkflowRun, submission: Submission) -> None:
        self._holds.check(run)
        try:
            accepted = self._provider.submit_workflow(submission)
        except NotAccepted as error:
            self._breaker.failed(str(error), error.retry_after)
            self._requeue(run, error)
        except OutcomeUnknown as error:
            self._breaker.failed(str(error))
            self._wait(run, f"It is not known whether the submit arrived: {error}")
        except Rejected as error:
            self._breaker.succeeded()
            self._refuse(run, error)
        else:
            self._breaker.succeeded()
            self._adopt(run, accepted)

    def _adopt(self, run: WorkflowRun, accepted: ProviderRun) -> None:
        """Record the provider's id, the first one for good, then start a draft if it is one."""
        values: dict[str, Any] = {"provider_metadata": dict(accepted.metadata)}
        if accepted.provider_status:
            values["provider_status"] = accepted.provider_status
        try:
            kept = self._database.transact(
                lambda session: transitions.record_provider_id(
                    session, run.run_id, accepted.provider_id, self._now(), by="daemon", **values
                )
            )
        except IntegrityError:
            words = f"The provider gave this run the id {accepted.provider_id}, which another run has."
            self._finish(run, End(State.SYSTEM_ERROR, words, "duplicate_provider_id"))
            return
        if kept != accepted.provider_id:
            self._provider.cancel_workflow(accepted.provider_id)
        elif not accepted.started:
            self._start(run, accepted.provider_id)
        self.release(run, self._first_look_seconds())

    def _start(self, run: WorkflowRun, provider_id: str) -> None:
        """Start a draft, unless its run was cancelled meanwhile: then the next look cancels it."""
        with self._database.reading() as session:
            state = listing.get_state(session, run.run_id, None)
        if state != State.CANCELING and not is_terminal(state):
            self._holds.check(run)
            self._provider.start_workflow(provider_id)

    def _requeue(self, run: WorkflowRun, error: NotAccepted) -> None:
        """It certainly did not start: back to QUEUED, or CANCELED where that was asked for meanwhile."""
        words = f"The provider did not take it: {error}"
        now = self._now()
        self._database.transact(
            lambda session: transitions.move(session, run, State.QUEUED, now, by="daemon", note=words)
        )
        self._wait(run, words, error.retry_after)

    def _refuse(self, run: WorkflowRun, error: Rejected) -> None:
        self._finish(run, End(State.SYSTEM_ERROR, str(error), error.reason))

    def _seconds_to_certainty(self, run: WorkflowRun) -> float:
        """How long a submit that was sent may still show up."""
        if run.submit_sent_at is None:
            return 0.0
        patience = self._provider.submit_timeout_seconds + self._provider.visibility_grace_seconds
        return (run.submit_sent_at + timedelta(seconds=patience) - self._now()).total_seconds()

    # Following

    def follow(self, run: WorkflowRun, status: Status) -> None:
        """The provider has said something of a run that asks for work: see `asks_for_work`."""
        provider_id = self._id(run)
        if status.state is not None and is_terminal(status.state):
            self._collect(run, status)
            return
        if run.state == State.CANCELING:
            self._provider.cancel_workflow(provider_id)
            self.release(run, CANCEL_AGAIN_SECONDS, "Waiting for the provider to end it.", observed=True)
            return
        if status.needs_start:
            self._start(run, provider_id)
        self._note(run, status)
        self._sync(run)
        self.release(run, self.seconds_to_next_look(run), observed=True)

    def asks_for_work(self, run: WorkflowRun, status: Status) -> bool:
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

    def miss(self, run: WorkflowRun) -> None:
        """A bulk answer lacked this run, which proves nothing: one careful look, and patience."""
        status = self._provider.get_workflow_status(self._id(run))
        if status is not None:
            self.follow(run, status)
            return
        now = self._now()
        since = run.missing_since or now
        looks = run.failures + 1
        if looks >= self._policy.lost_looks and (now - since).total_seconds() >= self._policy.lost_seconds:
            words = f"The provider has not known {run.provider_id} since {since:%Y-%m-%d %H:%M:%S} UTC."
            self._finish(run, End(State.SYSTEM_ERROR, words, "provider_lost_run"))
            return
        self._keep(run, failures=looks, missing_since=since)
        self.release(run, backoff_seconds(looks + 3), f"The provider does not know {run.provider_id} at present.")

    def seconds_to_next_look(self, run: WorkflowRun) -> float:
        """The provider's word, under the configured ceiling."""
        running = (self._now() - (run.start_time or run.processed_at or run.submitted_at)).total_seconds()
        return min(self._provider.seconds_to_next_look(run.state, running), self._policy.longest_look_seconds)

    def _first_look_seconds(self) -> float:
        return min(1.0, self._provider.status_interval_seconds)

    def _note(self, run: WorkflowRun, status: Status) -> None:
        """Bring the row up to what the provider says of a run that goes on."""
        values: dict[str, Any] = {"provider_status": status.provider_status, **_facts(run, status)}
        to = State.INITIALIZING if status.state == State.QUEUED else status.state
        now = self._now()
        if to is None or to in (run.state, State.CANCELING, State.INITIALIZING):
            self._keep(run, **values)
        else:
            moved = self._database.transact(
                lambda session: transitions.move(
                    session, run, to, now, by="daemon", note=status.message or status.provider_status, **values
                )
            )
            if not moved:
                log.info("a report was overtaken", extra={"run_id": run.run_id, "state": run.state, "to": to})

    def _sync(self, run: WorkflowRun) -> None:
        """Live tasks and logs: always where they are at hand, else while somebody watches."""
        if not (self._provider.capabilities.host_bound or self._is_watched(run)):
            return
        provider_id = self._id(run)
        tasks = self._provider.get_tasks(provider_id)
        if tasks != self._tasks_seen.get(run.run_id):
            rows = [asdict(task) for task in tasks]
            self._database.transact(lambda session: transitions.note_tasks(session, run, rows))
            self._tasks_seen[run.run_id] = tasks
        if self._is_watched(run):
            self._holds.check(run)
            self._provider.get_logs(provider_id, self._log_sink(run))

    def _is_watched(self, run: WorkflowRun) -> bool:
        return run.log_wanted_at is not None and self._now() - run.log_wanted_at < LOGS_WANTED_FOR

    # Ending

    def _collect(self, run: WorkflowRun, status: Status) -> None:
        """Fetch everything first, then write it with the end, so that COMPLETE implies that the outputs are there."""
        provider_id = self._id(run)
        self._holds.check(run)
        outputs = None
        if status.state == State.COMPLETE:
            try:
                outputs = self._provider.get_outputs(provider_id, self._storage.output_sink(run.run_id))
            except Rejected as error:
                self._outputs_refused(run, status, error)
                return
        self._finish(run, _end(run, status, self._fetch_records(run), outputs))

    def _fetch_records(self, run: WorkflowRun) -> list[Task]:
        """The last look at tasks and logs; what the provider definitely no longer has is done without."""
        tasks: list[Task] = []
        try:
            tasks = self._provider.get_tasks(self._id(run))
            self._holds.check(run)
            self._provider.get_logs(self._id(run), self._log_sink(run))
        except Rejected as error:
            words = f"Some logs or tasks cannot be had: {error}"
            self._database.transact(
                lambda session: transitions.add_event(session, run.run_id, self._now(), "daemon", words)
            )
        return tasks

    def _log_sink(self, run: WorkflowRun) -> LogSink:
        return self._storage.log_sink(run.run_id, self._policy.max_log_bytes)

    def _outputs_refused(self, run: WorkflowRun, status: Status, error: Rejected) -> None:
        tries = run.failures + 1
        words = f"It completed, but its outputs cannot be had: {error}"
        if tries >= self._provider.outputs_tries:
            lost = replace(status, state=State.SYSTEM_ERROR, reason=error.reason, message=words)
            self._finish(run, _end(run, lost, self._fetch_records(run), None))
            return
        self._keep(run, failures=tries)
        self.release(run, backoff_seconds(tries), words)

    def _finish(self, run: WorkflowRun, end: End) -> None:
        now = self._now()
        if self._database.transact(lambda session: transitions.finish(session, run, end, now, by="daemon")):
            log.info("run ended", extra={"run_id": run.run_id, "state": end.state, "reason": end.reason})
            self._tasks_seen.pop(run.run_id, None)
            self._holds.drop([run])
        else:
            self.release(run, 0)

    # Giving back

    def fail(self, run: WorkflowRun, error: Exception) -> None:
        """A handler raised something: a failed answer waits, a defect of ours is counted and in the end reported."""
        if isinstance(error, ProviderError):
            self._breaker.failed(str(error), getattr(error, "retry_after", None))
            self._wait(run, f"{self._provider.name}: {error}", getattr(error, "retry_after", None))
            return
        log.exception("a handler failed", exc_info=error, extra={"run_id": run.run_id})
        failures = run.failures + 1
        if failures >= self._policy.give_up_after:
            words = f"This service failed {failures} times at it: {type(error).__name__}: {error}"
            self._finish(run, End(State.SYSTEM_ERROR, words, "internal_error"))
            return
        self._keep(run, failures=failures)
        self._wait(run, f"This service failed at it and tries again: {type(error).__name__}")

    def release(
        self, run: WorkflowRun, delay: float, waiting_for: str | None = None, *, observed: bool = False
    ) -> None:
        """Give the claim back; the run is due again after `delay` seconds, or at once where a hint came."""
        now, token = self._now(), run.claim or ""
        self._holds.drop([run])
        self._database.transact(
            lambda session: claims.release(
                session, token, [run.run_id], now, timedelta(seconds=delay), observed=observed, waiting_for=waiting_for
            )
        )

    def _wait(self, run: WorkflowRun, words: str, retry_after: float | None = None) -> None:
        self.release(run, backoff_seconds(max(run.failures, run.attempt), retry_after), words)

    def _keep(self, run: WorkflowRun, **values: Any) -> None:
        """Write what is not the state, where it is news."""
        news = {name: value for name, value in values.items() if getattr(run, name) != value}
        if news:
            self._database.transact(lambda session: transitions.note_run(session, run, **news))

    def _id(self, run: WorkflowRun) -> str:
        assert run.provider_id is not None  # noqa: S101  the loop hands runs without an id to `settle`
        return run.provider_id

    def _submission(self, run: WorkflowRun) -> Submission:
        with self._database.reading() as session:
            whole = listing.get_run(session, run.run_id, None)
            attachments = listing.get_attachments(session, run.run_id)
        return Submission(
            run_id=run.run_id,
            submit_key=run.submit_key or f"wes-{run.run_id}",
            name=run.name,
            workflow_type=run.workflow_type,
            workflow_type_version=run.workflow_type_version,
            workflow_url=run.workflow_url,
            workflow_params=whole.workflow_params,
            workflow_engine=run.workflow_engine,
            workflow_engine_version=run.workflow_engine_version,
            workflow_engine_parameters=run.workflow_engine_parameters,
            tags=run.tags,
            attachments=tuple(_StoredAttachment(a.path, a.sha256, a.size, self._storage) for a in attachments),
            owner=run.owner,
            request=whole.submit_request or {},
            sent_at=run.submit_sent_at,
        )


def _facts(run: WorkflowRun, status: Status) -> dict[str, Any]:
    """What a status adds to the row, where it says anything."""
    facts: dict[str, Any] = {}
    if status.start_time:
        facts["start_time"] = status.start_time
    if status.cmd:
        facts["cmd"] = list(status.cmd)
    if status.metadata:
        facts["provider_metadata"] = {**run.provider_metadata, **status.metadata}
    return facts


def _end(run: WorkflowRun, status: Status, tasks: list[Task], outputs: dict[str, Any] | None) -> End:
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
