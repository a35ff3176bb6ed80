"""Attachments in memory, as the daemon hands them to a provider."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Attached:
    """One file that came with a request."""

    path: str
    data: bytes = b""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        return len(self.data)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)
