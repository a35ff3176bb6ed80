"""How jobs of the fake cloud go: everything follows from the plan and the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.fake_service.jobs import Job
from app.fake_service.plans import OUTCOMES, Plan

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def started(**params: Any) -> Job:
    """Pending at 0, running from 10 to 20, unless it is asked otherwise."""
    asked = {"queue_seconds": 10, "seconds": 10, "stop_seconds": 1, "log_lines": 4, **params}
    job = Job("job-1", "one", "key", {}, Plan.of(asked), START)
    job.start(START)
    return job


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("ok", "PENDING RUNNING RUNNING SUCCEEDED"),
        ("fail", "PENDING RUNNING RUNNING FAILED"),
        ("error", "PENDING RUNNING RUNNING ERROR"),
        ("preempt", "PENDING RUNNING RUNNING PREEMPTED"),
        ("lose", "PENDING RUNNING RUNNING GONE"),
        ("hang", "PENDING RUNNING RUNNING RUNNING"),
        ("wait", "PENDING PENDING PENDING PENDING"),
        ("pause", "PENDING RUNNING PAUSED SUCCEEDED"),
    ],
)
def test_outcomes(outcome: str, words: str) -> None:
    job = started(outcome=outcome)
    assert " ".join(job.word(at(seconds)) for seconds in (9, 10, 16, 1000)) == words


def test_every_outcome_is_known() -> None:
    assert {*OUTCOMES} == {"ok", "fail", "error", "preempt", "lose", "hang", "wait", "pause", "reject"}


def test_a_view_tells_only_what_has_happened() -> None:
    job = started(outcome="fail", exit_code=7)
    early, late = job.view(at(11)), job.view(at(20))
    assert (early["status"], early["started"], early["ended"], early["exit_code"]) == (
        "RUNNING",
        at(10).isoformat(),
        None,
        None,
    )
    assert (late["status"], late["ended"], late["exit_code"]) == ("FAILED", at(20).isoformat(), 7)


def test_a_cancelled_job_stops_first() -> None:
    job = started()
    job.stop(at(12))
    assert [job.word(at(seconds)) for seconds in (11, 12, 13, 99)] == ["RUNNING", "STOPPING", "CANCELLED", "CANCELLED"]
    assert [(step.name, step.end, step.exit_code) for step in job.steps(at(99))] == [("prepare", at(12), 143)]


def test_an_end_by_hand_is_the_end() -> None:
    job = started()
    job.end(at(16), "FAILED")
    assert (job.word(at(99)), job.end_time) == ("FAILED", at(16))
    assert [step.exit_code for step in job.steps(at(99))] == [0, 1]


def test_steps_share_the_time() -> None:
    job = started(steps=["a", "b"], outcome="fail", exit_code=3)
    assert [[(step.name, step.end is None) for step in job.steps(at(when))] for when in (9, 12, 15, 20)] == [
        [],
        [("a", True)],
        [("a", False), ("b", True)],
        [("a", False), ("b", False)],
    ]
    assert [step.exit_code for step in job.steps(at(20))] == [0, 3]
    assert started(steps=0).steps(at(15)) == []


@pytest.mark.parametrize("outcome", ["ok", "fail", "hang", "pause", "preempt"])
@pytest.mark.parametrize("cancelled_at", [None, 11, 14, 15, 19])
def test_logs_only_grow(outcome: str, cancelled_at: int | None) -> None:
    job = started(outcome=outcome, steps=3)
    if cancelled_at:
        job.stop(at(cancelled_at))
    for name in "stdout", "stderr", "tasks/1/stdout", "tasks/2/stdout", "tasks/3/stdout":
        texts = [job.log(name, at(tenth / 10)) or "" for tenth in range(0, 300)]
        assert all(late.startswith(early) for early, late in pairwise(texts))


def test_logs_are_whole_at_the_end() -> None:
    job = started(steps=["a", "b"])
    assert job.log("stdout", at(20)) == "a started\na ended with 0\nb started\nb ended with 0\n"
    assert job.log("tasks/2/stdout", at(20)) == "".join(f"b: line {number}\n" for number in (1, 2, 3, 4))
    assert job.log("tasks/3/stdout", at(20)) is None


def test_speed_divides_every_time() -> None:
    plan = Plan.of({"seconds": 10, "queue_seconds": 4, "stop_seconds": 2}, speed=2)
    assert (plan.seconds, plan.queue_seconds, plan.stop_seconds) == (5, 2, 1)


def test_what_a_real_workflow_needs_is_ignored() -> None:
    assert Plan.of({"reads": "s3://bucket/reads", "message": "hello"}) == Plan()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", float("nan")),
        ("seconds", float("inf")),
        ("seconds", -1),
        ("seconds", "5"),
        ("queue_seconds", True),
        ("log_lines", 1.5),
        ("log_lines", 10**9),
        ("exit_code", 256),
        ("exit_code", False),
        ("outcome", "x"),
        ("outcome", None),
        ("outcome", ["ok"]),
        ("steps", [1]),
        ("steps", ["s"] * 1001),
        ("outputs", []),
        ("files", {"a": None}),
        ("files", {"a": "x" * (1024 * 1024 + 1)}),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Plan.of({name: value})
