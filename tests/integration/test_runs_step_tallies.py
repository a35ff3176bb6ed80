"""How runs and tasks of steps are counted: the latest tries, names with numbers, and one row for many alike."""

from __future__ import annotations

from typing import Any

import pytest

from app.artifacts import DirectoryStorage
from app.database import Database
from app.runs.step_tallies import tally_runs, tally_tasks
from app.states import State
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


def test_of_every_shard_the_latest_try_counts(runs: SampleRuns, database: Database) -> None:
    parent, other = runs.accept_pipeline({}), runs.accept_pipeline({})
    first = runs.accept_step(parent, "a", State.COMPLETE, 0)
    runs.accept_step(parent, "a", State.COMPLETE, 1)
    for try_number in (1, 2):
        failed = runs.accept_step(parent, "a", State.EXECUTOR_ERROR, 2, try_number)
    again = runs.accept_step(parent, "b", State.SYSTEM_ERROR, 0, 1), runs.accept_step(parent, "b", State.QUEUED, 0, 2)
    runs.accept_step(other, "a", State.RUNNING)
    with database.reading() as session:
        found = [tuple(row) for row in tally_runs(session, parent)]
    assert found == [
        ("a", State.COMPLETE, 1, 2, first),
        ("a", State.EXECUTOR_ERROR, 2, 1, failed),
        ("b", State.QUEUED, 2, 1, again[1]),
    ]


def test_a_task_with_a_number_counts_as_the_step_unless_it_is_one_itself(
    runs: SampleRuns, database: Database, clock: Clock
) -> None:
    run_id, other = runs.accept(), runs.accept()
    runs.start(run_id)
    done: dict[str, Any] = {"start_time": clock(), "end_time": clock(), "exit_code": 0}
    tasks = [
        *(task(name, **done) for name in ("trim", "trim_2", "trim_10", "trim_1", "trim_1_2")),
        task("x1", "trim", start_time=clock(), has_stderr=True),
        task("x2", "trim_3", exit_code=1),
        task("x3", "trim_4", end_time=clock()),
        task("x4", "trim_5"),
        task("x5", "99"),
    ]
    runs.set_tasks(run_id, tasks)
    with database.reading() as session:
        found = [tuple(row) for row in tally_tasks(session, run_id, ["trim", "trim_1"])]
        assert tally_tasks(session, other, ["trim"]) == []
    assert sorted(found, key=repr) == sorted(
        [
            ("", 0, 0, None, 1, "x5", 0),
            ("trim", 1, 1, 0, 3, "trim", 0),
            ("trim", 1, 0, None, 1, "x1", 1),
            ("trim", 0, 0, 1, 1, "x2", 0),
            ("trim", 0, 1, None, 1, "x3", 0),
            ("trim", 0, 0, None, 1, "x4", 0),
            ("trim_1", 1, 1, 0, 2, "trim_1", 0),
        ],
        key=repr,
    )
