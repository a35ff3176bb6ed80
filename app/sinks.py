"""Where a provider puts what a run wrote: two protocols, so that storage and providers need not meet. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol


class LogSink(Protocol):
    """Where a run's logs go. Names: `stdout`, `stderr`, `tasks/<task_id>/stdout`, `tasks/<task_id>/stderr`; and the
    daemon's own `events.jsonl`, which is no provider's."""

    def size(self, name: str) -> int:
        """Bytes already kept under `name`; 0 where there is none."""
        ...

    def append(self, name: str, source: BinaryIO) -> None:
        """Append what `source` still has, from where it stands. Bytes over the configured cap are dropped, and said."""
        ...

    def replace(self, name: str, text: bytes) -> None:
        """Set the whole content, for providers that cannot say what is new."""
        ...


class OutputSink(Protocol):
    """Where a run's output files go. A path is relative, with '/', below the run's outputs."""

    def put_path(self, path: str, source: Path) -> str:
        """Keep a local file or directory tree under `path`; returns the location to write into the output object.

        Links instead of copying where the storage can. Symbolic links are followed only inside `source`; devices and
        pipes are refused (Rejected).
        """
        ...

    def put_stream(self, path: str, source: BinaryIO) -> str:
        """Keep the bytes of `source` under `path`; returns the location to write into the output object."""
        ...
