"""The request class: file parts stream, hashed, into artifact staging, and what was not kept is dropped at the end.

A body is received by a thread of the server, which nothing can take back from a client that stalls: so only some of the
threads receive at a time, and the others stay free for all that needs no body.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from flask import Request
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.formparser import FormDataParser

from app.artifacts import Upload
from app.context import current

SEAT_PATIENCE_SECONDS = 0.25
"""Enough for a burst of small bodies to pass, too little for stalled ones to hold the threads that wait."""
RETRY_AFTER_SECONDS = 5


class UploadRequest(Request):
    """Every file part becomes an `Upload`. Malformed forms raise ValueError instead of reading as empty."""

    def get_data(self, *args: Any, **kwargs: Any) -> Any:
        with _seat():
            return super().get_data(*args, **kwargs)

    def _load_form_data(self) -> None:
        with _seat():
            super()._load_form_data()

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        upload = current().storage.new_upload()
        self._uploads.append(upload)
        return cast(IO[bytes], upload)

    @property
    def _uploads(self) -> list[Upload]:
        uploads: list[Upload] = self.__dict__.setdefault("uploads", [])
        return uploads

    def close(self) -> None:
        """Called when the request is over, however it ends; also what a broken form left open is closed."""
        for upload in self._uploads:
            upload.close()


@contextmanager
def _seat() -> Iterator[None]:
    """Raises ServiceUnavailable where as many bodies as may be are being received."""
    seats = current().upload_seats
    if not seats.acquire(timeout=SEAT_PATIENCE_SECONDS):
        words = "Too many uploads are under way. Try again later."
        raise ServiceUnavailable(words, retry_after=RETRY_AFTER_SECONDS)
    try:
        yield
    finally:
        seats.release()
