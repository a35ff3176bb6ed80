"""A machine for tests of the local provider: run directories, real shims, and ways to wait for processes without sleeping.

machine.provider()          a LocalProvider on this machine's directories; another one is a restarted daemon
    machine.run_shim(run_id)    a shim of its own for an accepted run; blocks until that shim is no more
machine.ended(run_id)       blocks until the shim's hint has arrived and the shim is no more
machine.said()              blocks until an engine's `say(word)`, returns the word
machine.started()           which runs' engines called `count()`, once for each time
machine.alive()             pids of what still bears the mark of any run here
machine.gone(pid)           blocks until that process is no more
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from app.daemon.providers import shim
from app.daemon.providers.local import LocalProvider
from app.daemon.providers.provider_interface import Status, Submission
from app.daemon.providers.shim_launcher import ColdLauncher, ShimLauncher, keep_hint_target
from app.states import is_terminal
from tests.fakes.engine import ScriptEngine, submission
from tests.processes import has_ended

WAIT_SECONDS = 60
SECRET = "a secret of the tests"


class Ticks:
    """A monotonic clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class NoLauncher:
    """Accepts runs and starts nothing: a daemon that dies at once, or a shim that is late."""

    def start(self, root: Path, start_by: float) -> None:
        pass


class DyingLauncher:
    """Starts a real shim that kills itself at a named point of tests/fakes/dying_shim.py; waits until it is dead."""

    def __init__(self, point: str, hint_file: Path) -> None:
        self._point, self._hint_file = point, hint_file

    def start(self, root: Path, start_by: float) -> None:
        program = [sys.executable, "-m", "tests.fakes.dying_shim", str(root), str(self._hint_file), str(start_by)]
        with subprocess.Popen([*program, self._point], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read()  # until nobody holds it any more


class Machine:
    """Close it: what is left of its runs is killed."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder.resolve() / "runs"
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.hint_file = folder / "hint.json"
        self.hints: queue.Queue[tuple[bytes, Mapping[str, str]]] = queue.Queue()
        self._server = _listen(self.hints)
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)
        self._listening = os.open(self._fifo, os.O_RDWR)  # also a writer, so that it never ends
        keep_hint_target(self.hint_file, f"http://127.0.0.1:{self._server.server_address[1]}/", SECRET)

    @property
    def launcher(self) -> ShimLauncher:
        return ColdLauncher(sys.executable, self.hint_file)

    def provider(self, **changes: Any) -> LocalProvider:
        values = {"engines": [ScriptEngine()], "launcher": self.launcher, "host": "here"}
        return LocalProvider(self.runs, **{**values, **changes})

    def run(self, run_id: str, script: str, **changes: Any) -> Submission:
        """A submission whose script can `count()` and `say(word)`."""
        params = {"ledger": str(self.ledger), "fifo": str(self._fifo), **changes.pop("params", {})}
        return submission(run_id, script, params=params, **changes)

    def run_shim(self, run_id: str, start_by: float = float("inf")) -> None:
        with self.start_shim(run_id, start_by) as process:
            assert process.stdout is not None
            process.stdout.read()

    def start_shim(self, run_id: str, start_by: float = float("inf")) -> subprocess.Popen[bytes]:
        """Its stdout ends when the shim does."""
        places = [str(self.runs / run_id), str(self.hint_file), str(start_by)]
        return subprocess.Popen([sys.executable, "-I", "-S", shim.__file__, *places], stdout=subprocess.PIPE)

    def ended(self, run_id: str) -> Mapping[str, str]:
        """The headers of the hint for `run_id`; hints for other runs are passed over."""
        while True:
            body, headers = self.hints.get(timeout=WAIT_SECONDS)
            if body == b'{"run_id": "%s"}' % run_id.encode():
                break
        if (record := shim.read_record(str(self.runs / run_id), shim.STARTED)) is not None:
            self.gone(record["shim"][0])
        return headers

    def said(self) -> str:
        ready, _, _ = select.select([self._listening], [], [], WAIT_SECONDS)
        assert ready, "no engine said anything"
        return os.read(self._listening, 4096).decode().strip()

    def started(self) -> list[str]:
        return self.ledger.read_text().split()

    def started_record(self, run_id: str) -> dict[str, Any]:
        record = shim.read_record(str(self.runs / run_id), shim.STARTED)
        assert record is not None, f"{run_id} has not started"
        return record

    def alive(self) -> list[int]:
        return [process.pid for process in shim.all_processes() if process.state != "Z" and self._is_ours(process.pid)]

    def gone(self, pid: int) -> None:
        assert has_ended(pid, WAIT_SECONDS), f"{pid} is still there"

    def look_until(self, provider: LocalProvider, run_id: str, state: str = "") -> Status:
        """Look as the daemon does, again and again, until the run is in `state`, or has ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            status = provider.get_workflow_statuses([run_id])[run_id]
            if status.state == state or (not state and status.state is not None and is_terminal(status.state)):
                return status
            os.sched_yield()
        raise AssertionError(f"{run_id} is still {status}")

    def close(self) -> None:
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.gone(pid)
        self._server.shutdown()
        self._server.server_close()
        os.close(self._listening)

    def _is_ours(self, pid: int) -> bool:
        """An engine of a run here, or a shim."""
        mine = f"{self.runs}/".encode()
        return pid != os.getpid() and (mine in _read(f"/proc/{pid}/environ") or mine in _read(f"/proc/{pid}/cmdline"))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _listen(hints: queue.Queue[tuple[bytes, Mapping[str, str]]]) -> ThreadingHTTPServer:
    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            hints.put((body, dict(self.headers)))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
