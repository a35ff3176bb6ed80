"""The shim's record files and process facts, which the provider reads with the same functions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.daemon.providers import shim
from app.daemon.providers.shim import Process


def test_a_record_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim.write_record(str(tmp_path), "a.json", {"n": 1})
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600

    (tmp_path / "seen").hardlink_to(tmp_path / "a.json")
    shim.write_record(str(tmp_path), "a.json", {"n": 2})
    assert shim.read_record(str(tmp_path), "seen") == {"n": 1}  # never written in place

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        shim.write_record(str(tmp_path), "a.json", {"n": 3})
    assert shim.read_record(str(tmp_path), "a.json") == {"n": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "seen"}


def test_records_that_are_none(tmp_path: Path) -> None:
    assert shim.read_record(str(tmp_path), "a.json") is None
    for content in "", "{", "[1]", "[" * 100_000:
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError):
            shim.read_record(str(tmp_path), "a.json")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    first = shim.try_lock(str(tmp_path))
    assert first is not None
    assert shim.try_lock(str(tmp_path)) is None
    os.close(first)
    second = shim.try_lock(str(tmp_path))
    assert second is not None
    os.close(second)
    with pytest.raises(FileNotFoundError):
        shim.try_lock(str(tmp_path / "none"))


def test_decided_is_started_or_ended(tmp_path: Path) -> None:
    assert not shim.is_decided(str(tmp_path))
    (tmp_path / "started.json").symlink_to("nowhere")
    assert shim.is_decided(str(tmp_path))


def test_a_process_is_read_whatever_its_name_is(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "9999"], start_new_session=True) as process:
        while (found := shim.read_process(process.pid)) is not None and found.session != process.pid:
            pass
        assert found is not None
        assert (found.pid, found.ppid, found.session) == (process.pid, os.getpid(), process.pid)
        assert found in [other._replace(state=found.state) for other in shim.all_processes()]
        shim.send_signal(found._replace(start=found.start - 1), signal.SIGKILL)
        shim.send_signal(found, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    assert shim.read_process(process.pid) is None
    shim.send_signal(found, signal.SIGKILL)


def test_descendants_are_found_in_any_order() -> None:
    table = [Process(pid, ppid, 0, 0, "S") for pid, ppid in ((5, 4), (4, 2), (2, 1), (3, 1), (6, 3))]
    assert [process.pid for process in shim.with_descendants({2}, table)] == [5, 4, 2]
    assert shim.with_descendants({9}, table) == []


def test_what_was_made_unreadable_is_removed_too(tmp_path: Path) -> None:
    deep = tmp_path / "tmp" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "kept").mkdir(mode=0o750)
    (deep / "link").symlink_to(tmp_path / "kept")
    (deep / "file").touch()
    for folder in deep, deep.parent, deep.parent.parent:
        folder.chmod(0)
    shim.remove_tree(str(tmp_path / "tmp"))
    shim.remove_tree(str(tmp_path / "tmp"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o750


def test_the_shim_needs_nothing_of_ours(tmp_path: Path) -> None:
    """It runs without site packages, and imports nothing slow before the engine starts."""
    program = "import sys; sys.path.append(sys.argv[1]); import shim; print(*sys.modules)"
    folder = str(Path(shim.__file__).parent)
    names = subprocess.check_output(
        [sys.executable, "-I", "-S", "-c", program, folder], cwd=tmp_path, text=True
    ).split()
    assert "shim" in names
    slow = {"app", "typing", "pathlib", "dataclasses", "subprocess", "shutil", "http", "socket", "logging", "datetime"}
    assert slow & {name.split(".")[0] for name in names} == set()
