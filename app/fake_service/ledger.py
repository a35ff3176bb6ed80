"""What happened on the fake platform: one JSON line an event, on the disk before anybody is told. Knows no job.

Tests and the crash test's audit read it; the platform reads it back when it starts again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """Append-only. Not locked: the platform writes under its own lock."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        _drop_torn_end(path)
        self._file = path.open("ab")

    def write(self, *events: Mapping[str, Any]) -> None:
        """Returns once the events are on the disk."""
        self._file.write(b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events))
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Every event so far, oldest first."""
        return read_ledger(self._path)

    def close(self) -> None:
        self._file.close()


def read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a ledger file, oldest first; safe while the platform writes."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _drop_torn_end(path: Path) -> None:
    """A line that was being written when the platform was killed was told to nobody."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
