"""API and daemon as real processes on loopback, with a data directory of their own. Knows nothing of their insides.

    with Services() as services:                  # API and daemon, on SQLite
        services.client().run_workflow(...)
        services.kill_daemon()                    # kill -9; engines go on
        services.start_daemon()

    with Services({"DATABASE_URI": url}, start=False) as services:   # more settings; nothing started yet
        services.migrate()
        services.start_api()

Processes inherit nothing of the developer's settings. What they say is in `services.log("api")` and `log("daemon")`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import requests

from app.client.wes_client import WesClient
from tests import processes

ROOT = Path(__file__).resolve().parents[1]
TEST_ENGINES = ROOT / "var" / "test-engines"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
FIRST_PORT, OWN_PORTS = 16_000, 1000  # below 32,768, from where on Linux gives ports to whoever asks for any
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "PYENV_ROOT", "PYENV_VERSION")


class DidNotStart(Exception):
    """A process ended or did not answer; the message holds the end of its log."""


class Services:
    """A context manager; leaving it ends every process that it led to, and removes the data directory."""

    api_script = "application.py"
    prefix: Sequence[str] = ()  # words before the command of every process

    def __init__(self, settings: Mapping[str, str] | None = None, start: bool = True) -> None:
        self._start = start
        self.directory = Path(tempfile.mkdtemp(prefix="wes-services-")).resolve()
        self.data_dir = self.directory / "data"
        self.port, self.notification_port = free_ports(2)
        self.environment = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "WORKERS": "2",
            "DATA_DIR": str(self.data_dir),
            "DAEMON_NOTIFICATION_PORT": str(self.notification_port),
            "WES_API_URL": f"http://127.0.0.1:{self.port}/ga4gh/wes/v1",
            **(settings or {}),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[WesClient] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.environment["WES_API_URL"]

    def client(self) -> WesClient:
        """Closed with the services."""
        self._clients.append(WesClient(self.url))
        return self._clients[-1]

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        try:
            self.data_dir.mkdir()
            if TEST_ENGINES.exists():
                (self.data_dir / "engines").symlink_to(TEST_ENGINES.resolve())
            if self._start:
                self.migrate()
                self.start_api()
                self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for name in list(self.processes):
            self.stop(name)
        end_processes_of(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def migrate(self) -> None:
        """The schema, as an operator makes it."""
        flask = [sys.executable, "-m", "flask", "--app", str(ROOT / "application.py")]
        command = [*flask, "db", "upgrade", "--directory", str(ROOT / "migrations")]
        done = subprocess.run(command, cwd=self.directory, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise DidNotStart(f"flask db upgrade ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def start_api(self) -> None:
        """Returns when it answers."""
        self._spawn("api", self.api_script, {})
        self._wait("api", lambda: _answers(f"{self.origin}/healthz"))

    def start_daemon(self, name: str = "daemon", settings: Mapping[str, str] | None = None) -> None:
        """Returns when its listener takes connections and, where the API runs, the API knows of a daemon.

        `name` and `settings` are for a second daemon: it needs a DATA_DIR and a DAEMON_NOTIFICATION_PORT of its own.
        """
        environment = self._spawn(name, "scripts/workflow_daemon.py", settings or {})
        port = int(environment["DAEMON_NOTIFICATION_PORT"])
        self._wait(name, lambda: _listens(port))
        if "api" in self.processes:
            self._wait(name, lambda: bool(requests.get(f"{self.origin}/readyz", timeout=10).json().get("daemons")))

    def kill_daemon(self, name: str = "daemon") -> None:
        """kill -9: no chance to clean up. Engines have sessions of their own and go on."""
        self.stop(name, signal.SIGKILL)

    def restart_api(self) -> None:
        self.stop("api")
        self.start_api()

    def restart_daemon(self) -> None:
        self.stop("daemon")
        self.start_daemon()

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal one process and wait for its end; returns its exit code."""
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _spawn(self, name: str, script: str, settings: Mapping[str, str]) -> dict[str, str]:
        environment = {**self.environment, **settings}
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.prefix, sys.executable, str(ROOT / script)],
                cwd=self.directory,
                env=environment,
                stdout=log,
                stderr=log,
            )
        return environment

    def _wait(self, name: str, is_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            ended = self.processes[name].poll()
            if ended is not None or time.monotonic() > deadline:
                what = "does not answer" if ended is None else f"ended with {ended}"
                raise DidNotStart(f"{name} {what}:\n{self.log(name)[-4000:]}")
            time.sleep(0.05)


def free_ports(number: int) -> list[int]:
    """Ports on loopback where nobody listens, and nobody will before we do: the kernel gives these to no one who asks
    for any, each worker of the tests has its own, and begins anywhere among them."""
    return list(islice(filter(_is_free, _ports), number))


def _own_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw")) % 16
    first = FIRST_PORT + worker * OWN_PORTS
    return (first + number % OWN_PORTS for number in count(os.getpid()))


_ports = _own_ports()


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def end_processes_of(directory: Path) -> None:
    """Kill what works below a directory that only we used: engines, shims and fork servers outlive the daemon."""
    own = [
        process for process in psutil.process_iter() if process.pid != os.getpid() and works_below(process, directory)
    ]
    processes.end(own, STOP_SECONDS)


def works_below(process: psutil.Process, directory: Path) -> bool:
    """Its working directory, a word of its command or a setting lies there."""
    try:
        return any(str(directory) in text for text in (process.cwd(), *process.cmdline(), *process.environ().values()))
    except psutil.Error:
        return False


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.RequestException:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
