"""Artifact storage below one directory of a file system that API and daemons share:

staging/<random>                    uploads in progress
blobs/<ab>/<sha256>                 attachments, one file a content
runs/<run_id>/logs/<name>           stdout, stderr, tasks/<task_id>/stdout …
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
    no_file,
    output_files,
    output_location,
    parts_of,
)
from app.errors import NotFound
from app.sinks import LogSink, OutputSink

_LOCK = ".lock"
_PART = ".wes-part"


class DirectoryStorage(ArtifactStorage):
    """`now`: Unix time, which a sweep holds ages against."""

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        self.root, self._now = root, now

    def problem(self) -> str | None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"ARTIFACTS_DIR cannot be used: {error}"
        writable = os.access(self.root, os.W_OK | os.X_OK)
        return None if writable else f"ARTIFACTS_DIR cannot be used: {self.root} is not writable for this user."

    def new_upload(self) -> Upload:
        return _FileUpload(self.root)

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
        return _DirectoryOutputs(self._run(run_id) / "outputs")

    def log(self, run_id: str, name: str) -> StoredFile | None:
        try:
            return _stored(_inside(self._run(run_id) / "logs", name), name)
        except NotFound:
            return None

    def output(self, run_id: str, path: str) -> StoredFile:
        return _stored(_inside(self._run(run_id) / "outputs", path), path)

    def outputs(self, run_id: str) -> list[StoredFile]:
        base = self._run(run_id) / "outputs"
        files = (Path(folder, name) for folder, _, names in os.walk(base) for name in names if not _is_partial(name))
        return sorted((_stored(file, file.relative_to(base).as_posix()) for file in files), key=lambda kept: kept.path)

    def drop_run(self, run_id: str) -> None:
        shutil.rmtree(self._run(run_id), ignore_errors=True)

    def sweep(self, known_runs: Known, known_blobs: Known, older_than_seconds: float = DAY_SECONDS) -> int:
        before = self._now() - older_than_seconds
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
        folders = {path.name: path for path in _children(self.root / "runs") if path.stat().st_mtime < before}
        doomed = set(folders) - known(list(folders))
        for name in doomed:
            self.drop_run(name)
        return len(doomed)

    def _run(self, run_id: str) -> Path:
        return _inside(self.root / "runs", run_id)


class _FileUpload(Upload):
    def __init__(self, root: Path) -> None:
        staging = root / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        self._root, self._path = root, staging / secrets.token_hex(16)
        self._file = self._path.open("xb")
        self._hash, self._size, self._offset = hashlib.sha256(), 0, 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._size += len(data)
        return self._file.write(data)

    def read(self, size: int = -1) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size)
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> int:
        """All is written: the descriptor goes back, as one request may bring more files than a process may open."""
        self._file.close()
        self._offset = offset
        return offset

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def keep(self) -> tuple[str, int]:
        self._file.close()
        _fsync(self._path)
        sha256 = self._hash.hexdigest()
        blob = _blob_path(self._root, sha256)
        if not blob.parent.is_dir():
            blob.parent.mkdir(parents=True, exist_ok=True)
            _fsync_directory(blob.parent.parent)
        with _locked(blob.parent, fcntl.LOCK_SH):
            self._path.replace(blob)  # also over an equal one: its age begins anew, so no sweep takes it
        _fsync_directory(blob.parent)
        return sha256, self._size


class _DirectoryLogs:
    """LogSink: appended in place, so that a reader sees a log grow."""

    def __init__(self, base: Path, max_bytes: int) -> None:
        self._base, self._max_bytes = base, max_bytes

    def size(self, name: str) -> int:
        path = _inside(self._base, name)
        return path.stat().st_size if path.exists() else 0

    def append(self, name: str, source: BinaryIO) -> None:
        path = _inside(self._base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            for data in log_bytes(source, file.tell(), self._max_bytes):
                file.write(data)

    def replace(self, name: str, text: bytes) -> None:
        path = _inside(self._base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        fresh.write_bytes(capped(text, self._max_bytes))
        fresh.replace(path)


class _DirectoryOutputs:
    """OutputSink: hard links where the file system allows, else copies; all is on disk when a call returns."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def put_path(self, path: str, source: Path) -> str:
        target = _inside(self._base, path)
        folders = {
            _place(target.joinpath(*place), partial(_link_or_copy, real)) for place, real in output_files(source)
        }
        self._sync(folders)
        return output_location(path)

    def put_stream(self, path: str, source: BinaryIO) -> str:
        self._sync({_place(_inside(self._base, path), lambda fresh: _write(fresh, source))})
        return output_location(path)

    def _sync(self, written: set[Path]) -> None:
        """The names in these folders are on the disk too, and those of new folders above them."""
        for folder in {above for folder in written for above in (folder, *folder.parents)}:
            if folder.is_relative_to(self._base):
                _fsync_directory(folder)


def _place(target: Path, make: Callable[[Path], None]) -> Path:
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
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(target: Path, source: BinaryIO) -> None:
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _inside(base: Path, path: str) -> Path:
    return base.joinpath(*parts_of(path))


def _stored(path: Path, name: str) -> StoredFile:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError, OSError):
        raise no_file(name) from None
    if not stat.S_ISREG(status.st_mode):
        raise no_file(name)
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return StoredFile(name, status.st_size, status.st_mtime, version, lambda: _open(path, name))


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return io.FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise no_file(name) from None


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
    try:
        old = path.stat().st_mtime < before
        if old:
            path.unlink()
    except FileNotFoundError:
        return False
    return old


def _fsync_directory(folder: Path) -> None:
    _fsync(folder, os.O_DIRECTORY)


def _fsync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
