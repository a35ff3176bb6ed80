"""The daemon with Seven Bridges, tick by tick: every run ends right, and each is started once, whatever is lost between."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.artifacts import DirectoryStorage
from app.daemon.claimed_runs import Policy
from app.daemon.provider_loop import ProviderLoop
from app.daemon.providers.sevenbridges import SevenBridgesProvider
from app.database import Database
from app.runs import listing
from app.states import State, is_terminal
from tests.contract.sevenbridges_harness import PROJECT, SevenBridgesHarness
from tests.daemon_world import LEASE, FakesClock, Killed, World

pytestmark = pytest.mark.timeout(600)

DAY = 86_400
PLAN = {
    "outputs": {"answer": 42, "reads.txt": {"class": "File", "path": "reads.txt"}},
    "files": {"reads.txt": "ACGT\n"},
    "tasks": [{"name": "sort", "log": ["sorted"]}, {"name": "count", "log": ["counted"]}],
}


class SevenWorld(World):
    """Daemons on the real provider, whose platform is the fake."""

    def __init__(self, database: Database, storage: DirectoryStorage, harness: SevenBridgesHarness) -> None:
        self.harness = harness
        self.kills: list[str] = []
        self.died = 0
        super().__init__(database, storage, FakesClock(harness))

    def new_loop(self, *, provider: Any = None, host: str = "host-1", **options: Any) -> ProviderLoop:
        provider = provider or self.harness.new_provider()
        for point in self.kills:
            die_at(provider, *point.split("."))
        return super().new_loop(provider=provider, host=host, **({"policy": Policy()} | options))

    def submit(self, run_id: str | None = None, *, plan: Any = None, **fields: Any) -> str:
        usual = {
            "provider_type": "sevenbridges",
            "workflow_url": f"sevenbridges:{PROJECT}/hello",
            "workflow_params": {"message": "hi", "fake_plan": json.dumps(plan or PLAN)},
        }
        return super().submit(run_id, **usual | fields)

    def tick_on(self, seconds: float = 20.0) -> None:
        """A tick, in which the daemon may die: then another one takes over, once the lease is over."""
        try:
            self.tick()
        except Killed:
            self.died += 1
            self.restart()
            self.clock.advance(seconds=LEASE)
        self.clock.advance(seconds=seconds)

    def until_over(self, *run_ids: str, ticks: int = 400) -> Counter[str]:
        for _ in range(ticks):
            self.tick_on()
            states = [self.run(run_id).state for run_id in run_ids]
            if all(is_terminal(state) for state in states):
                return Counter(states)
        raise AssertionError([(state, self.run(one).waiting_for) for one, state in zip(run_ids, states, strict=True)])

    def starts(self, run_id: str) -> int:
        return sum(task["starts"] for task in self.harness.fake.control.tasks() if task["name"] == f"wes-{run_id}")

    def orphans(self) -> list[str]:
        """Tasks that were started and are in no run's row."""
        started = {task["name"]: task["id"] for task in self.harness.fake.control.tasks() if task["starts"]}
        return [one for name, one in started.items() if self.run(name.removeprefix("wes-")).provider_id != one]


def die_at(provider: SevenBridgesProvider, method: str, when: str) -> None:
    """The first call of a method of the provider is the daemon's last."""
    real = getattr(provider, method)

    def dying(*args: Any) -> Any:
        if when == "after":
            real(*args)
        raise Killed(f"{method}.{when}")

    setattr(provider, method, dying)


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, tmp_path: Path) -> Iterator[SevenWorld]:
    with SevenBridgesHarness(tmp_path / "harness") as harness:
        yield SevenWorld(database, storage, harness)  # type: ignore[arg-type]


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_run_goes_from_queued_to_complete_with_all_that_it_left(world: SevenWorld) -> None:
    run_id = world.submit()
    assert world.until_over(run_id) == {"COMPLETE": 1}
    run = world.run(run_id)
    assert run.outputs is not None and run.outputs["answer"] == 42
    with world.storage.output(run_id, "reads.txt").open() as file:
        assert file.read() == b"ACGT\n"
    with world.database.reading() as session:
        tasks = listing.get_tasks(session, run_id)
        assert [(task.task_id, task.cmd) for task in tasks] == [("sort", ["run sort"]), ("count", ["run count"])]
    log = world.storage.log(run_id, "tasks/count/stderr")
    assert log is not None and log.size == len("counted\n")
    assert run.provider_metadata["price"] == {"amount": 0.006, "currency": "USD"}
    assert any("price 0.006 USD" in note for note in world.notes(run_id))
    assert run.start_time is not None and run.end_time is not None
    assert run.end_time - run.start_time == timedelta(seconds=60)
    assert (world.starts(run_id), run.provider_status) == (1, "COMPLETED")


CRASHES = [
    f"{method}.{when}"
    for method in (
        "prepare_request",
        "submit_workflow",
        "start_workflow",
        "find_workflow",
        "get_workflow_statuses",
        "get_outputs",
        "get_tasks",
        "get_logs",
    )
    for when in ("before", "after")
]


@pytest.mark.parametrize("point", CRASHES)
def test_a_crash_at_any_call_starts_nothing_twice(world: SevenWorld, point: str) -> None:
    if point.startswith("find_workflow"):
        world.harness.fail(kind="drop", operation="tasks.create", commit=True)
    world.kills = [point]
    world.restart()
    world.kills = []
    run_id = world.submit(plan={"outputs": {}})
    assert world.until_over(run_id) == {"COMPLETE": 1}
    assert (world.starts(run_id), world.orphans()) == (1, [])


@on_sqlite
@pytest.mark.parametrize("then", [None, "submit_workflow.after"])
def test_a_crash_between_the_call_and_the_commit_again_and_again(world: SevenWorld, then: str | None) -> None:
    """Each daemon dies with its draft made and not recorded; in the end one of the drafts is started."""
    run_id = world.submit()
    for _ in range(4):
        world.kills = [then] if then else []
        world.restart()
        world.kills = []
        for _ in range(8):
            world.tick_on()
    assert world.until_over(run_id) == {"COMPLETE": 1}
    assert (world.starts(run_id), world.orphans()) == (1, [])


FAULTS: dict[str, dict[str, Any]] = {
    "429": {"kind": "throttle"},
    "429 with a time": {"kind": "throttle", "seconds": 120},
    "403 quota": {"kind": "quota"},
    "402": {"kind": "reply", "status": 402, "body": '{"message": "no funds", "code": 4002}'},
    "401": {"kind": "expired"},
    "500 before": {"kind": "error"},
    "500 after": {"kind": "error", "commit": True},
    "502": {"kind": "reply", "status": 502, "body": "<html>"},
    "503": {"kind": "unavailable"},
    "dropped before": {"kind": "drop"},
    "dropped after": {"kind": "drop", "commit": True},
    "garbage": {"kind": "garbage"},
    "a page": {"kind": "html"},
    "nothing": {"kind": "empty"},
}
OPERATIONS = [
    "apps.get",
    "tasks.create",
    "tasks.run",
    "tasks.bulk_get",
    "tasks.get",
    "tasks.execution_details",
    "files.bulk_get",
    "files.download_info",
    "files.content",
]


@on_sqlite
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_anywhere_is_survived(world: SevenWorld, fault: str, operation: str) -> None:
    world.harness.fail(operation=operation, times=2, **FAULTS[fault])
    run_id = world.submit()
    assert world.until_over(run_id) == {"COMPLETE": 1}
    assert (world.starts(run_id), world.orphans()) == (1, [])


@on_sqlite
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_faults_and_crashes_starts_every_run_once(world: SevenWorld, seed: int) -> None:
    """Two daemons on one database, each of which dies now and then, and a platform that fails at every fifth call."""
    dice = random.Random(seed)
    world.harness.service._faults._random.seed(seed)
    for name, fault in FAULTS.items():
        world.harness.fail(
            times=None, rate=0.2 / len(FAULTS), **{**fault, **({"seconds": 5} if "time" in name else {})}
        )
    run_ids: list[str] = []
    loops = [world.loop, world.new_loop(host="host-2")]
    for turn in range(1500):
        if len(run_ids) < 20 and turn % 3 == 0:
            run_ids.append(world.submit())
        elif len(run_ids) == 20 and all(is_terminal(world.run(run_id).state) for run_id in run_ids):
            break
        if turn == 1000:
            world.harness.fake.control.clear()
        world.loop = loops[turn % 2]
        if turn % 4 == 0 and dice.random() < 0.7:  # a run whose every worker dies would be set aside
            die_at(world.loop.provider, *dice.choice(CRASHES).split("."))  # type: ignore[arg-type]
        world.tick_on(seconds=dice.uniform(1, 30))
        loops[turn % 2] = world.loop
    wrong = [world.notes(run_id) for run_id in run_ids if world.run(run_id).state != State.COMPLETE]
    assert wrong == []
    assert {world.starts(run_id) for run_id in run_ids} == {1}
    assert world.orphans() == []
    faults = Counter(request["fault"] for request in world.harness.fake.control.requests() if request["fault"])
    print(f"{world.died} crashes, {sum(faults.values())} faults: {dict(faults)}")
    assert world.died > 3 and len(faults) > 5, "else nothing is proven"


# Cancelling


def test_a_cancel_while_the_submit_is_unknown_means_that_it_never_starts(world: SevenWorld) -> None:
    world.harness.fail(kind="drop", operation="tasks.create", commit=True)
    run_id = world.submit()
    world.tick()
    assert world.run(run_id).state == State.INITIALIZING and world.run(run_id).provider_id is None
    world.cancel(run_id)
    assert world.until_over(run_id) == {"CANCELED": 1}
    assert world.harness.fake.control.tasks() == []


def test_a_cancelled_draft_is_deleted_and_its_run_ends_at_once(world: SevenWorld) -> None:
    world.harness.fail(kind="error", operation="tasks.run")
    run_id = world.submit()
    world.tick()
    assert world.run(run_id).provider_id is not None
    world.cancel(run_id)
    assert world.until_over(run_id, ticks=5) == {"CANCELED": 1}
    assert world.harness.fake.control.tasks() == []


def test_a_draft_that_a_dead_daemon_deleted_is_cancelled_in_the_end(world: SevenWorld) -> None:
    world.harness.fail(kind="error", operation="tasks.run")
    run_id = world.submit()
    world.tick()
    world.cancel(run_id)
    world.kills = ["cancel_workflow.after"]
    world.restart()
    world.kills = []
    assert world.until_over(run_id) == {"CANCELED": 1}


def test_a_running_task_is_aborted(world: SevenWorld) -> None:
    run_id = world.submit(plan={"seconds": {"RUNNING": None}})
    world.tick_until(run_id, State.RUNNING)
    world.cancel(run_id)
    assert world.until_over(run_id) == {"CANCELED": 1}
    assert world.harness.fake.control.calls()["tasks.abort"] == 1


# Ends without a start, and long troubles


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"workflow_url": "sevenbridges:x/y/z"}, "workflow_not_found"),
        ({"workflow_params": {"message": 5}}, "inputs_refused"),
        ({"workflow_params": {"reads": "s3://bucket/key"}}, "input_not_imported"),
        ({"workflow_engine_parameters": {"queue": "x"}}, "unknown_engine_parameter"),
    ],
)
def test_what_cannot_run_ends_with_the_reason(world: SevenWorld, fields: dict[str, Any], reason: str) -> None:
    run_id = world.submit(**fields)
    assert world.until_over(run_id) == {"SYSTEM_ERROR": 1}
    assert any(note.startswith(f"{reason}:") for note in world.notes(run_id))
    assert world.harness.fake.control.tasks() == []


def test_a_run_waits_queued_for_its_imports(world: SevenWorld) -> None:
    client = world.harness.provider._api._client  # type: ignore[attr-defined]
    volume = client.volumes.create_s3_volume("lab", "reads", "key", "secret", "RO", api=client)
    world.restart(provider=world.harness.provider_at(world.harness.url, volumes=(volume.id,)))
    run_id = world.submit(workflow_params={"reads": "s3://reads/a.bam"})
    world.tick()
    run = world.run(run_id)
    assert (run.state, run.attempt, run.waiting_for) == (
        State.QUEUED,
        0,
        "Seven Bridges is importing s3://reads/a.bam.",
    )
    assert world.until_over(run_id) == {"COMPLETE": 1}


def test_a_token_that_is_not_accepted_for_a_day_ends_no_run(world: SevenWorld) -> None:
    running = world.submit(plan={"seconds": {"RUNNING": 2 * DAY}})
    world.tick_until(running, State.RUNNING)
    world.harness.fail(kind="expired", times=None)
    queued = world.submit()
    for _ in range(100):
        world.tick_on(DAY / 100)
    assert (world.run(running).state, world.run(queued).state) == (State.RUNNING, State.QUEUED)
    assert "set SEVENBRIDGES_API_TOKEN to it and restart the daemon" in str(world.run(queued).waiting_for)
    assert world.loop.problem and "SEVENBRIDGES_API_TOKEN" in world.loop.problem
    world.harness.fake.control.clear()
    world.clock.advance(seconds=2 * DAY)
    assert world.until_over(running, queued) == {"COMPLETE": 2}


def test_a_task_that_the_platform_lost_is_missed_with_patience(world: SevenWorld) -> None:
    run_id = world.submit(plan={"seconds": {"RUNNING": None}})
    run = world.tick_until(run_id, State.RUNNING)
    world.harness.lose(str(run.provider_id))
    lost_at = world.clock()
    assert world.until_over(run_id) == {"SYSTEM_ERROR": 1}
    assert world.clock() - lost_at >= timedelta(hours=1)
    assert any(note.startswith("provider_lost_run:") for note in world.notes(run_id))


def test_outputs_that_are_refused_for_long_end_the_run_with_the_reason(world: SevenWorld) -> None:
    world.harness.fail(kind="denied", operation="files.content", match="", times=None)
    run_id = world.submit()
    assert world.until_over(run_id) == {"SYSTEM_ERROR": 1}
    assert any(note.startswith("outputs_denied:") for note in world.notes(run_id))


@on_sqlite
def test_runs_are_looked_at_together(world: SevenWorld) -> None:
    """A hundred and twenty runs that began at different moments: each turn is two calls."""
    run_ids = [world.submit(str(uuid.uuid4()), plan={"seconds": {"RUNNING": None}}) for _ in range(120)]
    while any(world.run(run_id).state != State.RUNNING for run_id in run_ids):
        world.tick_on(seconds=0.7)
    control = world.harness.fake.control
    control.reset()
    for _ in range(240):
        world.tick_on(seconds=1.0)
    looks = control.calls()
    assert set(looks) == {"tasks.bulk_get"}
    assert looks["tasks.bulk_get"] <= 240 / 30 * 2 * 1.5


@on_sqlite
def test_the_queue_waits_for_the_rate_limit_and_the_platform_need_not_refuse(world: SevenWorld) -> None:
    world.harness.service.options.rate_limit = 150
    world.harness._wait = world.harness.pass_time  # type: ignore[method-assign]
    world.restart(provider=world.harness.provider_at(world.harness.url, calls_per_second=0.4))
    run_ids = [world.submit(plan={"outputs": {}}) for _ in range(40)]
    assert world.until_over(*run_ids) == {"COMPLETE": 40}
    assert {world.starts(run_id) for run_id in run_ids} == {1}
    assert not [one for run_id in run_ids for one in world.notes(run_id) if re.search(r"\b429\b", one)]
