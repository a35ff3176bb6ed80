"""Cancels, providers that misbehave and defects of ours, tick by tick, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from app.daemon.claimed_runs import Policy
from app.daemon.following import CANCELED_UNSEEN_SECONDS
from app.daemon.patience import OPENS_AFTER
from app.daemon.provider_loop import ProviderLoop
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.states import State
from tests.daemon_world import LEASE, POLICY, Killed, World, end, wait
from tests.fakes.scripted import Platform, ScriptedProvider

# Cancelling


def test_a_cancelled_queued_run_never_starts(world: World) -> None:
    run_id = world.submit()
    world.cancel(run_id)
    world.tick()
    assert world.run(run_id).state == State.CANCELED
    assert world.platform.calls == []


def test_cancel_is_asked_again_until_the_provider_confirms(world: World) -> None:
    run_id = world.running()
    world.cancel(run_id)
    for _ in range(3):
        world.tick()
        world.clock.advance(seconds=10)
    assert world.platform.jobs["job-1"].cancels == 3
    assert world.run(run_id).state == State.CANCELING
    end(world, run_id, State.CANCELED)
    assert world.tick_until(run_id, State.CANCELED).end_time is not None


def test_a_run_that_finished_first_is_complete_in_spite_of_a_cancel(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE)
    world.cancel(run_id)
    assert world.tick_until(run_id, State.COMPLETE).outputs is not None


def test_a_draft_that_is_cancelled_while_it_is_made_never_starts(world: World) -> None:
    world.drafts = True
    world.restart()
    run_id = world.submit()
    world.platform.interrupt("submit", lambda: world.cancel(run_id), after=True)
    world.tick()
    world.tick()
    assert world.platform.starts == []
    assert world.platform.only_job().cancels == 1


@pytest.mark.parametrize("arrived", [False, True])
def test_a_cancel_while_the_outcome_is_unknown_waits_for_certainty(world: World, arrived: bool) -> None:
    run_id = world.submit()
    world.platform.fail("submit", OutcomeUnknown("reset"), after=arrived)
    world.tick()
    world.cancel(run_id)
    if arrived:
        while not world.platform.only_job().cancels:
            world.tick()
            world.clock.advance(seconds=20)
        end(world, run_id, State.CANCELED)
    world.tick_until(run_id, State.CANCELED)
    assert world.platform.starts == ([f"wes-{run_id}"] if arrived else [])


def test_a_run_that_ended_while_it_was_submitted_leaves_no_orphan(world: World) -> None:
    run_id = world.submit()

    def end_meanwhile() -> None:
        world.clock.advance(seconds=LEASE + 200)
        world.cancel(run_id)
        settle_canceled(world, world.new_loop(), run_id)

    world.platform.interrupt("submit", end_meanwhile)
    world.tick()
    world.tick()
    assert world.run(run_id).state == State.CANCELED
    assert world.platform.only_job().cancels == 1


def settle_canceled(world: World, loop: ProviderLoop, run_id: str) -> None:
    while world.run(run_id).state != State.CANCELED:
        loop.tick()
        world.clock.advance(seconds=30)


# Providers that misbehave


def test_an_outage_of_a_day_changes_no_state_and_says_so(world: World) -> None:
    run_id = world.running()
    end_of_outage = world.clock() + timedelta(days=1)
    while world.clock() < end_of_outage:
        world.platform.fail("statuses", OutcomeUnknown("503"))
        world.tick()
        world.clock.advance(seconds=600)
    run = world.run(run_id)
    assert run.state == State.RUNNING
    assert "503" in (run.waiting_for or "")
    world.platform.before.clear()
    end(world, run_id, State.COMPLETE)
    world.clock.advance(seconds=600)
    world.tick_until(run_id, State.COMPLETE)


def test_a_run_that_the_provider_has_lost_ends_after_looks_and_time(world: World) -> None:
    run_id = world.running()
    world.platform.hidden.add("job-1")
    began = world.clock()
    run = world.tick_until(run_id, State.SYSTEM_ERROR)
    assert world.clock() - began >= timedelta(seconds=POLICY.lost_seconds)
    assert world.platform.calls.count("status") >= POLICY.lost_looks
    assert world.notes(run_id)[-1].startswith("provider_lost_run")
    assert run.error_message is not None


def test_a_run_that_is_cancelled_and_gone_is_not_waited_for_as_one_that_is_lost(world: World) -> None:
    run_id = world.running()
    world.cancel(run_id)
    world.platform.hidden.add("job-1")
    began = world.clock()
    world.tick_until(run_id, State.CANCELED)
    assert CANCELED_UNSEEN_SECONDS <= (world.clock() - began).total_seconds() < POLICY.lost_seconds
    assert world.platform.jobs["job-1"].cancels >= POLICY.lost_looks


def test_a_run_that_is_lost_does_not_slow_the_others_down(world: World) -> None:
    world.restart(policy=Policy(lost_looks=1000))
    well, lost = world.running(), world.running()
    world.platform.hidden.add(str(world.run(lost).provider_id))
    while world.run(lost).misses < 12:
        world.clock.advance(seconds=300)
        world.tick()
    world.platform.fail("statuses", OutcomeUnknown("503"))
    world.clock.advance(seconds=300)
    world.tick()
    due = world.run(well).due_at
    assert due is not None and due - world.clock() <= timedelta(seconds=4)


def test_a_run_that_shows_up_again_was_not_lost(world: World) -> None:
    run_id = world.running()
    world.platform.hidden.add("job-1")
    for _ in range(10):
        world.tick()
        world.clock.advance(seconds=50)
    world.platform.hidden.clear()
    world.tick()
    world.clock.advance(seconds=400)
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.missing_since, run.misses) == (State.RUNNING, None, 0)


def test_a_word_that_we_do_not_know_keeps_the_run_where_it_is(world: World) -> None:
    run_id = world.running()
    world.platform.set("job-1", None, provider_status="DEFRAGMENTING")
    world.clock.advance(seconds=30)
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.provider_status) == (State.RUNNING, "DEFRAGMENTING")


def test_a_report_that_goes_backwards_is_not_followed(world: World) -> None:
    run_id = world.running()
    world.platform.set("job-1", State.INITIALIZING, provider_status="queued again")
    world.clock.advance(seconds=30)
    world.tick()
    assert world.run(run_id).state == State.RUNNING


def test_outputs_that_cannot_be_had_yet_are_waited_for(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE)
    world.platform.fail("outputs", *[OutcomeUnknown("storage is away")] * 10)
    for _ in range(10):
        world.clock.advance(seconds=400)
        world.tick()
        assert world.run(run_id).state == State.RUNNING
    world.clock.advance(seconds=400)
    assert world.tick_until(run_id, State.COMPLETE).outputs is not None


def test_outputs_that_are_gone_for_good_end_the_run_as_a_system_error(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE)
    world.platform.fail("outputs", Rejected("no such key", "outputs_lost"))
    run = world.tick_until(run_id, State.SYSTEM_ERROR)
    assert "no such key" in (run.error_message or "")
    assert world.notes(run_id)[-1].startswith("outputs_lost")


def test_troubles_of_different_kinds_do_not_add_up(world: World) -> None:
    """Each limit is met by its own kind alone, and who was seen in between has not been missing all the time."""
    provider = ScriptedProvider(world.platform)
    provider.outputs_tries = 3
    world.restart(provider=provider, policy=Policy(give_up_after=4, lost_looks=4, lost_seconds=600))
    run_id = world.running()

    def miss(times: int) -> None:
        world.platform.hidden.add("job-1")
        wanted = world.run(run_id).misses + times
        while (run := world.run(run_id)).state == State.RUNNING and run.misses < wanted:
            world.clock.advance(seconds=100)
            world.tick()
        world.platform.hidden.clear()

    def fail(verb: str, error: Exception, counted: str, times: int) -> None:
        wanted = getattr(world.run(run_id), counted) + times
        while (run := world.run(run_id)).state == State.RUNNING and getattr(run, counted) < wanted:
            world.platform.fail(verb, error)
            world.clock.advance(seconds=400)
            world.tick()

    miss(3)
    end(world, run_id, State.COMPLETE)
    fail("outputs", ValueError("ours"), "failures", 3)
    fail("outputs", Rejected("denied", "denied"), "refusals", 2)
    miss(3)
    run = world.run(run_id)
    assert (run.state, run.failures, run.refusals, run.misses) == (State.RUNNING, 3, 2, 3)
    assert world.tick_until(run_id, State.COMPLETE).outputs is not None


def test_outputs_are_asked_for_as_often_as_the_provider_deserves(world: World) -> None:
    provider = ScriptedProvider(world.platform)
    provider.outputs_tries = 3
    world.restart(provider=provider)
    healed, lost = world.running(), world.running()
    end(world, healed, State.COMPLETE)
    world.platform.fail("outputs", *[Rejected("no such key", "outputs_lost")] * 2)
    world.tick_until(healed, State.COMPLETE)
    world.platform.set(str(world.run(lost).provider_id), State.COMPLETE)
    world.platform.fail("outputs", *[Rejected("no such key", "outputs_lost")] * 3)
    assert world.tick_until(lost, State.SYSTEM_ERROR).error_message


def test_logs_that_are_gone_for_good_do_not_keep_a_run_from_its_end(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.COMPLETE)
    world.platform.fail("logs", Rejected("log stream deleted"))
    world.tick_until(run_id, State.COMPLETE)
    assert any("log stream deleted" in note for note in world.notes(run_id))


def test_a_provider_that_refuses_again_and_again_is_left_alone_for_a_while(world: World) -> None:
    run_ids = [world.submit() for _ in range(OPENS_AFTER)]
    world.platform.fail("submit", *[NotAccepted("credentials expired", retry_after=50)] * OPENS_AFTER)
    world.tick()
    world.tick()
    assert world.loop.breaker.problem == "credentials expired"
    assert world.loop.breaker.seconds_open() > 0
    assert {world.run(run_id).state for run_id in run_ids} == {State.QUEUED}
    calls = len(world.platform.calls)
    assert world.tick() > 0
    assert len(world.platform.calls) == calls


def test_one_slow_provider_delays_no_other(world: World) -> None:
    slow_platform, go_on = Platform(), threading.Event()
    pool = ThreadPoolExecutor(1)
    slow = world.new_loop(provider=ScriptedProvider(slow_platform, name="slow"), pool=pool)
    slow_platform.interrupt("submit", lambda: wait(go_on))
    stuck, quick = world.submit(provider_type="slow"), world.submit()
    slow.tick()
    world.tick()
    assert world.run(quick).provider_id == "job-1"
    assert world.run(stuck).provider_id is None
    go_on.set()
    pool.shutdown()
    assert world.run(stuck).provider_id == "job-1"


# Defects of ours


def test_a_handler_that_fails_every_time_ends_its_run_with_the_reason(world: World) -> None:
    run_id, other = world.running(), world.submit()
    end(world, run_id, State.COMPLETE)
    world.platform.fail("outputs", *[KeyError("oops")] * POLICY.give_up_after)
    run = world.tick_until(run_id, State.SYSTEM_ERROR)
    assert "KeyError" in (run.error_message or "")
    assert world.notes(run_id)[-1].startswith("internal_error")
    assert world.run(other).state == State.INITIALIZING


def test_a_run_that_kills_its_daemon_each_time_is_set_aside_and_the_rest_go_on(world: World) -> None:
    poison = world.running()
    end(world, poison, State.COMPLETE)
    deaths = 0
    while world.run(poison).state != State.SYSTEM_ERROR:
        assert deaths < 20
        world.platform.before.clear()
        world.platform.fail("outputs", Killed())
        world.clock.advance(seconds=LEASE + 15)
        try:
            world.tick()
        except Killed:
            deaths += 1
            world.restart()
    world.platform.before.clear()
    assert world.notes(poison)[-1].startswith("poison")
    other = world.running()
    end(world, other, State.COMPLETE)
    world.tick_until(other, State.COMPLETE)
