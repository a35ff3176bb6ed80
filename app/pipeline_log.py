"""The log of one pipeline, a line for everything that happened to it, made from what is stored. Pure.

Lines read `2026-01-19 10:00:01 - INFO - Submitted step 'assemble' to app 'GenomeAssembly2' | task_id=19542145`, in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from app.models import WorkflowRun
from app.runs.pipelines import task_name
from app.states import State, is_terminal

Line = tuple[datetime, str, str]
_FAILED = frozenset({State.EXECUTOR_ERROR, State.SYSTEM_ERROR})


def pipeline_log(run: WorkflowRun, steps: Sequence[WorkflowRun]) -> str:
    """`steps`: the runs of its steps. Empty before a daemon has taken the pipeline."""
    lines = [*_lines_of_pipeline(run), *(line for step in steps for line in _lines_of_step(step))]
    return "".join(
        f"{at:%Y-%m-%d %H:%M:%S} - {level} - {words}\n" for at, level, words in sorted(lines, key=lambda line: line[0])
    )


def _lines_of_pipeline(run: WorkflowRun) -> Iterator[Line]:
    if run.processed_at:
        yield run.processed_at, "INFO", "Workflow execution started"
    if run.end_time and is_terminal(run.state):
        words = {State.COMPLETE: "completed successfully", State.CANCELED: "was cancelled"}.get(run.state, "failed")
        yield run.end_time, _level(run), f"Workflow {words}{_because(run)} | elapsed_time={_elapsed(run)}"


def _lines_of_step(run: WorkflowRun) -> Iterator[Line]:
    name = task_name(run)
    if run.processed_at:
        what = f"app {run.workflow_url.removeprefix('bvbrc:')!r}"
        yield run.processed_at, "INFO", f"Submitted step {name!r} to {what} | task_id={run.provider_id}"
    if not is_terminal(run.state) or run.end_time is None:
        return
    if run.reused_from and run.state == State.COMPLETE:
        yield run.submitted_at, "INFO", f"Step {name!r} is reused | run_id={run.reused_from}"
        return
    words = {State.COMPLETE: "completed successfully", State.CANCELED: "was cancelled"}.get(run.state, "failed")
    yield run.end_time, _level(run), f"Step {name!r} {words}{_because(run)} | elapsed_time={_elapsed(run)}"


def _level(run: WorkflowRun) -> str:
    return "ERROR" if run.state in _FAILED else "INFO"


def _because(run: WorkflowRun) -> str:
    return ": " + " ".join(run.error_message.split()) if run.error_message else ""


def _elapsed(run: WorkflowRun) -> str:
    began = run.start_time or run.processed_at or run.submitted_at
    seconds = max(0, int(((run.end_time or began) - began).total_seconds()))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
