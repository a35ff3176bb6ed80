"""A process that has an engine's modules loaded and forks shims, whose engines then need not start: they are there.

    python -I fork_server.py DIRECTORY RUNNER SHIM PADDING

Run by an engine environment's python with the standard library, RUNNER and SHIM alone. The launcher imports it for what
both sides must know alike. It outlives the daemon, serves this user only, and its death costs nothing but speed: what
it has forked stands on its own.

    DIRECTORY/lock      held while it lives, so there is one at most
    DIRECTORY/socket    SOCK_SEQPACKET: one JSON object each way for a connection
    DIRECTORY/log       what it said

    {"identity", "root", "hint_file", "start_by"}   is answered {"shim": pid}, or {"refused": why}
    {"identity"}                                    is answered {"ready": pid}
    an identity that is not its own                 is answered {"stale": pid}, and it leaves

RUNNER has `warm_up(scratch)`, which loads what every run needs and leaves no thread, no open file and nothing that a
run could notice, and `run_warm(arguments)`, which returns an exit code. It is called in the fork where a run's argv is
`python -I RUNNER …`; any other program is executed, as a cold shim does.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LOCK, SOCKET, LOG = "lock", "socket", "log"
ENVIRONMENT_BYTES, TITLE_BYTES = 16 * 1024, 4096  # what a fork can show as its own
MESSAGE_BYTES = 64 * 1024
LOCK_SECONDS = 5.0  # for a predecessor that is about to leave
REQUEST_SECONDS = 1.0
CHECK_SECONDS = 10.0
IDLE_SECONDS = 24 * 3600.0
GROWTH_BYTES = 64 * 1024**2
LARGE_PAGE_BYTES, MADV_COLLAPSE = 2 * 1024**2, 25
SHIM_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}


# What both sides must know alike


def identity(python: str, programs: tuple[str, ...]) -> str:
    """Changes with the environment's packages and with these files. Raises OSError where one of them is missing."""
    packages = tuple(map(str, Path(python).parents[1].glob("lib/python*/site-packages")))
    return _identity(os.path.realpath(python, strict=True), packages, programs, _marks((*packages, *programs)))


@functools.lru_cache
def _identity(python: str, packages: tuple[str, ...], programs: tuple[str, ...], marks: tuple[object, ...]) -> str:
    """Looked up for each run, and worked out when one of the `marks` is another: a folder's changes with its names."""
    digest = hashlib.sha256(os.fsencode(python))
    names = (package.name for folder in packages for package in Path(folder).glob("*.dist-info"))
    digest.update("\0".join(sorted(names)).encode())
    for program in programs:
        digest.update(hashlib.sha256(Path(program).read_bytes()).digest())
    return digest.hexdigest()


def _marks(paths: tuple[str, ...]) -> tuple[object, ...]:
    found = map(os.stat, paths)
    return tuple((mark.st_ino, mark.st_mtime_ns, mark.st_ctime_ns, mark.st_size) for mark in found)


def address_in(directory: int) -> str:
    """The socket's address below an open directory, whose own path may be longer than an address."""
    return f"/proc/self/fd/{directory}/{SOCKET}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of whoever listens, or connected, at the other end."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


# The server


class Nameplate:
    """The memory that /proc shows as this process's arguments and environment. exec fills it; a fork has to itself."""

    def __init__(self) -> None:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()  # the name before may hold anything
        self._title, self._environment = [(int(start), int(end)) for start, end in (fields[45:47], fields[47:49])]
        if 0 in (*self._title, *self._environment):
            raise RuntimeError("This system does not say where a process keeps its arguments and its environment.")

    def show(self, title: str, environment: dict[str, str]) -> None:
        """Also makes `environment` this process's own: the strings of the old one are written over."""
        os.environ.clear()
        settings = "".join(f"{name}={value}\0" for name, value in environment.items())
        _fill(*self._title, os.fsencode(title), b"\1")  # the last byte says that it is one title, not argument strings
        _fill(*self._environment, os.fsencode(settings), b"\0")
        os.environ.update(environment)


def _fill(start: int, end: int, content: bytes, last: bytes) -> None:
    room = end - start - 2
    ctypes.memmove(start, content[:room].ljust(room + 1, b"\0") + last, room + 2)


class ForkServer:
    """Loads the runner once, then answers. Single-threaded: it forks."""

    def __init__(self, directory: Path, runner: str, shim: str) -> None:
        self._directory, self._socket, self._runner_path = directory, directory / SOCKET, runner
        self._programs = (runner, shim, __file__)
        self._identity = identity(sys.executable, self._programs)  # before they are loaded
        self._nameplate = Nameplate()
        kept = {name: os.environ[name] for name in ("PATH", "LANG")}
        self._nameplate.show(f"wes fork server {directory}", {**kept, "HOME": str(directory), "TMPDIR": str(directory)})
        self._shim, self._runner = _load("wes_shim", shim), _load("wes_runner", runner)
        self._warm_up()
        self._size = _resident_bytes()
        self._leaving = ""

    def serve(self) -> str:
        """Answer until there is a reason to leave; returns it."""
        listener, inode = self._listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what is forked
        checked = asked = time.monotonic()
        while not self._leaving:
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                asked = time.monotonic()
                with connection:
                    self._attend(connection)
            if time.monotonic() - checked > CHECK_SECONDS:
                checked = time.monotonic()
                self._leaving = self._leaving or self._reason_to_leave(inode, checked - asked)
        with suppress(OSError):
            if self._socket.stat().st_ino == inode:
                self._socket.unlink()
        return self._leaving

    def _warm_up(self) -> None:
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir holds another one
        scratch = tempfile.mkdtemp(dir=self._directory)
        try:
            self._runner.warm_up(scratch)
        finally:
            shutil.rmtree(scratch)
        if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208
            raise RuntimeError("The warm-up has left a thread, and a process with threads must not fork.")
        if len(os.listdir("/proc/self/fd")) != files:  # noqa: PTH208
            raise RuntimeError("The warm-up has left an open file.")
        restore_signals()
        gc.collect()
        gc.freeze()  # a collection in a fork would copy what is shared
        join_pages()

    def _listen(self) -> tuple[socket.socket, int]:
        """The socket, which has its name only once it listens, and the inode that the name has."""
        new = self._socket.with_name(f"{SOCKET}.new")
        new.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.settimeout(CHECK_SECONDS)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        listener.bind(f"{address_in(directory)}.new")
        os.close(directory)
        listener.listen(128)
        new.rename(self._socket)
        return listener, self._socket.stat().st_ino

    def _attend(self, connection: socket.socket) -> None:
        """One request. Whoever says nothing in time, or nonsense, gets no answer."""
        try:
            if peer(connection)[1] != os.geteuid():
                return
            connection.settimeout(REQUEST_SECONDS)
            request = json.loads(connection.recv(MESSAGE_BYTES))
            connection.send(json.dumps(self._answer(request)).encode())
        except (OSError, ValueError, LookupError, TypeError) as error:
            print(f"a request failed: {error!r}", flush=True)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["identity"] != self._identity:
            self._leaving = "it is not the one that was asked for: packages or programs have changed"
            return {"stale": os.getpid()}
        if "root" not in request:
            return {"ready": os.getpid()}
        root, hint_file, start_by = str(request["root"]), str(request["hint_file"]), float(request["start_by"])
        try:
            pid = os.fork()
        except OSError as error:
            return {"refused": str(error)}
        if pid == 0:
            self._become_shim(root, hint_file, start_by)
        return {"shim": pid}

    def _reason_to_leave(self, inode: int, idle_seconds: float) -> str:
        try:
            if identity(sys.executable, self._programs) != self._identity:
                return "packages or programs have changed"
            if self._socket.stat().st_ino != inode:
                return "another one has its place"
        except OSError as error:
            return f"something is gone: {error}"
        if _resident_bytes() > self._size + GROWTH_BYTES:
            return "it has grown"
        return "nobody has asked for long" if idle_seconds > IDLE_SECONDS else ""

    def _become_shim(self, root: str, hint_file: str, start_by: float) -> NoReturn:
        """In the fork: what a cold shim is after its start, and nothing of the server."""
        try:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in 0, 1, 2:
                os.dup2(nowhere, stream)
            close_files()
            self._nameplate.show(f"{self._shim.__file__} {root} {hint_file} {start_by}", SHIM_ENVIRONMENT)
            self._shim.run(root, hint_file, start_by, self._execute)
            os._exit(0)
        finally:
            os._exit(1)

    def _execute(self, argv: list[str], environment: dict[str, str]) -> NoReturn:
        """Be the engine: what is loaded already, where that is what was asked for."""
        if argv[:3] != [sys.executable, "-I", self._runner_path]:
            self._shim.execute_program(argv, environment)
        try:
            close_files()
            self._nameplate.show(" ".join(argv), environment)
            restore_signals()
            random.seed()
            tempfile.tempdir = environment.get("TMPDIR")  # the run's own; Python would try it with a file
            sys.argv = argv[2:]
            os._exit(exit_code_of(lambda: self._runner.run_warm(argv[3:])))
        finally:
            os._exit(127)


def join_pages() -> None:
    """Make large pages of this process's memory, where the kernel (6.1 or newer) does: a fork copies a table of pages
    and its end gives them back, which for 13,000 small ones takes longer than all else that a fork is."""
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, *_, name = f"{line} ".split(" ", 5)
        if access == "rw-p" and name.strip() in ("", "[heap]"):
            start, end = (int(address, 16) // LARGE_PAGE_BYTES for address in addresses.split("-"))
            for page in range(start + 1, end):
                place = ctypes.c_void_p(page * LARGE_PAGE_BYTES)
                libc.madvise(place, ctypes.c_size_t(LARGE_PAGE_BYTES), MADV_COLLAPSE)


def close_files() -> None:
    """All but the three standard streams."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2:
            with suppress(OSError):
                os.close(int(name))


def restore_signals() -> None:
    """As they are when Python has started."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def exit_code_of(run: Callable[[], int]) -> int:
    """What a Python that ran this as its program would exit with, once its threads have ended."""
    code: Any = 1
    try:
        code = run()
    except SystemExit as leaving:
        code = leaving.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # Python's own: not all that was written has arrived
    return int(code) & 0xFF


def _load(name: str, path: str) -> Any:
    """Never from cached bytecode, which is taken for current where only a second and no byte's length differ."""
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)  # noqa: S102
    return module


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _take_lock(path: Path) -> bool:
    """True where no other server has it, now or in a moment; then it is held until this process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def main() -> None:
    """Detach from whoever started this, then serve, unless somebody does already."""
    directory, runner, shim = sys.argv[1:4]
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    if not _take_lock(Path(directory, LOCK)):
        return
    log = os.open(Path(directory, LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    print("leaving:", ForkServer(Path(directory), runner, shim).serve(), flush=True)


if __name__ == "__main__":
    main()
