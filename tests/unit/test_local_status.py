"""What a run directory's records say, whole, damaged or forged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.daemon.engines.engine_interface import RunDir
from app.daemon.providers import local_life, shim
from app.daemon.providers.local_files import make_run_dir
from app.daemon.providers.local_life import ENDS, RECORD_DAMAGED, Ended, Running, Unbegun, look
from app.daemon.providers.local_status import REASONS, end_status
from app.states import State
from tests.fakes.engine import ScriptEngine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "r1"
    root.mkdir()
    make_run_dir(root)
    request = {"engine": "script", "shown_cmd": ["x"], "boot_id": shim.boot_id()}
    shim.write_record(str(root), shim.REQUEST, request)
    return root


def status(root: Path, reason: str, exit_code: int | None = None, **more: Any) -> tuple[State | None, str | None]:
    told = end_status(root, Ended(reason, exit_code, **more), {"script": ScriptEngine()})
    return told.state, told.reason


def test_every_end_has_its_state(root: Path) -> None:
    RunDir(root).stderr.write_text("bad\nworse\n")
    assert status(root, shim.EXITED, 0) == (State.COMPLETE, None)
    assert status(root, shim.EXITED, 33) == (State.EXECUTOR_ERROR, None)
    assert status(root, shim.CANCELED, 143) == (State.CANCELED, None)
    for reason in ENDS - {shim.EXITED, shim.CANCELED}:
        assert status(root, reason) == (State.SYSTEM_ERROR, reason)
        assert reason in REASONS


def test_an_end_is_told_with_times_and_words(root: Path) -> None:
    RunDir(root).stderr.write_text("bad\nworse\n")
    told = end_status(root, Ended(shim.EXITED, 2, 0.0, 1.5), {"script": ScriptEngine()})
    assert told.message == "exit code 2: worse"
    assert (told.start_time, told.cmd) == (datetime(1970, 1, 1, tzinfo=UTC), ("x",))
    assert told.end_time == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    lost = end_status(root, Ended(shim.NOT_STARTED, message="Why."), {})
    assert lost.message == "The engine could not be started. Why."
    assert end_status(root, Ended(shim.EXITED, 2), {}).message is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        '{"reason": "exited"}',
        '{"reason": "exited", "exit_code": "0"}',
        '{"reason": "fine", "exit_code": 0}',
        '{"reason": ["exited"], "exit_code": 0}',
        "\udc80",
    ],
)
def test_a_damaged_end_is_no_success(root: Path, content: str) -> None:
    (root / shim.EXIT).write_text(content, errors="surrogateescape")
    ended = look(root)
    assert isinstance(ended, Ended) and ended.reason == RECORD_DAMAGED
    assert status(root, ended.reason, message=ended.message) == (State.SYSTEM_ERROR, RECORD_DAMAGED)


@pytest.mark.parametrize("when", [-1, 1e300, "now", True, None, [1]])
def test_a_damaged_time_is_left_out(root: Path, when: Any) -> None:
    record = {"reason": "exited", "exit_code": 0, "start": when, "end": 5, "message": 7}
    shim.write_record(str(root), shim.EXIT, record)
    ended = look(root)
    assert ended in (Ended("exited", 0, None, 5.0), Ended("exited", 0, 1.0, 5.0))
    assert (ended == Ended("exited", 0, 1.0, 5.0)) == (when is True)


@pytest.mark.parametrize("content", ["", "{}", '{"boot_id": 7, "shim": [1], "engine": [-1, 0]}', '{"shim": {"a": 1}}'])
def test_a_damaged_start_is_a_lost_run(root: Path, content: str) -> None:
    (root / shim.STARTED).write_text(content)
    assert isinstance(ended := look(root), Ended)
    assert ended.reason == shim.LOST
    assert look(root) == ended


def test_a_held_lock_is_believed(root: Path) -> None:
    assert look(root) == Unbegun(held=False)
    held = shim.try_lock(str(root))
    assert held is not None
    assert look(root) == Unbegun(held=True)
    record = {"boot_id": "b", "shim": [1, 2], "engine": [3, 4], "at": 5}
    shim.write_record(str(root), shim.STARTED, record)
    assert look(root) == Running("b", (1, 2), (3, 4), 5.0)
    shim.write_record(str(root), shim.EXIT, {"reason": "exited", "exit_code": 0})
    assert look(root) == Ended("exited", 0)
    shim.os.close(held)


def test_a_cancel_before_the_start_is_final(root: Path) -> None:
    local_life.ask_cancel(root)
    assert isinstance(ended := look(root), Ended)
    assert (ended.reason, ended.start) == (shim.CANCELED, None)
    local_life.give_up(root, "late")
    assert look(root) == ended


def test_a_run_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "none")
