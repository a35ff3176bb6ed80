"""Runs as the pipeline engine's own API shows them: its field names and its words for states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from app.api.shapes import Json, timestamp, with_urls
from app.dag.planning import Outlook, StepState
from app.models import RunEvent, TaskLog, WorkflowRun
from app.states import State

PREFIX = "wf_"
WORDS = {
    State.QUEUED: "pending",
    State.INITIALIZING: "queued",
    State.RUNNING: "running",
    State.PAUSED: "running",
    State.CANCELING: "running",
    State.COMPLETE: "succeeded",
    State.EXECUTOR_ERROR: "failed",
    State.SYSTEM_ERROR: "failed",
    State.CANCELED: "cancelled",
}


def status_word(state: State) -> str:
    """A workflow's state."""
    return WORDS[State(state)]


def workflow_status(
    run: WorkflowRun,
    outlook: Outlook | None,
    steps: Sequence[WorkflowRun],
    tasks: Sequence[TaskLog],
    events: Sequence[RunEvent],
) -> Json:
    """`steps` are the runs of a pipeline's steps, `tasks` what a single CWL run reported."""
    return {
        "workflow_id": f"{PREFIX}{run.run_id}",
        "workflow_name": run.name,
        "status": status_word(run.state),
        "created_at": timestamp(run.submitted_at),
        "updated_at": timestamp(events[-1].at if events else run.submitted_at),
        "error_message": run.error_message,
        "steps": _pipeline_steps(run, outlook, steps) or [_task(task) for task in tasks],
    }


def whole_workflow(run: WorkflowRun, steps: Sequence[WorkflowRun]) -> Json:
    """The document, and the outputs of the workflow and of its steps' runs."""
    outputs = {step.run_id: with_urls(step.run_id, step.outputs) for step in steps if step.outputs is not None}
    return {
        "run_id": run.run_id,
        "document": _document(run),
        "outputs": with_urls(run.run_id, run.outputs or {}),
        "step_outputs": outputs,
        "started_at": timestamp(run.start_time or run.processed_at) if run.processed_at else None,
        "completed_at": timestamp(run.end_time) if run.end_time else None,
    }


def _document(run: WorkflowRun) -> Json:
    document: Json = (run.submit_request or {}).get("document") or run.workflow_params
    return document


def _pipeline_steps(run: WorkflowRun, outlook: Outlook | None, steps: Sequence[WorkflowRun]) -> list[Json]:
    by_name: dict[str, list[WorkflowRun]] = defaultdict(list)
    for step in steps:
        by_name[step.step or ""].append(step)
    written = _document(run).get("steps") if run.provider_type == "dag" else None
    return [_step(one, outlook, by_name[one["step_name"]]) for one in written or []]


def _step(written: Json, outlook: Outlook | None, runs: Sequence[WorkflowRun]) -> Json:
    """`step_id` is the id of the job at its provider, of the latest run of the step; null before there is one."""
    name, latest = written["step_name"], runs[-1] if runs else None
    shown: dict[str, Any] = {
        "step_id": (latest.provider_id or latest.run_id) if latest else None,
        "step_name": name,
        "status": outlook.steps[name] if outlook else StepState.PENDING,
        "app": written.get("app") or written.get("workflow_url"),
        "run_ids": [run.run_id for run in runs],
    }
    problems = [run.error_message for run in runs if run.error_message]
    return shown | ({"error_message": problems[-1]} if problems else {})


def _task(task: TaskLog) -> Json:
    word = "succeeded" if task.exit_code == 0 else "running" if task.exit_code is None else "failed"
    return {"step_id": task.task_id, "step_name": task.name, "status": word, "app": task.name}
