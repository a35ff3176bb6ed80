"""Many runs at HealthOmics: what a look at them costs in calls, and that only a look at the run itself ends one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.daemon.providers.healthomics_status import FEW, FRESH_SECONDS
from app.errors import ProviderError
from app.states import State
from tests.contract.harness import Fate
from tests.contract.healthomics_harness import HealthOmicsHarness

MANY = 130
PAGES = 2 + 1 + 1 + 1


class ManyRuns(HealthOmicsHarness):
    """Runs that leave nothing."""

    exports = False


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[HealthOmicsHarness]:
    with ManyRuns(tmp_path) as entered:
        assert isinstance(entered, HealthOmicsHarness)
        yield entered


@pytest.fixture
def many(harness: HealthOmicsHarness) -> list[str]:
    """Provider ids of runs in every state that is no end, most of them running."""
    runs = [harness.submit(harness.submission(Fate.LONG)).provider_id for _ in range(MANY - 3)]
    harness.let_run("")
    late = [harness.submit(harness.submission(Fate.LONG)).provider_id for _ in range(3)]
    for provider_id, word in zip(late, ("PENDING", "STARTING", "STOPPING"), strict=True):
        harness.fake.control.set_run(id=provider_id.split("/")[0], status=word)
    harness.fake.control.reset()
    return runs + late


def calls(harness: HealthOmicsHarness) -> dict[str, int]:
    made = dict(harness.fake.control.calls())
    harness.fake.control.reset()
    return made


def test_a_few_runs_are_looked_at_one_by_one(harness: HealthOmicsHarness, many: list[str]) -> None:
    assert len(harness.provider.get_workflow_statuses(many[:FEW])) == FEW
    assert calls(harness) == {"GetRun": FEW}


def test_many_runs_cost_the_pages_of_four_lists(harness: HealthOmicsHarness, many: list[str]) -> None:
    statuses = harness.provider.get_workflow_statuses(many)
    assert calls(harness) == {"ListRuns": PAGES}
    assert len(statuses) == MANY
    words = [(statuses[one].state, statuses[one].provider_status) for one in many[-4:]]
    assert words == [
        (State.RUNNING, "RUNNING"),
        (State.INITIALIZING, "PENDING"),
        (State.INITIALIZING, "STARTING"),
        (State.RUNNING, "STOPPING"),
    ]
    start_time = statuses[many[0]].start_time
    assert start_time is not None and start_time.utcoffset() is not None


def test_a_look_that_comes_in_several_questions_reads_the_lists_once(
    harness: HealthOmicsHarness, many: list[str]
) -> None:
    for begin in range(0, MANY, 26):
        assert len(harness.provider.get_workflow_statuses(many[begin : begin + 26])) == 26
    assert calls(harness) == {"ListRuns": PAGES}
    harness.pass_time(FRESH_SECONDS)
    harness.provider.get_workflow_statuses(many)
    assert calls(harness) == {"ListRuns": PAGES}


def test_some_of_many_cost_no_more_than_the_lists(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.provider.get_workflow_statuses(many)
    harness.pass_time(FRESH_SECONDS)
    calls(harness)
    assert len(harness.provider.get_workflow_statuses(many[:PAGES])) == PAGES
    assert calls(harness) == {"GetRun": PAGES}, "as many as the lists have pages"
    assert len(harness.provider.get_workflow_statuses(many[: PAGES + 1])) == PAGES + 1
    assert calls(harness) == {"ListRuns": PAGES}


def test_lists_end_nothing(harness: HealthOmicsHarness, many: list[str]) -> None:
    ended = many[0]
    harness.fake.control.set_run(id=ended.split("/")[0], status="FAILED", reason="RUN_TASK_FAILED", message="words")
    statuses = harness.provider.get_workflow_statuses(many)
    assert ended not in statuses and len(statuses) == MANY - 1
    status = harness.provider.get_workflow_status(ended)
    assert status and (status.state, status.reason, status.message) == (
        State.EXECUTOR_ERROR,
        "RUN_TASK_FAILED",
        "words",
    )


def test_a_list_that_says_ended_ends_nothing(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.fail(kind="alter", operation="ListRuns", alter={"items": {"status": "COMPLETED"}}, times=None)
    assert harness.provider.get_workflow_statuses(many) == {}


def test_what_somebody_was_told_of_is_not_taken_from_old_lists(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.provider.get_workflow_statuses(many)
    harness.provider.has_changed(many[5])
    harness.provider.has_changed("nonsense")
    assert set(many[:20]) - set(harness.provider.get_workflow_statuses(many[:20])) == {many[5]}


def test_an_id_that_another_run_has_now_is_not_seen_in_lists(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.provider.get_workflow_statuses(many)
    lost = many[0]
    harness.fake.control.set_run(id=lost.split("/")[0], status="COMPLETED")
    harness.lose(lost)
    heir = harness.submit(harness.submission(Fate.LONG)).provider_id
    assert heir.split("/")[0] == lost.split("/")[0]
    harness.pass_time(FRESH_SECONDS)
    statuses = harness.provider.get_workflow_statuses(many)
    assert lost not in statuses and len(statuses) == MANY - 1
    assert harness.provider.get_workflow_status(lost) is None
    both = harness.new_provider().get_workflow_statuses([*many, heir])
    assert lost not in both and heir not in both, "which of them the list means cannot be told"


def test_runs_of_others_are_passed_over(harness: HealthOmicsHarness, many: list[str]) -> None:
    assert list(harness.provider.get_workflow_statuses(many[:120])) == many[:120]


def test_an_outage_in_the_middle_of_the_lists_is_an_outage(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.fail(kind="error", operation="ListRuns", skip=2, times=1)
    with pytest.raises(ProviderError):
        harness.provider.get_workflow_statuses(many)
    assert len(harness.provider.get_workflow_statuses(many)) == MANY


def test_an_endless_list_ends(harness: HealthOmicsHarness, many: list[str]) -> None:
    harness.fail(kind="alter", operation="ListRuns", alter={"nextToken": "after-0"}, times=None)
    assert len(harness.provider.get_workflow_statuses(many)) < MANY


@pytest.mark.parametrize(
    ("state", "running", "least", "most"),
    [
        (State.INITIALIZING, 0, 15, 45),
        (State.RUNNING, 60, 15, 45),
        (State.RUNNING, 1200, 45, 75),
        (State.RUNNING, 7200, 105, 135),
        (State.RUNNING, 100_000, 285, 315),
        (State.CANCELING, 100_000, 15, 15),
    ],
)
def test_looks_are_rarer_the_longer_it_runs_and_on_common_moments(
    harness: HealthOmicsHarness, state: State, running: float, least: float, most: float
) -> None:
    moments = set()
    for _ in range(10):
        delay = harness.provider.seconds_to_next_look(state, running)
        assert least <= delay <= most
        moments.add(round((harness.now().timestamp() + delay) % 30))
        harness.pass_time(7)
    if state != State.CANCELING:
        assert moments <= {0, 1, 30}


def test_who_is_told_of_changes_looks_rarely(harness: HealthOmicsHarness) -> None:
    told = harness.provider_at(harness.url, is_told_of_changes=True)
    assert told.seconds_to_next_look(State.INITIALIZING, 0) >= 285


def test_cancelling_waits_for_whatever_end_comes(harness: HealthOmicsHarness) -> None:
    """STOPPING is before every end: asking again would change nothing."""
    _, provider_id = harness.running(Fate.SUCCEED)
    harness.pass_time(61)
    status = harness.provider.get_workflow_status(provider_id)
    assert status and (status.state, status.provider_status) == (State.RUNNING, "STOPPING")
    harness.provider.cancel_workflow(provider_id)
    assert "CancelRun" not in calls(harness)
    harness.pass_time(15)
    ended: Any = harness.provider.get_workflow_status(provider_id)
    assert ended.state == State.COMPLETE
