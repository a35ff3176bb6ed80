"""The shim: a small detached process that runs one engine in one run directory and writes down how it ended.

    python -I -S shim.py RUN_DIR HINT_FILE START_BY      START_BY: seconds of CLOCK_BOOTTIME, later than that it refuses

Standard library only and nothing of `app`, so that it starts in some 20 ms. The provider imports it for the record
files and process facts that both sides must read alike. Whoever decides a run (starts it, ends it, cancels it
unstarted) holds `lock` meanwhile; `started.json` and `exit.json` are never written without it.

    lock ── exit.json or started.json there? leave ── fork the engine, held at a gate ── started.json ── no cancel?
    open the gate ── wait, or TERM then KILL ── end what is left ── remove tmp/ ── exit.json ── hint
"""

# pathlib would lengthen every start:
# ruff: noqa: PTH101, PTH104, PTH108, PTH114, PTH118, PTH119, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Execute = Callable[[list[str], dict[str, str]], NoReturn]

LOCK, REQUEST, STARTED, CANCEL, EXIT = "lock", "request.json", "started.json", "cancel", "exit.json"

# exit.json's `reason`
EXITED = "exited"  # by itself: exit_code says how
CANCELED = "canceled"
TERMINATED = "executor_terminated"  # the shim was told to stop, and not by a cancel
LOST = "executor_lost"  # the shim died before the engine ended; written by the provider
NOT_STARTED = "engine_not_started"

MARK = "WES_RUN_DIR"  # in the engine's environment, so that what it leaves behind can be told from other processes
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
AWAITED = {signal.SIGCHLD, signal.SIGTERM}
KILL_PATIENCE_SECONDS = 10.0
OOM_SCORE = "500"
HINT_TIMEOUT_SECONDS = 2

Process = namedtuple("Process", "pid ppid session start state")  # start: clock ticks since boot


# Record files


def write_record(root: str, name: str, record: dict[str, Any]) -> None:
    """Write `root/name` whole and durably: it has the old content, or all of the new one."""
    temporary = os.path.join(root, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, os.path.join(root, name))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(root)


def sync_directory(path: str) -> None:
    """Make the names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_record(root: str, name: str) -> dict[str, Any] | None:
    """The record, None where there is none. Raises ValueError where it is not a JSON object."""
    try:
        with open(os.path.join(root, name), "rb") as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"{name} is not an object")
    return record


def has(root: str, name: str) -> bool:
    """True where `root/name` is there, whole or not."""
    return os.path.lexists(os.path.join(root, name))


def try_lock(root: str) -> int | None:
    """The descriptor that holds the run's lock until it is closed; None while somebody else holds it."""
    descriptor = os.open(os.path.join(root, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


# Process facts


def boot_id() -> str:
    """Changes with every boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def seconds_since_boot() -> float:
    """Goes on while the machine or this process is suspended, and no one can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_process(pid: int) -> Process | None:
    """What /proc says of `pid`; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0].decode())


def all_processes() -> list[Process]:
    """Every process that can be seen."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def with_descendants(pids: set[int], table: list[Process]) -> list[Process]:
    """The processes of `table` that are in `pids`, and all that descend from them."""
    family = set(pids)
    size = 0
    while size != len(family):
        size = len(family)
        family.update(process.pid for process in table if process.ppid in family)
    return [process for process in table if process.pid in family]


def send_signal(process: Process, signum: int) -> None:
    """Signal exactly this process: a later one with the same pid is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(process.pid)
        try:
            now = read_process(process.pid)
            if now is not None and now.start == process.start:
                signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)


# The shim itself


def execute_program(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Be the engine from now on. Raises OSError where it cannot be."""
    os.execvpe(argv[0], argv, environment)  # noqa: S606


def run(root: str, hint_file: str, start_by: float, execute: Execute = execute_program) -> None:
    """Run the engine of `root`, unless it ever started, was cancelled, or it is too late. Returns when all is over.

    `execute`: how the forked child becomes the engine; closes what it has not opened, as exec does.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    lock = take_lock(root, start_by)
    if lock is None:
        return
    try:
        request = read_record(root, REQUEST)
        if request is None or is_decided(root) or seconds_since_boot() > start_by:
            return
        write_end(root, attend_engine(root, request, execute) | {"end": time.time()})
    finally:
        os.close(lock)
    send_hint(os.path.basename(root), hint_file)


def take_lock(root: str, start_by: float) -> int | None:
    """The lock's descriptor. None where another shim has the run; the provider holds it for moments only."""
    while (lock := try_lock(root)) is None:
        if is_decided(root) or seconds_since_boot() > start_by:
            return None
        time.sleep(0.01)
    return lock


def is_decided(root: str) -> bool:
    """True once the run was started or ended: then no engine may be started in it, ever."""
    return has(root, EXIT) or has(root, STARTED)


def attend_engine(root: str, request: dict[str, Any], execute: Execute) -> dict[str, Any]:
    """Start the engine and stay until it and all that it started are gone; returns what belongs in exit.json."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    engine, gate, complaint = fork_engine(root, request, execute)
    start = time.time()
    facts = {pid: read_process(pid) for pid in (os.getpid(), engine)}
    shim_facts, engine_facts = ([pid, process.start if process else 0] for pid, process in facts.items())
    write_record(root, STARTED, {"boot_id": boot_id(), "shim": shim_facts, "engine": engine_facts, "at": start})
    canceled = has(root, CANCEL)
    if not canceled:
        os.write(gate, b"1")
    os.close(gate)
    words = read_all(complaint)
    exit_code, was_told = wait_for(engine, float(request["grace_seconds"]))
    end_descendants()
    if exit_code == 0:
        sync_outputs(os.path.join(root, "outputs"))
    remove_tree(os.path.join(root, "tmp"))
    if canceled:
        return {"reason": CANCELED}
    if was_told and has(root, CANCEL):
        return {"reason": CANCELED, "exit_code": exit_code, "start": start}
    if words:
        return {"reason": NOT_STARTED, "message": words.decode(errors="replace"), "start": start}
    return {"reason": TERMINATED if was_told else EXITED, "exit_code": exit_code, "start": start}


def fork_engine(root: str, request: dict[str, Any], execute: Execute) -> tuple[int, int, int]:
    """The engine's pid, the gate that lets it begin, and a pipe that says why it could not."""
    may_go, gate = os.pipe()
    complaint, complain = os.pipe()
    shim = os.getpid()
    engine = os.fork()
    if engine == 0:
        os.close(gate)
        try:
            become_engine(root, request, shim, may_go, execute)
        except BaseException as error:
            os.write(complain, str(error).encode()[:2000])
        finally:
            os._exit(127)
    os.close(may_go)
    os.close(complain)
    return engine, gate, complaint


def become_engine(root: str, request: dict[str, Any], shim: int, may_go: int, execute: Execute) -> NoReturn:
    """In the child: its own session, dies with the shim, nothing inherited; waits at the gate, then is the engine."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != shim or os.read(may_go, 1) != b"1":
        os._exit(127)
    take_streams(root)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)  # where memory runs out, the engine goes before the daemon
    os.chdir(os.path.join(root, "work"))
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    execute(request["argv"], request["environment"] | {MARK: root})


def take_streams(root: str) -> None:
    """Standard input from nowhere, the other two into the run directory's files."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in (1, "stdout"), (2, "stderr"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        os.dup2(os.open(os.path.join(root, name), flags, 0o600), descriptor)


def read_all(descriptor: int) -> bytes:
    """Everything until the other side closes; at most the pipe's room."""
    with open(descriptor, "rb") as file:
        return file.read()


def wait_for(engine: int, grace_seconds: float) -> tuple[int, bool]:
    """The engine's exit code, 128+n for signals, and whether we were told to end it meanwhile."""
    deadline = None
    while (exit_code := reap(engine)) is None:
        patience = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        woken = signal.sigtimedwait(AWAITED, patience)
        if woken is not None and woken.si_signo == signal.SIGTERM and deadline is None:
            deadline = time.monotonic() + grace_seconds
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(engine, signal.SIGTERM)  # not reaped yet, so the number is still the engine's
        if deadline is not None and time.monotonic() >= deadline:
            kill_children()
            signal.sigtimedwait({signal.SIGCHLD}, 0.02)
    return exit_code, deadline is not None


def reap(engine: int = 0) -> int | None:
    """Collect every child that has ended; the engine's exit code where it is among them."""
    exit_code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == engine:
                exit_code = os.waitstatus_to_exitcode(ended[1])
    return 128 - exit_code if exit_code is not None and exit_code < 0 else exit_code


def kill_children() -> None:
    """KILL every child, once. Children of a child that dies become ours, as this is a subreaper: so, in turn, all."""
    for pid in own_children():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still the child's


def own_children() -> list[int]:
    """Pids, read in microseconds, which is what it takes to catch a process that forks and exits over and over."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [process.pid for process in all_processes() if process.ppid == os.getpid()]


def end_descendants() -> None:
    """KILL and reap until no child is left; gives up on what the kernel cannot end in time."""
    deadline = time.monotonic() + KILL_PATIENCE_SECONDS
    while has_children() and time.monotonic() < deadline:
        kill_children()
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)


def has_children() -> bool:
    """True while a child is left, ended or not. Every descendant hangs on one."""
    reap()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def sync_outputs(path: str) -> None:
    """Make the outputs durable before exit.json says that they are there."""
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def remove_tree(path: str) -> None:
    """Remove `path` and all below it, also what was made unreadable; what cannot be removed stays."""
    import shutil  # only now: it would lengthen every start

    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
        for folder, names, _ in os.walk(path):
            for name in names:
                if not os.path.islink(inner := os.path.join(folder, name)):
                    os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def write_end(root: str, end: dict[str, Any]) -> None:
    """Write exit.json; on a full disk, as soon as there is room."""
    while True:
        try:
            return write_record(root, EXIT, end)
        except FileNotFoundError:
            return None  # the run directory was removed
        except OSError:
            time.sleep(1)


def send_hint(run_id: str, hint_file: str) -> None:
    """Tell the daemon that the run ended, signed as `app/hints.py` says. Failure costs a poll."""
    import hashlib  # only now: these would lengthen every start
    import hmac
    import socket
    from urllib.parse import urlsplit

    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(hint_file) as file:
            hint = json.load(file)
        body, timestamp = json.dumps({"run_id": run_id}).encode(), str(int(time.time()))
        url = urlsplit(hint["url"])
        lines = [f"POST {url.path or '/'} HTTP/1.0", f"Host: {url.netloc}", f"Content-Length: {len(body)}"]
        if hint["secret"]:
            signature = hmac.new(hint["secret"].encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
            lines += [f"X-WES-Timestamp: {timestamp}", f"X-WES-Signature: sha256={signature}"]
        with socket.create_connection((url.hostname, url.port), HINT_TIMEOUT_SECONDS) as daemon:
            daemon.sendall("\r\n".join([*lines, "", ""]).encode() + body)  # http.client would double the shim's start
            while daemon.recv(4096):  # who leaves in mid-answer breaks it off, and the daemon says so in its log
                pass


def main() -> None:
    """Detach from whoever started this, then run."""
    root, hint_file, start_by = sys.argv[1:4]
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    run(root, hint_file, float(start_by))


if __name__ == "__main__":
    main()
