"""Logs in a bucket, which cannot append: chunks of a log as objects, and the sink that writes them. Knows no run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from app.artifacts.bucket import MAX_KEY_BYTES, Bucket
from app.artifacts.object_reader import Chunk
from app.artifacts.storage import UNREADABLE, capped, log_bytes, new_parts
from app.errors import Rejected

LOG_CHUNK_BYTES = 4 * 1024 * 1024
_DIGITS = 16


class S3Logs:
    """LogSink: chunks that follow one another, only the last of which is small; that one is written anew, and longer.

    Every write is whole or not there, names what it replaces, and is refused where another daemon was faster. So no
    byte is lost or there twice, whenever a daemon dies: `size` asks the bucket each time.
    """

    def __init__(self, bucket: Bucket, base: str, max_bytes: int) -> None:
        self._bucket, self._base, self._max_bytes = bucket, base, max_bytes
        self._seen: dict[str, list[Chunk]] = {}  # on what the caller's next append stands

    def size(self, name: str) -> int:
        key = self._log_key(name)
        chunks = self._seen[key] = log_chunks(self._bucket, key)
        return chunks[-1].end if chunks else 0

    def append(self, name: str, source: BinaryIO) -> None:
        key = self._log_key(name)
        seen = self._seen.pop(key, None)
        start, etag, text = self._last(log_chunks(self._bucket, key) if seen is None else seen)
        written = start + len(text)
        for data in log_bytes(source, written, self._max_bytes):
            text += data
            if len(text) >= LOG_CHUNK_BYTES:
                self._bucket.write_if(_chunk_key(key, start), bytes(text), etag)
                start = written = start + len(text)
                etag, text = None, bytearray()
        if start + len(text) > written:
            self._bucket.write_if(_chunk_key(key, start), bytes(text), etag)

    def replace(self, name: str, text: bytes) -> None:
        key = self._log_key(name)
        self._seen.pop(key, None)
        later = [chunk.stored.key for chunk in log_chunks(self._bucket, key) if chunk.start > 0]
        self._bucket.delete(reversed(later))
        self._bucket.write(_chunk_key(key, 0), capped(text, self._max_bytes))

    def _last(self, chunks: Sequence[Chunk]) -> tuple[int, str | None, bytearray]:
        """Where the next write begins, the ETag of what it replaces, and the bytes that are there already."""
        if not chunks:
            return 0, None, bytearray()
        last, stored = chunks[-1], chunks[-1].stored
        if stored.size >= LOG_CHUNK_BYTES:
            return last.end, None, bytearray()
        text = self._bucket.read(stored.key, 0, stored.size, stored.etag) if stored.size else b""
        return last.start, stored.etag, bytearray(text)

    def _log_key(self, name: str) -> str:
        return writable_key(self._base, name, len("/") + _DIGITS)


def log_chunks(bucket: Bucket, log_key: str) -> list[Chunk]:
    """Those that follow one another from the first byte on."""
    chunks: list[Chunk] = []
    end = 0
    for page in bucket.pages(f"{log_key}/"):
        for stored in page:
            if stored.key == _chunk_key(log_key, end):
                chunks.append(Chunk(end, stored))
                end += stored.size
    return chunks


def writable_key(base: str, path: str, more: int = 0) -> str:
    """Raises Rejected for what cannot be a key, with so many bytes after it."""
    key = "/".join((base, *new_parts(path)))
    if len(key.encode()) + more > MAX_KEY_BYTES:
        raise Rejected(f"The path {path[:100]!r}… is too long for S3.", UNREADABLE)
    return key


def _chunk_key(log_key: str, start: int) -> str:
    return f"{log_key}/{start:0{_DIGITS}}"
