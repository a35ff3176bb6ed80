"""A local run's files before and while it runs: its directory, attachments, logs. Nothing gets out of the directory."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from app.daemon.engines.engine_interface import RunDir
from app.daemon.providers import shim
from app.daemon.providers.provider_interface import Attachment, LogSink, Task
from app.errors import NotFound, Rejected

ATTACHMENT_REFUSED = "attachment_refused"
ATTACHMENT_LOST = "attachment_lost"
FICLONE = 0x40049409  # linux/fs.h: share the blocks, on file systems that can
STREAMS = ("stdout", "stderr")
TASK_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,200}")
HOLD_PAUSE_SECONDS = 0.02
COPY_BYTES = 1024 * 1024
NO_FILE_ERRORS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES})
BAD_NAME_ERRORS = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})


@contextmanager
def hold_directory(root: Path, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Be the only one that lays out `root`, made where it is not there; False where another does for all that time."""
    deadline = time.monotonic() + patience_seconds
    while (descriptor := _try_hold(root)) is None and time.monotonic() < deadline:
        time.sleep(HOLD_PAUSE_SECONDS)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def make_run_dir(root: Path) -> RunDir:
    """The empty places of a run that is not accepted yet; what an earlier submit left is removed."""
    for left in list(root.iterdir()):
        shim.remove_tree(str(left)) if left.is_dir() and not left.is_symlink() else left.unlink()
    run_dir = RunDir(root)
    for folder in run_dir.work, run_dir.outputs, run_dir.tmp, run_dir.record:
        folder.mkdir(mode=0o700)
    (root / shim.LOCK).touch(mode=0o600)
    shim.sync_directory(str(root.parent))
    return run_dir


def lay_out(attachments: Iterable[Attachment], work: Path) -> None:
    """Copy the attachments below `work` (new, empty), by their paths; the engine may change its copies.

    Raises Rejected with ATTACHMENT_REFUSED or ATTACHMENT_LOST, OSError where the disk fails.
    """
    for attachment in attachments:
        target = work.joinpath(*_parts(attachment.path))
        try:
            source = attachment.open()
        except (FileNotFoundError, NotFound) as error:
            raise Rejected(f"The attachment {attachment.path!r} is no longer stored.", ATTACHMENT_LOST) from error
        with source:
            size = _copy(source, target)
        if size != attachment.size:
            raise Rejected(f"The attachment {attachment.path!r} is damaged in storage.", ATTACHMENT_LOST)


@contextmanager
def open_below(root: Path, *names: str) -> Iterator[BinaryIO | None]:
    """The regular file root/names…, without following a link anywhere below `root`; None where there is none.

    A running engine may swap links and pipes in at any moment: nothing is looked at and then opened by name.
    """
    with ExitStack() as opened:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        try:
            for name in names[:-1]:
                folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                opened.callback(os.close, folder)
            descriptor = os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            if error.errno not in NO_FILE_ERRORS:
                raise
            yield None
            return
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            yield opened.enter_context(os.fdopen(descriptor, "rb"))
        else:
            os.close(descriptor)
            yield None


def append_streams(root: Path, sink: LogSink) -> None:
    """Append what is new on the engine's own stdout and stderr."""
    for stream in STREAMS:
        _append_new(root, (stream,), stream, sink)


def append_task_logs(root: Path, tasks: Iterable[Task], sink: LogSink) -> None:
    """Append what is new in the tasks' logs; a task whose id cannot be a name has none."""
    for task in tasks:
        if TASK_ID.fullmatch(task.task_id):
            for stream, is_there in zip(STREAMS, (task.has_stdout, task.has_stderr), strict=True):
                if is_there:
                    where = RunDir(root).task_log(task.task_id, stream).relative_to(root)
                    _append_new(root, where.parts, f"tasks/{task.task_id}/{stream}", sink)


def _append_new(root: Path, where: tuple[str, ...], name: str, sink: LogSink) -> None:
    with open_below(root, *where) as file:
        if file is not None:
            kept = sink.size(name)
            if file.seek(0, os.SEEK_END) > kept:
                file.seek(kept)
                sink.append(name, file)


def _try_hold(root: Path) -> int | None:
    root.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), root.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # held by another, or removed by it
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise Rejected(f"The attachment path {path!r} is not a plain relative path.", ATTACHMENT_REFUSED)
    return parts


def _copy(source: BinaryIO, target: Path) -> int:
    """The number of bytes that `target` then has."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as copy:
            if not _share_blocks(source, copy):
                shutil.copyfileobj(source, copy, COPY_BYTES)
            return copy.seek(0, os.SEEK_END)
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno not in BAD_NAME_ERRORS:
            raise
        raise Rejected(f"The attachment path cannot be laid out: {error}", ATTACHMENT_REFUSED) from error


def _share_blocks(source: BinaryIO, copy: BinaryIO) -> bool:
    if not isinstance(getattr(source, "raw", source), io.FileIO):
        return False  # not a plain file: its descriptor may hold something else than its bytes
    try:
        fcntl.ioctl(copy.fileno(), FICLONE, source.fileno())
    except OSError:
        return False
    return True
