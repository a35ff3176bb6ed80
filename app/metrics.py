"""What every process counts for Prometheus: runs that were accepted and that ended. And how all metrics are written.

Label values that users or providers choose go through `Names`, so that no metric can grow without end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from app.runs.news import Accepted, Ended
from app.states import State

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""Of what `exposition` returns."""
OTHER = "other"
STATUSES = {
    State.COMPLETE: "succeeded",
    State.EXECUTOR_ERROR: "failed",
    State.SYSTEM_ERROR: "failed",
    State.CANCELED: "cancelled",
}
"""How a run ended, in the words of the pipeline engine's metrics."""
LONG = (1, 5, 15, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600, 86_400, 3 * 86_400)
"""Buckets in seconds for what takes from moments to days."""


class Names:
    """The first values that a label has had in this process, `room` of them; all others are OTHER. Thread-safe."""

    def __init__(self, room: int) -> None:
        self._room, self._seen, self._lock = room, set[str](), threading.Lock()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        with self._lock:
            if len(self._seen) >= self._room or not re.fullmatch(r"[\w.-]{1,100}", value, re.ASCII):
                return OTHER
            self._seen.add(value)
        return value


app_label = Names(100)
disable_created_metrics()  # type: ignore[no-untyped-call]

WORKFLOWS_SUBMITTED = Counter("workflows_submitted_total", "Runs accepted that are no steps of others")
WORKFLOWS_COMPLETED = Counter("workflows_completed_total", "Such runs that ended, by how", ["status"])
WORKFLOW_SECONDS = Histogram("workflow_execution_duration_seconds", "From start to end of such runs", buckets=LONG)
STEPS_SUBMITTED = Counter("steps_submitted_total", "Steps of pipelines accepted, by app", ["app"])
STEPS_COMPLETED = Counter("steps_completed_total", "Steps of pipelines that ended, by app and how", ["app", "status"])
STEP_SECONDS = Histogram("step_execution_duration_seconds", "From start to end of steps, by app", ["app"], buckets=LONG)
RUN_SECONDS = Histogram(
    "wes_run_duration_seconds", "From start to end of runs, by provider and end state", ["provider", "state"],
    buckets=LONG,
)  # fmt: skip
for _status in set(STATUSES.values()):
    WORKFLOWS_COMPLETED.labels(_status)  # a counter that is there from the start shows its first increase


def count(news: Iterable[object]) -> None:
    """Count what a transaction did to runs; called once it is committed."""
    for item in news:
        if isinstance(item, Accepted):
            _count_accepted(item)
        elif isinstance(item, Ended):
            _count_ended(item)


def _count_accepted(run: Accepted) -> None:
    if run.is_step:
        STEPS_SUBMITTED.labels(app_label(run.app)).inc()
    else:
        WORKFLOWS_SUBMITTED.inc()


def _count_ended(run: Ended) -> None:
    app, status = app_label(run.app) if run.is_step else "", STATUSES[run.state]
    (STEPS_COMPLETED.labels(app, status) if run.is_step else WORKFLOWS_COMPLETED.labels(status)).inc()
    if run.seconds is not None:
        (STEP_SECONDS.labels(app) if run.is_step else WORKFLOW_SECONDS).observe(run.seconds)
        RUN_SECONDS.labels(run.provider, run.state).observe(run.seconds)


def exposition(more: CollectorRegistry | None = None) -> bytes:
    """All metrics of this service in Prometheus' text format: summed up over its processes, where they share a
    directory for that, else of this process; and those of `more`."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:
        registry = REGISTRY
    return generate_latest(registry) + (generate_latest(more) if more else b"")
