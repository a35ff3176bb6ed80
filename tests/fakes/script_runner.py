"""An engine's runner for tests: python -I script_runner.py SCRIPT ARGUMENTS runs the Python text in the file SCRIPT.

A fork server calls `warm_up` once and `run_warm` in each fork. The scripts find `loaded`: where and when this module was.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

loaded = (os.getpid(), time.monotonic())


def warm_up(scratch: str) -> None:
    os.rmdir(scratch)
    os.mkdir(scratch)


def run_warm(arguments: list[str]) -> int:
    sys.argv = arguments
    runpy.run_path(arguments[0], {"loaded": loaded}, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run_warm(sys.argv[1:]))
