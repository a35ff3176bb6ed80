"""Seven Bridges' words and records as statuses, options and tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.daemon.providers.sevenbridges_artifacts import MOST_LOGS, log_files, tasks_of
from app.daemon.providers.sevenbridges_options import OPTIONS, task_options
from app.daemon.providers.sevenbridges_records import JobRecord, TaskRecord, read, status_of
from app.errors import OutcomeUnknown, Rejected
from app.states import State

ID = "0d0d0d0d-0000-4000-8000-000000000001"
LOG = "https://api.sbgenomics.com/v2/files/5d0b4f1ee4b0ab12cd34ef56/download_info"


def task(status: str, **facts: Any) -> TaskRecord:
    return read(TaskRecord, {"id": ID, "name": "wes-1", "status": status, **facts})


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("DRAFT", State.INITIALIZING),
        ("CREATING", State.INITIALIZING),
        ("QUEUED", State.INITIALIZING),
        ("RUNNING", State.RUNNING),
        ("ABORTING", State.RUNNING),
        ("COMPLETED", State.COMPLETE),
        ("FAILED", State.EXECUTOR_ERROR),
        ("ABORTED", State.CANCELED),
        ("PAUSED", None),
    ],
)
def test_every_word_of_the_library_has_a_state(word: str, state: State | None) -> None:
    status = status_of(task(word))
    assert (status.state, status.provider_status, status.needs_start) == (state, word, word == "DRAFT")


@pytest.mark.parametrize(
    ("progress", "reason"),
    [
        ({"message": "Spot instance interrupted"}, "preempted"),
        ({"message": "x", "message_code": "instance terminated"}, "preempted"),
        ({"message": "Task failed due to an internal error"}, "platform_error"),
        ({"message": "Job align failed with exit code 1"}, None),
        ({}, None),
        (None, None),
        ({"message": 5}, None),
    ],
)
def test_a_failure_of_the_platform_is_not_the_workflows(progress: Any, reason: str | None) -> None:
    status = status_of(task("FAILED", execution_status=progress))
    assert (status.state, status.reason) == (State.SYSTEM_ERROR if reason else State.EXECUTOR_ERROR, reason)
    assert status_of(task("COMPLETED", execution_status=progress)).state == State.COMPLETE


@pytest.mark.parametrize("errors", [["Required input is missing: a"], {"a": "Required input is missing: a"}])
def test_a_draft_with_errors_is_refused_in_the_platforms_words(errors: Any) -> None:
    status = status_of(task("DRAFT", errors=errors))
    assert (status.state, status.reason, status.needs_start) == (State.SYSTEM_ERROR, "inputs_refused", False)
    assert "Required input is missing: a" in str(status.message)
    assert status_of(task("RUNNING", errors=errors)).state == State.RUNNING


def test_what_a_task_cost_is_told() -> None:
    status = status_of(task("COMPLETED", price={"amount": 1.234, "currency": "USD"}))
    assert (status.message, status.metadata) == (
        "Completed, price 1.234 USD",
        {"price": {"amount": 1.234, "currency": "USD"}},
    )


@pytest.mark.parametrize(
    "price", [None, 5, {}, {"amount": "x", "currency": "USD"}, {"amount": float("nan"), "currency": "USD"}]
)
def test_a_price_that_cannot_be_read_hides_nothing(price: Any) -> None:
    status = status_of(task("COMPLETED", price=price))
    assert (status.state, status.metadata) == (State.COMPLETE, {})


def test_progress_is_told_while_it_runs() -> None:
    progress = {"message": "Running", "steps_completed": 2, "steps_total": 5}
    assert status_of(task("RUNNING", execution_status=progress)).message == "Running, 2 of 5 steps"


@pytest.mark.parametrize(
    "facts", [{"id": "nobody"}, {"status": "a b"}, {"status": None}, {"name": 5}, {"id": f"{ID}\n"}]
)
def test_what_a_decision_rests_on_is_strict(facts: dict[str, Any]) -> None:
    with pytest.raises(OutcomeUnknown, match="see "):
        read(TaskRecord, {"id": ID, "name": "x", "status": "RUNNING", **facts})


def test_times_are_aware_or_none() -> None:
    status = status_of(task("RUNNING", start_time="2026-11-20T10:00:00Z", end_time="2026-11-20T11:00:00Z"))
    assert (status.start_time, status.end_time) == (datetime(2026, 11, 20, 10, tzinfo=UTC), None)
    assert status_of(task("RUNNING", start_time="2026-11-20T10:00:00")).start_time is None


# Tasks and their logs


def job(name: str, minute: int | None = 0, **facts: Any) -> JobRecord:
    begun = {} if minute is None else {"start_time": f"2026-11-20T10:{minute:02}:00Z"}
    return read(JobRecord, {"name": name, "status": "DONE", "logs": {"stderr": LOG}, **begun, **facts})


def test_jobs_are_numbered_as_they_begin() -> None:
    early = [job("align", 5), job("align", None), job("sort", 7)]
    late = [job("align", 5), job("align", 9), job("sort", 7)]
    assert [task.task_id for task in tasks_of(early)] == ["align", "sort", "align.2"]
    assert [task.task_id for task in tasks_of(late)] == ["align", "sort", "align.2"]


@pytest.mark.parametrize(
    ("name", "task_id"), [("a b/c", "a-b-c"), ("../../x", "x"), ("é", "job"), ("x" * 900, "x" * 80)]
)
def test_a_job_of_any_name_has_an_id(name: str, task_id: str) -> None:
    assert tasks_of([job(name)])[0].task_id == task_id


def test_numbers_and_names_do_not_meet() -> None:
    ids = [task.task_id for task in tasks_of([job("a"), job("a.2"), job("a"), job("a")])]
    assert len(set(ids)) == 4


def test_a_task_says_what_the_platform_says_of_its_job() -> None:
    instance = {"type": "c5.large", "provider": "AWS"}
    [task] = tasks_of([job("align", command_line="bwa mem x", instance=instance, retried=True)])
    assert task.cmd == ("bwa mem x",)
    assert task.system_logs == ("status DONE", "instance c5.large at AWS", "retried by the platform")
    assert (task.has_stdout, task.has_stderr) == (False, True)


@pytest.mark.parametrize("logs", [None, {}, {"stderr": 5}, {"stderr": "https://x/nothing"}, {"cmd.log": LOG}])
def test_a_log_that_is_not_there_is_not_promised(logs: Any) -> None:
    assert log_files([job("a", logs=logs)]) == []
    assert not tasks_of([job("a", logs=logs)])[0].has_stderr


def test_of_very_many_logs_those_of_failed_jobs_come_first() -> None:
    jobs = [job(f"j{number}") for number in range(MOST_LOGS + 50)] + [job("broken", 50, status="FAILED")]
    kept = log_files(jobs)
    assert len(kept) == MOST_LOGS and kept[0][0] == "tasks/broken/stderr"
    assert sum(task.has_stderr for task in tasks_of(jobs)) == MOST_LOGS


# Options


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {}),
        ({"provider": "sevenbridges"}, {}),
        (
            {"instance_type": "c5.large;ebs-gp2;100", "max_parallel_instances": "4"},
            {"execution_settings": {"instance_type": "c5.large;ebs-gp2;100", "max_parallel_instances": 4}},
        ),
        (
            {"use_memoization": None, "use_elastic_disk": "False"},
            {"execution_settings": {"use_memoization": True, "use_elastic_disk": False}},
        ),
        ({"use_interruptible_instances": "true"}, {"interruptible": True}),
    ],
)
def test_options_of_a_task(given: dict[str, str | None], options: dict[str, Any]) -> None:
    assert task_options(given) == options


@pytest.mark.parametrize(
    "given",
    [
        {"project": "x/y"},
        {"run": "true"},
        {"use_memoization": "maybe"},
        {"max_parallel_instances": "0"},
        {"max_parallel_instances": "²"},
    ],
)
def test_other_options_are_refused_with_words(given: dict[str, str | None]) -> None:
    with pytest.raises(Rejected, match="workflow_engine_parameters") as error:
        task_options(given)
    assert error.value.reason
    assert all(name in str(error.value) for name, _, _ in OPTIONS) or "." in str(error.value)
