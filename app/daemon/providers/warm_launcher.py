"""Starts shims from fork servers, one for each engine environment, and cold wherever that does not go at once.

Owns when a fork server is started and when one is given up. Nothing depends on it but speed: any number of shims may be
started for a run, and its lock lets one of them begin.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.daemon.engines import fork_server
from app.daemon.providers import shim
from app.daemon.providers.shim_launcher import LAUNCH_SECONDS, ShimLauncher

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0


class NoServer(Exception):
    """No fork server has done it; the words say why."""


class WarmLauncher:
    """Thread-safe. Runs whose argv begins with `python -I runner` have a fork server, the others start cold."""

    def __init__(
        self,
        cold: ShimLauncher,
        directory: Path,
        hint_file: Path,
        runner: Path,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`directory`: where fork servers have their directories, for this user only."""
        self._cold, self._directory, self._hint_file, self._runner = cold, directory, hint_file, runner
        self._monotonic = monotonic
        self._servers: dict[str, Server] = {}  # by python
        self._lock = threading.Lock()

    def start(self, root: Path, start_by: float) -> None:
        """See ShimLauncher. A server that does not answer costs seconds, once: then it is ended and another started."""
        server = self._server_for(root)
        if server is None:
            self._cold.start(root, start_by)
            return
        try:
            server.ask({"root": str(root), "hint_file": str(self._hint_file), "start_by": start_by})
        except (NoServer, OSError) as error:
            log.info("a run starts cold", extra={"run_id": root.name, "why": str(error)})
            try:
                self._cold.start(root, start_by)
            finally:
                server.bring_back()

    def prepare(self, python: Path) -> None:
        """Have a fork server for this environment soon; returns in moments, and never fails."""
        server = self._server(str(python))
        try:
            server.ask({})
        except (NoServer, OSError):
            server.bring_back()

    def _server_for(self, root: Path) -> Server | None:
        try:
            argv = (shim.read_record(str(root), shim.REQUEST) or {}).get("argv", [])
        except (OSError, ValueError):
            return None  # the shim will say what is wrong with it
        return self._server(argv[0]) if argv[1:3] == ["-I", str(self._runner)] else None

    def _server(self, python: str) -> Server:
        with self._lock:
            if python not in self._servers:
                environment = Path(python).parents[1]
                directory = self._directory / f"{environment.parent.name}-{environment.name}"
                self._servers[python] = Server(directory, python, str(self._runner), self._monotonic)
            return self._servers[python]


class Server:
    """One environment's fork server, as its clients see it. It may be there, or not, at any time."""

    def __init__(self, directory: Path, python: str, runner: str, monotonic: Callable[[], float]) -> None:
        self._directory, self._python, self._monotonic = directory, python, monotonic
        self._programs = (runner, shim.__file__, fork_server.__file__)
        self._lock = threading.Lock()
        self._starts, self._not_before = 0, 0.0  # since it last answered; no other start before

    def ask(self, request: Mapping[str, Any]) -> int:
        """Do what `request` says; returns the shim's pid, or the server's where no run was named.

        Raises NoServer or OSError.
        """
        identity = fork_server.identity(self._python, self._programs)
        with self._connected() as connection:
            connection.send(json.dumps({"identity": identity, **request}).encode())
            answer = self._receive(connection)
        pid = answer.get("shim") or answer.get("ready")
        if pid is None:
            raise NoServer(f"the fork server answered {answer or 'nothing'}")
        with self._lock:
            self._starts, self._not_before = 0, 0.0
        return int(pid)

    def bring_back(self) -> None:
        """Start one, unless that was done a moment ago. It takes seconds to be ready; nobody waits for it."""
        with self._lock:
            now = self._monotonic()
            if now < self._not_before:
                return
            self._not_before = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self._starts)
            self._starts += 1
        try:
            self._spawn()
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("a fork server cannot be started", extra={"python": self._python, "error": str(error)})

    def _spawn(self) -> None:
        """The process that is waited for forks the server and ends. Where one serves already, this one leaves."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        runner, shim_program, server = self._programs
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
        subprocess.run(
            [self._python, "-I", server, str(self._directory), runner, shim_program, "." * fork_server.TITLE_BYTES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment, "PADDING": "." * fork_server.ENVIRONMENT_BYTES},
            cwd="/",
            timeout=LAUNCH_SECONDS,
            check=True,
        )

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """Raises NoServer where the directory is not this user's alone, OSError where nobody listens there."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            facts = os.fstat(directory)
            if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
                raise NoServer(f"{self._directory} is not for this user alone")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(fork_server.address_in(directory))
                yield connection
        finally:
            os.close(directory)

    def _receive(self, connection: socket.socket) -> dict[str, Any]:
        """Its answer, empty where it left without one. A server that is silent is ended, so that another can be."""
        try:
            words = connection.recv(fork_server.MESSAGE_BYTES)
        except TimeoutError:
            self._end(connection)
            raise
        try:
            answer = json.loads(words or b"{}")
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def _end(self, connection: socket.socket) -> None:
        pid, uid = fork_server.peer(connection)
        log.warning("a fork server does not answer and is ended", extra={"pid": pid})
        if uid == os.geteuid() and (process := shim.read_process(pid)) is not None:
            shim.send_signal(process, signal.SIGKILL)
