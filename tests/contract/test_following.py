"""The contract of statuses: many at once, the provider's truth and nothing more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.daemon.providers.provider_interface import Status
from app.states import State, is_terminal
from tests.contract.harness import CloudHarness, Fate, Harness

BEFORE_RUNNING = {State.INITIALIZING, State.QUEUED, State.RUNNING}


def test_the_life_of_a_run(harness: Harness) -> None:
    run = harness.submission()
    provider_id = harness.submit(run).provider_id
    seen = [_look(harness, provider_id)]
    harness.let_run(provider_id)
    seen.append(_look(harness, provider_id))
    harness.let_end(provider_id)
    seen.append(_look(harness, provider_id))
    assert seen[0].state in BEFORE_RUNNING
    assert [status.state for status in seen[1:]] == [State.RUNNING, State.COMPLETE]
    assert seen[2].exit_code in (0, None)
    assert all(status.provider_status and status.provider_status.isprintable() for status in seen)


def test_a_failure_is_the_workflows_own(harness: Harness) -> None:
    _, provider_id = harness.ended(Fate.FAIL)
    status = _look(harness, provider_id)
    assert (status.state, status.exit_code) == (State.EXECUTOR_ERROR, harness.failure_exit_code)
    assert status.message


def test_a_lost_machine_is_no_fault_of_the_workflow(cloud: CloudHarness) -> None:
    _, provider_id = cloud.ended(Fate.PREEMPTED)
    status = _look(cloud, provider_id)
    assert status.state == State.SYSTEM_ERROR and status.reason


def test_times_are_aware_utc_and_in_order(harness: Harness) -> None:
    _, provider_id = harness.ended()
    status = _look(harness, provider_id)
    assert status.start_time is not None and status.end_time is not None
    assert status.start_time.utcoffset() == status.end_time.utcoffset() == timedelta(0)
    assert status.start_time <= status.end_time


def test_a_run_that_goes_on_has_no_end(harness: Harness) -> None:
    _, provider_id = harness.running()
    status = _look(harness, provider_id)
    assert (status.end_time, status.exit_code) == (None, None)


def test_many_statuses_at_once(harness: Harness) -> None:
    _, first = harness.running()
    _, second = harness.running(Fate.SUCCEED)
    harness.let_end(second)
    strangers = [f"{first}{number}" for number in range(250)]
    statuses = harness.provider.get_workflow_statuses([*strangers[:120], first, *strangers[120:], second])
    assert {provider_id: status.state for provider_id, status in statuses.items()} == {
        first: State.RUNNING,
        second: State.COMPLETE,
    }


def test_no_statuses_of_nothing(harness: Harness) -> None:
    assert harness.provider.get_workflow_statuses([]) == {}


def test_one_status_is_as_in_the_bulk_answer(harness: Harness) -> None:
    for _, provider_id in harness.running(), harness.ended(), harness.ended(Fate.FAIL):
        assert harness.provider.get_workflow_status(provider_id) == _look(harness, provider_id)


def test_another_daemon_sees_the_same(harness: Harness) -> None:
    _, provider_id = harness.ended(Fate.FAIL)
    assert harness.new_provider().get_workflow_status(provider_id) == harness.provider.get_workflow_status(provider_id)


@pytest.mark.parametrize("stranger", ["", "nobody", "../../etc", "a/b?c=d#e", "é\n", "x" * 5000])
def test_an_unknown_id_is_missing(harness: Harness, stranger: str) -> None:
    assert harness.provider.get_workflow_status(stranger) is None
    assert harness.provider.get_workflow_statuses([stranger]) == {}


def test_a_lost_run_is_missing(harness: Harness) -> None:
    _, provider_id = harness.ended()
    harness.lose(provider_id)
    assert harness.provider.get_workflow_status(provider_id) is None
    assert harness.provider.get_workflow_statuses([provider_id]) == {}


def test_an_unknown_word_is_no_state(cloud: CloudHarness) -> None:
    _, provider_id = cloud.running()
    cloud.say(provider_id, cloud.unknown_word)
    status = _look(cloud, provider_id)
    assert (status.state, status.provider_status) == (None, cloud.unknown_word)
    cloud.heal()
    assert _look(cloud, provider_id).state == State.RUNNING


def test_a_state_that_goes_backwards_ends_nothing(cloud: CloudHarness) -> None:
    _, provider_id = cloud.running()
    cloud.say(provider_id, cloud.early_word)
    status = _look(cloud, provider_id)
    assert status.state is not None and not is_terminal(status.state) and not status.needs_start
    cloud.heal()
    cloud.let_end(provider_id)
    assert _look(cloud, provider_id).state == State.RUNNING


def _look(harness: Harness, provider_id: str) -> Status:
    return harness.provider.get_workflow_statuses([provider_id])[provider_id]
