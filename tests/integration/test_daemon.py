"""The daemon tick by tick, on both databases, with a clock and a provider that do as they are told."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.artifacts import DirectoryStorage, StoredFile
from app.daemon import provider_loop
from app.daemon.claimed_runs import Policy
from app.daemon.following import CANCELED_UNSEEN_SECONDS
from app.daemon.holds import Holds
from app.daemon.patience import OPENS_AFTER
from app.daemon.provider_loop import ProviderLoop
from app.daemon.workflow_daemon import WorkflowDaemon
from app.database import Database
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.models import Daemon, WorkflowRun
from app.runs import acceptance, claims, listing, transitions
from app.runs.acceptance import NewRun
from app.states import State
from tests.conftest import Clock
from tests.fakes.scripted import Platform, ScriptedProvider

LEASE = 60.0
POLICY = Policy(give_up_after=3, lost_looks=3, lost_seconds=600)


class Killed(BaseException):
    """The process dies here: nothing that was going to happen after it happens."""


class AtOnce(Executor):
    """Does the work in the caller's thread, where a test sees a Killed."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class World:
    """One platform, one database, and daemons that come and go."""

    def __init__(self, database: Database, storage: DirectoryStorage, clock: Clock) -> None:
        self.database, self.storage, self.clock = database, storage, clock
        self.platform = Platform()
        self.drafts = False
        self.loop = self.new_loop()

    def new_loop(
        self, *, provider: ScriptedProvider | None = None, host: str = "host-1", **options: Any
    ) -> ProviderLoop:
        provider = provider or ScriptedProvider(self.platform, self.drafts)
        monotonic: Callable[[], float] = lambda: self.clock().timestamp()  # noqa: E731
        holds = Holds(self.database, timedelta(seconds=LEASE), self.clock, monotonic)
        options = {"workers": 4, "policy": POLICY, "pool": AtOnce(), "monotonic": monotonic} | options
        return ProviderLoop(
            provider,
            self.database,
            self.storage,
            holds,
            daemon_id=str(uuid.uuid4()),
            host=host,
            now=self.clock,
            **options,
        )

    def restart(self, **options: Any) -> None:
        """The daemon died; another one begins, with nothing but the database."""
        self.loop = self.new_loop(**options)

    def submit(self, run_id: str | None = None, **fields: Any) -> str:
        run_id = run_id or str(uuid.uuid4())
        values: dict[str, Any] = {
            "owner": "local",
            "name": "hello",
            "provider_type": "scripted",
            "workflow_type": "CWL",
            "workflow_type_version": "v1.2",
            "workflow_url": "hello.cwl",
            "workflow_params": {"x": 1},
        }
        new = NewRun(run_id=run_id, **(values | fields))
        self.database.transact(lambda session: acceptance.accept(session, new, self.clock()))
        return run_id

    def tick(self) -> float:
        return self.loop.tick()

    def tick_until(self, run_id: str, state: State, step_seconds: float = 20.0, ticks: int = 200) -> WorkflowRun:
        for _ in range(ticks):
            self.tick()
            if (run := self.run(run_id)).state == state:
                return run
            self.clock.advance(seconds=step_seconds)
        raise AssertionError(f"{run.state} ({run.waiting_for}), not {state}, after {ticks} ticks")

    def run(self, run_id: str) -> WorkflowRun:
        with self.database.reading() as session:
            return listing.get_run(session, run_id, None)

    def notes(self, run_id: str) -> list[str]:
        with self.database.reading() as session:
            return [event.note or "" for event in listing.get_events(session, run_id)]

    def cancel(self, run_id: str) -> None:
        self.database.transact(lambda session: transitions.cancel(session, run_id, self.clock(), by="local"))

    def running(self, **fields: Any) -> str:
        """A run that the platform is running."""
        run_id = self.submit(**fields)
        self.tick()
        self.platform.set(str(self.run(run_id).provider_id), State.RUNNING)
        self.clock.advance(seconds=15)
        self.tick()
        assert self.run(run_id).state == State.RUNNING
        return run_id


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, clock: Clock) -> World:
    return World(database, storage, clock)


def end(world: World, run_id: str, state: State, **changes: Any) -> None:
    world.platform.set(str(world.run(run_id).provider_id), state, **changes)


def content(kept: StoredFile | None) -> bytes:
    assert kept is not None
    with kept.open() as file:
        return file.read()


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
    seen: list[WorkflowRun] = []
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

    def claim_known(*arguments: Any) -> list[WorkflowRun]:
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
    slow_platform.interrupt("submit", lambda: _wait(go_on))
    stuck, quick = world.submit(provider_type="slow"), world.submit()
    slow.tick()
    world.tick()
    assert world.run(quick).provider_id == "job-1"
    assert world.run(stuck).provider_id is None
    go_on.set()
    pool.shutdown()
    assert world.run(stuck).provider_id == "job-1"


def _wait(event: threading.Event) -> None:
    assert event.wait(60)


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


def test_room_is_kept_also_while_submits_are_under_way(world: World) -> None:
    provider = ScriptedProvider(world.platform)
    provider.max_active = 2
    pool = ThreadPoolExecutor(4)
    world.restart(provider=provider, pool=pool)
    for _ in range(5):
        world.submit()
    go_on = threading.Event()
    for _ in range(2):
        world.platform.interrupt("submit", lambda: _wait(go_on))
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
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        _wait(go_on)

    world.platform.interrupt("submit", hold)
    run_id = world.submit()
    daemon.hint(run_id)
    assert entered.wait(60)
    stopper = threading.Thread(target=daemon.stop)
    stopper.start()
    go_on.set()
    stopper.join()
    run = world.run(run_id)
    assert run.provider_id == "job-1" and run.claim is None


def test_runs_of_a_host_that_is_gone_for_good_end(world: World, daemon: WorkflowDaemon) -> None:
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


def test_what_is_offered_and_what_is_wrong_is_in_the_database(world: World, daemon: WorkflowDaemon) -> None:
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
    daemon.beat()
    with world.database.reading() as session:
        (row,) = session.query(Daemon).all()
    assert "RuntimeError" in row.offers["scripted"]["problem"]
