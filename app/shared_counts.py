"""Where the worker processes of one server count together. To be entered before prometheus_client is imported.

In memory, where there is such a place: a process dies that writes to a mapped file on a full disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108
_PREFIX = "wes-metrics-"


@contextmanager
def shared_counts(memory: Path = _MEMORY) -> Iterator[Path]:
    """A directory of which prometheus_client knows in this process and in those that it forks, removed at the end.

    What a server left behind that was killed is removed now: nobody holds its lock any more.
    """
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=".wes-", dir=parent))
    with _locked(fresh):
        directory = fresh.rename(parent / f"{_PREFIX}{fresh.name.removeprefix('.wes-')}")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
        try:
            yield directory
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Raises OSError where somebody else has it. Processes that are forked meanwhile have it too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
