"""A file system that can is told that a folder's folders are unrelated; any other is left as it is."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from app.artifacts import DirectoryStorage
from app.unrelated_folders import FLAGS, GET_FLAGS, SET_FLAGS, TOP_FLAG, keep_apart
from tests.fakes.local_machine import Machine

NO_DUMP = 0x40


class Flags:
    """A file system's flags of one folder, in place of ioctl."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, flags: int | None) -> None:
        """`flags`: None where it knows no such thing."""
        self.flags, self.changes = flags, 0
        monkeypatch.setattr(fcntl, "ioctl", self)

    def __call__(self, descriptor: int, request: int, content: bytes) -> bytes:
        if self.flags is None:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        if request == SET_FLAGS:
            self.flags, self.changes = FLAGS.unpack(content)[0], self.changes + 1
        else:
            assert request == GET_FLAGS
        return FLAGS.pack(self.flags, 0)


def test_the_flag_is_added_once_to_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Flags(monkeypatch, NO_DUMP)
    for _ in range(2):
        keep_apart(tmp_path)
    assert (disk.flags, disk.changes) == (NO_DUMP | TOP_FLAG, 1)


def test_a_file_system_that_knows_no_flags_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Flags(monkeypatch, None)
    keep_apart(tmp_path)
    keep_apart(tmp_path / "missing")


def test_runs_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own directories and what is kept of them, and nothing else."""
    told: list[Path] = []
    for module in "app.daemon.providers.local", "app.artifacts.directory":
        monkeypatch.setattr(f"{module}.keep_apart", told.append)
    Machine(tmp_path).provider()
    assert DirectoryStorage(tmp_path / "artifacts").problem() is None
    assert told == [tmp_path / "runs", tmp_path / "artifacts" / "runs"]
