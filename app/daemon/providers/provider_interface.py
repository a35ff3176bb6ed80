"""The seam between the daemon and a place where runs happen: nine verbs, and the frozen data that crosses.

A provider knows nothing of Flask, of the database or of other providers. It gets and returns frozen objects, and
raises only the three `ProviderError`s of `app.errors`. Every call returns or raises within the provider's time-out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, BinaryIO, ClassVar, Protocol

from app.errors import NotReady
from app.sinks import LogSink as LogSink
from app.sinks import OutputSink as OutputSink
from app.states import State


class Attachment(Protocol):
    """A file that came with the request; its bytes are read through `open`, never held whole."""

    @property
    def path(self) -> str: ...  # relative, with '/', checked at the edge

    @property
    def sha256(self) -> str: ...

    @property
    def size(self) -> int: ...  # bytes

    def open(self) -> BinaryIO: ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A run as a provider sees it. `submit_key` never changes for a run: the same key is the same execution."""

    run_id: str
    submit_key: str
    name: str
    workflow_type: str
    workflow_type_version: str
    workflow_url: str
    workflow_params: Mapping[str, Any]
    workflow_engine: str | None
    workflow_engine_version: str | None
    workflow_engine_parameters: Mapping[str, str | None]
    tags: Mapping[str, str]
    attachments: tuple[Attachment, ...]
    owner: str
    request: Mapping[str, Any] = field(default_factory=dict)  # what prepare_request made, as it was stored
    sent_at: datetime | None = None  # when a submit of this key was last about to be sent; aware UTC


@dataclass(frozen=True, slots=True)
class ProviderRun:
    """The provider took the run. Where `started` is False, `start_workflow` is owed once the id is recorded."""

    provider_id: str
    started: bool = True
    provider_status: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """An earlier submit of this run arrived."""

    run: ProviderRun


@dataclass(frozen=True, slots=True)
class Absent:
    """No earlier submit of this run arrived, and none can still arrive."""


@dataclass(frozen=True, slots=True)
class Unsure:
    """It cannot be said yet; `why` is shown to the user, the question is asked again later."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What the provider says of one run. `state` None: a word that we do not know, the run stays where it is."""

    state: State | None
    provider_status: str
    reason: str | None = None  # machine-readable, required for SYSTEM_ERROR
    message: str | None = None  # the provider's own words
    exit_code: int | None = None  # 128+n for signals
    start_time: datetime | None = None  # aware UTC
    end_time: datetime | None = None
    cmd: tuple[str, ...] | None = None  # what was executed, for run_log.cmd
    needs_start: bool = False  # accepted as a draft: start_workflow is still owed
    perhaps_canceled: bool = False  # its word for a failure also means cancelled: our own intent decides
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A step that the provider reports. `task_id` is stable for the life of the run, unique in it, [A-Za-z0-9._-]+."""

    task_id: str
    name: str
    cmd: tuple[str, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    exit_code: int | None = None
    system_logs: tuple[str, ...] = ()
    has_stdout: bool = False  # get_logs writes tasks/<task_id>/stdout
    has_stderr: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of provider can do: data for service-info, the UI and the daemon, never a promise of one run."""

    cancel: bool = True
    task_logs: bool = False
    cost: bool = False
    sweep: bool = False  # statuses of all due runs come cheaply in one snapshot
    host_bound: bool = False  # runs belong to the host that started them
    filesystem_protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineOffer:
    """An engine that is really there. `parameters`: (name, type, default) of workflow_engine_parameters it takes."""

    engine: str
    engine_version: str
    workflow_types: Mapping[str, tuple[str, ...]]  # workflow_type -> versions
    parameters: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """How many submits may begin now, None for any number. Where none may: in how many seconds one may, and why not."""

    submits: int | None = None
    again_in_seconds: float = 0.0
    problem: str | None = None


class WorkflowProviderInterface(ABC):
    """A place where runs happen. Every call may be repeated; every call may be the second after a crash."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    status_interval_seconds: float = 30.0  # see seconds_to_next_look
    submit_timeout_seconds: float = 60.0  # after this plus the grace, `Absent` may be believed
    visibility_grace_seconds: float = 0.0
    max_active: int | None = None  # runs past QUEUED at once, per host where host_bound; None: no limit
    outputs_tries: int = 1  # definite refusals of get_outputs before the run is given up: cloud permissions may heal

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        """The exact JSON that `submit_workflow` will send, stored before it is sent so that a replay is identical.

        Starts nothing, but may make ready what the run needs at the provider, as often as it is called. The run stays
        QUEUED where this raises NotAccepted or OutcomeUnknown, NotReady while something is being made. Raises Rejected
        where the run cannot be run here at all.
        """
        return {}

    def pace(self) -> Pace:
        """How fast submits may follow one another; asked before runs are claimed, so that the others wait QUEUED."""
        return Pace()

    @abstractmethod
    def submit_workflow(self, run: Submission) -> ProviderRun:
        """Hand the run over, once for a `submit_key`: repeated, it returns the same provider run, or one more draft.

        Raises NotAccepted, OutcomeUnknown or Rejected.
        """

    def start_workflow(self, provider_id: str) -> None:
        """Start a draft whose id is recorded. Harmless if it has started. Needed where submit makes drafts."""

    @abstractmethod
    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        """Did an earlier submit of this run arrive? `Absent` only where it cannot arrive any more."""

    def not_seen(self, run: Submission, now: datetime) -> Absent | Unsure:
        """What `find_workflow` may say where a search shows nothing: for a while it can still arrive, or be shown."""
        patience = timedelta(seconds=self.submit_timeout_seconds + self.visibility_grace_seconds)
        if run.sent_at is None or now >= run.sent_at + patience:
            return Absent()
        return Unsure(f"Nothing is seen of it, but it can still show up until {run.sent_at + patience:%H:%M:%S} UTC.")

    @abstractmethod
    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status | Unsure]:
        """The statuses of many runs in as few calls as the provider allows; a missing id means "not seen now".

        Unsure: this run cannot be asked for now while others can, say because its user's credentials have expired.
        Raises NotAccepted or OutcomeUnknown where the provider did not answer at all.
        """

    def has_changed(self, provider_id: str) -> None:
        """Somebody was told that it did: what was remembered of it is no longer to be used. Any id may come."""

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        """How long an unchanged run waits; may depend on its state and on how long it has been running."""
        return self.status_interval_seconds

    def get_workflow_status(self, provider_id: str) -> Status | None:
        """One careful look; None where the provider definitely does not know the id."""
        status = self.get_workflow_statuses([provider_id]).get(provider_id)
        if isinstance(status, Unsure):
            raise NotReady(status.why, self.status_interval_seconds)
        return status

    @abstractmethod
    def cancel_workflow(self, provider_id: str) -> None:
        """Ask for an end. Harmless if repeated or if the run is over; a draft is deleted."""

    def cancel_duplicate(self, provider_id: str) -> None:
        """As cancel_workflow, of a run's second execution: its first goes on."""
        self.cancel_workflow(provider_id)

    @abstractmethod
    def get_tasks(self, provider_id: str) -> list[Task]:
        """The steps so far, in the order in which they began. Empty where the provider reports none."""

    @abstractmethod
    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        """Append to `sink` what is new in the run's and its tasks' logs. May block for the time-out times the files."""

    @abstractmethod
    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        """The output object of a COMPLETE run, its files kept in `sink` where they are not already in lasting storage.

        Raises Rejected where the outputs are definitely gone or unreadable, OutcomeUnknown where they may come.
        """

    def offers(self) -> list[EngineOffer]:
        """What this provider can run now. Cheap: it is asked at start and every few minutes."""
        return []

    def sweep(self, is_known: KnownRuns) -> None:
        """Remove what runs left behind here and nobody needs: called about hourly, from one thread."""


class CredentialSource(Protocol):
    """Lent to a provider whose users bring their own credentials: the secrets of runs, by run id.

    A step has the secret of the run at the top of its pipeline. None: kept, but this daemon lacks the key.
    """

    def __call__(self, run_ids: Iterable[str]) -> Mapping[str, str | None]: ...


class KnownRuns(Protocol):
    """Asked by a sweep: which of these run ids are stored and not ended, and which are stored at all."""

    def __call__(self, run_ids: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]: ...
