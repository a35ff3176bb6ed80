"""A look at thousands of active runs: the daemon's CPU time, and what it costs those who submit meanwhile.

    .venv/bin/python -m benchmarks.busy_sweep [--runs 10000] [--rounds 5]

Real API, daemon and fake cloud, each in a process of its own, on one SQLite database. In each round all runs fall due
twice: once with nobody else there (the daemon's CPU time), once while a client submits (its latencies).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import requests
from sqlalchemy import func, insert, select, update

from app.database import Database
from app.models import WorkflowRun
from app.states import State
from tests.fakes.engine_runs import installed_engine_root
from tests.services import ROOT, Services

ROWS_AT_ONCE = 500
IDLE_SECONDS = 5.0
BETWEEN_POSTS_SECONDS = 0.02
GIVE_UP_SECONDS = 120.0
NO_PORTS: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
TOOL = json.dumps({"cwlVersion": "v1.2", "class": "CommandLineTool", "baseCommand": ["sleep", "3600"]} | NO_PORTS)
REQUEST = {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": "sleep.cwl"}
FILES = {"workflow_attachment": ("sleep.cwl", TOOL.encode())}
SETTINGS = {
    "PROVIDERS": "fake,local",
    "DAEMON_POLL_INTERVAL": "1",
    "LOCAL_MAX_CONCURRENT_RUNS": "1",
    "LOCAL_CONTAINER_RUNTIME": "none",
}
OURS = WorkflowRun.provider_type == "fake"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="active ones")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    installed_engine_root()
    with fake_cloud() as url, Services(SETTINGS | {"FAKE_PROVIDER_URL": url}, start=False) as services:
        services.migrate()
        bench = Bench(services, Database.connect(f"sqlite:///{services.data_dir / 'wes.sqlite'}"))
        bench.fill(url, options.runs)
        services.start_api()
        services.start_daemon()
        post(requests.Session(), services.url)  # it takes the only place, so that all others are accepted and wait
        bench.measure(options.rounds)


@contextmanager
def fake_cloud() -> Iterator[str]:
    """Its URL. Its time stands still, so that its jobs never end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "app.fake_service", "--port", "0", "--stepped", "--ledger", f"{folder}/jobs"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().split()[-1]
            finally:
                process.terminate()


def post(session: requests.Session, url: str) -> None:
    """A run for this machine."""
    session.post(f"{url}/runs", data=REQUEST, files=FILES, timeout=60).raise_for_status()


@dataclass
class Poster:
    """A client that submits at a steady pace; `latencies` in seconds by the time of asking."""

    url: str
    latencies: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def posting(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._post_until, args=[over])
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _post_until(self, over: threading.Event) -> None:
        with requests.Session() as session:
            while not over.wait(BETWEEN_POSTS_SECONDS):
                before = time.perf_counter()
                post(session, self.url)
                self.latencies.append((before, time.perf_counter() - before))

    def between(self, begin: float, end: float, but: Sequence[tuple[float, float]] = ()) -> list[float]:
        """Of what was asked in that time, and not while the benchmark itself was in the way."""
        asked_then = [(asked, latency) for asked, latency in self.latencies if begin <= asked < end]
        return [latency for asked, latency in asked_then if not any(a < asked + latency and asked < b for a, b in but)]


class Bench:
    """Runs that a cloud has, and a daemon that follows them."""

    def __init__(self, services: Services, database: Database) -> None:
        self._services, self._database = services, database
        self._runs = 0
        self._own_reads: list[tuple[float, float]] = []  # they read all rows, and a commit waits for them

    def fill(self, cloud: str, runs: int) -> None:
        """Jobs that go on for ever, and a row for each."""
        print(f"starting {runs} runs at the fake cloud …", flush=True)
        with ThreadPoolExecutor(8) as pool, requests.Session() as session:
            rows = list(pool.map(lambda _: _started(session, cloud), range(runs)))
        requests.post(f"{cloud}/_control/advance", json={"seconds": 1}, timeout=60).raise_for_status()
        for begin in range(0, runs, ROWS_AT_ONCE):
            some = rows[begin : begin + ROWS_AT_ONCE]
            self._database.transact(lambda session, some=some: session.execute(insert(WorkflowRun), some))  # type: ignore[misc]
        self._runs = runs

    def measure(self, rounds: int) -> None:
        idle: list[float] = []
        busy: list[float] = []
        cpu, seconds = [], []
        for _ in range(rounds):
            cpu.append(self._sweep()[0])
            poster = Poster(self._services.url)
            with poster.posting():
                asked = time.perf_counter()
                _, (began, ended) = self._sweep()
            idle += poster.between(asked, began)
            busy += poster.between(began, ended, self._own_reads)
            seconds.append(ended - began)
        print(
            f"a look at {self._runs} runs: {statistics.median(cpu):.2f} s CPU of the daemon"
            f"; {statistics.median(seconds):.1f} s beside a client that submits"
        )
        print(
            f"accepts' p99 {_p99(busy):.0f} ms during a look ({len(busy)} accepts), {_p99(idle):.0f} ms before"
            f" ({len(idle)}): ratio {_p99(busy) / _p99(idle):.2f}"
        )
        for name in "api", "daemon":
            print(f"peak memory of the {name}: {self._peak_mebibytes(name):.0f} MiB")

    def _sweep(self) -> tuple[float, tuple[float, float]]:
        """Let all fall due at once. Returns the daemon's CPU seconds, and perf_counter at begin and end of the look."""
        due_in = timedelta(seconds=IDLE_SECONDS)
        due_at = datetime.now(UTC) + due_in
        values = {"due_at": due_at, "observed_at": None}
        self._database.transact(lambda session: session.execute(update(WorkflowRun).where(OURS).values(values)))
        time.sleep(max(0.0, (due_at - datetime.now(UTC)).total_seconds()))
        began, before = time.perf_counter(), self._daemon_seconds()
        while self._looked_at() < self._runs:
            if time.perf_counter() - began > GIVE_UP_SECONDS:
                sys.exit(f"The look takes too long:\n{self._services.log('daemon')[-3000:]}")
            time.sleep(0.1)
        return self._daemon_seconds() - before, (began, time.perf_counter())

    def _daemon_seconds(self) -> float:
        times = psutil.Process(self._services.processes["daemon"].pid).cpu_times()
        return float(times.user + times.system)

    def _looked_at(self) -> int:
        query, began = select(func.count()).where(OURS, WorkflowRun.observed_at.is_not(None)), time.perf_counter()
        with self._database.reading() as session:
            count = session.scalar(query) or 0
        self._own_reads.append((began, time.perf_counter()))
        return count

    def _peak_mebibytes(self, name: str) -> float:
        status = Path(f"/proc/{self._services.processes[name].pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0


def _started(session: requests.Session, cloud: str) -> dict[str, Any]:
    """One job at the cloud, as a row that has been running for an hour."""
    run_id = str(uuid.uuid4())
    job: dict[str, Any] = {
        "name": f"wes-{run_id}",
        "label": "",
        "workflow": {},
        "params": {"outcome": "hang"},
        "files": {},
    }
    answer = session.post(f"{cloud}/v1/jobs", json=job, headers={"Idempotency-Key": job["name"]}, timeout=60)
    answer.raise_for_status()
    ago = datetime.now(UTC) - timedelta(hours=1)
    return {
        **{"run_id": run_id, "submit_key": f"wes-{run_id}", "name": "benchmark", "owner": "local"},
        **{"workflow_type": "CWL", "workflow_type_version": "v1.0", "workflow_url": "hello.cwl"},
        **{"workflow_params": {}, "workflow_engine_parameters": {}, "tags": {}, "provider_type": "fake"},
        **{"provider_id": answer.json()["id"], "state": State.RUNNING, "provider_status": "RUNNING"},
        **{"submitted_at": ago, "start_time": ago, "due_at": datetime.now(UTC) + timedelta(days=1)},
    }


def _p99(latencies: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(latencies, n=100)[98]


if __name__ == "__main__":
    main()
