"""A local run's files: attachments stay in work/, logs are read from the run directory and nowhere else."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from app.daemon.providers.local_files import hold_directory, lay_out, make_run_dir, open_below
from app.errors import Rejected
from tests.fakes.engine import Bytes


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_attachments_are_laid_out_by_their_paths(work: Path) -> None:
    lay_out([Bytes("a.cwl", b"1"), Bytes("deep/er/b %23.txt", b""), Bytes("deep/c", b"\0" * 3_000_000)], work)
    assert (work / "a.cwl").read_bytes() == b"1"
    assert (work / "deep/er/b %23.txt").read_bytes() == b""
    assert (work / "deep/c").stat().st_size == 3_000_000


@pytest.mark.parametrize(
    "path",
    ["", "/etc/x", "../x", "a/../../x", "a//b", "./a", "a/", "..", "a\0b", "x" * 300, "taken", "taken/below", "\ud800"],
)
def test_other_paths_are_refused(work: Path, path: str) -> None:
    with pytest.raises(Rejected) as refused:
        lay_out([Bytes("taken", b"1"), Bytes(path, b"2")], work)
    assert refused.value.reason == "attachment_refused"
    assert [str(file.relative_to(work.parent)) for file in work.parent.rglob("*")] == ["work", "work/taken"]


class Gone(Bytes):
    def open(self) -> None:  # type: ignore[override]
        raise FileNotFoundError(self.path)


@pytest.mark.parametrize("attachment", [Bytes("a", b"1", missing=1), Gone("a", b"1")])
def test_what_storage_has_lost_is_said(work: Path, attachment: Bytes) -> None:
    with pytest.raises(Rejected) as refused:
        lay_out([attachment], work)
    assert refused.value.reason == "attachment_lost"


def read(root: Path, *names: str) -> bytes | None:
    with open_below(root, *names) as file:
        return None if file is None else file.read()


def test_only_plain_files_below_are_opened(tmp_path: Path) -> None:
    root, other = tmp_path / "r1", tmp_path / "r2"
    for folder in root, other:
        (folder / "tasks" / "t").mkdir(parents=True)
        (folder / "tasks" / "t" / "stdout").write_text(folder.name)
    (root / "link").symlink_to(other)
    (root / "stdout").symlink_to(other / "tasks" / "t" / "stdout")
    (root / "tasks" / "away").symlink_to(other / "tasks" / "t")
    os.mkfifo(root / "stderr")
    assert read(root, "tasks", "t", "stdout") == b"r1"
    assert read(root, "stdout") is None
    assert read(root, "stderr") is None
    assert read(root, "tasks") is None
    assert read(root, "link", "tasks", "t", "stdout") is None
    assert read(root, "tasks", "away", "stdout") is None
    assert read(root, "tasks", "t", "stdout", "x") is None
    assert read(root, "none") is None


def test_one_lays_out_a_directory(tmp_path: Path) -> None:
    root = tmp_path / "r1"
    with hold_directory(root) as first, hold_directory(root) as second:
        assert (first, second) == (True, False)
    with hold_directory(root) as again:
        assert again


def test_a_held_directory_is_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another removes it between our open and our lock: what we then hold is no longer in its place."""
    root, flock = tmp_path / "r1", fcntl.flock

    def remove_first(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        root.rmdir()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with hold_directory(root, patience_seconds=60) as held:
        assert held
        assert root.is_dir()


def test_what_an_earlier_submit_left_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "r1"
    (root / "work" / "deep").mkdir(parents=True)
    (root / "work" / "deep" / "x").touch()
    (root / "out").symlink_to(tmp_path)
    (tmp_path / "mine").touch()
    make_run_dir(root)
    assert sorted(path.name for path in root.rglob("*")) == ["lock", "outputs", "record", "tmp", "work"]
    assert (tmp_path / "mine").exists()
