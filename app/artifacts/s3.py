"""Artifact storage in an S3 bucket, so that API and daemons need no shared disk. Knows keys; `bucket` knows boto3.

staging/<random>                       large uploads in progress
blobs/<sha256>                         attachments, one object a content
trash/<sha256>.<random>                blobs that no row named, for a day: see `S3Storage.sweep`
runs/<run_id>/logs/<name>/<offset>     a log in chunks; the key says where in it a chunk begins (16 digits)
runs/<run_id>/outputs/<path>           output files under the paths that the provider gave them
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from app.artifacts.bucket import MAX_KEY_BYTES, Bucket, Stored
from app.artifacts.object_reader import open_chunks, open_object
from app.artifacts.s3_logs import S3Logs, log_chunks, writable_key
from app.artifacts.storage import (
    CHUNK,
    DAY_SECONDS,
    ArtifactStorage,
    Known,
    StoredFile,
    Upload,
    new_parts,
    no_file,
    output_files,
    output_location,
    parts_of,
)
from app.errors import NotFound, StorageUnavailable
from app.sinks import LogSink, OutputSink

log = logging.getLogger(__name__)

SPOOL_BYTES = 1024 * 1024


class S3Storage(ArtifactStorage):
    """`prefix`: of every key, without slashes around it. `links`: whether the bucket itself may serve files."""

    def __init__(self, bucket: Bucket, prefix: str = "", links: bool = False) -> None:
        self._bucket, self._links = bucket, links
        self._prefix = f"{prefix}/" if prefix else ""

    def problem(self) -> str | None:
        why = self._bucket.problem(self._prefix)
        return why and f"ARTIFACTS_S3_URI cannot be used: {why}"

    def new_upload(self) -> Upload:
        return _S3Upload(self._bucket, self._key("staging", secrets.token_hex(16)), self._blob_key)

    def blob(self, sha256: str) -> StoredFile:
        return self._whole(self._find_blob(sha256), sha256)

    def renew_blob(self, sha256: str) -> None:
        found, key = self._find_blob(sha256), self._blob_key(sha256)
        if found.key != key:
            self._bucket.copy(found.key, key)

    def log_sink(self, run_id: str, max_bytes: int) -> LogSink:
        return S3Logs(self._bucket, self._key("runs", run_id, "logs"), max_bytes)

    def output_sink(self, run_id: str) -> OutputSink:
        return _S3Outputs(self._bucket, self._key("runs", run_id, "outputs"))

    def log(self, run_id: str, name: str) -> StoredFile | None:
        try:
            key = self._key("runs", run_id, "logs", name)
        except NotFound:
            return None
        chunks = log_chunks(self._bucket, key)
        if not chunks:
            return None
        last, opened = chunks[-1], partial(open_chunks, self._bucket, chunks)
        return StoredFile(name, last.end, last.stored.modified, f"{_plain(last.stored.etag)}-{last.end:x}", opened)

    def output(self, run_id: str, path: str) -> StoredFile:
        try:
            return self._whole(self._bucket.find(self._key("runs", run_id, "outputs", path)), path)
        except NotFound:
            raise no_file(path) from None

    def outputs(self, run_id: str) -> list[StoredFile]:
        base = self._key("runs", run_id, "outputs") + "/"
        found = (stored for page in self._bucket.pages(base) for stored in page)
        return sorted((self._whole(stored, stored.key[len(base) :]) for stored in found), key=lambda kept: kept.path)

    def drop_run(self, run_id: str) -> None:
        try:
            self._drop_all(self._key("runs", run_id) + "/")
        except StorageUnavailable:
            log.warning("a run's files are left to a sweep", exc_info=True, extra={"run_id": run_id})

    def sweep(self, known_runs: Known, known_blobs: Known, older_than_seconds: float = DAY_SECONDS) -> int:
        """A blob that no row names goes to the trash, and from there, once it is old there, for good or back.

        S3 has no locks: an upload may find a blob just before a sweep takes it. But what lies in the trash is still
        read, and long before it is old there the upload's row is written, or never will be.
        """
        before = time.time() - older_than_seconds
        return (
            self._bucket.drop_uploads(self._prefix, before)
            + self._sweep_staging(before)
            + self._sweep_trash(known_blobs, before)
            + self._sweep_blobs(known_blobs, before)
            + self._sweep_runs(known_runs, before)
        )

    def _sweep_staging(self, before: float) -> int:
        return sum(self._bucket.delete(stored.key for stored in page) for _, page in self._old("staging/", before))

    def _sweep_trash(self, known: Known, before: float) -> int:
        gone = 0
        for base, page in self._old("trash/", before):
            hashes = {stored.key: stored.key[len(base) :].partition(".")[0] for stored in page}
            wanted = known(frozenset(hashes.values()))
            for key, sha256 in hashes.items():
                if sha256 in wanted:
                    self._move(key, self._blob_key(sha256))
            gone += self._bucket.delete(key for key, sha256 in hashes.items() if sha256 not in wanted)
        return gone

    def _sweep_blobs(self, known: Known, before: float) -> int:
        """Nothing goes yet: 0."""
        for base, page in self._old("blobs/", before):
            hashes = {stored.key[len(base) :] for stored in page}
            for sha256 in hashes - known(hashes):
                self._move(self._blob_key(sha256), self._key("trash", f"{sha256}.{secrets.token_hex(8)}"))
        return 0

    def _sweep_runs(self, known: Known, before: float) -> int:
        base, gone = self._key("runs") + "/", 0
        for run_ids in self._bucket.folders(base):
            for run_id in set(run_ids) - known(run_ids):
                if self._is_old(f"{base}{run_id}/", before):
                    self._drop_all(f"{base}{run_id}/")
                    gone += 1
        return gone

    def _old(self, folder: str, before: float) -> Iterator[tuple[str, list[Stored]]]:
        base = self._prefix + folder
        for page in self._bucket.pages(base):
            yield base, [stored for stored in page if stored.modified < before]

    def _is_old(self, base: str, before: float) -> bool:
        return all(stored.modified < before for page in self._bucket.pages(base) for stored in page)

    def _move(self, source: str, target: str) -> None:
        try:
            self._bucket.copy(source, target)
        except NotFound:
            return  # another sweep has moved it
        self._bucket.delete([source])

    def _drop_all(self, base: str) -> None:
        for page in self._bucket.pages(base):
            self._bucket.delete(stored.key for stored in page)

    def _find_blob(self, sha256: str) -> Stored:
        key, trash = self._blob_key(sha256), self._key("trash", sha256) + "."
        for _ in range(2):  # a sweep may bring it back from the trash between the two looks
            try:
                return self._bucket.find(key)
            except NotFound:
                for page in self._bucket.pages(trash):
                    for stored in page:
                        return stored
        raise no_file(sha256)

    def _whole(self, stored: Stored, path: str) -> StoredFile:
        link = partial(self._bucket.link, stored.key) if self._links else None
        return StoredFile(
            path, stored.size, stored.modified, _plain(stored.etag), partial(open_object, self._bucket, stored), link
        )

    def _blob_key(self, sha256: str) -> str:
        return self._key("blobs", sha256)

    def _key(self, *paths: str) -> str:
        """Raises NotFound for what would leave its place, or cannot be a key."""
        key = self._prefix + "/".join("/".join(parts_of(path)) for path in paths)
        if len(key.encode()) > MAX_KEY_BYTES:
            raise no_file(paths[-1])
        return key


class _S3Upload(Upload):
    """Large ones go to staging while they come in; small ones wait in a local file until they are kept."""

    def __init__(self, bucket: Bucket, staging: str, blob_key: Callable[[str], str]) -> None:
        self._bucket, self._staging, self._blob_key = bucket, staging, blob_key
        self._writer = bucket.writer(staging)
        self._hash, self._size, self._offset = hashlib.sha256(), 0, 0
        self._spool: Path | None = None
        self._is_staged = self._is_over = False

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._size += len(data)
        self._writer.write(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        with self._open() as file:
            file.seek(self._offset)
            data = file.read(size)
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> int:
        self._end()
        self._offset = offset
        return offset

    def close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._writer.abort()
        if self._spool:
            self._spool.unlink(missing_ok=True)
        if self._is_staged:
            with suppress(StorageUnavailable):  # a sweep will find it
                self._bucket.delete([self._staging])

    def keep(self) -> tuple[str, int]:
        self._end()
        sha256 = self._hash.hexdigest()
        key = self._blob_key(sha256)
        if self._spool:
            self._bucket.write(key, self._spool.read_bytes())
        else:
            self._copy_to(key)
        self.close()
        return sha256, self._size

    def _copy_to(self, key: str) -> None:
        try:
            self._bucket.find(key)
        except NotFound:
            self._bucket.copy(self._staging, key)

    def _end(self) -> None:
        """All is written. No descriptor stays open: one request may bring more files than a process may open."""
        if self._spool or self._is_staged:
            return
        if self._size > SPOOL_BYTES:
            self._writer.finish()
            self._is_staged = True
            return
        descriptor, name = tempfile.mkstemp(prefix="wes-upload-")
        self._spool = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._writer.take())

    def _open(self) -> BinaryIO:
        return self._spool.open("rb") if self._spool else open_object(self._bucket, self._bucket.find(self._staging))


class _S3Outputs:
    """OutputSink: every file is an object; all are there when a call returns."""

    def __init__(self, bucket: Bucket, base: str) -> None:
        self._bucket, self._base = bucket, base

    def put_path(self, path: str, source: Path) -> str:
        top = "/".join(new_parts(path))
        self._bucket.write_files(
            (writable_key(self._base, "/".join((top, *place))), real) for place, real in output_files(source)
        )
        return output_location(path)

    def put_stream(self, path: str, source: BinaryIO) -> str:
        writer = self._bucket.writer(writable_key(self._base, path))
        try:
            while data := source.read(CHUNK):
                writer.write(data)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        return output_location(path)


def _plain(etag: str) -> str:
    return etag.strip('"')
