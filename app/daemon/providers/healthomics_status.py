"""What HealthOmics says of runs: its words as WES states, one run at a time or many by its lists. Changes nothing.

A run is known by `<run id>/<uuid>`, since the service gives a deleted run's id to another. Lists show no uuid and miss
what moves while they are read: so only a look at the run itself ever ends one.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from app.daemon.providers.healthomics_aws import AwsApi, Missing
from app.daemon.providers.provider_interface import Status
from app.errors import OutcomeUnknown
from app.states import State

ACTIVE_WORDS = ("PENDING", "STARTING", "RUNNING", "STOPPING")
"""In the order in which a run passes through them: read so, lists do not miss a run that moves on meanwhile."""
WORDS: Mapping[str, State] = {
    "PENDING": State.INITIALIZING,
    "STARTING": State.INITIALIZING,
    "RUNNING": State.RUNNING,
    "STOPPING": State.RUNNING,  # before every end, not only before CANCELLED: results are being exported
    "COMPLETED": State.COMPLETE,
    "CANCELLED": State.CANCELED,
    "FAILED": State.EXECUTOR_ERROR,
}
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
DELETED = "DELETED"
PLATFORM_REASONS = frozenset(
    {
        "SERVICE_ERROR",
        "INSTANCE_RESERVATION_FAILED",
        "ASSUME_ROLE_FAILED",
        "ECR_PERMISSION_ERROR",
        "INACTIVE_OMICS_STORAGE_RESOURCE",
        "EXPORT_FAILED",
    }
)
"""Failures that are not the workflow's own; every other reason, also one that we do not know, is."""
FEW = 4
"""So many runs are looked at one by one: reading the lists is at least as many calls."""
FRESH_SECONDS = 15.0
"""How long what was read of the lists serves further questions: a look at many runs comes in several."""
ENDS_KEPT = 256
ENDS_KEPT_SECONDS = 60.0
MOST_SEEN = 100_000
MAX_MESSAGE = 4000
FACTS = (
    "arn",
    "workflowId",
    "workflowType",
    "workflowVersionName",
    "runOutputUri",
    "engineVersion",
    "storageType",
    "storageCapacity",
    "runGroupId",
    "cacheId",
    "digest",
)
"""Members of GetRun that are kept with the run."""
UUID = r"[0-9a-zA-Z._-]{1,128}"
_PROVIDER_ID = re.compile(rf"([0-9]{{1,18}})/({UUID})")

Utc = Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_ -]{1,64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
RunUuid = Annotated[str, Field(pattern=rf"^{UUID}$")]


class LogLocation(BaseModel):
    engineLogStream: str | None = None
    runLogStream: str | None = None


class Run(BaseModel):
    """What GetRun says."""

    id: RunId
    uuid: RunUuid
    status: Word
    statusMessage: str | None = None
    failureReason: str | None = Field(None, pattern=r"^[A-Za-z0-9_ -]{1,64}$")
    creationTime: Utc | None = None
    startTime: Utc | None = None
    stopTime: Utc | None = None
    runOutputUri: str | None = None
    outputUri: str | None = None
    logLocation: LogLocation | None = None
    tags: dict[str, str] | None = None
    name: str | None = None
    facts: dict[str, Any] = {}

    @property
    def provider_id(self) -> str:
        return f"{self.id}/{self.uuid}"


class Listed(BaseModel):
    """An item of ListRuns."""

    id: RunId
    status: Word
    name: str | None = None
    creationTime: Utc | None = None
    startTime: Utc | None = None


def run_id_of(provider_id: str) -> str | None:
    """The service's id of a run; None where the provider id is none of ours."""
    found = _PROVIDER_ID.fullmatch(provider_id)
    return found[1] if found else None


def status_of(run: Run) -> Status:
    """What GetRun says, in our words."""
    state, reason = WORDS.get(run.status), run.failureReason if run.status == "FAILED" else None
    if state == State.EXECUTOR_ERROR and reason in PLATFORM_REASONS:
        state = State.SYSTEM_ERROR
    return Status(
        state=state,
        provider_status=run.status,
        reason=reason,
        message=run.statusMessage[:MAX_MESSAGE] if run.statusMessage else None,
        exit_code=0 if run.status == "COMPLETED" else None,
        start_time=run.startTime,
        end_time=run.stopTime if run.status in ENDED else None,
        metadata=run.facts,
    )


class RunBook:
    """Thread-safe. `monotonic` is a clock that nobody sets, in seconds."""

    def __init__(self, api: AwsApi, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._api, self._monotonic = api, monotonic
        self._lock = threading.Lock()
        self._ends: OrderedDict[str, tuple[float, Run]] = OrderedDict()
        self._list: dict[str, Listed] = {}
        self._list_at: float | None = None
        self._list_pages = 0
        self._created: dict[str, datetime] = {}  # provider id -> when the run of its id was made, as lists showed it

    def look(self, provider_id: str) -> Run | None:
        """One careful look; None where no run answers to this id and uuid."""
        run_id = run_id_of(provider_id)
        if run_id is None:
            return None
        if kept := self._kept_end(provider_id):
            return kept
        run = self.get(run_id)
        return run if run and run.provider_id == provider_id else None

    def get(self, run_id: str) -> Run | None:
        """Whichever run has this id now; None where there is none."""
        try:
            answer = self._api.call("GetRun", id=run_id)
        except Missing:
            return None
        run = _read_run(answer)
        if run.id != run_id:
            raise OutcomeUnknown(f"Asked for run {run_id}, HealthOmics told of {run.id}.")
        if run.status in ENDED:
            self._keep_end(run)
        return run if run.status != DELETED else None

    def statuses(self, provider_ids: Iterable[str]) -> dict[str, Status]:
        """A few runs are looked at one by one, many by the lists; what the lists do not show is left out."""
        asked: dict[str, list[str]] = {}
        for provider_id in provider_ids:
            if run_id := run_id_of(provider_id):
                asked.setdefault(run_id, []).append(provider_id)
        if not self._is_fresh() or len(asked) <= FEW:
            if len(asked) <= max(FEW, self._list_pages):
                return self._looked_at(asked)
            self._read_lists()
        return self._listed(asked)

    def forget(self, provider_id: str) -> None:
        """Something has happened to it: what the lists showed is no longer true of it."""
        with self._lock:
            self._list.pop(run_id_of(provider_id) or "", None)

    def _is_fresh(self) -> bool:
        return self._list_at is not None and self._monotonic() - self._list_at < FRESH_SECONDS

    def _read_lists(self) -> None:
        listed: dict[str, Listed] = {}
        pages = 0
        for word in ACTIVE_WORDS:
            found = {one.id: one for one in self._api.items(Listed, "ListRuns", status=word)}
            pages += 1 + len(found) // 100
            listed |= {run_id: one for run_id, one in found.items() if one.status in ACTIVE_WORDS}
        with self._lock:
            self._list, self._list_at, self._list_pages = listed, self._monotonic(), pages

    def _looked_at(self, asked: Mapping[str, Sequence[str]]) -> dict[str, Status]:
        runs = (self.look(owners[0]) if len(owners) == 1 else self.get(run_id) for run_id, owners in asked.items())
        found = {run.provider_id: status_of(run) for run in runs if run}
        return {one: found[one] for owners in asked.values() for one in owners if one in found}

    def _listed(self, asked: Mapping[str, Sequence[str]]) -> dict[str, Status]:
        statuses = {}
        with self._lock:
            if len(self._created) > MOST_SEEN:
                self._created.clear()
            for run_id, owners in asked.items():
                listed = self._list.get(run_id)
                if listed and len(owners) == 1 and self._is_the_same(owners[0], listed):
                    state = WORDS.get(listed.status)
                    statuses[owners[0]] = Status(state, listed.status, start_time=listed.startTime)
        return statuses

    def _is_the_same(self, provider_id: str, listed: Listed) -> bool:
        """False where this id was another run's when it was last seen. Lists show no uuid, but when a run was made."""
        if listed.creationTime is None:
            return False
        return self._created.setdefault(provider_id, listed.creationTime) == listed.creationTime

    def _kept_end(self, provider_id: str) -> Run | None:
        """An end does not change, and is asked for several times while it is collected."""
        with self._lock:
            at, run = self._ends.get(provider_id, (0.0, None))
        return run if run and self._monotonic() - at < ENDS_KEPT_SECONDS else None

    def _keep_end(self, run: Run) -> None:
        with self._lock:
            self._created.pop(run.provider_id, None)
            self._ends[run.provider_id] = self._monotonic(), run
            while len(self._ends) > ENDS_KEPT:
                self._ends.popitem(last=False)


def _read_run(answer: Mapping[str, Any]) -> Run:
    facts = {name: answer[name] for name in FACTS if isinstance(answer.get(name), str | int)}
    try:
        return Run.model_validate({**answer, "facts": facts})
    except ValueError as error:
        raise OutcomeUnknown(f"HealthOmics GetRun: the answer is something else: {error}".splitlines()[0]) from None
