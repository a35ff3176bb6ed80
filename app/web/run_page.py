"""Everything that the live part of a run's page shows, read in one go. Knows database and storage, not HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.context import Context
from app.errors import NotFound
from app.models import RunEvent, TaskLog, WorkflowRun
from app.runs import listing
from app.states import ACTIVE, State, is_terminal
from app.watching import LOG_WANTED_EVERY, want_log
from app.web.daemons import daemon_lives, provider_problem
from app.web.failure import Failure, describe_failure
from app.web.log_tail import LogName, LogTail, read_tail, split_name
from app.web.output_tree import OutputNode, output_tree
from app.web.step_graph import StepGraph, read_step_graph

TASKS_SHOWN = 100
EVENTS_SHOWN = 200
MAX_JSON_TEXT = 100_000
POLL_SECONDS = 3


@dataclass(frozen=True, slots=True)
class LogLink:
    """A log that can be chosen; `size` in bytes."""

    name: LogName
    size: int


@dataclass(frozen=True, slots=True)
class RunPage:
    """A run as it is now."""

    run: WorkflowRun
    events: Sequence[RunEvent]  # the newest first
    events_left_out: int
    graph: StepGraph | None
    tasks: Sequence[TaskLog]
    next_tasks_after: int | None  # the position after which the next page of tasks begins
    failure: Failure | None
    logs: Sequence[LogLink]
    log_name: LogName
    log: LogTail
    outputs: OutputNode
    daemon_lives: bool
    provider_problem: str | None  # of a run that waits QUEUED

    @property
    def is_over(self) -> bool:
        return is_terminal(self.run.state)

    @property
    def can_cancel(self) -> bool:
        return not self.is_over and self.run.state != State.CANCELING

    @property
    def poll_seconds(self) -> int:
        """When to look again; 0 for never."""
        return 0 if self.is_over else POLL_SECONDS


def read_run_page(context: Context, owner: str, run_id: str, log: str = "", tasks_after: int = -1) -> RunPage:
    """`log`: the chosen one as `LogName.stored`, "" for whichever has anything in it. Raises NotFound."""
    with context.database.reading() as session:
        run = listing.get_run(session, run_id, owner)
        events = listing.get_events(session, run_id)
        tasks = listing.get_tasks(session, run_id, tasks_after, TASKS_SHOWN + 1)
        failed_task = listing.get_failed_task(session, run_id)
        chosen = _chosen_log(session, run_id, log) if log else None
        lives = daemon_lives(session, context.now())
        problem = provider_problem(session, context.now(), run.provider_type) if run.state == State.QUEUED else None
    _want_logs(context, run)
    logs = _list_logs(run_id, chosen, context.storage)
    shown = chosen or next((link.name for link in logs if link.size), logs[0].name)
    return RunPage(
        run=run,
        events=events[::-1][:EVENTS_SHOWN],
        events_left_out=max(0, len(events) - EVENTS_SHOWN),
        graph=read_step_graph(context.database, context.storage, run),
        tasks=tasks[:TASKS_SHOWN],
        next_tasks_after=tasks[TASKS_SHOWN - 1].position if len(tasks) > TASKS_SHOWN else None,
        failure=describe_failure(run, events, failed_task, context.storage),
        logs=logs,
        log_name=shown,
        log=read_tail(context.storage.log(run_id, shown.stored)),
        outputs=_show_outputs(run, context.storage),
        daemon_lives=lives,
        provider_problem=problem,
    )


def show_json(value: Any) -> str:
    """Indented JSON to read; very long ones are cut."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= MAX_JSON_TEXT else f"{text[:MAX_JSON_TEXT]}\n… cut here; the JSON has the rest"


def _chosen_log(session: Session, run_id: str, name: str) -> LogName:
    parts = split_name(name)
    if parts is None:
        raise NotFound(f"Run {run_id} has no log {name!r}.")
    task_id, stream = parts
    return LogName(stream, listing.get_task(session, run_id, task_id) if task_id else None)


def _list_logs(run_id: str, chosen: LogName | None, storage: ArtifactStorage) -> list[LogLink]:
    """The run's own logs, and the chosen one where it is a step's."""
    names = [LogName("stderr"), LogName("stdout")] + ([chosen] if chosen and chosen.task else [])
    files = ((name, storage.log(run_id, name.stored)) for name in names)
    return [LogLink(name, file.size if file else 0) for name, file in files]


def _show_outputs(run: WorkflowRun, storage: ArtifactStorage) -> OutputNode:
    """Empty until the run has ended."""
    if not is_terminal(run.state):
        return OutputNode(None, is_folder=True)
    return output_tree(run.outputs, {file.path: file.size for file in storage.outputs(run.run_id)})


def _want_logs(context: Context, run: WorkflowRun) -> None:
    """Whoever looks at the page of an active run watches its log."""
    was_said = run.log_wanted_at is not None and run.log_wanted_at >= context.now() - LOG_WANTED_EVERY
    if run.state in ACTIVE and not was_said:
        want_log(context.database, context.hinter, run.run_id, context.now())
