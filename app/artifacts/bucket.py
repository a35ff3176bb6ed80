"""Objects of one S3 bucket: read by ranges, written whole, copied, listed by pages. Only here are artifacts boto3's.

Every call ends within its time-outs and tries. What S3 says becomes NotFound, or StorageUnavailable where it may pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import boto3.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.artifacts.storage import no_file
from app.aws_sessions import aws_session
from app.errors import NotFound, StorageUnavailable

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
COPIED_PART_BYTES = 256 * MIB
MAX_KEY_BYTES = 1024
LINK_SECONDS = 900
CONNECT_SECONDS = 5.0
TRIES = 3
FILES_AT_ONCE = 4
POOLED = 32
_BATCHED_FILES = 100
_BATCHED_KEYS = 1000  # as many as S3 deletes in one call
_GONE = frozenset({"NoSuchKey", "404"})
_CHANGED = frozenset({409, 412, 416})
_CHECK_SECONDS = 3.0
_FILE_PARTS = TransferConfig(max_concurrency=FILES_AT_ONCE, preferred_transfer_client="classic")
_COPIED_PARTS = TransferConfig(
    multipart_threshold=COPIED_PART_BYTES, multipart_chunksize=COPIED_PART_BYTES, preferred_transfer_client="classic"
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a bucket is reached; what is "" is left to boto3's default chain. `timeout_seconds`: of silence."""

    bucket: str
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was when it was looked up; `size` in bytes, `modified` in Unix time."""

    key: str
    size: int
    modified: float
    etag: str


class Changed(StorageUnavailable):
    """The object is no longer the one that was looked up."""


class Bucket:
    """Safe for threads. Keys are UTF-8 of at most MAX_KEY_BYTES; nobody sees an object before it is whole."""

    def __init__(self, access: Access) -> None:
        self._name = access.bucket
        session = aws_session(access.region, access.access_key_id, access.secret_access_key, access.session_token)
        make_client = partial(_make_client, session, access.endpoint)
        self._client = make_client(access.timeout_seconds, TRIES)
        self._checker = make_client(min(_CHECK_SECONDS, access.timeout_seconds), 1)

    def problem(self, prefix: str) -> str | None:
        """Why objects below `prefix` cannot be listed."""
        try:
            self._checker.list_objects_v2(Bucket=self._name, Prefix=prefix, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            return str(error)
        return None

    def find(self, key: str) -> Stored:
        """Raises NotFound. Needs s3:ListBucket: without it S3 answers 403 for what is not there."""
        with _translated(key):
            found = self._client.head_object(Bucket=self._name, Key=key)
        return Stored(key, found["ContentLength"], found["LastModified"].timestamp(), found["ETag"])

    def pages(self, prefix: str) -> Iterator[list[Stored]]:
        """All objects below `prefix`, by key."""
        for page in self._paginate("list_objects_v2", Prefix=prefix):
            yield [
                Stored(found["Key"], found["Size"], found["LastModified"].timestamp(), found["ETag"])
                for found in page.get("Contents", ())
            ]

    def folders(self, prefix: str) -> Iterator[list[str]]:
        """The names right below `prefix` that have something below them."""
        for page in self._paginate("list_objects_v2", Prefix=prefix, Delimiter="/"):
            yield [found["Prefix"][len(prefix) : -1] for found in page.get("CommonPrefixes", ())]

    def read(self, key: str, start: int, size: int, etag: str | None = None) -> bytes:
        """`size` bytes from `start`, all of which the object has. Raises Changed where it is gone, or not `etag`'s."""
        condition = {"IfMatch": etag} if etag else {}
        span = f"bytes={start}-{start + size - 1}"
        for _ in range(TRIES):
            try:
                with _translated(key):
                    body = self._client.get_object(Bucket=self._name, Key=key, Range=span, **condition)["Body"]
            except NotFound as error:
                raise Changed(f"{key} went while it was read.") from error
            try:
                data = bytes(body.read())
            except BotoCoreError:  # the answer broke off
                continue
            finally:
                body.close()
            if len(data) != size:
                raise Changed(f"{key} changed while it was read.")
            return data
        raise StorageUnavailable("Artifact storage breaks off its answers.")

    def write(self, key: str, data: bytes) -> None:
        with _translated(key):
            self._client.put_object(Bucket=self._name, Key=key, Body=data)

    def write_if(self, key: str, data: bytes, etag: str | None) -> None:
        """Only over the object of this ETag, or with None only where there is none; raises Changed."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            with _translated(key):
                self._client.put_object(Bucket=self._name, Key=key, Body=data, **condition)
        except NotFound as error:
            raise Changed(f"{key} went before it was written.") from error

    def writer(self, key: str) -> ObjectWriter:
        return ObjectWriter(self._client, self._name, key)

    def write_files(self, files: Iterable[tuple[str, Path]]) -> None:
        """Key and local file of each; some at once, large ones in parts. After a failure some may be there."""
        rest = iter(files)
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            while batch := list(islice(rest, _BATCHED_FILES)):
                for _ in pool.map(self._write_file, batch):
                    pass

    def copy(self, source: str, target: str) -> None:
        """Inside S3, in parts where it is large. Raises NotFound."""
        with _translated(source):
            self._client.copy({"Bucket": self._name, "Key": source}, self._name, target, Config=_COPIED_PARTS)

    def delete(self, keys: Iterable[str]) -> int:
        """Returns how many are gone; harmless for those that are not there."""
        rest, count = iter(keys), 0
        while batch := list(islice(rest, _BATCHED_KEYS)):
            wanted = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            with _translated(batch[0]):
                answer = self._client.delete_objects(Bucket=self._name, Delete=wanted)
            count += len(batch) - len(answer.get("Errors", ()))
        return count

    def drop_uploads(self, prefix: str, before: float) -> int:
        """Abort uploads in parts that were begun before then and never finished; returns how many."""
        count = 0
        for page in self._paginate("list_multipart_uploads", Prefix=prefix):
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(prefix) and upload["Initiated"].timestamp() < before:
                    with _translated(upload["Key"]):
                        self._client.abort_multipart_upload(
                            Bucket=self._name, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                    count += 1
        return count

    def link(self, key: str, disposition: str) -> str:
        """A URL with which anybody can GET it for LINK_SECONDS."""
        sent = {"ResponseContentDisposition": disposition, "ResponseContentType": "application/octet-stream"}
        with _translated(key):
            return str(
                self._client.generate_presigned_url(
                    "get_object", {"Bucket": self._name, "Key": key, **sent}, ExpiresIn=LINK_SECONDS
                )
            )

    def _write_file(self, file: tuple[str, Path]) -> None:
        key, path = file
        with _translated(key):
            self._client.upload_file(str(path), self._name, key, Config=_FILE_PARTS)

    def _paginate(self, operation: str, **arguments: str) -> Iterator[dict[str, Any]]:
        with _translated(arguments["Prefix"]):
            yield from self._client.get_paginator(operation).paginate(Bucket=self._name, **arguments)


class ObjectWriter:
    """Bytes that become one object at `finish`: sent at once where they are few, else in parts as they come."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client, self._where = client, {"Bucket": bucket, "Key": key}
        self._unsent, self._sent = bytearray(), 0
        self._upload: dict[str, str] = {}  # what names the upload in parts, once there is one
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        self._unsent += data
        while len(self._unsent) > (size := max(PART_BYTES, self._sent // 1000)):  # so 10,000 parts hold 5 TiB
            self._send(size)

    def take(self) -> bytes:
        """All of it back, where it is less than a part: then nothing was sent, and nothing will be."""
        taken, self._unsent = bytes(self._unsent), bytearray()
        return taken

    def finish(self) -> None:
        if not self._upload:
            with _translated(self._where["Key"]):
                self._client.put_object(**self._where, Body=bytes(self._unsent))
            return
        self._send(len(self._unsent))
        with _translated(self._where["Key"]):
            self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": self._parts})
        self._upload = {}

    def abort(self) -> None:
        """Forget what was sent; harmless after `finish`. What cannot be dropped now is left to `drop_uploads`."""
        if self._upload:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._upload)
            self._upload = {}

    def _send(self, size: int) -> None:
        with _translated(self._where["Key"]):
            if not self._upload:
                upload_id = self._client.create_multipart_upload(**self._where)["UploadId"]
                self._upload = self._where | {"UploadId": upload_id}
            number = len(self._parts) + 1
            sent = self._client.upload_part(**self._upload, PartNumber=number, Body=bytes(self._unsent[:size]))
        sums = {name: value for name, value in sent.items() if name == "ETag" or name.startswith("Checksum")}
        self._parts.append({"PartNumber": number, **sums})
        self._sent += size
        del self._unsent[:size]


def _make_client(session: boto3.session.Session, endpoint: str, timeout_seconds: float, tries: int) -> Any:
    elsewhere = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    config = Config(
        connect_timeout=min(CONNECT_SECONDS, timeout_seconds),
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": tries},
        max_pool_connections=POOLED,
        signature_version="s3v4",
        **(elsewhere if endpoint else {}),  # other S3s know fewer checksums
    )
    return session.client("s3", endpoint_url=endpoint or None, config=config)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """What boto3 raises, as errors of ours; the words name no host, no bucket and no credentials."""
    try:
        yield
    except ClientError as error:
        raise _error_of(error, key) from error
    except (BotoCoreError, Boto3Error) as error:
        if isinstance(error.__context__, ClientError):  # of a file's upload
            raise _error_of(error.__context__, key) from error
        raise StorageUnavailable(f"Artifact storage gives no answer ({type(error).__name__}).") from error


def _error_of(error: ClientError, key: str) -> NotFound | StorageUnavailable:
    code = error.response.get("Error", {}).get("Code", "unknown")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _GONE:
        return no_file(key)
    if status in _CHANGED:
        return Changed(f"{key} changed in artifact storage meanwhile.")
    return StorageUnavailable(f"Artifact storage refuses for now ({code}).")
