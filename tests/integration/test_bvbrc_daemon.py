"""The daemon with BV-BRC, tick by tick: users' tokens from the database, their troubles, cancels and lost answers.

On SQLite only: what depends on the database is shown in test_credentials and test_daemon.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from app.artifacts import DirectoryStorage
from app.credentials import BVBRC, StoredCredentials, Vault
from app.daemon.patience import OPENS_AFTER
from app.daemon.provider_loop import ProviderLoop
from app.daemon.providers.bvbrc import BvbrcAccess, BvbrcOptions, BvbrcProvider
from app.database import Database
from app.models import Base
from app.runs import claims, listing
from app.states import State
from tests.contract.bvbrc_harness import BvbrcHarness
from tests.daemon_world import FakesClock, World, content
from tests.fakes.bvbrc import APP_SERVICE, WORKSPACE

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]

ALICE, BOB = "alice@patricbrc.org", "bob@bvbrc"
LONG = {"seconds": {"RUNNING": None}}
YEAR = 365 * 86_400


class BvbrcWorld(World):
    """The provider is lent what the database keeps."""

    def __init__(self, database: Database, storage: DirectoryStorage, harness: BvbrcHarness) -> None:
        self.harness, self.vault = harness, Vault([Fernet.generate_key().decode()])
        super().__init__(database, storage, FakesClock(harness))

    def new_loop(self, *, provider: Any = None, host: str = "host-1", **options: Any) -> ProviderLoop:
        return super().new_loop(provider=provider or self.new_provider(), host=host, **options)

    def new_provider(self, vault: Vault | None = None, timeout_seconds: float = 10.0) -> BvbrcProvider:
        url = self.harness.url
        access = BvbrcAccess(f"{url}{APP_SERVICE}", f"{url}{WORKSPACE}", timeout_seconds, timeout_seconds / 2)
        lent = StoredCredentials(self.database, vault or self.vault, BVBRC)
        return BvbrcProvider(access, BvbrcOptions(calls_per_second=1000.0), lent, now=self.harness.now)

    def submit(self, run_id: str | None = None, *, plan: Any = None, token: str | None = None, **fields: Any) -> str:
        usual = {
            "provider_type": "bvbrc",
            "workflow_type": "BVBRC",
            "workflow_type_version": "1.0",
            "workflow_url": "bvbrc:Date",
            "workflow_params": {"fake-plan": json.dumps(plan or {})},
        }
        run_id = super().submit(run_id, **usual | fields)
        if token:
            self.send(run_id, token)
        return run_id

    def running(self, **fields: Any) -> str:
        run_id = self.submit(**fields)
        self.tick_until(run_id, State.RUNNING, step_seconds=5)
        return run_id

    def token(self, user: str = ALICE, seconds: float = YEAR) -> str:
        token: str = self.harness.fake.control.token(user=user, seconds=seconds)
        return token

    def send(self, run_id: str, token: str) -> None:
        """What the API does with a token."""
        assert self.database.transact(lambda session: self.vault.store(session, run_id, BVBRC, token))
        self.database.transact(lambda session: claims.hint(session, [run_id], self.clock()))

    def tasks(self) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.harness.fake.control.tasks()
        return tasks

    def kept_tokens(self) -> int:
        with self.database.reading() as session:
            return int(session.execute(text("SELECT count(*) FROM run_credentials")).scalar_one())

    def waits_for_a_token(self, run_id: str, state: State, ticks: int = 10) -> bool:
        """It does, and it goes on doing so."""
        said = []
        for _ in range(ticks):
            self.clock.advance(seconds=61)
            self.tick()
            said.append((self.run(run_id).state, self.run(run_id).waiting_for or ""))
        return all(seen == state and "Waiting for a fresh BV-BRC token" in why for seen, why in said)


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, tmp_path: Path) -> Iterator[BvbrcWorld]:
    with BvbrcHarness(tmp_path) as harness:
        assert isinstance(harness, BvbrcHarness)
        yield BvbrcWorld(database, storage, harness)


def test_a_run_goes_to_its_end_and_its_token_goes_with_it(world: BvbrcWorld, tmp_path: Path) -> None:
    token = world.token()
    plan = {"outputs": {"answer": 42}, "files": {"contigs.fa": ">1\n"}, "log": [f"env: {token}", "done"]}
    run_id = world.submit(plan=json.loads(json.dumps(plan).replace(token, "no token")), token=token)
    world.tick_until(run_id, State.RUNNING, step_seconds=5)
    assert world.kept_tokens() == 1
    run = world.tick_until(run_id, State.COMPLETE)
    assert world.kept_tokens() == 0
    assert run.outputs is not None and run.outputs["answer"] == 42
    assert run.outputs["contigs.fa"]["location"].startswith("ws:/alice%40patricbrc.org/home/.wes-")
    assert content(world.storage.log(run_id, "stdout")) == b"env: no token\ndone\n"
    assert run.provider_id is not None and run.provider_id.endswith(f"/{run_id}")
    with world.database.reading() as session:
        assert [(task.name, task.exit_code) for task in listing.get_tasks(session, run_id)] == [("Date", 0)]
        stored = repr([session.execute(text(f"SELECT * FROM {name}")).all() for name in Base.metadata.tables])
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (token, token.rpartition("sig=")[2]):
        assert secret not in stored
        assert secret.encode() not in kept


def test_a_failure_is_told_with_the_apps_words(world: BvbrcWorld) -> None:
    run_id = world.submit(plan={"outcome": "FAILED", "message": "No contigs."}, token=world.token())
    run = world.tick_until(run_id, State.EXECUTOR_ERROR)
    assert run.exit_code == 1 and "No contigs." in (run.error_message or "")
    assert world.kept_tokens() == 0


# Tokens


def test_a_run_without_a_token_waits_in_the_queue_and_others_do_not(world: BvbrcWorld) -> None:
    waiting, expired = world.submit(), world.submit(token=world.token(seconds=1))
    assert world.waits_for_a_token(waiting, State.QUEUED, ticks=2 * OPENS_AFTER)
    assert world.waits_for_a_token(expired, State.QUEUED, ticks=2)
    assert (world.loop.breaker.seconds_open(), world.loop.problem, world.tasks()) == (0, None, [])
    other = world.submit(token=world.token(BOB))
    world.tick_until(other, State.COMPLETE)
    for run_id in waiting, expired:
        world.send(run_id, world.token())
        world.tick_until(run_id, State.COMPLETE)
    assert sum(task["starts"] for task in world.tasks()) == 3
    assert "SYSTEM_ERROR" not in str([event for run_id in (waiting, expired) for event in world.notes(run_id)])


def test_a_token_that_expires_pauses_its_runs_only(world: BvbrcWorld) -> None:
    alices = [world.running(plan=LONG, token=world.token(seconds=600)) for _ in range(2)]
    bobs = world.running(plan=LONG, token=world.token(BOB))
    world.clock.advance(seconds=900)
    for run_id in alices:
        assert world.waits_for_a_token(run_id, State.RUNNING, ticks=2 * OPENS_AFTER)
    assert (world.loop.breaker.seconds_open(), world.loop.problem) == (0, None)
    seen = world.run(bobs)
    assert seen.waiting_for is None and seen.observed_at is not None
    assert (world.clock() - seen.observed_at).total_seconds() < 120
    world.send(alices[0], world.token())
    world.tick()
    assert world.run(alices[0]).waiting_for is None
    assert world.run(alices[1]).waiting_for is not None


def test_a_token_that_expires_before_the_end_is_collected(world: BvbrcWorld) -> None:
    run_id = world.running(token=world.token(seconds=40))
    assert world.waits_for_a_token(run_id, State.RUNNING)
    world.send(run_id, world.token())
    assert world.tick_until(run_id, State.COMPLETE).outputs is not None


def test_a_cancel_waits_for_a_token_too(world: BvbrcWorld) -> None:
    run_id = world.running(plan=LONG, token=world.token(seconds=60))
    world.clock.advance(seconds=60)
    world.cancel(run_id)
    assert world.waits_for_a_token(run_id, State.CANCELING)
    world.send(run_id, world.token())
    world.tick_until(run_id, State.CANCELED)
    assert world.kept_tokens() == 0


def test_a_submit_whose_answer_was_lost_waits_for_a_token(world: BvbrcWorld) -> None:
    world.harness.fail(kind="drop", operation="start_app2", commit=True)
    run_id = world.submit(plan=LONG, token=world.token(seconds=30))
    world.tick()
    world.clock.advance(seconds=60)
    world.tick()
    assert world.waits_for_a_token(run_id, State.INITIALIZING, ticks=40)
    world.send(run_id, world.token())
    world.tick_until(run_id, State.RUNNING)
    assert [task["starts"] for task in world.tasks()] == [1]


def test_a_token_that_is_refused_makes_no_noise(world: BvbrcWorld) -> None:
    """A run that is not even sent is not moved back and forth: its history stays short."""
    world.harness.fake.control.revoke(user=ALICE)
    run_id = world.submit(token=world.token())
    assert world.waits_for_a_token(run_id, State.QUEUED, ticks=20)
    assert len(world.notes(run_id)) == 1
    assert world.harness.fake.control.calls()["enumerate_apps"] <= 6


def test_a_daemon_with_another_key_says_so_and_fails_nothing(world: BvbrcWorld) -> None:
    run_id = world.running(plan=LONG, token=world.token())
    stranger = Vault([Fernet.generate_key().decode()])
    world.restart(provider=world.new_provider(stranger))
    assert world.waits_for_a_token(run_id, State.RUNNING)
    assert "CREDENTIALS_KEYS" in (world.run(run_id).waiting_for or "")


def test_a_step_runs_under_the_token_of_its_pipeline(world: BvbrcWorld) -> None:
    top = world.submit(provider_type="dag", workflow_type="DAG", token=world.token())
    step = world.submit(parent_id=top, step="one")
    world.tick_until(step, State.COMPLETE)
    assert [task["owner"] for task in world.tasks()] == [ALICE]
    assert world.kept_tokens() == 1


# Cancels and lost answers


@pytest.mark.parametrize("qstat", [True, False])
@pytest.mark.parametrize("seconds", [0, 30])
def test_a_cancelled_run_is_cancelled_whatever_the_service_calls_it(
    world: BvbrcWorld, qstat: bool, seconds: float
) -> None:
    world.harness.fake.control.configure(qstat=qstat)
    run_id = world.submit(plan=LONG, token=world.token())
    world.tick()
    world.clock.advance(seconds=seconds)
    world.tick()
    world.cancel(run_id)
    world.tick_until(run_id, State.CANCELED)
    assert world.tasks()[0]["code"] in ("T", "F")


@pytest.mark.parametrize("qstat", [True, False])
def test_what_fails_by_itself_was_not_cancelled(world: BvbrcWorld, qstat: bool) -> None:
    world.harness.fake.control.configure(qstat=qstat)
    run_id = world.submit(plan={"outcome": "FAILED"}, token=world.token())
    world.tick_until(run_id, State.EXECUTOR_ERROR)


def test_what_had_failed_before_the_cancel_came_has_failed(world: BvbrcWorld) -> None:
    run_id = world.running(plan={"outcome": "FAILED"}, token=world.token())
    world.clock.advance(seconds=61)
    world.cancel(run_id)
    world.tick_until(run_id, State.EXECUTOR_ERROR)


@pytest.mark.parametrize("qstat", [True, False])
@pytest.mark.parametrize("kind", ["drop", "error", "html", "garbage"])
def test_a_lost_answer_makes_no_second_execution(world: BvbrcWorld, qstat: bool, kind: str) -> None:
    world.harness.fake.control.configure(qstat=qstat)
    world.harness.fail(kind=kind, operation="start_app2", commit=True)
    run_id = world.submit(plan=LONG, token=world.token())
    world.tick_until(run_id, State.RUNNING)
    assert [task["starts"] for task in world.tasks()] == [1]


def test_a_submit_that_never_arrived_is_sent_again_when_it_no_longer_can(world: BvbrcWorld) -> None:
    world.harness.fail(kind="drop", operation="start_app2", commit=False)
    run_id = world.submit(plan=LONG, token=world.token())
    world.tick()
    patience = world.loop.provider.submit_timeout_seconds + world.loop.provider.visibility_grace_seconds
    sent_at = world.clock()
    run = world.tick_until(run_id, State.RUNNING)
    assert (run.attempt, [task["starts"] for task in world.tasks()]) == (2, [1])
    assert run.processed_at is not None and (run.processed_at - sent_at).total_seconds() >= patience


@pytest.mark.parametrize("ending", [State.COMPLETE, State.EXECUTOR_ERROR, State.CANCELED])
def test_a_preflight_that_outlives_all_patience_is_ended_with_the_run(world: BvbrcWorld, ending: State) -> None:
    """The first request goes on at the service, while the second has become the run's execution."""
    world.restart(provider=world.new_provider(timeout_seconds=0.5))
    world.harness.fail(kind="hang", operation="start_app2")
    plans = {State.COMPLETE: {}, State.EXECUTOR_ERROR: {"outcome": "FAILED"}, State.CANCELED: LONG}
    run_id = world.submit(plan=plans[ending], token=world.token())
    world.tick()
    world.restart()
    world.tick_until(run_id, State.RUNNING)
    world.harness.fake.control.release()
    while len(world.tasks()) < 2:
        continue
    if ending == State.CANCELED:
        world.cancel(run_id)
    world.tick_until(run_id, ending, step_seconds=5)
    world.clock.advance(seconds=10)
    late = world.tasks()[1]
    assert late["code"] == "T" or late["slurm"].startswith("CANCELLED")


def test_the_service_down_for_a_day_loses_nothing(world: BvbrcWorld) -> None:
    run_id = world.running(token=world.token())
    world.harness.fail(kind="unavailable", times=None)
    for _ in range(30):
        world.clock.advance(minutes=50)
        world.tick()
        assert world.run(run_id).state == State.RUNNING
    world.harness.heal()
    world.tick_until(run_id, State.COMPLETE)
