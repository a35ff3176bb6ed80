"""Several loops and daemons on one database: claims, hints, leases, hosts."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.daemon.patience import OPENS_AFTER
from app.daemon.workflow_daemon import WorkflowDaemon
from app.models import Daemon, WorkflowRun
from app.runs import claims, listing, transitions
from app.states import State
from tests.daemon_world import LEASE, World, content, end, wait
from tests.fakes.scripted import ScriptedProvider

# Claims, hints and daemons


def test_a_hint_during_the_work_is_not_lost(world: World) -> None:
    run_id = world.submit()
    hint: Callable[[], Any] = lambda: world.database.transact(  # noqa: E731
        lambda session: claims.hint(session, [run_id], world.clock())
    )
    world.platform.interrupt("submit", hint, after=True)
    world.tick()
    run = world.run(run_id)
    assert run.claim is None and run.due_at == world.clock()


@pytest.mark.parametrize("stranger", ["", "x" * 500, "1b4e28ba-2fa1-11d2-883f-0016d3cca427"])
def test_a_strange_run_id_is_hinted_in_vain(daemon: WorkflowDaemon, stranger: str) -> None:
    assert not daemon.hint(stranger)


def test_a_hint_is_seen_by_every_daemon(world: World, daemon: WorkflowDaemon) -> None:
    run_id = world.submit(provider_type="elsewhere")
    later = world.clock() + timedelta(hours=1)
    world.database.transact(lambda session: session.execute(update(WorkflowRun).values(due_at=later)))
    assert daemon.hint(run_id)
    assert world.run(run_id).due_at == world.clock()


def test_a_late_writer_changes_nothing(world: World) -> None:
    run_id = world.running()
    end(world, run_id, State.EXECUTOR_ERROR, exit_code=1)
    other = world.new_loop()

    def stall_past_the_lease() -> None:
        world.clock.advance(seconds=LEASE + 30)
        other.tick()
        assert world.run(run_id).state == State.EXECUTOR_ERROR

    world.platform.interrupt("tasks", stall_past_the_lease)
    world.clock.advance(seconds=30)
    world.tick()
    with world.database.reading() as session:
        ends = [event for event in listing.get_events(session, run_id) if event.to_state == State.EXECUTOR_ERROR]
    assert len(ends) == 1


def test_two_daemons_start_every_run_once(world: World) -> None:
    run_ids = [world.submit() for _ in range(40)]
    loops = [world.loop, world.new_loop(host="host-2")]
    while any(world.run(run_id).provider_id is None for run_id in run_ids):
        threads = [threading.Thread(target=loop.tick) for loop in loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.clock.advance(seconds=20)
    assert sorted(world.platform.starts) == sorted(f"wes-{run_id}" for run_id in run_ids)


def test_no_more_is_claimed_than_there_are_workers(world: World) -> None:
    """What waits for a worker here another daemon could do."""
    unsettled = [world.submit() for _ in range(3)]
    sent = {"state": State.INITIALIZING, "submit_sent_at": world.clock()}
    world.database.transact(
        lambda session: session.execute(update(WorkflowRun).where(WorkflowRun.run_id.in_(unsettled)).values(sent))
    )
    new = [world.submit() for _ in range(5)]
    waiting = WaitingPool()
    world.new_loop(pool=waiting, workers=3).tick()
    assert len(waiting.calls) == 3
    assert all(world.run(run_id).claim is None for run_id in new)


def hold_next(world: World, verb: str) -> tuple[threading.Event, threading.Event]:
    """The next call of `verb` sets the first event and goes on with the second."""
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        wait(go_on)

    world.platform.interrupt(verb, hold)
    return entered, go_on


class WaitingPool(Executor):
    """Begins nothing."""

    def __init__(self) -> None:
        self.calls: list[Callable[..., Any]] = []

    def submit(self, fn: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:
        self.calls.append(fn)
        return Future()


def test_room_is_kept_also_while_submits_are_under_way(world: World) -> None:
    provider = ScriptedProvider(world.platform)
    provider.max_active = 2
    pool = ThreadPoolExecutor(4)
    world.restart(provider=provider, pool=pool)
    for _ in range(5):
        world.submit()
    go_on = threading.Event()
    for _ in range(2):
        world.platform.interrupt("submit", lambda: wait(go_on))
    world.loop.tick()
    world.loop.tick()
    go_on.set()
    pool.shutdown()
    assert len(world.platform.starts) == 2
    world.restart(provider=provider)
    world.tick()
    assert len(world.platform.starts) == 2
    world.platform.set("job-1", State.COMPLETE)
    world.clock.advance(seconds=15)
    world.tick()
    world.tick()
    assert len(world.platform.starts) == 3


def test_a_run_that_is_being_submitted_takes_one_place(world: World) -> None:
    provider = ScriptedProvider(world.platform)
    provider.max_active = 2
    pool = ThreadPoolExecutor(4)
    world.restart(provider=provider, pool=pool)
    being_sent, go_on = hold_next(world, "submit")
    first = world.submit()
    world.loop.tick()
    wait(being_sent)
    assert world.run(first).state == State.INITIALIZING
    second, third = world.submit(), world.submit()
    world.loop.tick()
    while not world.platform.starts:
        go_on.wait(0.01)
    world.loop.tick()
    go_on.set()
    pool.shutdown()
    assert sorted(world.platform.starts) == sorted([f"wes-{first}", f"wes-{second}"])
    assert world.run(third).state == State.QUEUED


def test_what_a_run_left_is_fetched_while_another_has_its_place(world: World) -> None:
    provider = ScriptedProvider(world.platform)
    provider.max_active = 1
    pool = ThreadPoolExecutor(4)
    world.restart(provider=provider, pool=pool)
    first, second, third = (world.submit() for _ in range(3))
    fetching, go_on = hold_next(world, "outputs")
    world.loop.tick()
    while world.run(first).claim is not None or not world.platform.jobs or world.loop._busy:
        go_on.wait(0.01)
    world.platform.set("job-1", State.COMPLETE)
    world.clock.advance(seconds=15)
    world.loop.tick()
    wait(fetching)
    world.loop.tick()
    while len(world.platform.starts) < 2:
        go_on.wait(0.01)
    world.loop.tick()
    go_on.set()
    pool.shutdown()
    assert world.run(first).state == State.COMPLETE
    assert world.platform.starts == [f"wes-{first}", f"wes-{second}"]
    assert world.run(third).state == State.QUEUED


def test_watched_logs_are_fetched_while_the_run_goes_on(world: World) -> None:
    run_id = world.running()
    now = world.clock()
    world.database.transact(lambda session: transitions.want_logs(session, run_id, now, now))
    world.tick()
    assert content(world.storage.log(run_id, "stdout")) == b"hello from the run\n"
    with world.database.reading() as session:
        assert [task.name for task in listing.get_tasks(session, run_id)] == ["align"]


@pytest.fixture
def daemon(world: World) -> Iterator[WorkflowDaemon]:
    made = _daemon(world)
    made.start()
    yield made
    made.stop()


def _daemon(world: World) -> WorkflowDaemon:
    """One that does nothing by itself before it is started."""
    identity = Daemon(
        id=str(uuid.uuid4()),
        host="host-1",
        hostname="test",
        version="0",
        started_at=world.clock(),
        last_seen=world.clock(),
    )
    return WorkflowDaemon(
        [ScriptedProvider(world.platform)],
        world.database,
        world.storage,
        identity=identity,
        now=world.clock,
        poll_seconds=0.01,
        host_lost_after=3600,
    )


def test_a_daemon_takes_over_the_claims_of_its_dead_predecessor_at_once(world: World) -> None:
    run_id = world.submit()
    dead = str(uuid.uuid4())
    who = claims.Claimant("scripted", "host-1", f"{dead}:1", timedelta(seconds=LEASE))
    world.database.transact(lambda session: claims.claim_new(session, who, world.clock(), 10))
    for daemon_id in (dead, str(uuid.uuid4())):
        identity = Daemon(
            id=daemon_id, host="host-1", hostname="t", version="0", started_at=world.clock(), last_seen=world.clock()
        )
        made = WorkflowDaemon([], world.database, world.storage, identity=identity, now=world.clock)
        made.start()
        if daemon_id != dead:
            assert world.run(run_id).claim is None
        made.stop()


def test_a_stopped_daemon_gives_its_claims_back(world: World, daemon: WorkflowDaemon) -> None:
    entered, go_on = hold_next(world, "submit")
    run_id = world.submit()
    daemon.hint(run_id)
    assert entered.wait(60)
    stopper = threading.Thread(target=daemon.stop)
    stopper.start()
    go_on.set()
    stopper.join()
    run = world.run(run_id)
    assert run.provider_id == "job-1" and run.claim is None


def test_runs_of_a_host_that_is_gone_for_good_end(world: World) -> None:
    daemon = _daemon(world)
    run_id = world.submit(provider_type="elsewhere")
    now = world.clock()
    world.database.transact(lambda session: _move_to_lost_host(session, run_id))
    gone = Daemon(
        id=str(uuid.uuid4()),
        host="gone",
        hostname="t",
        version="0",
        started_at=now,
        last_seen=now - timedelta(hours=2),
        offers={},
    )
    world.database.transact(lambda session: session.add(gone))
    world.clock.advance(seconds=120)
    daemon.beat()
    daemon.end_lost_hosts()
    daemon.end_lost_hosts()
    assert world.run(run_id).state == State.SYSTEM_ERROR
    assert world.notes(run_id)[-1].startswith("host_lost")


def test_a_clock_that_jumps_loses_no_host_that_lives(world: World) -> None:
    daemon = _daemon(world)
    daemon.beat()
    run_id = world.submit(provider_type="elsewhere")
    world.database.transact(lambda session: _move_to_lost_host(session, run_id, "host-1"))
    for _ in range(3):
        world.clock.advance(days=5)
        daemon.end_lost_hosts()
        daemon.beat()
    assert world.run(run_id).state == State.RUNNING


def test_what_a_wrong_clock_put_off_is_brought_back(world: World, daemon: WorkflowDaemon) -> None:
    run_id = world.submit(provider_type="elsewhere")
    world.clock.advance(days=-5)
    daemon.keep_house()
    assert world.run(run_id).due_at == world.clock()


def _move_to_lost_host(session: Any, run_id: str, host: str = "gone") -> None:
    run = session.get(WorkflowRun, run_id)
    run.host, run.state = host, State.RUNNING


def test_what_is_offered_and_what_is_wrong_is_in_the_database(world: World) -> None:
    daemon = _daemon(world)
    daemon.loops[0].breaker.failed("down")
    for _ in range(OPENS_AFTER):
        daemon.loops[0].breaker.failed("down")
    daemon.beat()
    with world.database.reading() as session:
        (row,) = session.query(Daemon).all()
    assert row.offers["scripted"]["problem"] == "down"
    assert row.offers["scripted"]["capabilities"]["cancel"] is True


def test_a_loop_that_fails_at_every_tick_says_so(world: World, daemon: WorkflowDaemon, monkeypatch: Any) -> None:
    loop, failed = daemon.loops[0], threading.Event()

    def fail() -> float:
        failed.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr(loop, "tick", fail)
    loop.wake()
    assert failed.wait(60)
    while loop.problem is None:
        failed.wait(0.01)
    problem = None
    while problem is None:  # the daemon's own first beat may come after this one, with what it saw before
        daemon.beat()
        with world.database.reading() as session:
            (row,) = session.query(Daemon).all()
            problem = row.offers["scripted"]["problem"]
    assert "RuntimeError" in problem
