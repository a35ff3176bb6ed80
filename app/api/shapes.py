"""Rows as WES's JSON objects. What is not known is left out, never null."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.api.addresses import output_url, run_url
from app.artifacts import output_path
from app.models import RunEvent, TaskLog, WorkflowRun

Json = dict[str, Any]


def timestamp(at: datetime) -> str:
    """UTC, whole seconds."""
    return f"{at.astimezone(UTC).isoformat()[:19]}Z"


def known(**fields: Any) -> Json:
    """Only what is known; times as text."""
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in fields.items()
        if value is not None and value != ""
    }


def run_summary(run: Any) -> Json:
    """RunSummary, with our `name` and `submitted_at`. `run`: a row with these columns."""
    return known(
        run_id=run.run_id,
        state=run.state,
        name=run.name,
        submitted_at=run.submitted_at,
        start_time=run.start_time,
        end_time=run.end_time,
        tags=run.tags,
    )


def run_log(run: WorkflowRun, events: Sequence[RunEvent], tasks: Sequence[TaskLog]) -> Json:
    """RunLog."""
    url = run_url(run.run_id)
    log = known(
        name=run.name,
        cmd=run.cmd,
        start_time=run.start_time,
        end_time=run.end_time,
        stdout=f"{url}/logs/stdout",
        stderr=f"{url}/logs/stderr",
        exit_code=run.exit_code,
        system_logs=[event_line(event) for event in events],
    )
    return {
        "run_id": run.run_id,
        "request": run_request(run),
        "state": run.state,
        "run_log": log,
        "task_logs_url": f"{url}/tasks",
        "task_logs": [task_log(task) for task in tasks],
        "outputs": with_urls(run.run_id, run.outputs or {}),
    }


def run_request(run: WorkflowRun) -> Json:
    """RunRequest, as it was asked for; a bare flag is an empty string, since the schema knows no null here."""
    return known(
        workflow_type=run.workflow_type,
        workflow_type_version=run.workflow_type_version,
        workflow_url=run.workflow_url,
        workflow_params=run.workflow_params,
        workflow_engine=run.workflow_engine,
        workflow_engine_version=run.workflow_engine_version,
        workflow_engine_parameters={key: value or "" for key, value in run.workflow_engine_parameters.items()},
        tags=run.tags,
    )


def task_log(task: TaskLog) -> Json:
    """TaskLog."""
    url = f"{run_url(task.run_id)}/tasks/{task.task_id}/logs"
    return known(
        id=task.task_id,
        cmd=task.cmd,
        start_time=task.start_time,
        end_time=task.end_time,
        stdout=f"{url}/stdout" if task.has_stdout else None,
        stderr=f"{url}/stderr" if task.has_stderr else None,
        exit_code=task.exit_code,
        system_logs=task.system_logs,
    ) | {"name": task.name}


def run_event(event: RunEvent) -> Json:
    """One entry of `/runs/{run_id}/events`."""
    return known(at=event.at, from_state=event.from_state, to_state=event.to_state, by=event.by, note=event.note)


def event_line(event: RunEvent) -> str:
    """The event as one line of `system_logs`."""
    words = ": ".join(word for word in (event.to_state, event.note) if word)
    return f"{timestamp(event.at)} {words} ({event.by})"


def with_urls(run_id: str, value: Any) -> Any:
    """An output object whose kept files are absolute URLs."""
    if isinstance(value, list):
        return [with_urls(run_id, item) for item in value]
    if not isinstance(value, dict):
        return value
    shown = {key: with_urls(run_id, item) for key, item in value.items()}
    location = value.get("location")
    if isinstance(location, str) and (path := output_path(location)) is not None:
        shown["location"] = output_url(run_id, path)
    return shown
