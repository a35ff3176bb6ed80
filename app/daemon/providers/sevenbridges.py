"""Runs on Seven Bridges (Velsera): a run is a task of a project, made as a draft and started once its id is recorded.

The platform has no key for a repeated submit, but a draft costs nothing and does nothing: of several, one is ever
started. What was lost on the way is found by the task's name, which is the submit key. Vendor words stay in the
`sevenbridges_*` modules; open facts are in docs/providers/sevenbridges.md.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from app.clock import utc_now
from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    EngineOffer,
    Found,
    KnownRuns,
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
from app.daemon.providers.sevenbridges_api import SevenBridgesAccess, SevenBridgesApi
from app.daemon.providers.sevenbridges_apps import Apps, Fetch
from app.daemon.providers.sevenbridges_artifacts import Artifacts, tasks_of
from app.daemon.providers.sevenbridges_budget import IDS_A_CALL, LONGEST_WAIT_SECONDS, Budget, Turns
from app.daemon.providers.sevenbridges_files import InputFiles
from app.daemon.providers.sevenbridges_http import Downloads, Missing
from app.daemon.providers.sevenbridges_inputs import typed_inputs
from app.daemon.providers.sevenbridges_options import OPTIONS, task_options
from app.daemon.providers.sevenbridges_records import DRAFT, TASK_ID, JobRecord, accepted, refusal_of, status_of
from app.errors import OutcomeUnknown, ProviderError, Rejected
from app.locations import inputs_of
from app.states import State

log = logging.getLogger(__name__)

Value = TypeVar("Value")

CWL_VERSIONS = ("sbg:draft-2", "v1.0", "v1.1", "v1.2")
VISIBILITY_SECONDS = 60.0
LOOK_BACK = timedelta(minutes=5)
ABORT_AGAIN_SECONDS = 60.0
OLD_DRAFT = timedelta(days=2)
JOBS_SECONDS = 5.0
"""Tasks and logs are asked for one after the other: the platform is asked once."""
DELETED = Status(State.CANCELED, DRAFT, message="The draft was deleted before it ran.")
MARKER = re.compile(r"^WES run ([0-9a-f-]{36})$", re.MULTILINE)
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class SevenBridgesOptions:
    """What an installation decides. `project`: where tasks run; without one, where their app is."""

    project: str = ""
    volumes: tuple[str, ...] = ()
    calls_per_second: float = 2.5
    max_active: int | None = None
    max_output_bytes: int = 1024**3
    max_output_files: int = 500


class SevenBridgesProvider(WorkflowProviderInterface):
    """One token's view of the platform."""

    name = "sevenbridges"
    capabilities = Capabilities(
        cancel=True, task_logs=True, cost=True, sweep=True, filesystem_protocols=("sevenbridges",)
    )
    status_interval_seconds = 30.0
    visibility_grace_seconds = VISIBILITY_SECONDS
    outputs_tries = 10

    def __init__(
        self,
        access: SevenBridgesAccess,
        options: SevenBridgesOptions,
        fetch: Fetch,
        *,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options, self._now, self._monotonic = options, now, monotonic
        self._budget = Budget(options.calls_per_second, now=now, monotonic=monotonic, sleep=sleep)
        self._turns = Turns(options.calls_per_second, monotonic=monotonic)
        self._api = SevenBridgesApi(access, self._budget)
        self._apps = Apps(self._api, options.project, fetch, monotonic)
        self._files = InputFiles(self._api, options.volumes)
        downloads = Downloads(access.url, access.timeout_seconds)
        self._artifacts = Artifacts(self._api, downloads, options.max_output_bytes, options.max_output_files)
        self._aborted = _Lasting[bool](monotonic)
        self._deleted = _Lasting[Status](monotonic)
        self._recent = _Lasting[list[JobRecord]](monotonic)
        self.submit_timeout_seconds = access.timeout_seconds + LONGEST_WAIT_SECONDS
        self.max_active = options.max_active

    # Submitting

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        """Installs a CWL document, and has inputs imported; the name and the marker are how a task is found again."""
        app = self._apps.ready(run)
        project = self._options.project or app.project
        options = task_options(run.workflow_engine_parameters)
        attached = [attachment.path for attachment in run.attachments]
        inputs = self._files.find(typed_inputs(app.ports, inputs_of(run.workflow_params)), project, attached)
        marker = f"{run.name[:MAX_NAME_CHARACTERS]}\nWES run {run.run_id}"
        return {
            "name": run.submit_key,
            "project": project,
            "app": app.id,
            "inputs": inputs,
            "description": marker,
            **options,
        }

    def pace(self) -> Pace:
        return self._budget.pace()

    def submit_workflow(self, run: Submission) -> ProviderRun:
        task = self._api.create_draft(dict(run.request) or self.prepare_request(run))
        if words := refusal_of(task):
            self._drop(task.id)
            raise Rejected(words, "inputs_refused")
        return accepted(task)

    def start_workflow(self, provider_id: str) -> None:
        try:
            self._api.run_task(provider_id)
        except Missing:
            raise
        except Rejected:
            # Which code the platform has for "it is no draft" is not documented: so look.
            if self._api.get_task(provider_id).status == DRAFT:
                raise

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        """Of several tasks the one that was started, else the oldest: so every look finds the same."""
        project = str(run.request.get("project") or self._options.project)
        if run.sent_at is None or not project:
            return Absent()
        since = f"{run.sent_at - LOOK_BACK:%Y-%m-%dT%H:%M:%SZ}"
        ours = [task for task in self._api.find_tasks(project, created_from=since) if task.name == run.submit_key]
        if ours:
            return Found(accepted(min(ours, key=lambda task: task.status == DRAFT)))
        return self.not_seen(run, self._now())

    # Following

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        ids = [one for one in dict.fromkeys(provider_ids) if TASK_ID.fullmatch(one)]
        self._budget.check_look()
        statuses = {one: status for one in ids if (status := self._deleted.get(one))}
        ids = [one for one in ids if one not in statuses]
        self._turns.note(ids)
        for start in range(0, len(ids), IDS_A_CALL):
            tasks = self._api.get_tasks(ids[start : start + IDS_A_CALL])
            statuses |= {task_id: status_of(task) for task_id, task in tasks.items()}
        return statuses

    def get_workflow_status(self, provider_id: str) -> Status | None:
        if not TASK_ID.fullmatch(provider_id):
            return None
        if deleted := self._deleted.get(provider_id):
            return deleted
        try:
            return status_of(self._api.get_task(provider_id))
        except Missing:
            return None

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        return self._turns.seconds_to_next(state, running_seconds)

    def cancel_workflow(self, provider_id: str) -> None:
        """An abort that was taken is not repeated for a minute: it takes effect in its own time."""
        if not TASK_ID.fullmatch(provider_id) or self._aborted.get(provider_id):
            return
        try:
            self._api.abort_task(provider_id)
        except Missing:
            return
        except Rejected:
            self._end_what_does_not_run(provider_id)
            return
        self._aborted.keep(provider_id, True, ABORT_AGAIN_SECONDS)

    def get_tasks(self, provider_id: str) -> list[Task]:
        return tasks_of(self._jobs(provider_id))

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        self._artifacts.append_logs(self._jobs(provider_id), sink)

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        self._budget.check_look()
        try:
            task = self._api.get_task_outputs(provider_id)
        except Missing as error:
            raise Rejected(f"Seven Bridges no longer has the task: {error}", "outputs_lost") from None
        if task.status != "COMPLETED":
            raise OutcomeUnknown("Seven Bridges does not give the outputs yet.")
        return self._artifacts.keep_outputs(task.outputs, sink)

    def offers(self) -> list[EngineOffer]:
        return [EngineOffer(self.name, "2", {"CWL": CWL_VERSIONS}, OPTIONS)]

    def sweep(self, is_known: KnownRuns) -> None:
        """Delete the drafts of runs that have ended: those that a repeated submit made beside the one that ran.

        Not sooner: until its run has ended, a daemon that was stopped for long may still record any of them.
        """
        try:
            drafts = self._old_drafts() if self._options.project else {}
        except ProviderError as error:
            log.info("drafts are not swept now", extra={"problem": str(error)})
            return
        active, stored = is_known(set(drafts.values()))
        for task_id, run_id in drafts.items():
            if run_id in stored - active:
                self._drop(task_id)

    def _old_drafts(self) -> dict[str, str]:
        """Task id -> run id."""
        self._budget.check_look()
        before = f"{self._now() - OLD_DRAFT:%Y-%m-%dT%H:%M:%SZ}"
        tasks = self._api.find_tasks(self._options.project, status=DRAFT, created_to=before)
        return {
            task.id: marked[-1]
            for task in tasks
            if task.status == DRAFT and (marked := MARKER.findall(task.description or ""))
        }

    def _jobs(self, provider_id: str) -> list[JobRecord]:
        """None of a task that the platform has no details of: a draft, or one that is gone."""
        if (jobs := self._recent.get(provider_id)) is not None:
            return jobs
        self._budget.check_look()
        try:
            jobs = self._api.get_jobs(provider_id)
        except Rejected as error:
            log.info("no jobs", extra={"task_id": provider_id, "problem": str(error)})
            return []
        self._recent.keep(provider_id, jobs, JOBS_SECONDS)
        return jobs

    def _end_what_does_not_run(self, provider_id: str) -> None:
        """A draft is deleted; what is over stays as it is."""
        try:
            if self._api.get_task(provider_id).status == DRAFT:
                self._api.delete_draft(provider_id)
                self._deleted.keep(provider_id, DELETED, OLD_DRAFT.total_seconds())
        except Missing:
            return

    def _drop(self, task_id: str) -> None:
        """A draft that nobody will start is only untidy: it may stay."""
        try:
            self._api.delete_draft(task_id)
        except ProviderError as error:
            log.info("a draft stays", extra={"task_id": task_id, "problem": str(error)})


class _Lasting(Generic[Value]):
    """What was learnt of tasks, each for so many seconds. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._kept: dict[str, tuple[float, Value]] = {}

    def keep(self, task_id: str, value: Value, seconds: float) -> None:
        now = self._monotonic()
        with self._lock:
            self._kept = {one: kept for one, kept in self._kept.items() if kept[0] > now}
            self._kept[task_id] = now + seconds, value

    def get(self, task_id: str) -> Value | None:
        until, value = self._kept.get(task_id, (0.0, None))
        return value if self._monotonic() < until else None
