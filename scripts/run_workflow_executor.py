#!/usr/bin/env python3
"""The daemon under the name that the first documents gave it; the same as workflow_daemon.py."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("workflow_daemon.py")), run_name="__main__")
