"""Stored files to HTTP: Range, validators and headers that keep a browser from running them. Opens no session."""

from __future__ import annotations

import io
from typing import BinaryIO
from urllib.parse import quote

from flask import Response, request
from werkzeug.http import parse_range_header
from werkzeug.wsgi import FileWrapper

from app.artifacts import CHUNK, StoredFile

REDIRECTED_BYTES = 8 * 1024 * 1024
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-cache",
}


def send_log(log: StoredFile | None) -> Response:
    """A log as text, also while it grows: this answer ends where the log ended when it was asked for."""
    if log is None:
        return Response(b"", mimetype="text/plain", headers=_HEADERS)
    return _send(log, "text/plain; charset=utf-8", {})


def send_download(file: StoredFile) -> Response:
    """A file as an attachment, whatever it is; a large whole one from the storage itself, where that may be (302)."""
    name = file.path.rpartition("/")[2]
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    if file.link and file.size >= REDIRECTED_BYTES and _wants_all(file):
        return Response(status=302, headers={"Location": file.link(disposition), "Cache-Control": "no-store"})
    return _send(file, "application/octet-stream", {"Content-Disposition": disposition})


def _wants_all(file: StoredFile) -> bool:
    """A HEAD is answered here: a link is good for GET only, and a client may go on with the address it was led to."""
    is_known = request.if_none_match.contains_weak(file.version)
    return request.method == "GET" and "Range" not in request.headers and not is_known


def _send(file: StoredFile, content_type: str, headers: dict[str, str]) -> Response:
    """200, 206, 304, or raises RequestedRangeNotSatisfiable (416): one range of bytes is understood, others are not."""
    window = _Window(file.open(), file.size)
    response = Response(
        FileWrapper(window, CHUNK),  # type: ignore[arg-type]
        content_type=content_type,
        headers={**_HEADERS, **headers, "Accept-Ranges": "bytes", "Content-Length": str(file.size)},
        direct_passthrough=True,
    )
    response.call_on_close(window.close)
    response.set_etag(file.version)
    try:
        by_range = _asks_for_a_part(request.headers.get("Range"), file.size)
        return response.make_conditional(request, accept_ranges=by_range, complete_length=file.size)  # type: ignore[return-value]
    except BaseException:
        window.close()
        raise


def _asks_for_a_part(header: str | None, size: int) -> bool:
    """False where all is meant, or what nobody need understand: another unit, several ranges, no range at all, the
    last bytes of a shorter file (RFC 9110, 14.2)."""
    asked = parse_range_header(header)
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return False
    return asked.ranges[0][0] > -size


class _Window(io.RawIOBase):
    """The first `size` bytes of a file: one that grows meanwhile sends no more than was announced."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
