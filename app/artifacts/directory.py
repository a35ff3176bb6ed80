"""Artifact storage below one directory of a file system that API and daemons share:

staging/<random>                    uploads in progress
blobs/<ab>/<sha256>                 attachments, one file a content
runs/<run_id>/logs/<name>           stdout, stderr, tasks/<task_id>/stdout …, events.jsonl
runs/<run_id>/outputs/<path>        output files under the paths that the provider gave them
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import BinaryIO

from app.artifacts.storage import (
    CHUNK,
    DAY_SECONDS,
    ArtifactStorage,
    Known,
    StoredFile,
    Upload,
    capped,
    log_bytes,
    new_parts,
    no_file,
    output_files,
    output_location,
    parts_of,
)
from app.errors import NotFound
from app.sinks import LogSink, OutputSink
from app.unrelated_folders import keep_apart

_LOCK = ".lock"
_PART = ".wes-part"
SMALL_BYTES, SMALL_UPLOADS = 16 * 1024, 512
"""Uploads up to this size stay in memory, so many at a time."""


class DirectoryStorage(ArtifactStorage):
    """Every process that works on `root` may have an object of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lasting: set[Path] = set()
        self._places = BoundedSemaphore(SMALL_UPLOADS)

    def problem(self) -> str | None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):
                return f"ARTIFACTS_DIR cannot be used: {self.root} is not writable for this user."
            runs = self.root / "runs"
            runs.mkdir(exist_ok=True)
        except OSError as error:
            return f"ARTIFACTS_DIR cannot be used: {error}"
        keep_apart(runs)
        return None

    def new_upload(self) -> Upload:
        return _FileUpload(self.root, self._lasting, self._places)

    def blob(self, sha256: str) -> StoredFile:
        return _stored(_blob_path(self.root, sha256), sha256)

    def renew_blob(self, sha256: str) -> None:
        path = _blob_path(self.root, sha256)
        try:
            with _locked(path.parent, fcntl.LOCK_SH):
                os.utime(path)
        except FileNotFoundError:
            raise no_file(sha256) from None

    def log_sink(self, run_id: str, max_bytes: int) -> LogSink:
        return _DirectoryLogs(self._run(run_id) / "logs", max_bytes)

    def output_sink(self, run_id: str) -> OutputSink:
        return _DirectoryOutputs(self._run(run_id) / "outputs", self.root)

    def log(self, run_id: str, name: str) -> StoredFile | None:
        try:
            return _kept(self._run(run_id) / "logs", name)
        except NotFound:
            return None

    def output(self, run_id: str, path: str) -> StoredFile:
        return _kept(self._run(run_id) / "outputs", path)

    def outputs(self, run_id: str) -> list[StoredFile]:
        base = self._run(run_id) / "outputs"
        files = (Path(folder, name) for folder, _, names in os.walk(base) for name in names)
        whole = (file for file in files if _is_regular(file) and not _is_partial(file.name))
        return sorted((_stored(file, file.relative_to(base).as_posix()) for file in whole), key=lambda kept: kept.path)

    def drop_run(self, run_id: str) -> None:
        shutil.rmtree(self._run(run_id), ignore_errors=True)

    def sweep(self, known_runs: Known, known_blobs: Known, older_than_seconds: float = DAY_SECONDS) -> int:
        before = time.time() - older_than_seconds
        return (
            _unlink_old(self.root / "staging", before)
            + sum(self._sweep_blobs(folder, known_blobs, before) for folder in _children(self.root / "blobs"))
            + self._sweep_runs(known_runs, before)
        )

    def _sweep_blobs(self, folder: Path, known: Known, before: float) -> int:
        names = [path.name for path in _children(folder) if path.name != _LOCK]
        doomed = set(names) - known(names)
        with _locked(folder, fcntl.LOCK_EX):  # no upload can renew a blob between the look and the unlink
            return sum(_unlink_if_old(folder / name, before) for name in doomed)

    def _sweep_runs(self, known: Known, before: float) -> int:
        old = [path.name for path in _children(self.root / "runs") if _is_old(path, before)]
        doomed = set(old) - known(old)
        for name in doomed:
            self.drop_run(name)
        return len(doomed)

    def _run(self, run_id: str) -> Path:
        return _inside(self.root / "runs", run_id)


class _FileUpload(Upload):
    """In memory while it is small: most such are there already, and making and removing a file costs more than they."""

    def __init__(self, root: Path, lasting: set[Path], places: BoundedSemaphore) -> None:
        self._root, self._lasting, self._places = root, lasting, places
        self._memory = io.BytesIO()
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._room = SMALL_BYTES if places.acquire(blocking=False) else 0
        self._hash, self._size, self._offset = hashlib.sha256(), 0, 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._size += len(data)
        if self._file is None and self._size > self._room:
            self._stage()
        return (self._file or self._memory).write(data)

    def read(self, size: int = -1) -> bytes:
        with io.BytesIO(self._memory.getvalue()) if self._path is None else self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size)
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> int:
        """All is written: the descriptor goes back, as one request may bring more files than a process may open."""
        if self._file is not None:
            self._file.close()
        self._offset = offset
        return offset

    def close(self) -> None:
        self._leave_memory()
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    def keep(self) -> tuple[str, int]:
        sha256 = self._hash.hexdigest()
        blob = _blob_path(self._root, sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _locked(blob.parent, fcntl.LOCK_SH):
            if blob.exists():  # so it is whole, and on the disk
                os.utime(blob)  # its age begins anew, so no sweep takes it
            else:
                file, path = (self._file, self._path) if self._file and self._path else self._stage()
                file.close()
                _fsync(path)
                path.replace(blob)
        _sync_names(blob.parent, self._root, self._lasting)
        return sha256, self._size

    def _stage(self) -> tuple[BinaryIO, Path]:
        """What was in memory is in a file from now on."""
        staging = self._root / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        self._path = staging / secrets.token_hex(16)
        self._file = self._path.open("xb")
        self._file.write(self._memory.getvalue())
        self._leave_memory()
        return self._file, self._path

    def _leave_memory(self) -> None:
        if self._room:
            self._room = 0
            self._places.release()


class _DirectoryLogs:
    """LogSink: appended in place, so that a reader sees a log grow."""

    def __init__(self, base: Path, max_bytes: int) -> None:
        self._base, self._max_bytes = base, max_bytes

    def size(self, name: str) -> int:
        path = self._path(name)
        return path.stat().st_size if path.exists() else 0

    def append(self, name: str, source: BinaryIO) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            for data in log_bytes(source, file.tell(), self._max_bytes):
                file.write(data)

    def replace(self, name: str, text: bytes) -> None:
        _place(self._path(name), lambda fresh: fresh.write_bytes(capped(text, self._max_bytes)))

    def _path(self, name: str) -> Path:
        return self._base.joinpath(*new_parts(name))


class _DirectoryOutputs:
    """OutputSink: hard links where the file system allows, else copies; all is on disk when a call returns."""

    def __init__(self, base: Path, root: Path) -> None:
        self._base, self._root = base, root
        self._lasting: set[Path] = set()

    def put_path(self, path: str, source: Path) -> str:
        target = self._base.joinpath(*new_parts(path))
        files = output_files(source)
        for folder in {_place(target.joinpath(*place), partial(_link_or_copy, real)) for place, real in files}:
            _sync_names(folder, self._root, self._lasting)
        return output_location(path)

    def put_stream(self, path: str, source: BinaryIO) -> str:
        folder = _place(self._base.joinpath(*new_parts(path)), lambda fresh: _write(fresh, source))
        _sync_names(folder, self._root, self._lasting)
        return output_location(path)


def _place(target: Path, make: Callable[[Path], object]) -> Path:
    """Make a file under a hidden name, get it to the disk, and rename it: never half there. Returns its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{secrets.token_hex(8)}{_PART}")
    try:
        make(fresh)
        _fsync(fresh)
        fresh.replace(target)  # a rename onto another link of the same file does nothing, so the name may remain
    finally:
        fresh.unlink(missing_ok=True)
    return target.parent


def _link_or_copy(source: Path, target: Path) -> None:
    """A link put in place of `source` since it was looked at is not followed, and a link is not served."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


def _write(target: Path, source: BinaryIO) -> None:
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _inside(base: Path, path: str) -> Path:
    return base.joinpath(*parts_of(path))


def _kept(base: Path, path: str) -> StoredFile:
    """Of a run. Symbolic links are ours nowhere below `base`, so none is followed."""
    file = _inside(base, path)
    if os.path.realpath(file) != os.path.join(os.path.realpath(base), file.relative_to(base)):  # noqa: PTH118
        raise no_file(path)
    return _stored(file, path)


def _stored(path: Path, name: str) -> StoredFile:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError, OSError):
        raise no_file(name) from None
    if not stat.S_ISREG(status.st_mode):
        raise no_file(name)
    version = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"  # many a clock only ticks every 4 ms
    return StoredFile(name, status.st_size, status.st_mtime, version, lambda: _open(path, name))


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return io.FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise no_file(name) from None


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PART)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / _LOCK).open("wb") as file:
        fcntl.flock(file, how)
        yield


def _blob_path(root: Path, sha256: str) -> Path:
    return _inside(root / "blobs", f"{sha256[:2]}/{sha256}")


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unlink_old(folder: Path, before: float) -> int:
    return sum(_unlink_if_old(path, before) for path in _children(folder))


def _unlink_if_old(path: Path, before: float) -> bool:
    old = _is_old(path, before)
    if old:
        path.unlink(missing_ok=True)
    return old


def _is_old(path: Path, before: float) -> bool:
    """False for what another sweep has just taken."""
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _sync_names(folder: Path, root: Path, lasting: set[Path]) -> None:
    """What was named in `folder` is on the disk, and so is the way to it from `root`; `lasting`: ways known to be."""
    _fsync_directory(folder)
    while folder != root and folder not in lasting:
        _fsync_directory(folder.parent)
        lasting.add(folder)
        folder = folder.parent


def _fsync_directory(folder: Path) -> None:
    _fsync(folder, os.O_DIRECTORY)


def _fsync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
