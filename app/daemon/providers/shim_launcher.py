"""How a shim comes to be: detached, with nothing of the daemon's. The one seam through which shims are started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

from app.daemon.providers import shim
from app.errors import OutcomeUnknown

LAUNCH_SECONDS = 30


class ShimLauncher(Protocol):
    """Starts shims, cold or from a warm process."""

    def start(self, root: Path, start_by: float) -> None:
        """Start a detached shim for the run directory `root`; any number of them run its engine once.

        `start_by` (seconds since boot): a shim that gets the lock later does nothing. Blocks for moments.
        Raises OSError where no shim came to be, OutcomeUnknown where one may have.
        """
        ...


class ColdLauncher:
    """A new Python for every shim: some 20 ms."""

    def __init__(self, python: str, hint_file: Path) -> None:
        self._python = python
        self._hint_file = hint_file

    def start(self, root: Path, start_by: float) -> None:
        """The process that is waited for forks the shim and ends, so no daemon ever has a shim as its child."""
        program = [self._python, "-I", "-S", shim.__file__, str(root), str(self._hint_file), str(start_by)]
        try:
            done = subprocess.run(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8"},
                cwd="/",
                timeout=LAUNCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OutcomeUnknown(f"No shim answered within {LAUNCH_SECONDS} s.") from error
        if done.returncode != 0:
            raise ChildProcessError(f"The shim could not be started: {self._python} ended with {done.returncode}.")


def keep_hint_target(hint_file: Path, url: str, secret: str) -> None:
    """Write down, for this user only, where shims send their hints; a running shim reads it when its engine ends."""
    shim.write_record(str(hint_file.parent), hint_file.name, {"url": url, "secret": secret})
