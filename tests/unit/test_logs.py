"""What processes log: one line an event, and never what a function held when it failed."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
