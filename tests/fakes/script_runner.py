"""An engine's runner for tests: python -I script_runner.py SCRIPT ARGUMENTS runs the Python text in the file SCRIPT.

A fork server calls `warm_up` once and `run_warm` in each fork.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def warm_up(scratch: str) -> None:
    """The server removes it."""
    Path(scratch, "left").touch()


def run_warm(arguments: list[str]) -> int:
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run_warm(sys.argv[1:]))
