"""One platform, one database, and daemons that come and go, tick by tick: for tests of the daemon. Knows no fixture."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from typing import Any, Protocol

from app.artifacts import DirectoryStorage, StoredFile
from app.daemon.claimed_runs import Policy
from app.daemon.holds import Holds
from app.daemon.provider_loop import ProviderLoop
from app.database import Database
from app.models import WorkflowRun
from app.runs import acceptance, listing, transitions
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


class Harnessed(Protocol):
    """A fake with a clock of its own."""

    def now(self) -> datetime: ...

    def pass_time(self, seconds: float) -> None: ...


class FakesClock(Clock):
    """The daemon's clock is the fake's."""

    def __init__(self, harness: Harnessed) -> None:
        super().__init__(harness.now())
        self._harness = harness

    def __call__(self) -> Any:
        return self._harness.now()

    def advance(self, **how_much: float) -> Any:
        self._harness.pass_time(timedelta(**how_much).total_seconds())
        return self()


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


def end(world: World, run_id: str, state: State, **changes: Any) -> None:
    world.platform.set(str(world.run(run_id).provider_id), state, **changes)


def content(kept: StoredFile | None) -> bytes:
    assert kept is not None
    with kept.open() as file:
        return file.read()


def wait(event: threading.Event) -> None:
    assert event.wait(60)
