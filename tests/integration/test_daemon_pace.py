"""The daemon at a provider's pace: runs wait QUEUED, nothing spins, and waiting is nobody's failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from app.daemon.patience import OPENS_AFTER
from app.daemon.providers.provider_interface import Pace
from app.errors import NotReady, OutcomeUnknown
from app.states import State
from tests.daemon_world import World
from tests.fakes.scripted import ScriptedProvider

MADE = "The workflow definition is being registered."


class PacedProvider(ScriptedProvider):
    """Takes one submit at a time, the next after `interval` seconds; `closed` says why it takes none at all."""

    interval = 1.0
    closed: str | None = None
    next_at: float = 0.0

    def pace(self) -> Pace:
        wait = max(0.0, self.next_at - self.clock().timestamp())  # type: ignore[attr-defined]
        if self.closed:
            return Pace(0, 60.0, self.closed)
        return Pace(0, wait) if wait else Pace(1)

    def submit_workflow(self, run):  # type: ignore[no-untyped-def]
        self.next_at = self.clock().timestamp() + self.interval  # type: ignore[attr-defined]
        return super().submit_workflow(run)


def paced(world: World) -> PacedProvider:
    provider = PacedProvider(world.platform)
    provider.clock = world.clock  # type: ignore[attr-defined]
    world.restart(provider=provider)
    return provider


def test_one_submit_at_a_time_and_no_tick_too_many(world: World) -> None:
    paced(world)
    runs = [world.submit() for _ in range(5)]
    for started in range(1, 6):
        delay = world.tick()
        assert len(world.platform.starts) == started
        assert delay == 1.0, "the next submit is due then, and nothing before"
        world.clock.advance(seconds=delay)
    assert [world.run(run_id).attempt for run_id in runs] == [1] * 5


def test_a_closed_provider_is_not_tried(world: World) -> None:
    provider = paced(world)
    provider.closed = "Rate exceeded"
    run_id = world.submit()
    assert world.tick() == 10.0, "as long as between two looks at the database"
    assert world.platform.calls == [] and world.run(run_id).state == State.QUEUED
    provider.closed = None
    world.tick()
    assert len(world.platform.starts) == 1


def test_what_is_being_made_leaves_the_run_queued(world: World) -> None:
    tries = OPENS_AFTER + 3
    world.platform.fail("prepare", *[NotReady(MADE, 5.0)] * tries)
    run_id = world.submit()
    for _ in range(tries):
        world.tick()
        run = world.run(run_id)
        assert (run.state, run.attempt, run.failures, run.waiting_for) == (State.QUEUED, 0, 0, MADE)
        assert world.loop.breaker.seconds_open() == 0
        world.clock.advance(seconds=5)
    world.tick()
    assert world.run(run_id).state == State.INITIALIZING
    assert len(world.notes(run_id)) == 3, "no event for every look"


def test_not_its_turn_is_no_failure_either(world: World) -> None:
    world.platform.fail("submit", *[NotReady("At most one start a second.", 1.0)] * (OPENS_AFTER + 1))
    run_id = world.submit()
    for _ in range(OPENS_AFTER + 1):
        world.tick()
        assert (world.run(run_id).state, world.loop.breaker.problem) == (State.QUEUED, None)
        world.clock.advance(seconds=1)
    world.tick()
    assert len(world.platform.starts) == 1


def test_statuses_that_have_to_wait_are_no_outage(world: World) -> None:
    run_id = world.running()
    world.platform.fail("statuses", *[NotReady("At most five reads a second.", 3.0)] * OPENS_AFTER)
    for _ in range(OPENS_AFTER):
        world.clock.advance(seconds=15)
        world.tick()
        assert (world.run(run_id).state, world.loop.breaker.problem) == (State.RUNNING, None)


def test_an_unknown_outcome_while_preparing_leaves_it_queued(world: World) -> None:
    world.platform.fail("prepare", OutcomeUnknown("no answer"))
    run_id = world.submit()
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.submit_sent_at, run.waiting_for) == (State.QUEUED, None, "no answer")


def test_a_long_look_holds_up_no_submit(world: World) -> None:
    running = world.running()
    looking, answered, submitted = threading.Event(), threading.Event(), threading.Event()
    world.platform.interrupt("statuses", lambda: (looking.set(), answered.wait(60))[0])
    world.platform.interrupt("submit", submitted.set, after=True)
    looks = world.platform.calls.count("statuses")
    world.clock.advance(seconds=15)
    with ThreadPoolExecutor(3) as pool:
        world.restart(pool=pool)
        world.tick()
        assert looking.wait(60)
        world.submit()
        assert world.tick() == 10.0, "whoever looks wakes the loop, so it need not spin"
        assert submitted.wait(60)
        world.clock.advance(seconds=600)
        world.tick()
        assert world.platform.calls.count("statuses") == looks + 1, "one look at a time"
        answered.set()
    assert world.run(running).state == State.RUNNING
