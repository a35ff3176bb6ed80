"""A provider in memory that does as it is told: for testing the daemon call by call. Its `jobs` outlive a daemon."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    Found,
    LogSink,
    OutputSink,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.states import State

Action = Callable[[], None]


@dataclass
class Job:
    """What the platform knows of one run."""

    provider_id: str
    submit_key: str
    started: bool
    status: Status
    cancels: int = 0
    logs: bytes = b"hello from the run\n"


@dataclass
class Platform:
    """The far side: jobs, and what was asked of it. `before` and `after` hold, for a verb, what its next calls run into."""

    jobs: dict[str, Job] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)  # submit keys, in the order in which executions began
    calls: list[str] = field(default_factory=list)
    before: dict[str, deque[Action]] = field(default_factory=dict)
    after: dict[str, deque[Action]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)  # provider ids that no answer shows
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, verb: str, *errors: BaseException, after: bool = False) -> None:
        """The next calls of `verb` raise these, before or after they took effect."""
        for error in errors:
            self.interrupt(verb, _raise(error), after=after)

    def interrupt(self, verb: str, action: Action, *, after: bool = False) -> None:
        """The next call of `verb` runs `action` on its way."""
        (self.after if after else self.before).setdefault(verb, deque()).append(action)

    def set(self, provider_id: str, state: State | None, **changes: Any) -> None:
        """The platform says this of the job from now on; its word is the state's name, unless given."""
        word = changes.pop("provider_status", str(state))
        job = self.jobs[provider_id]
        job.status = replace(job.status, state=state, provider_status=word, **changes)

    def only_job(self) -> Job:
        (job,) = self.jobs.values()
        return job


class ScriptedProvider(WorkflowProviderInterface):
    """Drives a Platform. `drafts`: submit makes drafts without a key, as platforms without idempotency do."""

    name = "scripted"
    capabilities = Capabilities(task_logs=True)
    status_interval_seconds = 10.0
    submit_timeout_seconds = 60.0
    visibility_grace_seconds = 30.0

    def __init__(self, platform: Platform, drafts: bool = False, name: str = "scripted") -> None:
        self.platform, self.drafts = platform, drafts
        self.name = name  # type: ignore[misc]

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        self._enter("prepare")
        return {"params": dict(run.workflow_params)}

    def submit_workflow(self, run: Submission) -> ProviderRun:
        self._enter("submit")
        with self.platform.lock:
            job = self._existing(run) or self._new_job(run)
        self._leave("submit")
        return ProviderRun(job.provider_id, started=job.started, provider_status=job.status.provider_status)

    def start_workflow(self, provider_id: str) -> None:
        self._enter("start")
        with self.platform.lock:
            job = self.platform.jobs[provider_id]
            if not job.started:
                job.started = True
                job.status = replace(job.status, needs_start=False)
                self.platform.starts.append(job.submit_key)
        self._leave("start")

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        self._enter("find")
        for job in self.platform.jobs.values():
            if job.submit_key == run.submit_key and job.provider_id not in self.platform.hidden:
                return Found(ProviderRun(job.provider_id, started=job.started))
        return Absent()

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        self._enter("statuses")
        return self._seen(provider_ids)

    def get_workflow_status(self, provider_id: str) -> Status | None:
        self._enter("status")
        return self._seen([provider_id]).get(provider_id)

    def cancel_workflow(self, provider_id: str) -> None:
        self._enter("cancel")
        self.platform.jobs[provider_id].cancels += 1
        self._leave("cancel")

    def get_tasks(self, provider_id: str) -> list[Task]:
        self._enter("tasks")
        return [Task("step-1", "align", ("bwa", "mem"), exit_code=0, has_stdout=True)]

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        self._enter("logs")
        logs = self.platform.jobs[provider_id].logs
        sink.append("stdout", io.BytesIO(logs[sink.size("stdout") :]))

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        self._enter("outputs")
        location = sink.put_stream("result.txt", io.BytesIO(b"result"))
        return {"result": {"class": "File", "location": location, "basename": "result.txt"}}

    def _existing(self, run: Submission) -> Job | None:
        if self.drafts:
            return None
        return next((job for job in self.platform.jobs.values() if job.submit_key == run.submit_key), None)

    def _new_job(self, run: Submission) -> Job:
        provider_id = f"job-{len(self.platform.jobs) + 1}"
        status = Status(State.INITIALIZING, "queued", needs_start=self.drafts)
        job = Job(provider_id, run.submit_key, not self.drafts, status)
        self.platform.jobs[provider_id] = job
        if job.started:
            self.platform.starts.append(run.submit_key)
        return job

    def _seen(self, provider_ids: Iterable[str]) -> dict[str, Status]:
        jobs = self.platform.jobs
        return {
            known: jobs[known].status for known in provider_ids if known in jobs and known not in self.platform.hidden
        }

    def _enter(self, verb: str) -> None:
        self.platform.calls.append(verb)
        _next(self.platform.before, verb)

    def _leave(self, verb: str) -> None:
        _next(self.platform.after, verb)


def _next(actions: dict[str, deque[Action]], verb: str) -> None:
    if waiting := actions.get(verb):
        waiting.popleft()()


def _raise(error: BaseException) -> Action:
    def action() -> None:
        raise error

    return action
