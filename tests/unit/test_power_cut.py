"""The record of a power cut's test is read the same for every process number: strace pads the short ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.power_cut import is_whole, read_calls

PATH = "".join(f"\\x{byte:02x}" for byte in b"/data/file")


def line(pid: int, text: str) -> str:
    """As strace -f -o writes it."""
    return f"{pid:<5} {text}\n"


@pytest.mark.parametrize("pid", [7, 4321, 54321])
def test_a_call_that_another_process_interrupted_is_one_call(tmp_path: Path, pid: int) -> None:
    record = tmp_path / "record"
    begun = line(pid, f"fsync(3<{PATH}> <unfinished ...>")
    other = line(pid + 1, f'write(4<{PATH}>, "\\x41", 1) = 1')
    record.write_text(begun + other + line(pid, "<... fsync resumed>) = 0") + line(pid, "fsync(5) = -1 EBADF"))
    assert [(call.name, call.path) for call in read_calls(record)] == [("write", "/data/file"), ("fsync", "/data/file")]


@pytest.mark.parametrize("pid", [7, 4321, 54321])
def test_a_record_is_whole_once_the_first_process_has_ended(tmp_path: Path, pid: int) -> None:
    record = tmp_path / "record"
    text = line(pid, "fsync(5) = 0") + line(pid + 1, "+++ exited with 0 +++")
    record.write_text(text)
    assert not is_whole(record)
    record.write_text(text + line(pid, "+++ exited with 0 +++"))
    assert is_whole(record)
