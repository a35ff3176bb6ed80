"""Where worker processes count together: theirs alone, and nothing is left of those that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from app.shared_counts import shared_counts

NAME = "PROMETHEUS_MULTIPROC_DIR"
HOLDS = "import sys; from app.shared_counts import *; c = shared_counts(Path(sys.argv[1])); print(c.__enter__(), flush=True); input()"


def test_it_is_there_for_this_process_and_its_forks_and_then_gone(tmp_path: Path) -> None:
    with shared_counts(tmp_path) as directory:
        assert os.environ[NAME] == str(directory)
        assert directory.parent == tmp_path and directory.stat().st_mode & 0o777 == 0o700
    assert NAME not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with shared_counts(tmp_path):
            assert theirs.is_dir()
        other.send_signal(signal.SIGKILL)
    with shared_counts(tmp_path):
        assert not theirs.exists()
