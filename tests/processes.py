"""Ending processes that are not ours to reap."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import suppress

import psutil


def end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """kill -9 of all of them, and a wait for each of at most so long."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for process in processes:
        has_ended(process.pid, seconds)


def has_ended(pid: int, seconds: float) -> bool:
    """Whether it has ended or does within that time; whoever has to reap it may not have noticed yet."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)
