"""Handing runs to a provider: each exactly once, whatever was lost on the way.

Every method may be the second after a crash: what is about to be sent is committed first, and a submit whose answer was
lost is looked for before anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.daemon.claimed_runs import ClaimedRuns
from app.daemon.providers.provider_interface import (
    Absent,
    Found,
    ProviderRun,
    Submission,
    Unsure,
    WorkflowProviderInterface,
)
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.runs import listing, owed_cancels, transitions
from app.runs.claims import ClaimedRun
from app.runs.transitions import End
from app.states import State, is_terminal

FIRST_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _StoredAttachment:
    path: str
    sha256: str
    size: int
    storage: ArtifactStorage

    def open(self) -> BinaryIO:
        return self.storage.blob(self.sha256).open()


class Submitter:
    """Works on runs of one provider that have no provider id yet. `monotonic`: a clock that no one sets, in seconds."""

    def __init__(self, provider: WorkflowProviderInterface, runs: ClaimedRuns, monotonic: Callable[[], float]) -> None:
        self._provider, self._runs, self._monotonic = provider, runs, monotonic
        self._first_looks: dict[str, tuple[datetime, float]] = {}  # run_id -> (submit_sent_at, when it was looked for)

    def submit(self, run: ClaimedRun) -> None:
        """A QUEUED run is handed to the provider; the row says so before anything is sent."""
        submission = self._submission(run)
        try:
            request = self._provider.prepare_request(submission)
        except Rejected as error:
            self._refuse(run, error)
            return
        values = {"submit_key": submission.submit_key, "submit_request": request}
        if self._provider.capabilities.host_bound:
            values["host"] = self._runs.host
        if self._about_to_send(run, State.INITIALIZING, values):
            self._send(run, replace(submission, request=request, sent_at=run.submit_sent_at))
        else:
            self._runs.release(run, 0)

    def settle(self, run: ClaimedRun) -> None:
        """A run past QUEUED without a provider id: look whether a submit arrived before doing anything else."""
        if run.submit_sent_at is not None and run.submit_sent_at > self._runs.now():  # by a clock that was wrong
            self._runs.keep(run, submit_sent_at=self._runs.now())
        submission, wait = self._submission(run), self._seconds_to_certainty(run)
        match self._provider.find_workflow(submission):
            case Found(accepted):
                self._adopt(run, accepted)
            case Unsure(why):
                self._runs.wait(run, f"Looking whether the submit arrived. {why}".strip())
            case Absent() if wait > 0:
                self._runs.release(run, wait, "Waiting until an unanswered submit can no longer arrive.")
            case Absent() if run.state == State.CANCELING:
                self._runs.finish(run, End(State.CANCELED, "It had not been started."))
            case Absent():
                if self._about_to_send(run, None, {}):
                    self._send(run, replace(submission, sent_at=run.submit_sent_at))

    def _about_to_send(self, run: ClaimedRun, to: State | None, values: Mapping[str, Any]) -> bool:
        """Commit that a submit is about to be sent. False where the run was cancelled or claimed meanwhile."""
        now = self._runs.now()
        values = {**values, "submit_sent_at": now, "attempt": run.attempt + 1}
        if to is None:
            return self._runs.database.transact(lambda session: transitions.note_run(session, run, **values))
        return self._runs.database.transact(
            lambda session: transitions.move(session, run, to, now, by="daemon", **values)
        )

    def _send(self, run: ClaimedRun, submission: Submission) -> None:
        self._runs.holds.check(run)
        try:
            accepted = self._provider.submit_workflow(submission)
        except NotAccepted as error:
            self._requeue(run, error)
        except OutcomeUnknown as error:
            self._runs.breaker.failed(str(error))
            self._runs.wait(run, f"It is not known whether the submit arrived: {error}")
        except Rejected as error:
            self._runs.breaker.succeeded()
            self._refuse(run, error)
        else:
            self._runs.breaker.succeeded()
            self._adopt(run, accepted)

    def _adopt(self, run: ClaimedRun, accepted: ProviderRun) -> None:
        """Record the provider's id, the first one for good, then start a draft if it is one.

        Any other provider run is one too many: its cancel is owed from the same transaction on.
        """
        values: dict[str, Any] = {"provider_metadata": dict(accepted.metadata)}
        if accepted.provider_status:
            values["provider_status"] = accepted.provider_status
        self._first_looks.pop(run.run_id, None)
        now, provider_id = self._runs.now(), accepted.provider_id
        host = self._runs.host if self._provider.capabilities.host_bound else None

        def record(session: Session) -> str | None:
            kept = transitions.record_provider_id(session, run.run_id, provider_id, now, by="daemon", **values)
            if kept != provider_id:
                owed_cancels.owe(session, run.run_id, self._provider.name, provider_id, host, now)
            return kept

        try:
            if accepted.started:
                self._runs.release(run, self._first_look_seconds(), first=record)
                return
            kept = self._runs.database.transact(record)
        except IntegrityError:
            words = f"The provider gave this run the id {provider_id}, which another run has."
            self._runs.finish(run, End(State.SYSTEM_ERROR, words, "duplicate_provider_id"))
            return
        if kept == provider_id:
            self.start(run, provider_id)
        self._runs.release(run, self._first_look_seconds())

    def _first_look_seconds(self) -> float:
        """Soon, but where all runs are looked at together: then with the others."""
        if self._provider.capabilities.sweep:
            look = self._provider.seconds_to_next_look(State.INITIALIZING, 0.0)
            return min(look, self._runs.policy.longest_look_seconds)
        return min(FIRST_LOOK_SECONDS, self._provider.status_interval_seconds)

    def start(self, run: ClaimedRun, provider_id: str) -> None:
        """Start a draft, unless its run was cancelled meanwhile: then the next look cancels it."""
        with self._runs.database.reading() as session:
            state = listing.get_state(session, run.run_id, None)
        if state != State.CANCELING and not is_terminal(state):
            self._runs.holds.check(run)
            self._provider.start_workflow(provider_id)

    def _requeue(self, run: ClaimedRun, error: NotAccepted) -> None:
        """It certainly did not start: back to QUEUED, or CANCELED where that was asked for meanwhile."""
        words = f"The provider did not take it: {error}"
        now = self._runs.now()
        self._runs.database.transact(
            lambda session: transitions.move(session, run, State.QUEUED, now, by="daemon", note=words)
        )
        self._runs.fail(run, error)

    def _refuse(self, run: ClaimedRun, error: Rejected) -> None:
        self._runs.finish(run, End(State.SYSTEM_ERROR, str(error), error.reason))

    def _seconds_to_certainty(self, run: ClaimedRun) -> float:
        """How long a submit that was sent may still show up.

        The time since it was sent and the time since this process first looked for it must both be enough: a clock that
        was set forward meanwhile shows in the first, and only the second can be had from one that nobody sets.
        """
        if run.submit_sent_at is None:
            return 0.0
        patience = self._provider.submit_timeout_seconds + self._provider.visibility_grace_seconds
        sent_at, looked = self._first_looks.get(run.run_id, (None, 0.0))
        if sent_at != run.submit_sent_at:
            looked = self._monotonic()
            self._first_looks[run.run_id] = run.submit_sent_at, looked
        left = (run.submit_sent_at + timedelta(seconds=patience) - self._runs.now()).total_seconds()
        return max(left, looked + patience - self._monotonic())

    def _submission(self, run: ClaimedRun) -> Submission:
        with self._runs.database.reading() as session:
            params, request = listing.get_request(session, run.run_id)
            attachments = listing.get_attachments(session, run.run_id)
        return Submission(
            run_id=run.run_id,
            submit_key=run.submit_key or f"wes-{run.run_id}",
            name=run.name,
            workflow_type=run.workflow_type,
            workflow_type_version=run.workflow_type_version,
            workflow_url=run.workflow_url,
            workflow_params=params,
            workflow_engine=run.workflow_engine,
            workflow_engine_version=run.workflow_engine_version,
            workflow_engine_parameters=run.workflow_engine_parameters,
            tags=run.tags,
            attachments=tuple(_StoredAttachment(a.path, a.sha256, a.size, self._runs.storage) for a in attachments),
            owner=run.owner,
            request=request,
            sent_at=run.submit_sent_at,
        )
