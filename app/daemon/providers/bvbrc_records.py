"""What BV-BRC says of tasks: its records, checked, and its words as WES states. Calls nothing.

A provider id is `<task id>/<run id>`: the run id says whose token may ask for the task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, StringConstraints, ValidationError

from app.daemon.providers.provider_interface import Status
from app.errors import InvalidRequest, OutcomeUnknown
from app.states import State
from app.strict import load_json

log = logging.getLogger(__name__)

WORDS: Mapping[str, State] = {
    "queued": State.INITIALIZING,
    "pending": State.INITIALIZING,
    "init": State.INITIALIZING,
    "submitted": State.INITIALIZING,
    "in-progress": State.RUNNING,
    "running": State.RUNNING,
    "suspended": State.PAUSED,
    "completed": State.COMPLETE,
    "failed": State.EXECUTOR_ERROR,
    "deleted": State.CANCELED,
    "terminated": State.CANCELED,
    "cancelled": State.CANCELED,
    "canceled": State.CANCELED,
    "killed": State.CANCELED,
}
"""Both services' words for a task, in small letters and with hyphens; any other is no state."""
PLATFORM_WORDS: Mapping[str, str] = {"NODE_FAIL": "node_failed", "PREEMPTED": "preempted", "BOOT_FAIL": "node_failed"}
"""Slurm's words for jobs that failed by no fault of theirs, and our reason."""
OWN_FAULTS = frozenset({"FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"})
"""Slurm's words for jobs that failed by themselves; one that was cancelled has another word."""
HIDDEN_FOLDER_MARK = "."
_PROVIDER_ID = re.compile(r"(\d{1,18})/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class TaskId:
    """A task, and the run that it belongs to."""

    task: str
    run_id: str

    @staticmethod
    def parse(provider_id: str) -> TaskId | None:
        """None for what is no provider id of ours."""
        found = _PROVIDER_ID.fullmatch(provider_id)
        return TaskId(found[1], found[2]) if found else None

    def __str__(self) -> str:
        return f"{self.task}/{self.run_id}"


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _time(value: Any) -> datetime | None:
    """UTC, with or without its letter; empty or strange is unknown."""
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ""


def _object(value: Any) -> dict[str, Any]:
    """Parameters come as an object, or as its JSON text."""
    try:
        value = load_json(value, "parameters") if isinstance(value, str) else value
    except InvalidRequest:
        return {}
    return value if isinstance(value, dict) else {}


Number = Annotated[str, BeforeValidator(_number), StringConstraints(pattern=r"^[0-9]{1,18}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,63}$")]
Time = Annotated[datetime | None, BeforeValidator(_time)]
Text = Annotated[str, BeforeValidator(_text)]
Parameters = Annotated[dict[str, Any], BeforeValidator(_object)]


class Task(BaseModel):
    """A task as query_tasks and enumerate_tasks_filtered tell of it."""

    id: Number
    status: Word
    app: Text = ""
    parameters: Parameters = {}
    submit_time: Time = None
    start_time: Time = None
    completed_time: Time = None

    @property
    def output_file(self) -> str:
        """The name of its job result: in it BV-BRC replaces slashes."""
        return _text(self.parameters.get("output_file")).replace("/", "_")

    @property
    def result_path(self) -> str:
        """Where its job result lies in the Workspace."""
        return f"{_text(self.parameters.get('output_path')).rstrip('/')}/{self.output_file}"

    @property
    def folder_path(self) -> str:
        """Where its files lie: a hidden folder beside the job result."""
        return f"{_text(self.parameters.get('output_path')).rstrip('/')}/{HIDDEN_FOLDER_MARK}{self.output_file}"


class QueueEntry(BaseModel):
    """A task as enumerate_tasks_qstat tells of it: with our mark, and with what Slurm says."""

    id: Number
    status: Word
    user_metadata: Text = ""
    cluster_job_status: Text = ""


class Started(BaseModel):
    """What start_app2 answers: the database's row, or a task."""

    id: Number


class Details(BaseModel):
    """What query_task_details answers; the exit code is text, or a number, or not there."""

    stdout_url: Text = ""
    stderr_url: Text = ""
    hostname: Text = ""
    exitcode: Any = None

    @property
    def exit_code(self) -> int | None:
        """Some runners note what a process returned, others what waiting for it returned."""
        text = str(self.exitcode).strip()
        code = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
        if 0 <= code < 256:
            return code
        return code >> 8 if 0 < code < 65536 and code % 256 == 0 else None


@dataclass(frozen=True, slots=True)
class Failure:
    """What else is known of a task that failed."""

    exit_code: int | None = None
    queue_word: str = ""  # enumerate_tasks_qstat tells a task that was terminated from one that failed
    slurm_word: str = ""
    report: str = ""  # the app's own


def read_one(record: type[Record], value: Any) -> Record:
    """Raises OutcomeUnknown where this is something else."""
    try:
        return record.model_validate(value)
    except ValidationError as error:
        where = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors()[:5])
        raise OutcomeUnknown(f"BV-BRC answered with something else: see {where or record.__name__}") from None


def read_many(record: type[Record], values: Iterable[Any]) -> list[Record]:
    """Those that can be read."""
    found = []
    for value in values:
        try:
            found.append(record.model_validate(value))
        except ValidationError as error:
            log.warning("a task that cannot be read", extra={"problems": error.error_count()})
    return found


def state_of(word: str) -> State | None:
    """None for a word that is not known."""
    return WORDS.get(_plain(word))


def status_of(task: Task, failure: Failure | None = None) -> Status:
    """`failure`: what else is known, where the task failed."""
    state = state_of(task.status)
    if _plain(task.status) == "pending" and task.start_time is not None:
        state = State.RUNNING  # with the cluster; the service has one word for waiting there and for running
    if state == State.EXECUTOR_ERROR:
        return _failed(task, failure or Failure())
    return Status(state, task.status, start_time=task.start_time, end_time=task.completed_time, metadata=_facts(task))


def _failed(task: Task, failure: Failure) -> Status:
    slurm = failure.slurm_word.partition(" ")[0].upper()
    reason = PLATFORM_WORDS.get(slurm)
    was_cancelled = slurm == "CANCELLED" or state_of(failure.queue_word) == State.CANCELED
    state = State.SYSTEM_ERROR if reason else State.CANCELED if was_cancelled else State.EXECUTOR_ERROR
    said = [f"BV-BRC says: {failure.queue_word or task.status}", f"Slurm says: {failure.slurm_word}"]
    words = ". ".join(said if failure.slurm_word else said[:1])
    return Status(
        state,
        task.status,
        reason=reason,
        message=f"{words}. {failure.report}".strip(),
        exit_code=failure.exit_code,
        start_time=task.start_time,
        end_time=task.completed_time,
        perhaps_canceled=state == State.EXECUTOR_ERROR and slurm not in OWN_FAULTS,
        metadata=_facts(task) | ({"slurm_status": failure.slurm_word} if failure.slurm_word else {}),
    )


def _facts(task: Task) -> dict[str, Any]:
    return {"task_id": task.id, "app": task.app, "job_result": task.result_path}


def _plain(word: str) -> str:
    return word.casefold().replace("_", "-").replace(" ", "-")
