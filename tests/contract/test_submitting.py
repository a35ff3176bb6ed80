"""The contract of submitting: one execution for a submit key, whatever is repeated, lost or done at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.daemon.providers.provider_interface import Absent, Found, ProviderRun, Submission, Unsure
from app.errors import Rejected
from app.states import State
from tests.contract.harness import Fate, Harness


def test_a_submitted_run_runs_once(harness: Harness) -> None:
    run, provider_id = harness.running()
    assert harness.provider.get_workflow_statuses([provider_id])[provider_id].state == State.RUNNING
    assert harness.starts(run) == 1


def test_a_provider_run_can_be_stored(harness: Harness) -> None:
    accepted = harness.submit(harness.submission())
    assert accepted.provider_id and accepted.provider_id.isprintable()
    json.dumps(dict(accepted.metadata))


def test_a_draft_does_not_run_until_it_is_started(harness: Harness) -> None:
    harness.need("drafts")
    run = harness.submission()
    accepted = harness.provider.submit_workflow(run)
    harness.let_run(accepted.provider_id)
    harness.let_end(accepted.provider_id)
    status = harness.provider.get_workflow_statuses([accepted.provider_id])[accepted.provider_id]
    assert not accepted.started and harness.starts(run) == 0
    assert (status.state, status.needs_start) == (State.INITIALIZING, True)


def test_a_started_draft_needs_no_start(harness: Harness) -> None:
    _, provider_id = harness.running()
    assert not harness.provider.get_workflow_statuses([provider_id])[provider_id].needs_start


def test_start_again_is_harmless(harness: Harness) -> None:
    run, provider_id = harness.running(Fate.SUCCEED)
    harness.provider.start_workflow(provider_id)
    harness.new_provider().start_workflow(provider_id)
    harness.let_end(provider_id)
    harness.provider.start_workflow(provider_id)
    assert harness.starts(run) == 1
    assert harness.provider.get_workflow_statuses([provider_id])[provider_id].state == State.COMPLETE


def test_submit_again_is_the_same_execution(harness: Harness) -> None:
    run = harness.submission()
    first = harness.provider.submit_workflow(run)
    second = harness.new_provider().submit_workflow(run)
    _run_the_recorded_one(harness, run, first, second)


def test_submits_at_the_same_time_are_one_execution(harness: Harness) -> None:
    run = harness.submission()
    others = [harness.provider, harness.new_provider(), harness.new_provider()]
    with ThreadPoolExecutor(len(others)) as pool:
        accepted = list(pool.map(lambda provider: provider.submit_workflow(run), others))
    _run_the_recorded_one(harness, run, *accepted)


def test_submit_again_after_the_end_starts_nothing(harness: Harness) -> None:
    run, provider_id = harness.ended()
    again = harness.new_provider().submit_workflow(run)
    assert again.provider_id == provider_id or not again.started
    assert harness.starts(run) == 1


def test_a_crash_between_call_and_record_loses_nothing(harness: Harness) -> None:
    run = harness.submission()
    accepted = harness.provider.submit_workflow(run)
    survivor = harness.new_provider()
    harness.pass_time(harness.patience)
    found = survivor.find_workflow(run)
    assert isinstance(found, Found)
    assert (found.run.provider_id, found.run.started) == (accepted.provider_id, accepted.started)
    survivor.start_workflow(found.run.provider_id)
    harness.let_run(accepted.provider_id)
    assert harness.starts(run) == 1


def test_a_submit_that_arrived_is_never_absent(harness: Harness) -> None:
    run = harness.submission()
    harness.submit(run)
    assert isinstance(harness.provider.find_workflow(run), Found | Unsure)
    harness.pass_time(harness.provider.visibility_grace_seconds)
    assert isinstance(harness.provider.find_workflow(run), Found)


def test_the_same_one_of_several_drafts_is_found_again(harness: Harness) -> None:
    harness.need("drafts")
    run = harness.submission()
    accepted = [harness.provider.submit_workflow(run) for _ in range(3)]
    harness.provider.start_workflow(accepted[2].provider_id)
    harness.pass_time(harness.patience)
    found = [harness.new_provider().find_workflow(run) for _ in range(2)]
    assert found == [Found(replace(accepted[2], started=True, provider_status=found[0].run.provider_status))] * 2


def test_nothing_was_sent_so_nothing_arrived(harness: Harness) -> None:
    run = replace(harness.submission(), sent_at=None)
    assert harness.provider.find_workflow(run) == Absent()


def test_absent_is_said_only_when_nothing_can_arrive_any_more(harness: Harness) -> None:
    harness.need("patience")
    run = harness.submission()
    assert isinstance(harness.provider.find_workflow(run), Unsure)
    harness.pass_time(harness.patience * 0.99)
    assert isinstance(harness.provider.find_workflow(run), Unsure)
    harness.pass_time(harness.patience * 0.02)
    assert harness.provider.find_workflow(run) == Absent()


def test_other_runs_are_not_found(harness: Harness) -> None:
    harness.running()
    stranger = harness.submission()
    harness.pass_time(2 * harness.patience)
    assert harness.provider.find_workflow(stranger) == Absent()


def test_a_request_is_prepared_without_effect(harness: Harness) -> None:
    run = harness.submission()
    assert harness.provider.prepare_request(run) == harness.new_provider().prepare_request(run)
    harness.pass_time(harness.patience)
    assert harness.provider.find_workflow(run) == Absent()


def test_what_is_refused_for_good_is_rejected_with_words(harness: Harness) -> None:
    run = harness.submission(Fate.REFUSED)
    with pytest.raises(Rejected) as refusal:
        harness.provider.submit_workflow(replace(run, request=harness.provider.prepare_request(run)))
    assert str(refusal.value) and refusal.value.reason
    assert harness.starts(run) == 0


def test_the_first_submit_may_begin_at_once(harness: Harness) -> None:
    pace = harness.provider.pace()
    assert pace.problem is None and (pace.submits is None or pace.submits > 0)


def _run_the_recorded_one(harness: Harness, run: Submission, recorded: ProviderRun, *others: ProviderRun) -> None:
    """The daemon records one id and starts that; every other submit gave the same one, or a draft."""
    assert all(other.provider_id == recorded.provider_id or not other.started for other in others)
    if not recorded.started:
        harness.provider.start_workflow(recorded.provider_id)
    harness.let_run(recorded.provider_id)
    harness.let_end(recorded.provider_id)
    assert harness.starts(run) == 1
