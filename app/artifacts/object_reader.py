"""Objects of a bucket as one file that can be read and sought in. Knows nothing of what is in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from app.artifacts.bucket import Bucket, Stored

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of a file from `start`. `etag`: what the object must still have; None where it may have grown."""

    start: int
    stored: Stored
    etag: str | None = None

    @property
    def end(self) -> int:
        return self.start + self.stored.size


def open_object(bucket: Bucket, stored: Stored) -> BinaryIO:
    """Reading it raises StorageUnavailable where it is no longer the same."""
    return open_chunks(bucket, [Chunk(0, stored, stored.etag)])


def open_chunks(bucket: Bucket, chunks: Sequence[Chunk]) -> BinaryIO:
    """Chunks that follow one another, from the first byte on."""
    return io.BufferedReader(_ObjectReader(bucket, chunks), READ_AHEAD_BYTES)


class _ObjectReader(io.RawIOBase):
    """Chunks in a row as one file; each read is one GET of a range."""

    def __init__(self, bucket: Bucket, chunks: Sequence[Chunk]) -> None:
        self._bucket, self._chunks, self._offset = bucket, chunks, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._chunks[-1].end}[whence]
        self._offset = max(0, origin + offset)
        return self._offset

    def readall(self) -> bytes:
        """In steps as large as those of the buffer; Python's own are of 8 KiB."""
        return b"".join(iter(lambda: self.read(READ_AHEAD_BYTES) or b"", b""))

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer).cast("B")
        chunk = next((chunk for chunk in self._chunks if chunk.start <= self._offset < chunk.end), None)
        if chunk is None:
            return 0
        size = min(len(room), chunk.end - self._offset)
        room[:size] = self._bucket.read(chunk.stored.key, self._offset - chunk.start, size, chunk.etag)
        self._offset += size
        return size
