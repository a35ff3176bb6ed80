"""Runs on the fake cloud (`app.fake_service`), the pattern for a provider on HTTP: one file with the vendor's words.

There are two ways of submitting. `fake` sends a key, and the same key is the same job. `fake-two-phase` makes a draft,
which does nothing until its id is recorded and `start_workflow` is called. Nothing is kept in memory, so every call may
be the first after a crash. What comes from the cloud is checked before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import AwareDatetime, BaseModel, StringConstraints, ValidationError

from app.clock import utc_now
from app.daemon.providers.http_api import Answer, HttpApi
from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    EngineOffer,
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
from app.errors import OutcomeUnknown, Rejected
from app.states import State

log = logging.getLogger(__name__)

MAX_IDS = 100  # the service takes no more in one question
LOG_PAGE_BYTES = 1024 * 1024  # a page of a log that has fewer is the last one
LOOKS = ((60.0, 2.0), (600.0, 10.0))  # (running for less than so many seconds, seconds to the next look); then 60
PLAIN_TEXT = "text/plain"
WORDS: Mapping[str, tuple[State, str | None]] = {
    "DRAFT": (State.INITIALIZING, None),
    "PENDING": (State.INITIALIZING, None),
    "RUNNING": (State.RUNNING, None),
    "PAUSED": (State.PAUSED, None),
    "STOPPING": (State.RUNNING, None),  # it may still succeed
    "SUCCEEDED": (State.COMPLETE, None),
    "FAILED": (State.EXECUTOR_ERROR, None),
    "CANCELLED": (State.CANCELED, None),
    "PREEMPTED": (State.SYSTEM_ERROR, "preempted"),
    "ERROR": (State.SYSTEM_ERROR, "platform_error"),
}
"""The cloud's status words: our state, and the reason that a SYSTEM_ERROR needs."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class _Job(BaseModel):
    id: Name
    name: str
    status: str
    created: AwareDatetime
    started: AwareDatetime | None
    ended: AwareDatetime | None
    exit_code: int | None
    message: str | None


class _Jobs(BaseModel):
    jobs: list[_Job]


class _JobsUnread(BaseModel):
    jobs: list[Any]


class _Step(BaseModel):
    id: Name
    name: str
    started: AwareDatetime
    ended: AwareDatetime | None
    exit_code: int | None
    command: tuple[str, ...]


class _Steps(BaseModel):
    tasks: list[_Step]


class _Outputs(BaseModel):
    outputs: dict[str, Any]


class FakeProvider(WorkflowProviderInterface):
    """The mode with an idempotency key."""

    name = "fake"
    capabilities = Capabilities(cancel=True, task_logs=True, filesystem_protocols=("http", "https"))
    status_interval_seconds = 2.0
    outputs_tries = 3

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 10.0,
        visibility_grace_seconds: float = 0.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._api = HttpApi(f"{url.rstrip('/')}/v1", timeout_seconds)
        self.submit_timeout_seconds = timeout_seconds
        self.visibility_grace_seconds = visibility_grace_seconds
        self._now = now

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        """The job's name at the cloud is the submit key, so that it can be found by it in either mode."""
        return {
            "name": run.submit_key,
            "label": run.name,
            "workflow": {"type": run.workflow_type, "version": run.workflow_type_version, "url": run.workflow_url},
            "params": dict(run.workflow_params),
            "files": {attachment.path: attachment.sha256 for attachment in run.attachments},
        }

    def submit_workflow(self, run: Submission) -> ProviderRun:
        key = {"Idempotency-Key": run.submit_key}
        return _accepted(self._api.call("POST", "/jobs", (200, 201), json=self._request(run), headers=key).read(_Job))

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        return self._find(run, {"key": run.submit_key})

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        return next((look for age, look in LOOKS if running_seconds < age), 60.0)

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        statuses: dict[str, Status] = {}
        for ids in _chunks(provider_ids, MAX_IDS):
            answer = self._api.call("POST", "/jobs/statuses", json={"ids": ids})
            statuses |= {job.id: _status(job) for job in _readable(answer) if job.id in ids}
        return statuses

    def get_workflow_status(self, provider_id: str) -> Status | None:
        answer = self._api.call("GET", _job(provider_id), (200, 404))
        if answer.status == 404:
            return None
        job = answer.read(_Job)
        if job.id != provider_id:
            raise OutcomeUnknown(f"Asked for {provider_id}, the cloud told of {job.id}.")
        return _status(job)

    def cancel_workflow(self, provider_id: str) -> None:
        self._api.call("POST", _job(provider_id, "cancel"), (202, 404))

    def get_tasks(self, provider_id: str) -> list[Task]:
        steps = self._api.call("GET", _job(provider_id, "tasks")).read(_Steps).tasks
        return [
            Task(step.id, step.name, step.command, step.started, step.ended, step.exit_code, has_stdout=True)
            for step in steps
        ]

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        for name in "stdout", "stderr":
            self._append_new(provider_id, name, sink)
        for task in self.get_tasks(provider_id):
            self._append_new(provider_id, f"tasks/{task.task_id}/stdout", sink)

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        answer = self._api.call("GET", _job(provider_id, "outputs"), (200, 404, 409))
        if answer.status == 404:
            raise Rejected("The cloud no longer has the outputs.", "outputs_lost")
        if answer.status == 409:
            raise OutcomeUnknown("The cloud does not give the outputs yet.")
        files = f"{self._api.url}{_job(provider_id, 'files')}/"
        return {name: self._kept(value, files, sink) for name, value in answer.read(_Outputs).outputs.items()}

    def offers(self) -> list[EngineOffer]:
        types = {"CWL": ("v1.0", "v1.1", "v1.2"), "WDL": ("1.0", "1.1"), "NFL": ("DSL2",), "SMK": ("7", "8")}
        return [EngineOffer(self.name, "1.0", types)]

    def _request(self, run: Submission) -> dict[str, Any]:
        return dict(run.request) or self.prepare_request(run)

    def _find(self, run: Submission, query: Mapping[str, str]) -> Found | Absent | Unsure:
        jobs = self._api.call("GET", "/jobs", params=query).read(_Jobs).jobs
        if ours := [job for job in jobs if job.name == run.submit_key]:
            return Found(_accepted(min(ours, key=lambda job: (job.status == "DRAFT", job.created, job.id))))
        return self.not_seen(run, self._now())

    def _append_new(self, provider_id: str, name: str, sink: LogSink) -> None:
        """Page by page from where the sink ends, until a page is not full or the sink keeps no more."""
        kept, page = -1, b" " * LOG_PAGE_BYTES
        while len(page) == LOG_PAGE_BYTES and kept < (offset := sink.size(name)):
            page = self._log_page(provider_id, name, offset)
            sink.append(name, BytesIO(page))
            kept = offset

    def _log_page(self, provider_id: str, name: str, offset: int) -> bytes:
        query = {"name": name, "offset": str(offset)}
        answer = self._api.call("GET", _job(provider_id, "log"), (200, 404), params=query)
        if answer.status == 404:
            return b""
        if not answer.content_type.startswith(PLAIN_TEXT):
            raise OutcomeUnknown(f"The cloud sent {answer.content_type or 'something'} for a log.")
        return answer.body

    def _kept(self, value: Any, files: str, sink: OutputSink) -> Any:
        """The output with every file below `files` fetched and its location changed to where it is kept."""
        if isinstance(value, list):
            return [self._kept(element, files, sink) for element in value]
        location = value.get("location") if isinstance(value, dict) else None
        if not isinstance(location, str) or not location.startswith(files):
            return value
        name = unquote(location.removeprefix(files))
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise Rejected(f"The cloud names an output file {name!r}.", "output_refused")
        answer = self._api.call("GET", location.removeprefix(self._api.url), (200, 404))
        if answer.status == 404:
            raise Rejected(f"The cloud no longer has the output file {name!r}.", "outputs_lost")
        return {**value, "location": sink.put_stream(name, BytesIO(answer.body))}


class TwoPhaseFakeProvider(FakeProvider):
    """The mode with drafts. A repeated submit makes another draft; only the one that is recorded is ever started."""

    name = "fake-two-phase"

    def submit_workflow(self, run: Submission) -> ProviderRun:
        return _accepted(self._api.call("POST", "/drafts", (201,), json=self._request(run)).read(_Job))

    def start_workflow(self, provider_id: str) -> None:
        self._api.call("POST", _job(provider_id, "start"), (200, 409))  # 409: it has been started

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        return self._find(run, {"name": run.submit_key})

    def cancel_workflow(self, provider_id: str) -> None:
        if self._api.call("DELETE", _job(provider_id), (204, 404, 409)).status == 409:  # it is no draft
            super().cancel_workflow(provider_id)


def _job(provider_id: str, *below: str) -> str:
    return "/".join(("/jobs", quote(provider_id, safe=""), *below))


def _accepted(job: _Job) -> ProviderRun:
    return ProviderRun(job.id, started=job.status != "DRAFT", provider_status=job.status)


def _status(job: _Job) -> Status:
    state, reason = WORDS.get(job.status, (None, None))
    return Status(
        state=state,
        provider_status=job.status,
        reason=reason,
        message=job.message,
        exit_code=job.exit_code,
        start_time=job.started,
        end_time=job.ended,
        needs_start=job.status == "DRAFT",
    )


def _readable(answer: Answer) -> Iterator[_Job]:
    """One job that cannot be read hides no others."""
    for one in answer.read(_JobsUnread).jobs:
        try:
            yield _Job.model_validate(one)
        except ValidationError as error:
            log.warning("a job that cannot be read", extra={"problems": error.error_count()})


def _chunks(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(ids)
    while chunk := list(islice(rest, size)):
        yield chunk
