"""The daemon tick by tick, on both databases, with a clock and a provider that do as they are told: from QUEUED on."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.daemon import provider_loop
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.runs import claims, listing
from app.runs.claims import ClaimedRun
from app.states import State
from tests.daemon_world import LEASE, Killed, World, content, end

# From QUEUED to COMPLETE


def test_a_run_goes_from_queued_to_complete_with_all_that_it_left(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE, exit_code=0)
    run = world.tick_until(run_id, State.COMPLETE)
    assert run.outputs == {"result": {"class": "File", "location": "wes-output:result.txt", "basename": "result.txt"}}
    assert (run.exit_code, run.due_at, run.claim) == (0, None, None)
    assert run.processed_at is not None and run.end_time is not None
    assert content(world.storage.output(run_id, "result.txt")) == b"result"
    assert content(world.storage.log(run_id, "stdout")) == b"hello from the run\n"
    with world.database.reading() as session:
        assert [(task.task_id, task.name, task.exit_code) for task in listing.get_tasks(session, run_id)] == [
            ("step-1", "align", 0)
        ]
        moves = [event.to_state for event in listing.get_events(session, run_id) if event.to_state]
    assert moves == ["QUEUED", "INITIALIZING", "RUNNING", "COMPLETE"]


def test_the_submit_is_committed_before_it_is_sent(world: World) -> None:
    run_id = world.submit()
    seen: list[ClaimedRun] = []
    world.platform.interrupt("submit", lambda: seen.append(world.run(run_id)))
    world.tick()
    assert seen[0].state == State.INITIALIZING
    assert seen[0].submit_key == f"wes-{run_id}"
    assert seen[0].submit_request == {"params": {"x": 1}}
    assert seen[0].submit_sent_at == world.clock()
    assert seen[0].provider_id is None


def test_a_run_that_ends_between_two_looks_skips_running(world: World) -> None:
    run_id = world.submit()
    world.tick()
    end(world, run_id, State.EXECUTOR_ERROR, exit_code=3, message="step failed")
    run = world.tick_until(run_id, State.EXECUTOR_ERROR)
    assert (run.exit_code, run.error_message) == (3, "step failed")


def test_a_pause_and_its_end_are_followed(world: World) -> None:
    run_id = world.running()
    world.platform.set("job-1", State.PAUSED)
    world.tick_until(run_id, State.PAUSED)
    world.platform.set("job-1", State.RUNNING)
    world.tick_until(run_id, State.RUNNING)


# Submits that do not go well


def test_not_accepted_goes_back_to_queued_and_says_why(world: World) -> None:
    run_id = world.submit()
    world.platform.fail("submit", NotAccepted("throttled", retry_after=120))
    world.tick()
    run = world.run(run_id)
    assert run.state == State.QUEUED
    assert "throttled" in (run.waiting_for or "")
    assert run.due_at is not None and run.due_at >= world.clock() + timedelta(seconds=120)
    assert world.tick_until(run_id, State.INITIALIZING).provider_id == "job-1"
    assert len(world.platform.starts) == 1


def test_rejected_ends_with_the_providers_words(world: World) -> None:
    run_id = world.submit()
    world.platform.fail("submit", Rejected("no such workflow", "workflow_missing"))
    world.tick()
    run = world.run(run_id)
    assert run.state == State.SYSTEM_ERROR
    assert run.error_message == "no such workflow"
    assert world.notes(run_id)[-1] == "workflow_missing: no such workflow"


def test_a_request_that_cannot_be_made_is_never_sent(world: World) -> None:
    run_id = world.submit()
    world.platform.fail("prepare", Rejected("option --x is not allowed", "option_refused"))
    world.tick()
    assert world.run(run_id).state == State.SYSTEM_ERROR
    assert "submit" not in world.platform.calls


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("arrived", [False, True])
def test_a_lost_answer_never_starts_a_run_twice(world: World, drafts: bool, arrived: bool) -> None:
    world.drafts = drafts
    world.restart()
    run_id = world.submit()
    world.platform.fail("submit", OutcomeUnknown("connection reset"), after=arrived)
    world.tick()
    run = world.run(run_id)
    assert run.state == State.INITIALIZING
    assert "connection reset" in (run.waiting_for or "")
    world.tick_until(run_id, State.INITIALIZING)
    world.platform.calls.clear()
    while world.run(run_id).provider_id is None:
        world.clock.advance(seconds=20)
        world.tick()
    end(world, run_id, State.COMPLETE)
    world.tick_until(run_id, State.COMPLETE)
    assert world.platform.starts == [f"wes-{run_id}"]


def test_absent_is_believed_only_after_timeout_and_grace(world: World) -> None:
    run_id = world.submit()
    world.platform.fail("submit", OutcomeUnknown("timed out"))
    sent = world.clock()
    world.tick()
    while world.platform.calls.count("submit") < 2:
        world.clock.advance(seconds=5)
        world.tick()
    assert world.clock() - sent >= timedelta(seconds=90)
    assert world.platform.starts == [f"wes-{run_id}"]


@pytest.mark.parametrize("after_a_restart", [False, True])
def test_a_clock_that_is_set_forward_makes_absence_no_surer(world: World, after_a_restart: bool) -> None:
    """The submit is still on its way, whatever the clock says: it would have been started twice."""
    seconds = [0.0]
    world.restart(monotonic=lambda: seconds[0])
    run_id = world.submit()
    world.platform.fail("submit", OutcomeUnknown("timed out"))
    world.tick()
    if after_a_restart:
        world.restart(monotonic=lambda: seconds[0])
    world.clock.advance(days=5)
    for _ in range(9):
        world.tick()
        world.clock.advance(seconds=400)
        seconds[0] += 10
    assert (world.platform.calls.count("find"), world.platform.calls.count("submit")) == (9, 1)
    world.tick()
    assert world.platform.starts == [f"wes-{run_id}"]


def test_a_submit_that_a_wrong_clock_sent_in_the_future_is_settled_as_soon_as_any(world: World) -> None:
    run_id = world.submit()
    world.platform.fail("submit", OutcomeUnknown("timed out"))
    world.tick()
    world.clock.advance(days=-5)
    world.database.transact(lambda session: claims.bring_back(session, world.clock()))
    went_back = world.clock()
    while world.platform.calls.count("submit") < 2 and world.clock() - went_back < timedelta(hours=1):
        world.clock.advance(seconds=5)
        world.tick()
    assert timedelta(seconds=90) <= world.clock() - went_back < timedelta(minutes=10)
    assert world.platform.starts == [f"wes-{run_id}"]


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_daemon_killed_while_submitting_loses_and_doubles_nothing(world: World, drafts: bool, where: str) -> None:
    world.drafts = drafts
    world.restart()
    run_id = world.submit()
    world.platform.fail("submit", Killed(), after=where == "after")
    with pytest.raises(Killed):
        world.tick()
    world.restart()
    assert world.run(run_id).provider_id is None
    world.clock.advance(seconds=LEASE + 1)
    while world.run(run_id).provider_id is None:
        world.tick()
        world.clock.advance(seconds=20)
    end(world, run_id, State.COMPLETE)
    world.tick_until(run_id, State.COMPLETE)
    assert world.platform.starts == [f"wes-{run_id}"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_daemon_killed_while_starting_a_draft_starts_it_once(world: World, where: str) -> None:
    world.drafts = True
    world.restart()
    run_id = world.submit()
    world.platform.fail("start", Killed(), after=where == "after")
    with pytest.raises(Killed):
        world.tick()
    world.restart()
    world.clock.advance(seconds=LEASE + 1)
    for _ in range(5):
        world.tick()
        world.clock.advance(seconds=20)
    assert world.platform.starts == [f"wes-{run_id}"]


@pytest.mark.parametrize("verb", ["outputs", "tasks", "logs"])
def test_a_daemon_killed_while_collecting_collects_again(world: World, verb: str) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE)
    world.platform.fail(verb, Killed())
    world.clock.advance(seconds=30)
    with pytest.raises(Killed):
        world.tick()
    assert world.run(run_id).state == State.RUNNING
    world.restart()
    world.clock.advance(seconds=LEASE + 1)
    run = world.tick_until(run_id, State.COMPLETE)
    assert run.outputs is not None
    assert content(world.storage.log(run_id, "stdout")) == b"hello from the run\n"


def test_a_look_that_fails_unforeseen_keeps_no_claim(world: World) -> None:
    run_id = world.running()
    world.platform.fail("statuses", RuntimeError("a defect"))
    world.clock.advance(seconds=30)
    with pytest.raises(RuntimeError):
        world.tick()
    end(world, run_id, State.COMPLETE)
    for _ in range(3):
        world.clock.advance(seconds=LEASE / 2)
        world.loop._holds.renew()
    world.tick_until(run_id, State.COMPLETE, ticks=1)


def test_many_runs_are_claimed_in_chunks_and_asked_for_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ids = [world.running() for _ in range(5)]
    monkeypatch.setattr(provider_loop, "CHUNK", 2)
    world.clock.advance(seconds=30)
    world.platform.calls.clear()
    world.tick()
    assert world.platform.calls.count("statuses") == 1
    assert {world.run(run_id).observed_at for run_id in run_ids} == {world.clock()}


def test_what_was_claimed_before_the_database_failed_is_worked_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [world.running() for _ in range(5)]
    monkeypatch.setattr(provider_loop, "CHUNK", 2)
    world.clock.advance(seconds=30)
    real, tries = claims.claim_known, itertools.count(1)

    def claim_known(*arguments: Any) -> list[ClaimedRun]:
        if next(tries) == 2:
            raise OperationalError("UPDATE", {}, Exception("away"))
        return real(*arguments)

    monkeypatch.setattr(claims, "claim_known", claim_known)
    world.tick()
    assert sum(world.run(run_id).observed_at == world.clock() for run_id in run_ids) == 2
    world.tick()
    assert {world.run(run_id).observed_at for run_id in run_ids} == {world.clock()}


def test_a_second_provider_run_is_cancelled_and_the_first_id_stays(world: World) -> None:
    world.drafts = True
    world.restart()
    run_id = world.submit()
    other = world.new_loop()

    def stall_until_another_daemon_has_submitted() -> None:
        world.clock.advance(seconds=200)  # past the lease, past the provider's time-out and grace
        while world.run(run_id).provider_id is None:
            other.tick()
            world.clock.advance(seconds=100)

    world.platform.interrupt("submit", stall_until_another_daemon_has_submitted)
    world.tick()
    world.tick()
    first = world.run(run_id).provider_id
    loser = next(job for job in world.platform.jobs.values() if job.provider_id != first)
    assert loser.cancels == 1 and not loser.started
    assert world.platform.starts == [f"wes-{run_id}"]
    assert any("second provider run" in note for note in world.notes(run_id))


def test_an_id_that_another_run_has_ends_the_run(world: World) -> None:
    first = world.running()
    second = world.submit()
    world.platform.interrupt(
        "submit", lambda: setattr(world.platform.jobs["job-1"], "submit_key", f"wes-{second}")
    )  # the platform answers with the other run's job
    world.tick()
    assert world.run(second).state == State.SYSTEM_ERROR
    assert world.notes(second)[-1].startswith("duplicate_provider_id")
    assert world.run(first).state == State.RUNNING
