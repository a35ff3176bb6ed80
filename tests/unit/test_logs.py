"""What processes log, and where: one line an event, and never what a function held when it failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app import logs
from config import SettingsError

PROGRAM = """
import logging, sys
from app.logs import configure

configure("INFO", as_json=sys.argv[1] == "json")

def fail(token):
    headers = {"Authorization": token}
    raise ValueError("no")

try:
    fail("s3cr" + "et")
except ValueError:
    logging.getLogger("x").exception("failed", extra={"run_id": "r1"})
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)
    assert "ValueError: no" in done.stderr and "r1" in done.stderr
    assert "s3cret" not in done.stderr


INTO_A_FILE = """
import logging, sys
from pathlib import Path
from app import logs

logs.FILE_BYTES = 2000
logs.configure("INFO", sys.argv[1] == "json", Path(sys.argv[2]))
for number in range(200):
    logging.getLogger("x").info("happened", extra={"run_id": f"r{number}"})
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_file_has_the_same_lines_and_stays_small(form: str, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "executor.log"
    command = [sys.executable, "-c", INTO_A_FILE, form, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = sorted(file.parent.iterdir())
    assert [path.name for path in kept] == ["executor.log", *(f"executor.log.{n}" for n in range(1, 5))]
    assert max(path.stat().st_size for path in kept) <= 2000
    assert file.read_text().splitlines() == done.stderr.splitlines()[-len(file.read_text().splitlines()) :]
    if form == "json":
        assert json.loads(file.read_text().splitlines()[-1])["run_id"] == "r199"


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"EXECUTOR_LOG_FILE: .*file/executor\.log cannot be written"):
        logs.configure("INFO", False, tmp_path / "file" / "executor.log")
