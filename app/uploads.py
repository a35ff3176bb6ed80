"""The request class: file parts stream, hashed, into artifact staging, and what was not kept is dropped at the end."""

from __future__ import annotations

from typing import IO, cast

from flask import Request
from werkzeug.formparser import FormDataParser

from app.artifacts import Upload
from app.context import current


class UploadRequest(Request):
    """Every file part becomes an `Upload`. Malformed forms raise ValueError instead of reading as empty."""

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
