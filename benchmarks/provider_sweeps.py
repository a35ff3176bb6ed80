"""What following thousands of runs at a cloud costs: API calls for a look at all of them, starts a second, memory.

    .venv/bin/python -m benchmarks.provider_sweeps [--provider NAME] [--runs 10000] [--queued 10000] [--seconds 60]

A real daemon process with default settings works on one SQLite database against the cloud's fake in another process.
Prints what was measured beside its limit; exits 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import func, insert, select

from app.daemon.providers.healthomics_aws import AwsAccess
from app.daemon.providers.sevenbridges_api import SevenBridgesAccess, SevenBridgesApi
from app.daemon.providers.sevenbridges_budget import Budget
from app.database import Database
from app.models import WorkflowRun
from app.states import State
from tests.fakes.server import InProcess
from tests.services import Services

MAX_CALLS_PER_10_000 = 110
MAX_MEBIBYTES = 300
ROWS_AT_ONCE = 500
GIVE_UP_SECONDS = 900.0


@dataclass(frozen=True)
class StartedRun:
    """A run that the cloud has."""

    run_id: str
    provider_id: str
    state: State = State.RUNNING
    provider_status: str = "RUNNING"


class Platform(ABC):
    """A cloud's fake, what the daemon has to be told of it, and what its runs look like."""

    name: ClassVar[str]
    most_calls: ClassVar[float] = MAX_CALLS_PER_10_000  # a look at ten thousand runs, while others are submitted
    looks: ClassVar[tuple[str, ...]]  # operations that a look at runs is made of
    paces: ClassVar[Mapping[str, float]]  # operation -> most calls a second by default

    @abstractmethod
    def settings(self) -> dict[str, str]: ...

    @abstractmethod
    def begin(self, runs: int) -> list[StartedRun]:
        """Start so many runs that go on until the benchmark is over, in every state that is no end."""

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """Columns of a request for one more run."""

    @abstractmethod
    def calls(self) -> dict[str, int]:
        """API calls by operation since the beginning."""


class HealthOmics(Platform):
    name = "healthomics"
    looks = ("ListRuns", "GetRun")
    paces: ClassVar[Mapping[str, float]] = {"StartRun": 1.0, "ListRuns": 5.0, "GetRun": 5.0}

    def __init__(self, fake: InProcess) -> None:
        self._fake = fake

    def settings(self) -> dict[str, str]:
        return {
            "HEALTHOMICS_ENDPOINT": self._fake.url,
            "HEALTHOMICS_ROLE_ARN": "arn:aws:iam::123456789012:role/wes",
            "HEALTHOMICS_OUTPUT_BUCKET": "wes-outputs",
            "AWS_ACCESS_KEY_ID": "fake",
            "AWS_SECRET_ACCESS_KEY": "fake",
        }

    def begin(self, runs: int) -> list[StartedRun]:
        self._fake.control.plan(seconds={"RUNNING": None})
        self._omics = AwsAccess("us-east-1", "fake", "fake", "", self._fake.url).client("omics")
        early = runs // 100
        begun = self._start(runs - 2 * early)
        self._fake.control.advance(seconds=30)  # PENDING and STARTING are over
        for run in begun[:early]:
            self._omics.cancel_run(id=run.provider_id.split("/")[0])
        stopping = [replace(run, provider_status="STOPPING") for run in begun[:early]]
        starting = [replace(run, state=State.INITIALIZING, provider_status="STARTING") for run in self._start(early)]
        self._fake.control.advance(seconds=6)  # PENDING is over, STARTING and STOPPING are not
        pending = [replace(run, state=State.INITIALIZING, provider_status="PENDING") for run in self._start(early)]
        self._omics.close()
        return [*stopping, *begun[early:], *starting, *pending]

    def _start(self, runs: int) -> list[StartedRun]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self._start_one, [str(uuid.uuid4()) for _ in range(runs)]))

    def _start_one(self, run_id: str) -> StartedRun:
        answer = self._omics.start_run(
            workflowId="1000001",
            roleArn="arn:aws:iam::123456789012:role/wes",
            outputUri="s3://wes-outputs/runs",
            storageType="DYNAMIC",
            name=f"wes-{run_id}",
            requestId=f"wes-{run_id}",
            tags={"WESRunId": run_id},
        )
        return StartedRun(run_id, f"{answer['id']}/{answer['uuid']}")

    def request(self) -> dict[str, Any]:
        return {"workflow_type": "WDL", "workflow_type_version": "1.0", "workflow_url": "healthomics:1000001"}

    def calls(self) -> dict[str, int]:
        return dict(self._fake.control.calls())


class SevenBridges(Platform):
    """The fake keeps the platform's limit of 1,000 requests in five minutes."""

    name = "sevenbridges"
    most_calls = 100
    looks = ("tasks.bulk_get", "tasks.get")
    paces: ClassVar[Mapping[str, float]] = {"all requests": 2.5}

    def __init__(self, fake: InProcess) -> None:
        self._fake = fake

    def settings(self) -> dict[str, str]:
        return {
            "SEVENBRIDGES_API_ENDPOINT": f"{self._fake.url}/v2",
            "SEVENBRIDGES_API_TOKEN": "fake-token",
            "SEVENBRIDGES_PROJECT": "fake-user/wes",
        }

    def begin(self, runs: int) -> list[StartedRun]:
        control = self._fake.control
        control.configure(rate_limit=10**9)
        access = SevenBridgesAccess(f"{self._fake.url}/v2", "fake-token")
        self._api = SevenBridgesApi(access, Budget(1e6, now=lambda: datetime.now(UTC)))
        early = runs // 100
        control.plan(seconds={"RUNNING": None})
        begun = self._start(runs - 2 * early)
        control.advance(seconds=21)  # CREATING and QUEUED are over
        control.plan(seconds={"QUEUED": None})
        queued = [replace(run, state=State.INITIALIZING, provider_status="QUEUED") for run in self._start(early)]
        control.advance(seconds=6)
        control.plan(seconds={"CREATING": None})
        creating = [replace(run, state=State.INITIALIZING, provider_status="CREATING") for run in self._start(early)]
        control.plan(seconds={"RUNNING": None})
        control.advance(seconds=300)  # a new window of the rate limit
        control.configure(rate_limit=1000)
        return [*begun, *queued, *creating]

    def _start(self, runs: int) -> list[StartedRun]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self._start_one, [str(uuid.uuid4()) for _ in range(runs)]))

    def _start_one(self, run_id: str) -> StartedRun:
        request = {"name": f"wes-{run_id}", "project": "fake-user/wes", "app": "fake-user/wes/hello"}
        draft = self._api.create_draft({**request, "inputs": {"message": "hello"}})
        self._api.run_task(draft.id)
        return StartedRun(run_id, draft.id)

    def request(self) -> dict[str, Any]:
        url = "sevenbridges:fake-user/wes/hello"
        return {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": url}

    def calls(self) -> dict[str, int]:
        calls = dict(self._fake.control.calls())
        return {**calls, "all requests": sum(calls.values())}


@contextmanager
def sevenbridges() -> Iterator[SevenBridges]:
    with InProcess("tests.fakes.sevenbridges") as fake:
        yield SevenBridges(fake)


@contextmanager
def healthomics() -> Iterator[HealthOmics]:
    with InProcess("tests.fakes.healthomics", "--frozen") as fake:
        yield HealthOmics(fake)


PLATFORMS: dict[str, Callable[[], Any]] = {"healthomics": healthomics, "sevenbridges": sevenbridges}


@dataclass
class Measured:
    """One line of the report; `limit` None: told, not judged."""

    what: str
    value: float
    limit: float | None = None

    @property
    def is_broken(self) -> bool:
        return self.limit is not None and self.value > self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"  (limit {self.limit:g}{', BROKEN' if self.is_broken else ''})"
        return f"{self.what:<58} {self.value:>10.4g}{limit}"


def fill(database: Database, platform: Platform, begun: Sequence[StartedRun], queued: int) -> None:
    """Rows of runs that the cloud has, all due now, and of runs that wait."""
    now = datetime.now(UTC)
    usual = {
        "name": "benchmark",
        "owner": "local",
        "workflow_params": {},
        "workflow_engine_parameters": {},
        "tags": {},
        "submitted_at": now - timedelta(minutes=5),
        "due_at": now,
        "provider_type": platform.name,
        **platform.request(),
    }
    known = [{**vars(run), "submit_key": f"wes-{run.run_id}", "start_time": now} for run in begun]
    waiting = [{"run_id": str(uuid.uuid4()), "state": State.QUEUED} for _ in range(queued)]
    for rows in known, waiting:
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            some = [usual | row for row in rows[begin : begin + ROWS_AT_ONCE]]
            database.transact(lambda session, some=some: session.execute(insert(WorkflowRun), some))  # type: ignore[misc]


def looked_at(database: Database, platform: Platform) -> int:
    """How many of the runs that were there at the beginning were looked at."""
    with database.reading() as session:
        query = select(func.count()).select_from(WorkflowRun)
        query = query.where(WorkflowRun.provider_type == platform.name, WorkflowRun.observed_at.is_not(None))
        return (
            session.scalar(query.where(WorkflowRun.submit_request.is_(None), WorkflowRun.provider_id.is_not(None))) or 0
        )


def measure(platform: Platform, runs: int, queued: int, steady_seconds: float) -> list[Measured]:
    print(f"starting {runs} runs at the fake of {platform.name} …", flush=True)
    begun = platform.begin(runs)
    settings = {"PROVIDERS": platform.name, "LOG_LEVEL": "WARNING", **platform.settings()}
    report = []
    with Services(settings, start=False) as services:
        services.migrate()
        database = Database.connect(f"sqlite:///{services.data_dir / 'wes.sqlite'}")
        fill(database, platform, begun, queued)
        services.start_daemon()
        report += one_sweep(platform, database, begun)
        report += steady(platform, steady_seconds)
        peak = peak_mebibytes(services.processes["daemon"].pid)
        database.engine.dispose()
    report.append(Measured("peak memory of the daemon, MiB", peak, MAX_MEBIBYTES))
    return report


def one_sweep(platform: Platform, database: Database, begun: Sequence[StartedRun]) -> list[Measured]:
    """Wait until every run that was there at the beginning was looked at."""
    began, before = time.monotonic(), platform.calls()
    while (done := looked_at(database, platform)) < len(begun):
        if time.monotonic() - began > GIVE_UP_SECONDS:
            raise SystemExit(f"only {done} of {len(begun)} runs were looked at in {GIVE_UP_SECONDS:.0f} s")
        time.sleep(0.25)
    seconds, after = time.monotonic() - began, platform.calls()
    made = {name: after.get(name, 0) - before.get(name, 0) for name in platform.looks}
    limit = platform.most_calls * max(1.0, len(begun) / 10_000)
    words = ", ".join(f"{name} {count}" for name, count in made.items() if count)
    return [
        Measured(f"a sweep: calls for {len(begun)} runs ({words})", sum(made.values()), limit),
        Measured("a sweep: seconds until all were looked at", seconds),
    ]


def steady(platform: Platform, seconds: float) -> list[Measured]:
    """Let it go on for a while. Of n calls, n - 1 had to keep their distance."""
    before = platform.calls()
    time.sleep(seconds)
    after = platform.calls()
    return [
        Measured(
            f"{name}: calls a second, over {seconds:.0f} s", (after[name] - before.get(name, 0) - 1) / seconds, limit
        )
        for name in after
        if (limit := platform.paces.get(name)) and after[name] > before.get(name, 0)
    ]


def peak_mebibytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=sorted(PLATFORMS), default="healthomics")
    parser.add_argument("--runs", type=int, default=10_000, help="active ones")
    parser.add_argument("--queued", type=int, default=10_000, help="runs that wait to be started")
    parser.add_argument("--seconds", type=float, default=60, help="how long it goes on after the first sweep")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with PLATFORMS[given.provider]() as platform:
        report = measure(platform, given.runs, given.queued, given.seconds)
    if given.json:
        print(json.dumps([vars(line) for line in report]))
    else:
        print(*report, sep="\n")
    return int(any(line.is_broken for line in report))


if __name__ == "__main__":
    sys.exit(main())
