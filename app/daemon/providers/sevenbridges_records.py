"""What is read of Seven Bridges' answers, and what its status words mean here. Pure.

What a decision rests on is strict; what is only shown may be missing or odd without hiding the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, FiniteFloat, StringConstraints, ValidationError, WrapValidator

from app.daemon.providers.provider_interface import ProviderRun, Status
from app.daemon.providers.sevenbridges_http import one_line
from app.errors import OutcomeUnknown
from app.states import State

Model = TypeVar("Model", bound=BaseModel)

TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FILE_ID = re.compile(r"[0-9a-f]{24}")
DRAFT = "DRAFT"
WORDS: Mapping[str, State] = {
    DRAFT: State.INITIALIZING,
    "CREATING": State.INITIALIZING,
    "QUEUED": State.INITIALIZING,
    "RUNNING": State.RUNNING,
    "ABORTING": State.RUNNING,  # it may still complete
    "COMPLETED": State.COMPLETE,
    "FAILED": State.EXECUTOR_ERROR,
    "ABORTED": State.CANCELED,
}
PLATFORM_FAULTS = (
    ("preempted", re.compile(r"\bspot\b|preempt|interrupted|instance (was )?terminated", re.IGNORECASE)),
    ("platform_error", re.compile(r"internal (server )?error|platform error", re.IGNORECASE)),
)
"""Reason -> how the platform words a failure that is no fault of the workflow. The words are not documented."""


def _or_none(value: Any, handler: Any) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Shown = WrapValidator(_or_none)
Text = Annotated[str | None, Shown]
Moment = Annotated[AwareDatetime | None, Shown]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Z_]{1,40}$")]
TaskId = Annotated[str, StringConstraints(pattern=rf"^{TASK_ID.pattern}$")]
FileId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class PriceRecord(BaseModel):
    amount: FiniteFloat
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class ProgressRecord(BaseModel):
    """The library calls it execution_status."""

    message: Text = None
    message_code: Text = None
    steps_completed: Annotated[int | None, Shown] = None
    steps_total: Annotated[int | None, Shown] = None


class TaskRecord(BaseModel):
    id: TaskId
    name: str
    status: Word
    description: Text = None
    created_time: Moment = None
    start_time: Moment = None
    end_time: Moment = None
    errors: Annotated[list[Any] | dict[str, Any] | None, Shown] = None
    warnings: Annotated[list[Any] | dict[str, Any] | None, Shown] = None
    price: Annotated[PriceRecord | None, Shown] = None
    execution_status: Annotated[ProgressRecord | None, Shown] = None


class OutputsRecord(BaseModel):
    """Of the same answer; a task has its outputs once it is COMPLETED."""

    id: TaskId
    status: Word
    outputs: dict[str, Any]


class InstanceRecord(BaseModel):
    type: Text = None
    provider: Text = None


class JobRecord(BaseModel):
    """One job of a task: a tool that was run. `logs`: address in the API by the log's name."""

    name: Name
    status: Text = None
    start_time: Moment = None
    end_time: Moment = None
    command_line: Text = None
    retried: Annotated[bool | None, Shown] = None
    instance: Annotated[InstanceRecord | None, Shown] = None
    logs: Annotated[dict[str, Any] | None, Shown] = None


class FileRecord(BaseModel):
    id: FileId
    name: Name
    type: Text = None
    size: Annotated[int | None, Shown] = None
    project: Text = None


class AppRecord(BaseModel):
    id: Name
    revision: int
    raw: dict[str, Any]


class VolumeRecord(BaseModel):
    id: Name
    service: dict[str, Any]


class ImportErrorRecord(BaseModel):
    message: Text = None


class ImportRecord(BaseModel):
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    state: Word
    error: Annotated[ImportErrorRecord | None, Shown] = None


class LinkRecord(BaseModel):
    url: str


def read(model: type[Model], value: Any) -> Model:
    """A resource of the library, or what was decoded of an answer, as what it should be. Raises OutcomeUnknown.

    Only what the answer held is read: a resource would fetch what it lacks, unasked, a request for each.
    """
    if not isinstance(value, Mapping):
        value = {name: value.field(name) for name in model.model_fields}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        where = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors()[:5])
        raise OutcomeUnknown(f"Seven Bridges answered with something else: see {where}"[:300]) from None


def accepted(task: TaskRecord) -> ProviderRun:
    """A task that a submit made, or that was found."""
    metadata = {"warnings": _texts(task.warnings)} if task.warnings else {}
    return ProviderRun(task.id, started=task.status != DRAFT, provider_status=task.status, metadata=metadata)


def status_of(task: TaskRecord) -> Status:
    """What a task's record says of its run."""
    state, reason = WORDS.get(task.status), None
    if refused := refusal_of(task):
        state, reason = State.SYSTEM_ERROR, "inputs_refused"
    elif state == State.EXECUTOR_ERROR and (fault := _platform_fault(task)):
        state, reason = State.SYSTEM_ERROR, fault
    return Status(
        state=state,
        provider_status=task.status,
        reason=reason,
        message=refused or _message(task),
        start_time=task.start_time,
        end_time=_end(task),
        needs_start=task.status == DRAFT and not refused,
        metadata={"price": task.price.model_dump()} if task.price else {},
    )


def refusal_of(task: TaskRecord) -> str | None:
    """Why a draft cannot be run, in the platform's words; None where it can."""
    if task.status != DRAFT or not task.errors:
        return None
    return one_line(f"Seven Bridges refuses the inputs: {'; '.join(_texts(task.errors))}")


def _texts(messages: list[Any] | dict[str, Any]) -> list[str]:
    """Errors and warnings come as a list; the library says that they are objects."""
    given = [f"{name}: {text}" for name, text in messages.items()] if isinstance(messages, dict) else messages
    return [
        one_line(str(message.get("message", message) if isinstance(message, dict) else message)) for message in given
    ]


def _platform_fault(task: TaskRecord) -> str | None:
    progress = task.execution_status or ProgressRecord()
    words = f"{progress.message_code or ''} {progress.message or ''}"
    return next((reason for reason, pattern in PLATFORM_FAULTS if pattern.search(words)), None)


def _message(task: TaskRecord) -> str:
    """The platform's words, with the progress of what runs and the price of what is over."""
    progress = task.execution_status or ProgressRecord()
    words = one_line(progress.message or task.status.capitalize())
    if task.status == "RUNNING" and progress.steps_total:
        words += f", {progress.steps_completed or 0} of {progress.steps_total} steps"
    if task.price and task.status in ("COMPLETED", "FAILED", "ABORTED"):
        words += f", price {task.price.amount:g} {task.price.currency}"
    return words


def _end(task: TaskRecord) -> datetime | None:
    """A run that goes on has none, whatever is said."""
    return task.end_time if task.status in ("COMPLETED", "FAILED", "ABORTED") else None
