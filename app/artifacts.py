"""Attachments, logs and outputs: bytes under our own names. Knows no table and no HTTP.

`ArtifactStorage` is the seam; `DirectoryStorage` keeps everything below one directory that API and daemon share:

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote

from app.errors import NotFound, Rejected
from app.sinks import LogSink, OutputSink

CHUNK = 1024 * 1024
DAY_SECONDS = 86_400
_LOCATION = "wes-output:"

Known = Callable[[Iterable[str]], frozenset[str]]
"""Which of these names the database still has."""


def output_location(path: str) -> str:
    """How an output object names a kept file; the API turns it into an absolute URL."""
    return _LOCATION + quote(path)


def output_path(location: str) -> str | None:
    """The path that `output_location` was given; None for any other location."""
    return unquote(location.removeprefix(_LOCATION)) if location.startswith(_LOCATION) else None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A kept file as it was when it was looked up; `size` in bytes, `modified` in Unix time."""

    path: str
    size: int
    modified: float
    open: Callable[[], BinaryIO]  # seekable, at the beginning


class Upload(ABC):
    """An attachment on its way in. Written once from the front; then kept, read back or dropped."""

    @abstractmethod
    def write(self, data: bytes) -> int: ...

    @abstractmethod
    def read(self, size: int = -1) -> bytes:
        """From where `seek` went: for form fields that came as file parts."""

    @abstractmethod
    def seek(self, offset: int) -> int: ...

    @abstractmethod
    def close(self) -> None:
        """Drop it, unless it was kept."""

    @abstractmethod
    def keep(self) -> tuple[str, int]:
        """Make it lasting under its hash, on disk before this returns. Returns (sha256, size in bytes)."""


class ArtifactStorage(ABC):
    """Where a run's bytes are. Safe for several processes at once; no file is ever half visible."""

    @abstractmethod
    def new_upload(self) -> Upload: ...

    @abstractmethod
    def blob(self, sha256: str) -> StoredFile:
        """Raises NotFound."""

    @abstractmethod
    def renew_blob(self, sha256: str) -> None:
        """It is about to be used again: its age begins anew, so no sweep takes it meanwhile. Raises NotFound."""

    @abstractmethod
    def log_sink(self, run_id: str, max_bytes: int) -> LogSink: ...

    @abstractmethod
    def output_sink(self, run_id: str) -> OutputSink: ...

    @abstractmethod
    def log(self, run_id: str, name: str) -> StoredFile | None:
        """None while there is none."""

    @abstractmethod
    def output(self, run_id: str, path: str) -> StoredFile:
        """Raises NotFound, also for a path that would leave the run's outputs."""

    @abstractmethod
    def outputs(self, run_id: str) -> list[StoredFile]:
        """Every kept output file, by path."""

    @abstractmethod
    def drop_run(self, run_id: str) -> None:
        """Forget a run's logs and outputs; harmless where there are none."""

    @abstractmethod
    def sweep(self, known_runs: Known, known_blobs: Known, older_than_seconds: float = DAY_SECONDS) -> int:
        """Remove what no row names and is older than that; returns how many things went."""


class DirectoryStorage(ArtifactStorage):
    """Artifact storage below one directory of a file system that all parts share."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
            raise NotFound(f"There is no file {sha256!r}.") from None

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
        files = (Path(folder, name) for folder, _, names in os.walk(base) for name in names)
        return sorted((_stored(file, file.relative_to(base).as_posix()) for file in files), key=lambda kept: kept.path)

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
        self._mark = f"\n[cut here: a log keeps at most {max_bytes} bytes]\n".encode()

    def size(self, name: str) -> int:
        path = _inside(self._base, name)
        return path.stat().st_size if path.exists() else 0

    def append(self, name: str, source: BinaryIO) -> None:
        path = _inside(self._base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            while (room := self._max_bytes - file.tell()) > 0 and (data := source.read(min(CHUNK, room))):
                file.write(data)
            if room == 0 and source.read(1):
                file.write(self._mark)

    def replace(self, name: str, text: bytes) -> None:
        path = _inside(self._base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        fresh.write_bytes(text if len(text) <= self._max_bytes else text[: self._max_bytes] + self._mark)
        fresh.replace(path)


class _DirectoryOutputs:
    """OutputSink: hard links where the file system allows, else copies; all is on disk when a call returns."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def put_path(self, path: str, source: Path) -> str:
        root = source.resolve(strict=True)
        self._put(_inside(self._base, path), root, root, ())
        _fsync_directory(self._base)
        return output_location(path)

    def put_stream(self, path: str, source: BinaryIO) -> str:
        target = _inside(self._base, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(target, lambda fresh: _write(fresh, source))
        return output_location(path)

    def _put(self, target: Path, source: Path, root: Path, parents: tuple[Path, ...]) -> None:
        real = source.resolve(strict=True)
        if not real.is_relative_to(root) or real in parents:
            raise Rejected(f"Output {source.name!r} is a symbolic link that leaves the outputs.", "outputs_unreadable")
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            target.mkdir(parents=True, exist_ok=True)
            for child in sorted(real.iterdir()):
                self._put(target / child.name, child, root, (*parents, real))
        elif stat.S_ISREG(mode):
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(target, lambda fresh: _link_or_copy(real, fresh))
        else:
            raise Rejected(f"Output {source.name!r} is neither a file nor a directory.", "outputs_unreadable")


def _place(target: Path, make: Callable[[Path], None]) -> None:
    """Make a file under a hidden name, get it to the disk, and rename it: never half there."""
    fresh = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        make(fresh)
        _fsync(fresh)
        fresh.replace(target)  # a rename onto another link of the same file does nothing, so the name may remain
    finally:
        fresh.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(target: Path, source: BinaryIO) -> None:
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _inside(base: Path, path: str) -> Path:
    """`path` below `base`; raises NotFound for one that would leave it or cannot be a name."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise NotFound(f"There is no file {path!r}.")
    return base.joinpath(*parts)


def _stored(path: Path, name: str) -> StoredFile:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError, OSError):
        raise NotFound(f"There is no file {name!r}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise NotFound(f"There is no file {name!r}.")
    return StoredFile(name, status.st_size, status.st_mtime, lambda: _open(path, name))


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return io.FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError:
        raise NotFound(f"There is no file {name!r}.") from None


_LOCK = ".lock"


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
