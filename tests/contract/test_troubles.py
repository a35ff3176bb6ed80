"""The contract in trouble: every fault has one of three names, nothing else is ever raised, and no call waits for ever.

That calls end in time is what the time limit of these tests shows: a platform that hangs does so until it is healed, and
one that drips takes far longer than the provider waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from app.daemon.providers.provider_interface import (
    Absent,
    Found,
    Status,
    Submission,
    Unsure,
    WorkflowProviderInterface,
)
from app.errors import NotAccepted, NotReady, OutcomeUnknown, ProviderError, Rejected
from app.states import State
from tests.contract.harness import WAIT_SECONDS, CloudHarness, Fate, Harness, Trouble

pytestmark = pytest.mark.timeout(120)

NOTHING_HAPPENED = {
    Trouble.THROTTLED,
    Trouble.THROTTLED_FOR_A_WHILE,
    Trouble.QUOTA,
    Trouble.EXPIRED,
    Trouble.DENIED,
}
IT_HAPPENED = {
    Trouble.ERROR_AFTER,
    Trouble.DROPPED_AFTER,
    Trouble.HANGS,
    Trouble.DRIPS,
    Trouble.GARBAGE,
    Trouble.HTML,
    Trouble.EMPTY,
    Trouble.HUGE,
}
DEFINITE = {Trouble.DENIED}
"""Outputs that may not be read are definitely refused, see get_outputs."""

MISSHAPEN = [
    "null",
    "[]",
    "{}",
    '"jobs"',
    "[[]]",
    "-1e999",
    "NaN",
    '{"id": null}',
    '{"id": {"a": 1}, "status": 5}',
    '{"jobs": {"a": null}, "tasks": 7, "outputs": [], "items": "x"}',
    '{"jobs": [null, 1, {}], "tasks": [null], "outputs": {"a": {"location": 5}}, "items": [null, {}]}',
    "[" * 100_000,
    '{"id": "\\u0000\\ud800"}',
    "9" * 10_000,
    "\ufeff{}",
]

Verb = Callable[[WorkflowProviderInterface], Any]


def test_providers_with_a_platform_meet_trouble(harness: Harness) -> None:
    harness.need("platform")
    assert isinstance(harness, CloudHarness)


@pytest.mark.parametrize("trouble", Trouble)
def test_a_submit_in_trouble(cloud: CloudHarness, trouble: Trouble) -> None:
    run = cloud.submission(Fate.LONG)
    cloud.meet(trouble)
    with pytest.raises(ProviderError) as error:
        cloud.provider_for(trouble).submit_workflow(run)
    assert isinstance(error.value, _right_errors(trouble))
    assert isinstance(error.value, NotReady) == (trouble in cloud.users_own)
    if trouble == Trouble.THROTTLED_FOR_A_WHILE:
        assert error.value.retry_after == pytest.approx(WAIT_SECONDS, abs=2)
    assert "\n" not in str(error.value) and 0 < len(str(error.value)) < 500
    _recover(cloud, run, trouble)


@pytest.mark.parametrize("trouble", sorted(IT_HAPPENED))
def test_a_lost_answer_and_a_hasty_repeat(cloud: CloudHarness, trouble: Trouble) -> None:
    """As when the daemon dies right after sending, and another one is convinced that nothing arrived."""
    run = cloud.submission(Fate.LONG)
    cloud.meet(trouble)
    with pytest.raises(OutcomeUnknown):
        cloud.provider_for(trouble).submit_workflow(run)
    cloud.heal()
    cloud.let_run(cloud.submit(run).provider_id)
    assert cloud.starts(run) == 1


def test_nobody_is_there(cloud: CloudHarness) -> None:
    provider = cloud.unreachable()
    run, provider_id = cloud.running()
    with pytest.raises(NotAccepted):
        provider.submit_workflow(cloud.submission())
    for name, verb in _verbs(cloud, run, provider_id).items():
        assert _fails_well(verb, provider), f"{name} cannot have succeeded"


@pytest.mark.parametrize("trouble", Trouble)
@pytest.mark.parametrize("skip", [0, 1])
def test_every_verb_in_trouble(cloud: CloudHarness, trouble: Trouble, skip: int) -> None:
    run, provider_id = cloud.ended()
    provider = cloud.provider_for(trouble)
    for name, verb in _verbs(cloud, run, provider_id).items():
        cloud.meet(trouble, skip)
        try:
            verb(provider)
        except Rejected:
            assert name == "get_outputs" and trouble in DEFINITE, f"{name} took {trouble.name} for a final no"
        except (NotAccepted, OutcomeUnknown):
            pass
        cloud.heal()
        verb(cloud.provider)
    assert _state(cloud, provider_id) == State.COMPLETE


@pytest.mark.parametrize("trouble", Trouble)
def test_trouble_is_never_taken_for_an_end(cloud: CloudHarness, trouble: Trouble) -> None:
    run, provider_id = cloud.running()
    provider = cloud.provider_for(trouble)
    cloud.meet(trouble)
    for look in provider.get_workflow_statuses, lambda ids: {"": provider.get_workflow_status(ids[0])}:
        with suppress(NotAccepted, OutcomeUnknown):
            _is_no_end(look([provider_id]))
    with suppress(NotAccepted, OutcomeUnknown):
        assert not isinstance(provider.find_workflow(replace(run, sent_at=cloud.now())), Absent)


def test_missing_once_is_not_missing_for_ever(cloud: CloudHarness) -> None:
    _, provider_id = cloud.running()
    cloud.fail(kind="missing")
    assert cloud.provider.get_workflow_status(provider_id) is None
    assert _state(cloud, provider_id) == State.RUNNING


@pytest.mark.parametrize("body", MISSHAPEN)
def test_a_misshapen_answer_is_survived(cloud: CloudHarness, body: str) -> None:
    run, provider_id = cloud.ended()
    verbs = _verbs(cloud, run, provider_id) | {"submit": lambda provider: provider.submit_workflow(cloud.submission())}
    for name, verb in verbs.items():
        cloud.fail(kind="reply", body=body, times=None)
        try:
            answer = verb(cloud.provider)
        except ProviderError as error:
            assert not isinstance(error, Rejected) or name == "get_outputs"
        else:
            _is_no_end(answer)
        cloud.heal()
    assert _state(cloud, provider_id) == State.COMPLETE


def test_a_field_of_the_wrong_type_is_survived(cloud: CloudHarness) -> None:
    run, provider_id = cloud.ended()
    wrong = [None, 5, -math.pi, "x" * 5000, [], {}, [None], True, "2026-13-45T99:99:99Z"]
    fields = ["id", "name", "status", "started", "ended", "exit_code", "message", "command", "outputs", "tasks", "jobs"]
    for name, verb in _verbs(cloud, run, provider_id).items():
        for alter in [{field: value} for field in fields for value in wrong]:
            cloud.fail(kind="alter", alter=alter, times=None)
            try:
                verb(cloud.provider)
            except ProviderError as error:
                assert not isinstance(error, Rejected) or name == "get_outputs", f"{name} with {alter}"
            cloud.heal()


def _recover(cloud: CloudHarness, run: Submission, trouble: Trouble) -> None:
    """What the daemon does next, once the platform is well: look, and submit again only what is absent."""
    cloud.heal()
    found = cloud.new_provider().find_workflow(run)
    assert isinstance(found, Found | Unsure)
    cloud.pass_time(cloud.patience * 1.01)
    found = cloud.provider.find_workflow(run)
    assert isinstance(found, Found if trouble in IT_HAPPENED else Absent)
    if isinstance(found, Found):
        if not found.run.started:
            cloud.provider.start_workflow(found.run.provider_id)
    else:
        cloud.submit(run)
    cloud.let_run("")
    assert cloud.starts(run) == 1


def _right_errors(trouble: Trouble) -> tuple[type[ProviderError], ...]:
    if trouble in NOTHING_HAPPENED:
        return (NotAccepted,)
    return (OutcomeUnknown, NotAccepted) if trouble == Trouble.UNAVAILABLE else (OutcomeUnknown,)


def _verbs(cloud: CloudHarness, run: Submission, provider_id: str) -> dict[str, Verb]:
    """Every call but submit; those that change something at the end."""
    return {
        "get_workflow_statuses": lambda provider: provider.get_workflow_statuses([provider_id]),
        "get_workflow_status": lambda provider: provider.get_workflow_status(provider_id),
        "find_workflow": lambda provider: provider.find_workflow(run),
        "get_tasks": lambda provider: provider.get_tasks(provider_id),
        "get_logs": lambda provider: provider.get_logs(provider_id, cloud.log_sink(run)),
        "get_outputs": lambda provider: provider.get_outputs(provider_id, cloud.output_sink(run)),
        "start_workflow": lambda provider: provider.start_workflow(provider_id),
        "cancel_workflow": lambda provider: provider.cancel_workflow(provider_id),
    }


def _fails_well(verb: Verb, provider: WorkflowProviderInterface) -> bool:
    """True where it raised one of the two errors for "try again", or had nothing to ask."""
    try:
        return verb(provider) is None
    except (NotAccepted, OutcomeUnknown):
        return True


def _is_no_end(answer: Any) -> None:
    statuses = answer.values() if isinstance(answer, dict) else [answer]
    assert not any(isinstance(status, Status) and status.state is not None for status in statuses)


def _state(cloud: CloudHarness, provider_id: str) -> State | None:
    status = cloud.provider.get_workflow_status(provider_id)
    return status and status.state
