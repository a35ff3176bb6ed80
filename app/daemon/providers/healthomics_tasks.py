"""The tasks of a run as HealthOmics lists them, with the reasons of those that failed. Knows no runs' lives."""

from __future__ import annotations

import threading
from collections import OrderedDict

from pydantic import BaseModel, Field

from app.daemon.providers.healthomics_aws import AwsApi, Missing
from app.daemon.providers.healthomics_status import ENDED, Utc, Word
from app.daemon.providers.provider_interface import Task

MOST_EXPLAINED = 20
"""Failed tasks of a run whose reason is asked for: a scatter that fails does so a thousand times for one reason."""
MOST_KEPT = 1000


class RunTask(BaseModel):
    """An item of ListRunTasks."""

    taskId: str = Field(pattern=r"^[0-9]{1,18}$")
    status: Word
    name: str | None = None
    cpus: int | None = None
    memory: float | None = None  # GiB
    gpus: int | None = None
    instanceType: str | None = None
    cacheHit: bool | None = None
    creationTime: Utc | None = None
    startTime: Utc | None = None
    stopTime: Utc | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class _Details(BaseModel):
    statusMessage: str | None = None
    failureReason: str | None = None


class TaskBook:
    """Thread-safe."""

    def __init__(self, api: AwsApi) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._reasons: OrderedDict[tuple[str, str], str] = OrderedDict()

    def listed(self, run_id: str) -> list[RunTask]:
        """Every task so far, in the order in which they began. A retried task is a task of its own."""
        tasks = {task.taskId: task for task in self._api.items(RunTask, "ListRunTasks", id=run_id)}
        return sorted(tasks.values(), key=_beginning)

    def tasks(self, run_id: str) -> list[Task]:
        """The same, as they are shown. HealthOmics tells neither commands nor exit codes."""
        listed = self.listed(run_id)
        explained = [task.taskId for task in listed if task.status == "FAILED"][:MOST_EXPLAINED]
        return [
            Task(
                task_id=task.taskId,
                name=task.name or task.taskId,
                start_time=task.startTime,
                end_time=task.stopTime if task.has_ended else None,
                exit_code=0 if task.status == "COMPLETED" else None,
                system_logs=_words(task, self._reason(run_id, task.taskId) if task.taskId in explained else ""),
                has_stdout=task.startTime is not None,
            )
            for task in listed
        ]

    def _reason(self, run_id: str, task_id: str) -> str:
        with self._lock:
            kept = self._reasons.get((run_id, task_id))
        if kept is None:
            kept = self._asked_reason(run_id, task_id)
            with self._lock:
                self._reasons[run_id, task_id] = kept
                while len(self._reasons) > MOST_KEPT:
                    self._reasons.popitem(last=False)
        return kept

    def _asked_reason(self, run_id: str, task_id: str) -> str:
        try:
            details = self._api.read(_Details, "GetRunTask", id=run_id, taskId=task_id)
        except Missing:
            return ""
        return ": ".join(words for words in (details.failureReason, details.statusMessage) if words)


def _beginning(task: RunTask) -> tuple[float, int]:
    at = task.startTime or task.creationTime
    return at.timestamp() if at else float("inf"), int(task.taskId)


def _words(task: RunTask, reason: str) -> tuple[str, ...]:
    on = [task.instanceType, task.cpus and f"{task.cpus} vCPU", task.memory and f"{task.memory:g} GiB"]
    on += [task.gpus and f"{task.gpus} GPU", task.cacheHit and "from the run cache"]
    machine = ", ".join(str(word) for word in on if word)
    return tuple(words for words in (task.status, machine, reason) if words)
