"""Attachments, logs and outputs: what every artifact storage does, and the rules that all share. No HTTP, no table."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote, unquote

from app.errors import NotFound, Rejected
from app.sinks import LogSink, OutputSink

CHUNK = 1024 * 1024
DAY_SECONDS = 86_400
NAME_BYTES = 255
UNREADABLE = "outputs_unreadable"
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
    version: str  # another one when the bytes are others
    open: Callable[[], BinaryIO]  # seekable, at the beginning
    link: Callable[[str], str] | None = None
    """Content-Disposition -> a URL with which anybody can GET it for some minutes, answered with that header."""


class Upload(ABC):
    """An attachment on its way in. Written once from the front; then kept, read back or dropped."""

    @abstractmethod
    def write(self, data: bytes) -> int: ...

    @abstractmethod
    def read(self, size: int = -1) -> bytes:
        """From where `seek` went: for form fields that came as file parts."""

    @abstractmethod
    def seek(self, offset: int) -> int:
        """Nothing is written after this."""

    @abstractmethod
    def close(self) -> None:
        """Drop it, unless it was kept."""

    @abstractmethod
    def keep(self) -> tuple[str, int]:
        """Make it lasting under its hash before this returns. Returns (sha256, size in bytes)."""


class ArtifactStorage(ABC):
    """Where a run's bytes are. Safe for several processes at once; no file is ever half visible.

    Where it is on the other side of a network, every call may raise StorageUnavailable, reading what was opened too.
    """

    @abstractmethod
    def problem(self) -> str | None:
        """Why it cannot be used now, and what to do; None where all is well. Takes a few seconds at most."""

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
        """Forget a run's logs and outputs; harmless where there are none. What is left of them goes with a sweep."""

    @abstractmethod
    def sweep(self, known_runs: Known, known_blobs: Known, older_than_seconds: float = DAY_SECONDS) -> int:
        """Remove what no row names and is older than that; returns how many things went."""


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a path that stays where it is put; raises NotFound for one that would leave, or is no name."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or not all(map(_is_name, parts)):
        raise no_file(path)
    return parts


def new_parts(path: str) -> tuple[str, ...]:
    """The same for what a provider wants to write; raises Rejected, as trying again would not help."""
    try:
        return parts_of(path)
    except NotFound as error:
        raise Rejected(f"{path!r} cannot be the name of a file.", UNREADABLE) from error


def no_file(path: str) -> NotFound:
    return NotFound(f"There is no file {path!r}.")


def log_bytes(source: BinaryIO, kept: int, max_bytes: int) -> Iterator[bytes]:
    """What to append from `source` to a log of `kept` bytes: up to the cap, and then once the words that it is cut."""
    while (room := max_bytes - kept) > 0 and (data := source.read(min(CHUNK, room))):
        kept += len(data)
        yield data
    if room == 0 and source.read(1):
        yield _cut_mark(max_bytes)


def capped(text: bytes, max_bytes: int) -> bytes:
    """A whole log under the same cap."""
    return text if len(text) <= max_bytes else text[:max_bytes] + _cut_mark(max_bytes)


def output_files(source: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Every file of an output: (its place below `source`, its real path); for a file itself the place is ().

    Symbolic links are followed inside `source`. Raises Rejected for those that leave it or lead nowhere, for devices,
    pipes and names that cannot be kept, and where there is no `source`.
    """
    return _walk(source, source.parent.resolve() / source.name, (), ())


def _walk(
    path: Path, root: Path, place: tuple[str, ...], parents: tuple[Path, ...]
) -> Iterator[tuple[tuple[str, ...], Path]]:
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError, RuntimeError) as error:
        raise Rejected(f"Output {path.name!r} is not there, or a symbolic link to nowhere.", UNREADABLE) from error
    if not real.is_relative_to(root) or real in parents:
        raise Rejected(f"Output {path.name!r} is a symbolic link that leaves the outputs.", UNREADABLE)
    mode = real.stat().st_mode
    if stat.S_ISDIR(mode):
        for child in sorted(real.iterdir()):
            yield from _walk(child, root, (*place, *new_parts(child.name)), (*parents, real))
    elif stat.S_ISREG(mode):
        yield place, real
    else:
        raise Rejected(f"Output {path.name!r} is neither a file nor a directory.", UNREADABLE)


def _is_name(part: str) -> bool:
    try:
        return "\0" not in part and len(part.encode()) <= NAME_BYTES
    except UnicodeEncodeError:
        return False


def _cut_mark(max_bytes: int) -> bytes:
    return f"\n[cut here: a log keeps at most {max_bytes} bytes]\n".encode()
