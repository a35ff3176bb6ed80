"""The daemon with HealthOmics, tick by tick: from QUEUED to an end, through outages, crashes and races.

On SQLite only: what depends on the database is shown without a cloud, in test_daemon.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.artifacts import DirectoryStorage
from app.daemon.claimed_runs import Policy
from app.daemon.provider_loop import ProviderLoop
from app.daemon.providers.healthomics import HealthOmicsProvider
from app.database import Database
from app.models import WorkflowRun
from app.runs import claims, transitions
from app.runs.acceptance import AttachedFile
from app.states import State
from tests.contract.healthomics_harness import BUCKET, PRIVATE_WORKFLOW, HealthOmicsHarness
from tests.daemon_world import LEASE, FakesClock, Killed, World, content

pytestmark = pytest.mark.timeout(600)

LONG = {"seconds": {"RUNNING": None}}
DAY = 86_400


class OmicsWorld(World):
    def __init__(self, database: Database, storage: DirectoryStorage, harness: HealthOmicsHarness) -> None:
        self.harness = harness
        super().__init__(database, storage, FakesClock(harness))

    @property
    def provider(self) -> HealthOmicsProvider:
        assert isinstance(self.loop.provider, HealthOmicsProvider)
        return self.loop.provider

    def new_loop(self, *, provider: Any = None, host: str = "host-1", **options: Any) -> ProviderLoop:
        provider = provider or self.harness.new_provider()
        return super().new_loop(provider=provider, host=host, **({"policy": Policy()} | options))

    def submit(self, run_id: str | None = None, *, plan: Any = None, **fields: Any) -> str:
        usual = {
            "provider_type": "healthomics",
            "workflow_type": "WDL",
            "workflow_type_version": "1.0",
            "workflow_url": f"healthomics:{PRIVATE_WORKFLOW}",
            "workflow_params": {"fake-plan": json.dumps(plan or {})},
        }
        return super().submit(run_id, **usual | fields)

    def running(self, **fields: Any) -> str:
        run_id = self.submit(**fields)
        self.tick_until(run_id, State.RUNNING, step_seconds=15)
        return run_id

    def starts(self, run_id: str) -> int:
        """Executions of this run that really began."""
        events = [event["detail"] for event in self.harness.fake.control.events()]
        return len({one["uuid"] for one in events if one["runName"] == f"wes-{run_id}" and one["status"] == "RUNNING"})

    def made(self) -> dict[str, int]:
        """Runs that StartRun made, by name."""
        names = [one["name"] for one in self.harness.fake.control.runs()]
        return {name: names.count(name) for name in names}


@pytest.fixture
def database_url(_sqlite_template: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copyfile(_sqlite_template, tmp_path / 'wes.sqlite')}"


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[HealthOmicsHarness]:
    with HealthOmicsHarness(tmp_path / "harness") as entered:
        assert isinstance(entered, HealthOmicsHarness)
        yield entered


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, harness: HealthOmicsHarness) -> OmicsWorld:
    return OmicsWorld(database, storage, harness)


def column(world: OmicsWorld, run_id: str, name: str) -> Any:
    with world.database.reading() as session:
        return session.query(getattr(WorkflowRun, name)).filter_by(run_id=run_id).scalar()


# From QUEUED to an end


def test_a_run_from_queued_to_complete(world: OmicsWorld) -> None:
    run_id = world.submit(plan={"outputs": {"hello.out": "{runOutputUri}/a.txt"}, "tasks": [{"name": "say"}]})
    run = world.tick_until(run_id, State.COMPLETE)
    uri = column(world, run_id, "outputs")["output_location"]
    assert uri.startswith(f"s3://{BUCKET}/runs/{run_id}/outputs/")
    assert column(world, run_id, "outputs") == {"hello.out": f"{uri}/a.txt", "output_location": uri}
    assert (run.exit_code, run.provider_status) == (0, "COMPLETED")
    assert run.start_time and run.end_time and run.end_time - run.start_time == timedelta(seconds=70)
    assert run.provider_metadata["runOutputUri"] == uri
    assert content(world.storage.log(run_id, "stdout")) == b"started\ndone\n"
    assert world.starts(run_id) == 1


def test_the_services_words_reach_the_system_logs(world: OmicsWorld) -> None:
    plan = {"outcome": "FAILED", "reason": "OUT_OF_MEMORY_ERROR", "message": "Task align ran out of memory"}
    failed = world.submit(plan=plan)
    broken = world.submit(plan={"outcome": "FAILED", "reason": "SERVICE_ERROR", "message": "Try again"})
    world.tick_until(failed, State.EXECUTOR_ERROR)
    world.tick_until(broken, State.SYSTEM_ERROR)
    assert world.notes(failed)[-1] == "OUT_OF_MEMORY_ERROR: Task align ran out of memory"
    assert world.notes(broken)[-1] == "SERVICE_ERROR: Try again"


def test_stopping_is_not_canceling(world: OmicsWorld) -> None:
    run_id = world.running(plan={"seconds": {"STOPPING": 300}})
    world.clock.advance(seconds=90)
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.provider_status) == (State.RUNNING, "STOPPING")
    world.tick_until(run_id, State.COMPLETE)
    assert "CANCELING" not in str(world.notes(run_id))


def test_a_run_that_the_service_would_refuse_ends_before_it_is_sent(world: OmicsWorld) -> None:
    run_id = world.submit(workflow_params={"x": "y" * 50_000})
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.provider_id) == (State.SYSTEM_ERROR, None)
    assert world.notes(run_id)[-1].startswith("parameters_too_large: The parameters are 50,")
    assert "StartRun" not in world.harness.fake.control.calls()


def test_a_definition_is_registered_while_the_run_waits_queued(world: OmicsWorld) -> None:
    upload = world.storage.new_upload()
    upload.write(b"version 1.0\nworkflow hello {}\n")
    sha256, size = upload.keep()
    attachment = AttachedFile("hello.wdl", sha256, size)
    runs = [world.submit(workflow_url="hello.wdl", attachments=(attachment,)) for _ in range(3)]
    world.tick()
    for run_id in runs:
        run = world.run(run_id)
        assert (run.state, run.attempt) == (State.QUEUED, 0)
        assert run.waiting_for and run.waiting_for.startswith("The workflow definition is being registered")
    for run_id in runs:
        world.tick_until(run_id, State.COMPLETE, step_seconds=6)
    assert world.harness.fake.control.calls()["CreateWorkflow"] == 1


def test_logs_grow_while_somebody_watches(world: OmicsWorld) -> None:
    run_id = world.running(plan=LONG)
    assert world.storage.log(run_id, "stdout") is None, "nobody has asked yet"
    now = world.clock()
    world.database.transact(lambda session: transitions.want_logs(session, run_id, now, now))
    world.database.transact(lambda session: claims.hint(session, [run_id], now))
    world.tick()
    assert content(world.storage.log(run_id, "stdout")) == b"started\ndone\n"
    assert world.run(run_id).state == State.RUNNING


# Pace


def test_one_start_a_second_and_no_tick_too_many(world: OmicsWorld, harness: HealthOmicsHarness) -> None:
    world.restart(provider=harness.provider_at(harness.url, starts_per_second=1))
    runs = [world.submit(plan=LONG) for _ in range(12)]
    for started in range(1, 13):
        delay = world.tick()
        assert len(harness.fake.control.runs()) == started
        assert delay == pytest.approx(0.8)
        world.clock.advance(seconds=1)
    assert {world.run(run_id).attempt for run_id in runs} == {1}


@pytest.mark.parametrize(("kind", "word"), [("throttle", "Rate exceeded"), ("quota", "Maximum number of runs")])
def test_a_throttled_submit_stays_queued_and_says_why(world: OmicsWorld, kind: str, word: str) -> None:
    world.harness.fail(kind=kind, operation="StartRun", times=None)
    runs = [world.submit() for _ in range(20)]
    for _ in range(10):
        world.tick()
        assert word in (world.provider.pace().problem or "")
        world.clock.advance(seconds=20)
    states = [world.run(run_id) for run_id in runs]
    assert {run.state for run in states} == {State.QUEUED}
    assert any(word in (run.waiting_for or "") for run in states)
    assert world.harness.fake.control.calls()["StartRun"] <= 20, "200 seconds of trying 20 runs"
    world.harness.heal()
    for run_id in runs:
        world.tick_until(run_id, State.COMPLETE)
    assert set(world.made().values()) == {1}


# Outages, crashes, races


@pytest.mark.parametrize("kind", ["unavailable", "throttle", "expired"])
def test_an_outage_of_a_day_changes_no_runs_state(world: OmicsWorld, kind: str) -> None:
    running, done = world.running(plan=LONG), world.running()
    canceling = world.running(plan=LONG)
    world.clock.advance(seconds=301)  # what is remembered of workflows is old by then
    world.harness.fail(kind=kind, times=None)
    world.cancel(canceling)
    queued = [world.submit() for _ in range(3)]
    before = [world.run(run_id).state for run_id in (running, done, canceling, *queued)]
    events = sum(len(world.notes(run_id)) for run_id in (running, done, canceling, *queued))
    world.harness.fake.control.reset()
    passed = 0.0
    while passed < DAY:
        delay = max(world.tick(), 240.0)
        world.clock.advance(seconds=delay)
        passed += delay
    assert [world.run(run_id).state for run_id in (running, done, canceling, *queued)] == before
    assert sum(len(world.notes(run_id)) for run_id in (running, done, canceling, *queued)) == events
    assert all(world.run(run_id).waiting_for for run_id in queued)
    assert sum(world.harness.fake.control.calls().values()) < 1500, "a day has 1440 minutes"
    world.harness.heal()
    world.tick_until(done, State.COMPLETE)
    world.tick_until(canceling, State.CANCELED)
    for run_id in queued:
        world.tick_until(run_id, State.COMPLETE)
    assert world.run(running).state == State.RUNNING
    assert [world.starts(run_id) for run_id in (running, done, canceling, *queued)] == [1] * 6


def test_a_crash_between_call_and_commit_starts_nothing_twice(world: OmicsWorld) -> None:
    honest = world.provider.submit_workflow

    def die_after(run: Any) -> Any:
        honest(run)
        raise Killed

    world.provider.submit_workflow = die_after  # type: ignore[method-assign]
    run_id = world.submit()
    with pytest.raises(Killed):
        world.tick()
    run = world.run(run_id)
    assert (run.state, run.provider_id) == (State.INITIALIZING, None)
    world.restart()
    world.clock.advance(seconds=LEASE)
    world.tick_until(run_id, State.COMPLETE)
    assert (world.starts(run_id), world.made()) == (1, {f"wes-{run_id}": 1})


@pytest.mark.parametrize(
    "fault", [{"kind": "drop", "commit": True}, {"kind": "error", "commit": True}, {"kind": "error"}]
)
@pytest.mark.parametrize("options", [{}, {"list_lag_seconds": 45}, {"duplicates": "conflict"}])
def test_a_lost_answer_becomes_one_run(world: OmicsWorld, fault: dict[str, Any], options: dict[str, Any]) -> None:
    world.harness.fake.control.configure(**options)
    world.harness.fail(operation="StartRun", **fault)
    run_id = world.submit()
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.provider_id) == (State.INITIALIZING, None)
    world.tick_until(run_id, State.COMPLETE, step_seconds=10)
    assert (world.starts(run_id), world.made()) == (1, {f"wes-{run_id}": 1})


def test_cancelled_while_the_answer_is_lost(world: OmicsWorld) -> None:
    world.harness.fail(kind="drop", operation="StartRun", commit=True)
    arrived = world.submit(plan=LONG)
    world.tick()
    world.cancel(arrived)
    world.tick_until(arrived, State.CANCELED)
    world.harness.fail(kind="drop", operation="StartRun")
    lost = world.submit(plan=LONG)
    world.tick()
    world.cancel(lost)
    world.tick_until(lost, State.CANCELED)
    assert world.made() == {f"wes-{arrived}": 1}
    assert [one["status"] for one in world.harness.fake.control.runs()] == ["CANCELLED"]


def test_a_cancel_that_races_a_completion(world: OmicsWorld) -> None:
    run_id = world.running()
    world.clock.advance(seconds=75)  # over at the service, not yet seen here
    world.cancel(run_id)
    assert world.tick_until(run_id, State.COMPLETE).exit_code == 0
    assert column(world, run_id, "outputs")["output_location"]
    assert "CancelRun" not in world.harness.fake.control.calls()


def test_a_cancel_of_a_running_run(world: OmicsWorld) -> None:
    run_id = world.running(plan=LONG)
    world.cancel(run_id)
    world.tick()
    assert world.run(run_id).state == State.CANCELING
    world.tick_until(run_id, State.CANCELED)
    assert world.harness.fake.control.calls()["CancelRun"] == 1


def test_a_run_that_was_deleted_and_whose_id_came_again_is_lost_not_followed(world: OmicsWorld) -> None:
    run_id = world.running(plan=LONG)
    provider_id = str(world.run(run_id).provider_id)
    world.harness.fake.control.set_run(id=provider_id.split("/")[0], status="CANCELLED")
    world.harness.lose(provider_id)
    heir = world.running(plan=LONG)
    assert str(world.run(heir).provider_id).split("/")[0] == provider_id.split("/")[0]
    world.tick_until(run_id, State.SYSTEM_ERROR, step_seconds=120)
    assert world.notes(run_id)[-1].startswith("provider_lost_run")
    assert world.run(heir).state == State.RUNNING


def test_a_missing_run_that_comes_back_goes_on(world: OmicsWorld) -> None:
    run_id = world.running(plan=LONG)
    world.harness.fail(kind="missing", operation="GetRun", times=3)
    for _ in range(6):
        world.clock.advance(seconds=60)
        world.tick()
    assert world.run(run_id).state == State.RUNNING and world.run(run_id).missing_since is None


def test_outputs_that_may_not_be_read_for_a_while(world: OmicsWorld) -> None:
    run_id = world.running()
    world.harness.fail(kind="denied", operation="GetRun", skip=1, times=3)
    world.tick_until(run_id, State.COMPLETE)
    assert column(world, run_id, "outputs")


def test_two_daemons_share_the_work(world: OmicsWorld) -> None:
    other = world.new_loop(host="host-2")
    runs = [world.submit() for _ in range(8)]
    for _ in range(12):
        world.tick()
        other.tick()
        world.clock.advance(seconds=20)
    assert {world.run(run_id).state for run_id in runs} == {State.COMPLETE}
    assert set(world.made().values()) == {1} and len(world.made()) == 8


def test_an_event_shows_an_end_at_once(world: OmicsWorld) -> None:
    runs = [world.running(plan=LONG) for _ in range(6)]
    world.clock.advance(seconds=30)
    world.tick()
    told = str(world.run(runs[0]).provider_id)
    world.harness.fake.control.set_run(id=told.split("/")[0], status="COMPLETED")
    world.provider.has_changed(told)
    world.database.transact(lambda session: claims.hint(session, [runs[0]], world.clock()))
    world.tick()
    assert world.run(runs[0]).state == State.COMPLETE
