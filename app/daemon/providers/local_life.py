"""Where a local run stands, read from its directory: the lock, the record files and /proc. No PID is trusted alone.

Owns what happens to a run whose shim is gone, late, or does not obey. Knows nothing of engines, requests or outputs.

    exit.json                         it ended so, whatever else is there
    lock held,  started.json          it runs
    lock held,  no started.json       its shim, or somebody who looks, is deciding just now
    lock free,  started.json          the shim died: end what remains, then exit.json `executor_lost`
    lock free,  nothing, cancel       cancelled before the start: exit.json `canceled`, which a late shim obeys
    lock free,  nothing               not begun: a shim is on its way, or has to be started again
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from app.daemon.providers import shim
from app.daemon.providers.shim import Process

RECORD_DAMAGED = "run_record_damaged"
ENDS = frozenset({shim.EXITED, shim.CANCELED, shim.TERMINATED, shim.LOST, shim.NOT_STARTED, RECORD_DAMAGED})
TRASH = ".trash-"  # what is being removed
KILL_ROUNDS = 50
KILL_PAUSE_SECONDS = 0.02
MARKED_VARIABLES = (shim.MARK.encode(), b"TMPDIR", b"HOME")


@dataclass(frozen=True, slots=True)
class Unbegun:
    """No engine was started. `held`: a shim, or somebody who looks, has the lock at the moment."""

    held: bool


@dataclass(frozen=True, slots=True)
class Running:
    """The engine was started. The pairs are (pid, start in clock ticks since boot); `start` is Unix time."""

    boot_id: str
    shim: tuple[int, int]
    engine: tuple[int, int]
    start: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: one of ENDS. Times are Unix times; None where the engine never started or nobody knows."""

    reason: str
    exit_code: int | None = None
    start: float | None = None
    end: float | None = None
    message: str | None = None


def look(root: Path) -> Unbegun | Running | Ended:
    """Where the run stands; ends what a dead shim left, for which it may take about a second.

    Raises FileNotFoundError where there is no such run, OSError where the disk or /proc cannot be read or written.
    """
    if (ended := _read_end(root)) is not None:
        return ended
    with _lock(root) as held:
        if held:
            return _settle(root)
    return _read_start(root) or Unbegun(held=True)


def ask_cancel(root: Path) -> None:
    """Leave word for the shim, and for whoever looks later, that this run is to end as cancelled.

    An empty file, which also a full disk takes: the run may be what has filled it.
    """
    if not shim.has(str(root), shim.EXIT):
        (root / shim.CANCEL).touch(mode=0o600)
        shim.sync_directory(str(root))


def is_cancel_asked(root: Path) -> bool:
    """True once `ask_cancel` was called for this run."""
    return shim.has(str(root), shim.CANCEL)


def give_up(root: Path, message: str) -> None:
    """End a run that no shim began; nothing happens where one has begun it meanwhile."""
    with _lock(root) as held:
        if held and isinstance(_settle(root), Unbegun):
            _conclude(root, shim.NOT_STARTED, message=message)


def tell_shim(running: Running) -> None:
    """TERM the shim, which ends the engine and all that it started; nobody is signalled where the shim is gone."""
    if running.boot_id == shim.boot_id() and (process := _same_process(running.shim)) is not None:
        shim.send_signal(process, SIGTERM)


def kill_by_force(running: Running) -> None:
    """KILL the engine and everything below the shim, which should have done it, and the shim where it is stopped.

    A shim without anything below it is about to be done: it may have much in tmp/ to remove.
    """
    if running.boot_id != shim.boot_id() or (chief := _same_process(running.shim)) is None:
        return
    for _ in range(KILL_ROUNDS):
        family = shim.with_descendants({chief.pid}, shim.all_processes())
        below = [process for process in family if process.pid != chief.pid and process.state != "Z"]
        if not below:
            break
        _kill(below)
    if chief.state in "Tt":
        shim.send_signal(chief, SIGKILL)


def remove(root: Path) -> bool:
    """Remove the directory of a run that is over; False, and nothing happens, while its engine may be alive."""
    (root / shim.LOCK).touch()  # a submit that died early may have left none
    with _lock(root) as held:
        if not held or isinstance(_settle(root), Running):
            return False
        trash = root.with_name(f"{TRASH}{root.name}")
        root.rename(trash)  # at once, so that no late shim finds half a directory
    shim.remove_tree(str(trash))
    return True


@contextmanager
def _lock(root: Path) -> Iterator[bool]:
    descriptor = shim.try_lock(str(root))
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _settle(root: Path) -> Unbegun | Running | Ended:
    """Under the lock: nobody else decides now, and no shim of this run is alive with an engine."""
    if (ended := _read_end(root)) is not None:
        return ended
    canceled = is_cancel_asked(root)
    if (running := _read_start(root)) is not None:
        if not _end_remains(root, running):
            return running
        return _conclude(root, shim.CANCELED if canceled else shim.LOST, start=running.start)
    if canceled:
        return _conclude(root, shim.CANCELED)
    if _is_from_another_boot(root):
        return _conclude(root, shim.LOST, message="The machine restarted before the engine began.")
    return Unbegun(held=False)


def _conclude(root: Path, reason: str, start: float | None = None, message: str | None = None) -> Ended:
    ended = Ended(reason, None, start, time.time(), message)
    record = {"reason": reason, "start": start, "end": ended.end, "message": message}
    shim.write_record(str(root), shim.EXIT, record)
    return ended


def _is_from_another_boot(root: Path) -> bool:
    """After a crash of the machine what was laid out for the run may be incomplete."""
    with suppress(ValueError):
        request = shim.read_record(str(root), shim.REQUEST)
        return request is not None and request.get("boot_id") != shim.boot_id()
    return True


def _read_end(root: Path) -> Ended | None:
    """An engine without a sandbox can write into our files: nothing in them is taken for granted."""
    try:
        record = shim.read_record(str(root), shim.EXIT)
    except ValueError as error:
        return Ended(RECORD_DAMAGED, message=str(error))
    if record is None:
        return None
    reason, exit_code, message = (record.get(key) for key in ("reason", "exit_code", "message"))
    is_damaged = not isinstance(exit_code, int | None) or (reason == shim.EXITED and exit_code is None)
    if is_damaged or not isinstance(reason, str) or reason not in ENDS:
        return Ended(RECORD_DAMAGED, message="exit.json does not say how the run ended.")
    words = message if isinstance(message, str) else None
    return Ended(reason, exit_code, _seconds(record.get("start")), _seconds(record.get("end")), words)


def _read_start(root: Path) -> Running | None:
    try:
        record = shim.read_record(str(root), shim.STARTED)
    except ValueError:
        record = {}
    if record is None:
        return None
    pairs = _pair(record.get("shim")), _pair(record.get("engine"))
    return Running(str(record.get("boot_id", "")), *pairs, _seconds(record.get("at")))


def _pair(value: Any) -> tuple[int, int]:
    """(pid, start); where it is damaged, one that no process has."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, int) and part > 0 for part in value):
        return value[0], value[1]
    return 0, 0


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e11 else None


def _same_process(known: tuple[int, int]) -> Process | None:
    pid, start = known
    process = shim.read_process(pid) if pid else None
    return process if process is not None and process.start == start else None


def _end_remains(root: Path, running: Running) -> bool:
    """KILL what a dead shim left behind; False where something would not go yet. The engine died with its shim."""
    if running.boot_id not in ("", shim.boot_id()):
        return True
    for _ in range(KILL_ROUNDS):
        if not (left := _remains(root, running)):
            return True
        _kill(left)
    return False


def _kill(processes: list[Process]) -> None:
    for process in processes:
        shim.send_signal(process, SIGKILL)
    time.sleep(KILL_PAUSE_SECONDS)


def _remains(root: Path, running: Running) -> list[Process]:
    table = [process for process in shim.all_processes() if process.state not in "ZX"]
    ours = {process.pid for process in table if _is_in_session(process, root, running) or _bears_mark(process, root)}
    return shim.with_descendants(ours, table)


def _is_in_session(process: Process, root: Path, running: Running) -> bool:
    """In the engine's session: its leader is still the engine or, as numbers come again, it works in the directory."""
    leader, start = running.engine
    if not leader or process.session != leader or process.start < start:
        return False
    return _same_process(running.engine) is not None or _is_inside(_working_directory(process), root)


def _bears_mark(process: Process, root: Path) -> bool:
    """Its environment says that it was started for this run."""
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return False  # gone, or another user's
    settings = (setting.partition(b"=") for setting in environment.split(b"\0"))
    return any(name in MARKED_VARIABLES and _is_inside(os.fsdecode(value), root) for name, _, value in settings)


def _working_directory(process: Process) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{process.pid}/cwd").readlink())
    return ""


def _is_inside(path: str, root: Path) -> bool:
    return path == str(root) or path.startswith(f"{root}/")
