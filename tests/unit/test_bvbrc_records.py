"""BV-BRC's words and records as ours: every state, odd times, exit codes, and what a failure was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.daemon.providers.bvbrc_records import Details, Failure, Task, TaskId, read_many, state_of, status_of
from app.states import State

RUN = "0f3c4f6e-1111-4222-8333-944445555666"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def task(status: str = "queued", **values: Any) -> Task:
    return Task.model_validate({"id": 7, "app": "Date", "status": status} | values)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("queued", State.INITIALIZING),
        ("pending", State.INITIALIZING),
        ("init", State.INITIALIZING),
        ("submitted", State.INITIALIZING),
        ("in-progress", State.RUNNING),
        ("in_progress", State.RUNNING),
        ("In Progress", State.RUNNING),
        ("running", State.RUNNING),
        ("suspended", State.PAUSED),
        ("completed", State.COMPLETE),
        ("failed", State.EXECUTOR_ERROR),
        ("deleted", State.CANCELED),
        ("terminated", State.CANCELED),
        ("Terminated", State.CANCELED),
        ("cancelled", State.CANCELED),
        ("canceled", State.CANCELED),
        ("killed", State.CANCELED),
        ("daydreaming", None),
        ("skipped", None),
    ],
)
def test_words(word: str, state: State | None) -> None:
    assert state_of(word) == state
    assert status_of(task(word)).state == state
    assert status_of(task(word)).provider_status == word


def test_pending_with_a_start_is_running() -> None:
    """S stands for "with the cluster": waiting there and running have one word."""
    assert status_of(task("pending", start_time="")).state == State.INITIALIZING
    assert status_of(task("pending", start_time="2026-11-20 12:00:00")).state == State.RUNNING


@pytest.mark.parametrize(
    "said", ["2026-11-20 12:00:00", "2026-11-20T12:00:00Z", "2026-11-20T12:00:00", "2026-11-20T06:00:00-06:00"]
)
def test_times_are_utc_however_they_are_written(said: str) -> None:
    assert task(start_time=said).start_time == NOON


@pytest.mark.parametrize("said", ["", None, "soon", 5, [], "2026-13-45T99:99:99Z", "0000-00-00 00:00:00"])
def test_strange_times_are_unknown(said: Any) -> None:
    assert task(start_time=said).start_time is None


@pytest.mark.parametrize(
    ("parameters", "result", "folder"),
    [
        ({"output_path": "/a/home", "output_file": "x"}, "/a/home/x", "/a/home/.x"),
        ({"output_path": "/a/home/", "output_file": "x/y"}, "/a/home/x_y", "/a/home/.x_y"),
        ('{"output_path": "/a", "output_file": "x"}', "/a/x", "/a/.x"),
        ({"output_path": 5, "output_file": None}, "/", "/."),
        ("not json", "/", "/."),
        (None, "/", "/."),
    ],
)
def test_where_results_lie(parameters: Any, result: str, folder: str) -> None:
    assert (task(parameters=parameters).result_path, task(parameters=parameters).folder_path) == (result, folder)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("0", 0),
        ("1\n", 1),
        (137, 137),
        ("256", 1),
        ("34560", 135),
        ("255", 255),
        (None, None),
        ("", None),
        ("-1", None),
        ("257", None),
        ("9" * 30, None),
        ([], None),
    ],
)
def test_exit_codes_are_those_of_the_process(said: Any, code: int | None) -> None:
    """256 and more is what waiting for a process returns."""
    assert Details.model_validate({"exitcode": said}).exit_code == code


@pytest.mark.parametrize(
    ("queue_word", "slurm_word", "state", "reason", "perhaps"),
    [
        ("Failed", "", State.EXECUTOR_ERROR, None, True),
        ("Failed", "FAILED", State.EXECUTOR_ERROR, None, False),
        ("Failed", "OUT_OF_MEMORY", State.EXECUTOR_ERROR, None, False),
        ("Failed", "TIMEOUT", State.EXECUTOR_ERROR, None, False),
        ("Failed", "COMPLETED", State.EXECUTOR_ERROR, None, True),
        ("Failed", "CANCELLED by 1017", State.CANCELED, None, False),
        ("Failed", "CANCELLED", State.CANCELED, None, False),
        ("Terminated", "", State.CANCELED, None, False),
        ("Failed", "NODE_FAIL", State.SYSTEM_ERROR, "node_failed", False),
        ("Failed", "PREEMPTED", State.SYSTEM_ERROR, "preempted", False),
        ("failed", "", State.EXECUTOR_ERROR, None, True),
    ],
)
def test_what_a_failure_was(queue_word: str, slurm_word: str, state: State, reason: str | None, perhaps: bool) -> None:
    status = status_of(task("failed"), Failure(3, queue_word, slurm_word, "No contigs."))
    assert (status.state, status.reason, status.perhaps_canceled) == (state, reason, perhaps)
    assert (status.exit_code, status.provider_status) == (3, "failed")
    assert status.message is not None and status.message.endswith("No contigs.")
    assert slurm_word in status.message


def test_a_failure_of_which_nothing_is_known() -> None:
    status = status_of(task("failed"))
    assert (status.state, status.message) == (State.EXECUTOR_ERROR, "BV-BRC says: failed.")


@pytest.mark.parametrize("provider_id", [f"7/{RUN}", f"{'9' * 18}/{RUN}"])
def test_provider_ids_go_there_and_back(provider_id: str) -> None:
    assert str(TaskId.parse(provider_id)) == provider_id


@pytest.mark.parametrize(
    "stranger",
    ["", "7", f"7/{RUN}1", f"/{RUN}", f"x/{RUN}", f"{'9' * 19}/{RUN}", f"7/{RUN}\n", f"7/{RUN.upper()}", "٣/" + RUN],
)
def test_anything_else_is_no_provider_id(stranger: str) -> None:
    assert TaskId.parse(stranger) is None


@pytest.mark.parametrize(
    "wrong",
    [None, 5, [], {}, {"id": 7}, {"id": None, "status": "x"}, {"id": True, "status": "x"}, {"id": 7, "status": 5}, {"id": -7, "status": "x"}, {"id": 7, "status": "a\nb"}],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out(wrong: Any) -> None:
    assert [one.id for one in read_many(Task, [{"id": "6", "status": "queued"}, wrong])] == ["6"]
