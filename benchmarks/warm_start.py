"""What the service adds to an engine, or saves: real API, daemon and cwltool against the bare command, in turn.

    .venv/bin/python -m benchmarks.warm_start [--pairs 9] [--rounds 3] [--many 50] [--cold]

Prints medians, and the medians of paired ratios, which a busy machine distorts less. `--cold`: without warm start.
Both sides get the same PATH. Memory is the proportional set size of all processes, above what they have when idle.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.client.attachments import collect
from app.client.wes_client import RunRequest, WesClient
from app.daemon.engines.cwltool import SYSTEM_PATH
from app.daemon.engines.environments import EngineEnvironments
from app.states import State, is_terminal
from tests.fakes.engine_runs import installed_engine_root
from tests.services import ROOT, Services

EXAMPLES = ROOT / "examples"
HELLO, READS = ("hello_world.cwl", None), ("reads/reads.cwl", "reads/reads.yml")
COMMAND = EngineEnvironments(installed_engine_root()).installed("cwltool")[0].path / "bin" / "cwltool"
CLIENTS = 8
SAMPLE_SECONDS = 0.1

Example = tuple[str, str | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=50)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    settings = {"LOCAL_CONTAINER_RUNTIME": "none", "LOCAL_WARM_START": str(not options.cold).lower()}
    with Services(settings) as services:
        bench = Bench(services)
        if not options.cold:
            bench.await_warm_start()
        bench.compare("hello world", HELLO, options.pairs)
        bench.compare("FASTQ example", READS, options.pairs)
        bench.compare_many(options.many, options.rounds)
        bench.measure_memory(options.many)


class Bench:
    """One running service and the examples."""

    def __init__(self, services: Services) -> None:
        self._services, self._client = services, services.client()

    def await_warm_start(self) -> None:
        """Until a fork server listens: a daemon that has just started is still making it ready."""
        deadline = time.monotonic() + 60
        while not list(self._services.data_dir.glob("warm/*/socket")):
            if time.monotonic() > deadline:
                sys.exit("No fork server has come: see the daemon's log.")
            time.sleep(0.1)

    def compare(self, name: str, example: Example, pairs: int) -> None:
        """POST to COMPLETE, as the client sees it, over the bare command; the first pair warms up and is dropped."""
        request = _request(example)
        bare, ours, starts = [], [], []
        for number in range(pairs + 1):
            command = _seconds(lambda: _run_bare(example))
            before = time.perf_counter()
            run_id = self._client.run_workflow(**request)["run_id"]
            answered = time.time()
            self._await_end(self._client, run_id)
            served = time.perf_counter() - before
            if number:
                bare.append(command)
                ours.append(served)
                starts.append(self._started_at(run_id) - answered)
        _say(name, ours, bare)
        p95 = statistics.quantiles(starts, n=20, method="inclusive")[-1]
        words = f"p50 {_milliseconds(statistics.median(starts))}, p95 {_milliseconds(p95)}"
        print(f"{'':16}from POST's answer to the engine's start {words}", flush=True)

    def compare_many(self, many: int, rounds: int) -> None:
        """All at once, over xargs with two at a time."""
        bare, ours = [], []
        for _ in range(rounds):
            bare.append(_seconds(lambda: _run_bare_many(many)))
            ours.append(_seconds(lambda: self._run_many(many)))
        _say(f"{many} at once", ours, bare)

    def measure_memory(self, many: int) -> None:
        """In a round of its own: looking costs time."""
        idle = _memory(self._services.directory)
        with _sampled(lambda: _memory(self._services.directory)) as samples:
            self._run_many(many)
        print(
            f"{'memory':16}{idle / 2**20:.0f} MiB idle, {(max(samples) - idle) / 2**20:.0f} MiB more while {many} run"
        )

    def _run_many(self, many: int) -> None:
        clients = [self._services.client() for _ in range(CLIENTS)]
        request = _request(HELLO)
        with ThreadPoolExecutor(CLIENTS) as pool:
            posts = [pool.submit(clients[n % CLIENTS].run_workflow, **request) for n in range(many)]
            for post in posts:
                self._await_end(self._client, post.result()["run_id"])

    def _await_end(self, client: WesClient, run_id: str) -> None:
        state = State.QUEUED
        while not is_terminal(state):
            state = State(client.get_run_status(run_id, wait=30)["state"])
        if state != State.COMPLETE:
            sys.exit(f"{run_id} ended {state}:\n{json.dumps(client.get_run_log(run_id), indent=1)[-3000:]}")

    def _started_at(self, run_id: str) -> float:
        record = json.loads((self._services.data_dir / "runs" / run_id / "started.json").read_text())
        return float(record["at"])


def _request(example: Example) -> RunRequest:
    workflow, params = example
    bundle = collect(str(EXAMPLES / workflow), True, EXAMPLES / params if params else None)
    return RunRequest(
        workflow_url=bundle.workflow_url,
        workflow_type="CWL",
        workflow_type_version="v1.2" if params else "v1.0",
        workflow_params=dict(bundle.workflow_params or {}),
        workflow_attachment=[(name, path) for name, path in bundle.files.items()],
    )


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wes-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": SYSTEM_PATH, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}


def _run_bare(example: Example) -> None:
    documents = [str(EXAMPLES / name) for name in example if name]
    with _folder() as folder:
        command = [str(COMMAND), "--no-container", "--quiet", "--outdir", str(folder / "out"), *documents]
        subprocess.run(command, env=_environment(folder), cwd=folder, capture_output=True, check=True)


def _run_bare_many(many: int) -> None:
    with _folder() as folder:
        numbers = "\n".join(str(folder / f"out{number}") for number in range(many))
        command = [str(COMMAND), "--no-container", "--quiet", "--outdir", "{}", str(EXAMPLES / HELLO[0])]
        subprocess.run(
            ["xargs", "-P2", "-I{}", *command],
            input=numbers.encode(),
            env=_environment(folder),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )


def _seconds(do: Callable[[], None]) -> float:
    before = time.perf_counter()
    do()
    return time.perf_counter() - before


def _say(name: str, ours: Sequence[float], bare: Sequence[float]) -> None:
    ratios = [served / command for served, command in zip(ours, bare, strict=True)]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    words = f"{_milliseconds(statistics.median(ours))} over {_milliseconds(statistics.median(bare))}"
    print(f"{name:16}{words}: ratio {statistics.median(ratios):.3f} ({spread}, {len(ratios)} pairs)", flush=True)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _memory(directory: Path) -> int:
    """Bytes of everything that works below the service's directory or has its settings, shared pages shared out."""
    return sum(
        _proportional_bytes(process.pid) for process in psutil.process_iter() if _belongs(process.pid, directory)
    )


def _belongs(pid: int, directory: Path) -> bool:
    if pid == os.getpid():
        return False
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return str(directory).encode() in words


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


@contextmanager
def _sampled(look: Callable[[], int]) -> Iterator[list[int]]:
    samples, over = [look()], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(look())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
