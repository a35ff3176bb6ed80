"""A machine for tests whose engines run in forks of a fork server: everything else is as in local_machine.

machine.server()          the pid of the server that answers now; blocks until one does
machine.cold_starts       which runs were started cold although their engine has a fork server
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from app.daemon.engines import fork_server
from app.daemon.providers import shim
from app.daemon.providers.local import LocalProvider
from app.daemon.providers.shim_launcher import ColdLauncher
from app.daemon.providers.warm_launcher import NoServer, Server, WarmLauncher
from tests.fakes.engine import ScriptEngine
from tests.fakes.local_machine import WAIT_SECONDS, Machine

RUNNER = Path(__file__).with_name("script_runner.py")


class NotedLauncher(ColdLauncher):
    """Starts cold, and takes note of runs that should not need it."""

    def __init__(self, hint_file: Path, runner: Path) -> None:
        super().__init__(sys.executable, hint_file)
        self.noted: list[str] = []
        self._runner = str(runner)

    def start(self, root: Path, start_by: float) -> None:
        request = shim.read_record(str(root), shim.REQUEST)
        if request is not None and self._runner in request["argv"]:
            self.noted.append(root.name)
        super().start(root, start_by)


class WarmMachine(Machine):
    """Close it: its server is killed too."""

    def __init__(self, folder: Path, runner: Path = RUNNER, python: str = sys.executable) -> None:
        super().__init__(folder)
        self.runner, self.python = runner, python
        self.directory = folder.resolve() / "warm"
        self._cold = NotedLauncher(self.hint_file, runner)
        self._launcher = self.new_launcher()
        self._launcher.prepare(Path(python))
        self.server()
        self._launcher.prepare(Path(python))  # it has answered, so the next start is not held back

    def new_launcher(self, **changes: Any) -> WarmLauncher:
        return WarmLauncher(self._cold, self.directory, self.hint_file, self.runner, **changes)

    @property
    def launcher(self) -> WarmLauncher:
        return self._launcher

    @property
    def cold_starts(self) -> list[str]:
        return self._cold.noted

    @property
    def server_directory(self) -> Path:
        environment = Path(self.python).parents[1]
        return self.directory / f"{environment.parent.name}-{environment.name}"

    def connection(self) -> Server:
        return Server(self.server_directory, self.python, str(self.runner), time.monotonic)

    def provider(self, **changes: Any) -> LocalProvider:
        return super().provider(**{"engines": [ScriptEngine(self.python, self.runner)], **changes})

    def server(self) -> int:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                return self.connection().ask({})
            except (NoServer, OSError):
                os.sched_yield()
        raise AssertionError(f"no fork server answers: {self.log()}")

    def log(self) -> str:
        path = self.server_directory / fork_server.LOG
        return path.read_text() if path.exists() else ""

    def servers(self) -> list[int]:
        return fork_servers(self.directory)

    def close(self) -> None:
        super().close()
        for pid in self.servers():
            os.kill(pid, signal.SIGKILL)
            self.gone(pid)


def fork_servers(directory: Path) -> list[int]:
    """Pids of all fork servers below `directory`, whether they answer or not.

    What one has forked bears its title for a moment, and not its lock, which the kernel notes under the server's pid.
    Where many are locked the kernel tells it in pieces, and what is unlocked between two hides an entry: so twice.
    """
    title = f"wes fork server {directory}".encode()
    locks = [line.split() for _ in range(2) for line in Path("/proc/locks").read_text().splitlines()]
    holders = {int(lock[4]) for lock in locks if lock[1] == "FLOCK"}
    return [pid for pid in holders if _command_line(pid).startswith(title)]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
