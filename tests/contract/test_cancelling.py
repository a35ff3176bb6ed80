"""The contract of cancelling: ask as often as you like; what has not begun never will, what is over stays as it is."""

from __future__ import annotations

from contextlib import suppress

from app.daemon.providers.provider_interface import WorkflowProviderInterface
from app.errors import ProviderError
from app.states import State
from tests.contract.harness import Fate, Harness


def test_a_running_run_is_cancelled(harness: Harness) -> None:
    run, provider_id = harness.running()
    harness.provider.cancel_workflow(provider_id)
    harness.let_end(provider_id)
    assert _state(harness.provider, provider_id) == State.CANCELED
    assert harness.starts(run) == 1


def test_cancel_again_is_harmless(harness: Harness) -> None:
    _, provider_id = harness.running()
    harness.provider.cancel_workflow(provider_id)
    harness.new_provider().cancel_workflow(provider_id)
    harness.let_end(provider_id)
    harness.provider.cancel_workflow(provider_id)
    assert _state(harness.provider, provider_id) == State.CANCELED


def test_a_run_that_is_over_stays_so(harness: Harness) -> None:
    _, succeeded = harness.ended()
    _, failed = harness.ended(Fate.FAIL)
    for provider_id in succeeded, failed:
        harness.provider.cancel_workflow(provider_id)
    assert _state(harness.provider, succeeded) == State.COMPLETE
    assert _state(harness.provider, failed) == State.EXECUTOR_ERROR


def test_a_cancelled_draft_never_runs(harness: Harness) -> None:
    harness.need("drafts")
    run = harness.submission()
    provider_id = harness.provider.submit_workflow(run).provider_id
    harness.provider.cancel_workflow(provider_id)
    harness.provider.cancel_workflow(provider_id)
    with suppress(ProviderError):  # a stale daemon is late with its start
        harness.provider.start_workflow(provider_id)
    harness.let_run(provider_id)
    assert harness.starts(run) == 0
    assert _state(harness.provider, provider_id) in (None, State.CANCELED)


def test_a_started_draft_is_cancelled_too(harness: Harness) -> None:
    harness.need("drafts")
    run = harness.submission(Fate.LONG)
    provider_id = harness.submit(run).provider_id
    harness.provider.cancel_workflow(provider_id)
    harness.let_run(provider_id)
    harness.let_end(provider_id)
    assert _state(harness.provider, provider_id) == State.CANCELED


def test_an_unknown_run_is_cancelled_without_fuss(harness: Harness) -> None:
    harness.provider.cancel_workflow("nobody")


def test_others_run_on(harness: Harness) -> None:
    _, mine = harness.running()
    _, other = harness.running()
    harness.provider.cancel_workflow(mine)
    assert _state(harness.provider, other) == State.RUNNING


def _state(provider: WorkflowProviderInterface, provider_id: str) -> State | None:
    status = provider.get_workflow_status(provider_id)
    return status and status.state
