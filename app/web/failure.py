"""Why a run failed: what its page says first. Knows storage, not HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.artifacts import ArtifactStorage
from app.models import RunEvent, TaskLog, WorkflowRun
from app.states import State
from app.web.formatting import explain_exit
from app.web.log_tail import NO_LOG, LogName, LogTail, read_tail

LINES = 20

_TITLES = {
    State.EXECUTOR_ERROR: "The workflow failed",
    State.SYSTEM_ERROR: "The service could not finish this run",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that ended in an error."""

    title: str
    message: str  # its first line
    more: str  # its other lines, where they say more than the log
    reason: str | None  # machine-readable
    exit_code: int | None
    exit_words: str | None
    task: TaskLog | None  # the first step that failed
    log: LogName
    lines: str  # the last ones of that log: the failed step's, else the run's


def describe_failure(
    run: WorkflowRun, events: Sequence[RunEvent], failed_task: TaskLog | None, storage: ArtifactStorage
) -> Failure | None:
    """None unless the run ended in an error."""
    if run.state not in _TITLES:
        return None
    said = next((event.note for event in reversed(events) if event.to_state == run.state and event.note), "")
    message = run.error_message or said or "No reason was given."
    log, tail = _telling_log(run, failed_task, storage)
    lines = tail.last_lines(LINES)
    first, _, more = message.partition("\n")
    return Failure(
        title=_TITLES[run.state],
        message=first.removesuffix(":"),
        more="" if _says_the_same(more, lines) else more.strip("\n"),
        reason=said.removesuffix(f": {message}") if said.endswith(f": {message}") else None,
        exit_code=run.exit_code,
        exit_words=None if run.exit_code is None else explain_exit(run.exit_code),
        task=failed_task,
        log=log,
        lines=lines,
    )


def _says_the_same(message: str, log: str) -> bool:
    return {line.strip() for line in message.split("\n")} <= {line.strip() for line in log.split("\n")} | {""}


def _telling_log(run: WorkflowRun, task: TaskLog | None, storage: ArtifactStorage) -> tuple[LogName, LogTail]:
    """The first of these logs with anything in it: the failed step's, then the run's."""
    for name in (LogName(stream, step) for step in dict.fromkeys((task, None)) for stream in ("stderr", "stdout")):
        tail = read_tail(storage.log(run.run_id, name.stored))
        if tail.text.strip():
            return name, tail
    return LogName("stderr"), NO_LOG
