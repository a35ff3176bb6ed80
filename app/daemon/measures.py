"""What the daemon counts for Prometheus: its polls, its errors, and every call to a provider. Decides nothing.

The names without `wes_` are those of the pipeline engine that this service takes the place of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

from prometheus_client import Counter, Histogram

from app.daemon.providers.provider_interface import Submission, WorkflowProviderInterface
from app.errors import NotAccepted, NotReady, OutcomeUnknown, Rejected
from app.metrics import Names, app_label
from app.runs.news import app_of

SUBMIT = "submit_workflow"
QUERIES = frozenset({"get_workflow_statuses", "get_workflow_status"})
CALLS = QUERIES | {
    SUBMIT, "prepare_request", "start_workflow", "find_workflow", "cancel_workflow", "cancel_duplicate", "get_tasks",
    "get_logs", "get_outputs",
}  # fmt: skip
"""The methods of a provider that may talk to it."""
OUTCOMES: tuple[tuple[type[Exception], str], ...] = (
    (NotReady, "not_ready"),
    (NotAccepted, "not_accepted"),
    (OutcomeUnknown, "outcome_unknown"),
    (Rejected, "rejected"),
    (Exception, "defect"),
)
"""What a call that raised came to; the first that fits."""
NO_SCHEDULER = "dag"
"""Pipelines are planned here: what they are asked is no question to a scheduler."""
_error_label = Names(50)

POLL_CYCLES = Counter("executor_poll_cycles_total", "Looks of all providers' loops at what is due")
POLL_SECONDS = Histogram("executor_poll_duration_seconds", "How long such a look took")
ERRORS = Counter("executor_errors_total", "Errors that the daemon logged, by exception", ["error_type"])
POLL_LAG = Histogram(
    "wes_poll_lag_seconds", "How late the most overdue run of a look was claimed; `new`: to be submitted",
    ["provider", "run"], buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600),
)  # fmt: skip
QUERY_SECONDS = Histogram("scheduler_query_duration_seconds", "How long providers took to tell statuses")
QUERY_ERRORS = Counter("scheduler_query_errors_total", "Questions for statuses that were not answered")
SUBMIT_ERRORS = Counter("scheduler_submit_errors_total", "Submits that no provider took, by app", ["app"])
PROVIDER_CALLS = Counter(
    "wes_provider_calls_total", "Calls to providers, by what they came to", ["provider", "verb", "outcome"]
)
PROVIDER_SECONDS = Histogram(
    "wes_provider_call_duration_seconds", "How long calls to providers took", ["provider", "verb"],
    buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)  # fmt: skip


class ErrorCounter(logging.Handler):
    """Counts what is logged as an error, by the exception that it was logged with."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        ERRORS.labels(_error_label(kind.__name__ if kind else "none")).inc()


@contextmanager
def poll_cycle() -> Iterator[None]:
    """One look at what is due, whether it succeeds or not."""
    POLL_CYCLES.inc()
    with POLL_SECONDS.time():
        yield


def saw_lag(provider: str, run: str, due: datetime, now: datetime) -> None:
    """Something was claimed that was due since then."""
    POLL_LAG.labels(provider, run).observe(max(0.0, (now - due).total_seconds()))


def measured(provider: WorkflowProviderInterface) -> WorkflowProviderInterface:
    """The same provider, each call to it counted and timed."""
    return cast(WorkflowProviderInterface, _Measured(provider))


class _Measured:
    """Everything that is no call, a time-out say, is the provider's own."""

    def __init__(self, provider: WorkflowProviderInterface) -> None:
        self._provider = provider
        for verb in CALLS:
            setattr(self, verb, _timed(provider, verb))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


def _timed(provider: WorkflowProviderInterface, verb: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        outcome, began = "ok", time.perf_counter()
        try:
            return getattr(provider, verb)(*args)
        except Exception as error:
            outcome = next(word for kind, word in OUTCOMES if isinstance(error, kind))
            raise
        finally:
            _count(provider.name, verb, outcome, time.perf_counter() - began, args)

    return call


def _count(provider: str, verb: str, outcome: str, seconds: float, args: tuple[Any, ...]) -> None:
    PROVIDER_CALLS.labels(provider, verb, outcome).inc()
    PROVIDER_SECONDS.labels(provider, verb).observe(seconds)
    if provider == NO_SCHEDULER:
        return
    failed = outcome not in ("ok", "not_ready")
    if verb in QUERIES:
        QUERY_SECONDS.observe(seconds)
        QUERY_ERRORS.inc(failed)
    elif verb == SUBMIT and failed:
        run: Submission = args[0]
        SUBMIT_ERRORS.labels(app_label(app_of(run.workflow_type, run.workflow_url))).inc()
