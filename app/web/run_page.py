"""What the run page shows beside the rows themselves: the failure, the logs, the outputs. Knows storage, not HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.artifacts import ArtifactStorage
from app.models import RunEvent, TaskLog, WorkflowRun
from app.states import State, is_terminal
from app.web.formatting import explain_exit
from app.web.log_tail import LogTail, read_tail
from app.web.output_tree import OutputNode, output_tree

FAILURE_LINES = 20
MAX_TEXT = 100_000

_TITLES = {
    State.EXECUTOR_ERROR: "The workflow failed",
    State.SYSTEM_ERROR: "The service could not finish this run",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended in an error: what is said first on its page."""

    title: str
    message: str
    reason: str | None  # machine-readable
    exit_code: int | None
    exit_words: str | None
    task: TaskLog | None  # the first step that failed
    log_name: str
    log_title: str
    lines: str  # the last ones of the log of the failed step, or of the run


@dataclass(frozen=True, slots=True)
class LogLink:
    """A log that can be chosen; `size` in bytes."""

    name: str
    title: str
    size: int


def describe_failure(
    run: WorkflowRun, events: Sequence[RunEvent], failed_task: TaskLog | None, storage: ArtifactStorage
) -> Failure | None:
    """None unless the run ended in an error."""
    if run.state not in _TITLES:
        return None
    said = next((event.note for event in reversed(events) if event.to_state == run.state and event.note), "")
    message = run.error_message or said or "No reason was given."
    log_name, title, tail = _telling_log(run, failed_task, storage)
    return Failure(
        title=_TITLES[run.state],
        message=message,
        reason=said.removesuffix(f": {message}") if said.endswith(f": {message}") else None,
        exit_code=run.exit_code,
        exit_words=None if run.exit_code is None else explain_exit(run.exit_code),
        task=failed_task,
        log_name=log_name,
        log_title=title,
        lines=tail.last_lines(FAILURE_LINES),
    )


def list_logs(run: WorkflowRun, chosen: str, task: TaskLog | None, storage: ArtifactStorage) -> list[LogLink]:
    """The run's own logs, and the chosen one where it is a step's."""
    names = {name: name for name in ("stderr", "stdout")}
    if task:
        names[chosen] = log_title(chosen, task)
    kept = ((name, title, storage.log(run.run_id, name)) for name, title in names.items())
    return [LogLink(name, title, file.size if file else 0) for name, title, file in kept]


def log_title(name: str, task: TaskLog | None) -> str:
    """How a log is called on the page."""
    return f"{name.rpartition('/')[2]} of {task.name}" if task else name


def show_outputs(run: WorkflowRun, storage: ArtifactStorage) -> OutputNode:
    """The tree of a run's outputs, empty until it has ended."""
    if not is_terminal(run.state):
        return OutputNode(None, is_folder=True)
    return output_tree(run.outputs, {file.path: file.size for file in storage.outputs(run.run_id)})


def show_json(value: Any) -> str:
    """Indented JSON to read; very long ones are cut."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n… cut here; the JSON of this run has the rest"


def _telling_log(run: WorkflowRun, task: TaskLog | None, storage: ArtifactStorage) -> tuple[str, str, LogTail]:
    """Name, title and end of the first of these logs with anything in it: the failed step's, then the run's."""
    names = [f"tasks/{task.task_id}/stderr", f"tasks/{task.task_id}/stdout"] if task else []
    for name in [*names, "stderr", "stdout"]:
        tail = read_tail(storage.log(run.run_id, name))
        if tail.text.strip():
            return name, log_title(name, task if name in names else None), tail
    return "stderr", "stderr", LogTail("", 0, False)
