"""A multipart/form-data body that is read from disk while it is sent. Knows nothing of WES.

Our own few lines, because requests keeps whole files in memory and requests-toolbelt has had no release since 2023.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from urllib3.fields import RequestField

Content = str | bytes | Path | BinaryIO
"""A Path is a file on disk; a file object is sent from where it stands and must be seekable; str is UTF-8 text."""

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One field: its headers, its content and the content's size in bytes when the body was made."""

    header: bytes
    content: bytes | Path | BinaryIO
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Exactly `size` bytes. Raises OSError where the file has become shorter."""
        if isinstance(self.content, bytes):
            yield self.content
        elif isinstance(self.content, Path):
            with self.content.open("rb") as file:
                yield from _read(file, self.size, str(self.content))
        else:
            start = self.content.tell()
            yield from _read(self.content, self.size, "an attachment")
            self.content.seek(start)


class MultipartBody:
    """What requests takes as `data`: it has a length, so it is not sent chunked, and can be gone through again."""

    def __init__(self) -> None:
        self._boundary = secrets.token_hex(16)
        self._parts: list[Part] = []

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def add_field(self, name: str, value: str) -> None:
        self._add(name, None, value, None)

    def add_file(self, name: str, filename: str, content: Content, content_type: str) -> None:
        """Raises OSError where `content` is a Path that cannot be read."""
        self._add(name, filename, content, content_type)

    def _add(self, name: str, filename: str | None, content: Content, content_type: str | None) -> None:
        field = RequestField(name, b"", filename)
        field.make_multipart(content_type=content_type)
        header = f"--{self._boundary}\r\n{field.render_headers()}".encode()
        source = content.encode() if isinstance(content, str) else content
        self._parts.append(Part(header, source, _size(source)))

    @property
    def _end(self) -> bytes:
        return f"--{self._boundary}--\r\n".encode()

    def __len__(self) -> int:
        return sum(len(part.header) + part.size + 2 for part in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield part.header
            yield from part.chunks()
            yield b"\r\n"
        yield self._end


def _size(content: bytes | Path | BinaryIO) -> int:
    if isinstance(content, bytes):
        return len(content)
    if isinstance(content, Path):
        return content.stat().st_size
    start = content.tell()
    end = content.seek(0, io.SEEK_END)
    content.seek(start)
    return end - start


def _read(file: BinaryIO, size: int, name: str) -> Iterable[bytes]:
    left = size
    while left:
        if not (chunk := file.read(min(left, CHUNK_BYTES))):
            raise OSError(f"{name} became {left} bytes shorter while it was sent")
        left -= len(chunk)
        yield chunk
