"""The contract of tasks, logs and outputs: what was there stays, only what is new is added, all of it is there at the end."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from app.daemon.providers.provider_interface import Submission, Task
from app.errors import Rejected
from tests.contract.harness import Fate, Harness

TASK_ID = re.compile(r"[A-Za-z0-9._-]+")


def test_tasks_keep_their_ids_and_their_order(harness: Harness) -> None:
    _, provider_id = harness.running(Fate.SUCCEED)
    early = harness.provider.get_tasks(provider_id)
    harness.let_end(provider_id)
    late = harness.provider.get_tasks(provider_id)
    ids = [task.task_id for task in late]
    assert late and ids[: len(early)] == [task.task_id for task in early]
    assert len(set(ids)) == len(ids) and all(TASK_ID.fullmatch(task_id) for task_id in ids)


def test_tasks_have_names_and_aware_times(harness: Harness) -> None:
    _, provider_id = harness.ended()
    tasks = harness.provider.get_tasks(provider_id)
    assert all(task.name for task in tasks)
    times = [time for task in tasks for time in (task.start_time, task.end_time) if time is not None]
    assert all(time.utcoffset() == timedelta(0) for time in times)


def test_logs_are_appended_once(harness: Harness) -> None:
    run, provider_id = harness.ended()
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    first = _logs(harness, run, provider_id)
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    harness.new_provider().get_logs(provider_id, harness.log_sink(run))
    assert _logs(harness, run, provider_id) == first
    assert any(first.values())


def test_logs_grow_at_their_end(harness: Harness) -> None:
    run, provider_id = harness.running(Fate.SUCCEED)
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    early = _logs(harness, run, provider_id)
    harness.let_end(provider_id)
    harness.new_provider().get_logs(provider_id, harness.log_sink(run))
    late = _logs(harness, run, provider_id)
    assert all(late[name].startswith(text) for name, text in early.items())
    assert sum(map(len, late.values())) > sum(map(len, early.values()))
    lines = [line for text in late.values() for line in text.splitlines()]
    assert len(set(lines)) == len(lines)


def test_a_log_over_the_cap_is_cut_and_that_is_all(harness: Harness) -> None:
    run, provider_id = harness.ended()
    for _ in range(3):
        harness.provider.get_logs(provider_id, harness.storage.log_sink(run.run_id, 6))
    logs = _logs(harness, run, provider_id)
    assert all(text.count("cut here") <= 1 for text in logs.values())
    assert any("cut here" in text for text in logs.values())


def test_tasks_say_which_logs_they_have(harness: Harness) -> None:
    run, provider_id = harness.ended()
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    for task in harness.provider.get_tasks(provider_id):
        said = {"stdout": task.has_stdout, "stderr": task.has_stderr}
        kept = {stream: harness.log(run, _log_name(task, stream)) != "" for stream in said}
        assert all(said[stream] for stream in kept if kept[stream])


def test_outputs_are_kept(harness: Harness) -> None:
    run, provider_id = harness.ended()
    outputs = harness.provider.get_outputs(provider_id, harness.output_sink(run))
    assert outputs["answer"] == 42
    assert harness.read_output(run, outputs["reads.txt"]["location"]) == harness.output_text


def test_outputs_can_be_fetched_again(harness: Harness) -> None:
    run, provider_id = harness.ended()
    first = harness.provider.get_outputs(provider_id, harness.output_sink(run))
    assert harness.new_provider().get_outputs(provider_id, harness.output_sink(run)) == first
    assert len(harness.storage.outputs(run.run_id)) == harness.kept_outputs


def test_lost_outputs_are_definitely_lost(harness: Harness) -> None:
    run, provider_id = harness.ended()
    harness.lose(provider_id)
    with pytest.raises(Rejected) as refusal:
        harness.provider.get_outputs(provider_id, harness.output_sink(run))
    assert refusal.value.reason


def test_nothing_is_written_outside_the_runs_artifacts(harness: Harness, tmp_path: Path) -> None:
    run, provider_id = harness.ended()
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    harness.provider.get_outputs(provider_id, harness.output_sink(run))
    kept = {path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert kept and all(path.is_relative_to(tmp_path / "artifacts" / "runs" / run.run_id) for path in kept)


def _logs(harness: Harness, run: Submission, provider_id: str) -> dict[str, str]:
    names = ["stdout", "stderr"]
    names += [_log_name(task, stream) for task in harness.provider.get_tasks(provider_id) for stream in names[:2]]
    return {name: harness.log(run, name) for name in names}


def _log_name(task: Task, stream: str) -> str:
    return f"tasks/{task.task_id}/{stream}"
