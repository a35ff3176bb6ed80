"""Runs on AWS HealthOmics. Everything that the service's API is asked to do about runs is here; its words are beside.

A run is started with its submit key as requestId and as name: repeated, the request is the same run, and a lost answer
is found again by that name. Which of the two serves how long is not documented, so neither is relied on alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from app.clock import utc_now
from app.daemon.engines.fetcher import FetchPolicy
from app.daemon.providers.healthomics_aws import CONNECT_SECONDS, AwsAccess, AwsApi, Conflicting, Missing
from app.daemon.providers.healthomics_definitions import Definitions
from app.daemon.providers.healthomics_files import Files
from app.daemon.providers.healthomics_logs import Logs, LogStream
from app.daemon.providers.healthomics_options import RunOptions
from app.daemon.providers.healthomics_requests import RUN_TAG, Home, RunRequests
from app.daemon.providers.healthomics_status import ENDED, Listed, Run, RunBook, RunId, RunUuid, Word, status_of
from app.daemon.providers.healthomics_tasks import RunTask, TaskBook
from app.daemon.providers.healthomics_workflows import Workflows
from app.daemon.providers.pacing import TokenBucket
from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    EngineOffer,
    Found,
    LogSink,
    OutputSink,
    Pace,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.errors import OutcomeUnknown, Rejected
from app.states import State

log = logging.getLogger(__name__)

ENGINE = "aws-omics"
"""What clients call it as a workflow engine; its version is that of the service's API."""
API_VERSION = "2022-11-28"
WORKFLOW_TYPES: Mapping[str, tuple[str, ...]] = {
    "CWL": ("v1.0", "v1.1", "v1.2"),
    "WDL": ("development", "1.0", "1.1"),
    "NFL": ("22.04.01", "23.10.0", "24.10.8", "DSL2"),
}
READS = ("GetRun", "ListRuns", "ListRunTasks", "GetRunTask", "GetWorkflow", "GetWorkflowVersion", "ListWorkflows")
CHANGES = ("CancelRun", "CreateWorkflow")
READ_WAIT_SECONDS = 10.0
START_WAIT_SECONDS = 10.0
START_LEAD_SECONDS = 0.2
GRID_SECONDS = 30.0
"""Runs are looked at on common moments, so that one reading of the lists serves them all."""
LOOKS = ((600.0, 30.0), (3600.0, 60.0), (21_600.0, 120.0))
"""(running for less than so many seconds, look again after so many)."""
LONGEST_LOOK_SECONDS = 300.0
CANCELING_LOOK_SECONDS = 15.0
MOST_TASK_LOGS = 500


@dataclass(frozen=True, slots=True)
class HealthOmicsSettings:
    """How runs are started here. `output_uri`: an S3 URI, or "" where every run has to bring its own."""

    role_arn: str
    output_uri: str = ""
    other_role_arns: tuple[str, ...] = ()
    run_defaults: Mapping[str, str] = field(default_factory=lambda: {"storageType": "DYNAMIC"})
    starts_per_second: float = 1.0
    reads_per_second: float = 5.0
    visibility_seconds: float = 60.0
    max_active: int | None = None
    is_told_of_changes: bool = False  # events come through a queue, so looking is only for what got lost


class _Started(BaseModel):
    id: RunId
    uuid: RunUuid
    status: Word
    runOutputUri: str | None = None


class HealthOmicsProvider(WorkflowProviderInterface):
    """One AWS account in one region. Nothing lasting is kept in memory: every call may be the first after a crash."""

    name = "healthomics"
    capabilities = Capabilities(cancel=True, task_logs=True, sweep=True, filesystem_protocols=("s3",))
    status_interval_seconds = GRID_SECONDS
    outputs_tries = 8

    def __init__(
        self,
        access: AwsAccess,
        settings: HealthOmicsSettings,
        policy: FetchPolicy | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Rejected where the settings contradict what the service takes."""
        self._settings, self._now = settings, now
        client = access.client("omics")
        self._options = RunOptions(client, settings.role_arn, settings.run_defaults, settings.other_role_arns)
        home = Home.of(access.region, settings.role_arn, settings.output_uri)
        self.submit_timeout_seconds = CONNECT_SECONDS + access.timeout_seconds
        self.visibility_grace_seconds = settings.visibility_seconds
        self.max_active = settings.max_active
        self._starts = TokenBucket(
            settings.starts_per_second,
            f"At most {settings.starts_per_second:g} runs a second are started at HealthOmics; this one's turn comes.",
            burst=max(1, int(settings.starts_per_second)),
            longest_wait_seconds=START_WAIT_SECONDS,
            lead_seconds=START_LEAD_SECONDS,
            monotonic=monotonic,
        )
        self._omics = AwsApi(client, "HealthOmics", self._buckets(monotonic) | {"StartRun": self._starts})
        logs = {"GetLogEvents": _calls(settings.reads_per_second, monotonic)}
        files = Files(AwsApi(access.client("s3"), "S3"))
        workflows = Workflows(self._omics, monotonic)
        definitions = Definitions(self._omics, files, policy or FetchPolicy(), monotonic)
        self._requests = RunRequests(home, self._options, workflows, definitions, files)
        self._book, self._tasks = RunBook(self._omics, monotonic), TaskBook(self._omics)
        self._files, self._logs = files, Logs(AwsApi(access.client("logs"), "CloudWatch Logs", logs))

    # Submitting

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        return self._requests.prepare(run)

    def submit_workflow(self, run: Submission) -> ProviderRun:
        request = dict(run.request) or self.prepare_request(run)
        try:
            started = self._omics.read(_Started, "StartRun", **request)
        except Conflicting as error:
            found = self.find_workflow(run)
            if isinstance(found, Found):
                return found.run
            raise OutcomeUnknown(f"HealthOmics has had this request before, but shows no run of it: {error}") from error
        place = {"runOutputUri": started.runOutputUri} if started.runOutputUri else {}
        return ProviderRun(f"{started.id}/{started.uuid}", provider_status=started.status, metadata=place)

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        """By the name that only this run's submits have. Of several, which only a forgotten requestId explains, the
        first is it and the others are cancelled."""
        listed = self._omics.items(Listed, "ListRuns", name=run.submit_key)
        named = [self._book.get(one.id) for one in listed if one.name == run.submit_key]  # lists may match prefixes
        ours = [one for one in named if one and (one.tags or {}).get(RUN_TAG, run.run_id) == run.run_id]
        if not ours:
            return self.not_seen(run, self._now())
        first, *others = sorted(ours, key=_seniority)
        for other in others:
            if other.status not in ENDED:
                log.error("cancelling a second execution", extra={"run_id": run.run_id, "second": other.provider_id})
                self.cancel_workflow(other.provider_id)
        return Found(ProviderRun(first.provider_id, provider_status=first.status, metadata=first.facts))

    def pace(self) -> Pace:
        return self._starts.pace()

    # Following

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        return self._book.statuses(provider_ids)

    def get_workflow_status(self, provider_id: str) -> Status | None:
        run = self._book.look(provider_id)
        return status_of(run) if run else None

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        """The longer it runs, the later; and on common moments, since one reading of the lists serves many runs."""
        if state == State.CANCELING:
            return CANCELING_LOOK_SECONDS
        seconds = GRID_SECONDS if state != State.RUNNING else LONGEST_LOOK_SECONDS
        if state == State.RUNNING:
            seconds = next((look for below, look in LOOKS if running_seconds < below), LONGEST_LOOK_SECONDS)
        if self._settings.is_told_of_changes:
            seconds = LONGEST_LOOK_SECONDS
        now = self._now().timestamp()
        return float(math.ceil(max(round((now + seconds) / GRID_SECONDS) * GRID_SECONDS - now, GRID_SECONDS / 2)))

    def cancel_workflow(self, provider_id: str) -> None:
        run = self._book.look(provider_id)
        if run is None or run.status in ENDED or run.status == "STOPPING":  # it is on its way to one end or another
            return
        try:
            self._omics.call("CancelRun", id=run.id)
        except (Missing, Conflicting):
            log.info("nothing to cancel any more", extra={"provider_id": provider_id})

    def has_changed(self, provider_id: str) -> None:
        self._book.forget(provider_id)

    # Collecting

    def get_tasks(self, provider_id: str) -> list[Task]:
        return self._tasks.tasks(self._known(provider_id).id)

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        """The run's log is its stdout, the engine's its stderr; a task's is one stream for both, its stdout."""
        run = self._known(provider_id)
        is_last, where, since = run.status in ENDED, run.logLocation, run.creationTime
        run_log = LogStream.of(where.runLogStream if where else None, f"run/{run.id}", since)
        engine_log = LogStream.of(where.engineLogStream if where else None, f"run/{run.id}/engine", since)
        self._logs.append_new(provider_id, run_log, sink, "stdout")
        self._logs.append_new(provider_id, engine_log, sink, "stderr")
        for task in _most_telling(self._tasks.listed(run.id)):
            stream = LogStream.of(None, f"run/{run.id}/task/{task.taskId}", since)
            name = f"tasks/{task.taskId}/stdout"
            self._logs.append_new(provider_id, stream, sink, name, has_ended=task.has_ended, is_last=is_last)

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        """They stay in S3, which lasts: only the output object comes here."""
        run = self._book.look(provider_id)
        if run is None:
            raise Rejected("HealthOmics no longer knows where this run put its outputs.", "outputs_lost")
        if run.runOutputUri is None:
            return {"output_location": run.outputUri} if run.outputUri else {}
        return self._files.outputs(run.runOutputUri)

    def offers(self) -> list[EngineOffer]:
        return [EngineOffer(ENGINE, API_VERSION, WORKFLOW_TYPES, self._options.described())]

    def _known(self, provider_id: str) -> Run:
        run = self._book.look(provider_id)
        if run is None:
            raise Rejected(f"HealthOmics does not know {provider_id}.", "provider_lost_run")
        return run

    def _buckets(self, monotonic: Callable[[], float]) -> dict[str, TokenBucket]:
        """Quotas are for an operation, so each has a bucket."""
        return {name: _calls(self._settings.reads_per_second, monotonic) for name in (*READS, *CHANGES)}


def _calls(per_second: float, monotonic: Callable[[], float]) -> TokenBucket:
    words = f"At most {per_second:g} calls a second of a kind are made to HealthOmics."
    burst = max(1, int(per_second))
    return TokenBucket(per_second, words, burst=burst, longest_wait_seconds=READ_WAIT_SECONDS, monotonic=monotonic)


def _seniority(run: Run) -> tuple[bool, float, int]:
    """The execution that counts comes first: one that was not cancelled, the oldest."""
    return run.status == "CANCELLED", run.creationTime.timestamp() if run.creationTime else 0.0, int(run.id)


def _most_telling(tasks: list[RunTask]) -> list[RunTask]:
    """As many as are worth a call each, the failed ones in any case."""
    return sorted(tasks, key=lambda task: task.status != "FAILED")[:MOST_TASK_LOGS]
