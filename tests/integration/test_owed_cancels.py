"""A second execution of a run is ended, however long that takes, and whatever becomes of the run meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.credentials import BVBRC, Vault
from app.database import Database
from app.errors import Conflict, NotAccepted, NotFound, OutcomeUnknown, Rejected
from app.models import OwedCancel
from app.runs import claims, deletion, owed_cancels, transitions
from app.runs.transitions import End
from app.states import State
from tests.conftest import Clock
from tests.daemon_world import World
from tests.fakes.scripted import ScriptedProvider
from tests.integration.test_credentials import KEY, SECRET, accept, end, read, rows, store

SECOND = "job-2"


def started_twice(world: World) -> str:
    """A run that job-1 executes and, as this platform has forgotten its key, job-2 as well."""
    run_id = world.submit()
    other = world.new_loop()

    def stall_until_another_daemon_has_submitted() -> None:
        world.clock.advance(seconds=200)
        while world.run(run_id).provider_id is None:
            other.tick()
            world.clock.advance(seconds=100)
        world.platform.only_job().submit_key = "forgotten"

    world.platform.interrupt("submit", stall_until_another_daemon_has_submitted)
    world.tick()
    assert world.run(run_id).provider_id == "job-1"
    return run_id


def owed(database: Database) -> list[OwedCancel]:
    with database.reading() as session:
        return list(session.scalars(select(OwedCancel)))


def delete(database: Database, run_id: str) -> None:
    database.transact(lambda session: deletion.delete_run(session, run_id, None))


def tick_for(world: World, **how_long: float) -> None:
    until = world.clock() + timedelta(**how_long)
    while world.clock() < until:
        world.tick()
        world.clock.advance(seconds=20)


@pytest.mark.parametrize("error", [OutcomeUnknown("reset"), NotAccepted("away", 30), Rejected("no"), ValueError("x")])
def test_a_cancel_that_fails_is_asked_again_until_the_second_is_over(world: World, error: Exception) -> None:
    run_id = started_twice(world)
    world.platform.fail("cancel", *[error] * 3)
    tick_for(world, hours=1)
    assert world.platform.jobs[SECOND].cancels > 1  # a cancel that was taken, and that had no effect yet
    assert [cancel.provider_id for cancel in owed(world.database)] == [SECOND]
    world.platform.set(SECOND, State.CANCELED)
    tick_for(world, minutes=10)
    assert owed(world.database) == []
    assert "the second provider run job-2 is over" in world.notes(run_id)
    assert world.platform.jobs["job-1"].cancels == 0


def test_it_is_owed_through_the_death_of_the_daemon_and_the_end_of_the_run(world: World) -> None:
    run_id = started_twice(world)
    world.platform.fail("cancel", *[OutcomeUnknown("reset")] * 3)
    world.restart()
    world.platform.set("job-1", State.COMPLETE)
    world.tick_until(run_id, State.COMPLETE)
    assert world.platform.jobs[SECOND].cancels == 0
    with pytest.raises(Conflict, match=SECOND):
        delete(world.database, run_id)
    world.restart()
    tick_for(world, hours=1)
    assert world.platform.jobs[SECOND].cancels > 0
    world.platform.set(SECOND, State.CANCELED)
    tick_for(world, minutes=10)
    delete(world.database, run_id)
    with pytest.raises(NotFound):
        world.run(run_id)


def test_it_is_owed_by_a_run_that_is_deleted(world: World) -> None:
    run_id = world.submit()

    def end_and_delete() -> None:
        world.cancel(run_id)
        world.clock.advance(seconds=200)
        while world.run(run_id).state != State.CANCELED:
            other.tick()
            world.clock.advance(seconds=30)
        delete(world.database, run_id)

    other = world.new_loop()
    world.platform.interrupt("submit", end_and_delete)
    world.tick()
    world.platform.fail("cancel", OutcomeUnknown("reset"))
    tick_for(world, minutes=10)
    assert world.platform.only_job().cancels > 0
    world.platform.set("job-1", State.CANCELED)
    tick_for(world, minutes=10)
    assert owed(world.database) == []


def test_the_first_execution_and_other_runs_do_not_suffer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    run_id = started_twice(world)
    world.platform.fail("cancel", *[OutcomeUnknown("reset")] * 1000)
    world.platform.set("job-1", State.RUNNING)
    tick_for(world, hours=3)
    told = [record for record in caplog.records if "second provider run" in record.message]
    assert {(record.exc_info, vars(record)["error"]) for record in told} == {(None, "reset")}
    assert world.loop.problem is None
    run = world.run(run_id)
    assert (run.state, run.failures, run.waiting_for) == (State.RUNNING, 0, None)
    assert world.platform.calls.count("cancel") < 200  # of 540 ticks: it backs off


def test_what_its_provider_does_not_know_is_over_after_a_while(world: World) -> None:
    started_twice(world)
    world.platform.hidden.add(SECOND)
    world.tick()
    assert owed(world.database) != []
    tick_for(world, minutes=20)
    assert owed(world.database) == []


def test_a_try_is_one_daemons_alone(world: World) -> None:
    started_twice(world)
    taken = [
        world.database.transact(
            lambda session: owed_cancels.take_due(session, "scripted", "any", world.clock(), timedelta(seconds=60), 10)
        )
        for _ in range(2)
    ]
    assert [len(some) for some in taken] == [1, 0]


def test_what_runs_on_a_host_is_ended_there(world: World) -> None:
    class HostBound(ScriptedProvider):
        capabilities = replace(ScriptedProvider.capabilities, host_bound=True)

    world.loop = world.new_loop(provider=HostBound(world.platform))
    run_id = world.submit()
    world.platform.interrupt("submit", lambda: end_elsewhere(world, run_id))
    world.tick()
    world.loop = world.new_loop(provider=HostBound(world.platform), host="host-2")
    tick_for(world, minutes=10)
    assert world.platform.only_job().cancels == 0
    world.loop = world.new_loop(provider=HostBound(world.platform), host="host-1")
    world.tick()
    assert world.platform.only_job().cancels == 1


def end_elsewhere(world: World, run_id: str) -> None:
    """As for a host that was given up."""
    world.clock.advance(days=2)
    now, lease = world.clock(), timedelta(seconds=60)
    (run,) = world.database.transact(lambda session: claims.claim_lost(session, "d:lost", ["host-1"], now, lease))
    lost = End(State.SYSTEM_ERROR, "gone", "host_lost")
    assert world.database.transact(lambda session: transitions.finish(session, run, lost, now, by="daemon"))


def test_a_wrong_clock_does_not_put_it_off_for_long(world: World) -> None:
    started_twice(world)
    world.platform.fail("cancel", OutcomeUnknown("reset"))
    world.clock.advance(days=5)
    world.tick()
    world.clock.advance(days=-5)
    world.database.transact(lambda session: claims.bring_back(session, world.clock()))
    world.tick()
    assert world.platform.jobs[SECOND].cancels == 1


def test_a_secret_stays_while_it_is_needed_for_that(database: Database, clock: Clock) -> None:
    vault, run_id = Vault([KEY]), accept(database, clock())
    store(database, vault, run_id)
    database.transact(lambda session: owed_cancels.owe(session, run_id, BVBRC, "1/x", None, clock()))
    end(database, clock, run_id)
    assert read(database, vault, run_id) == {run_id: SECRET}
    assert store(database, vault, run_id, fresh := SECRET.replace("alice", "bob"))
    assert read(database, vault, run_id) == {run_id: fresh}
    (one,) = owed(database)
    database.transact(lambda session: owed_cancels.settle(session, one, clock()))
    assert rows(database) == []
    assert not store(database, vault, run_id)
