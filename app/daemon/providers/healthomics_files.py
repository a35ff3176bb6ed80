"""Objects in S3 for the HealthOmics provider: attachments on their way in, outputs of a run. Knows no runs' lives."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from pydantic import BaseModel

from app.daemon.providers.healthomics_aws import AwsApi, Denied
from app.daemon.providers.provider_interface import Attachment
from app.errors import InvalidRequest, Rejected
from app.strict import load_json

DOCUMENTS = ("logs/outputs.json", "logs/output.json")
"""Where the output document may be below a run's outputs: the guides say either."""
DEFINITIONS = (".cwl", ".nf", ".wdl")
"""Ends of names that no index has: what is called like an input may still be a part of the workflow."""
MAX_DOCUMENT_BYTES = 8 * 1024**2
MOST_LISTED = 1000
ONE_THREAD = TransferConfig(use_threads=False)


class _Object(BaseModel):
    Key: str
    Size: int = 0


class _Listing(BaseModel):
    Contents: list[_Object] = []
    NextContinuationToken: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and a key, or a prefix."""

    bucket: str
    key: str

    @staticmethod
    def of(uri: str) -> Place:
        """Raises Rejected for what is no S3 URI."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket:
            raise Rejected(f"{uri!r} is not an S3 URI: s3://bucket/path.", "invalid_s3_uri")
        return Place(bucket, key)


class Files:
    """Thread-safe. Every refusal of S3 here is definite: no such key, or no access."""

    def __init__(self, api: AwsApi) -> None:
        self._api = api

    def put(self, attachment: Attachment, uri: str) -> None:
        """Copy an attachment to an object, unless it is there."""
        place = Place.of(uri)
        if self._size(place) == attachment.size:
            return
        with attachment.open() as source:
            self._api.attempt(
                "PutObject",
                lambda: self._api.client.upload_fileobj(source, place.bucket, place.key, Config=ONE_THREAD),
            )

    def read(self, uri: str, max_bytes: int) -> bytes:
        """A whole small object. Raises Rejected where it does not exist, may not be read, or is larger."""
        place = Place.of(uri)
        try:
            body = self._api.call("GetObject", Bucket=place.bucket, Key=place.key)["Body"]
            data: bytes = self._api.attempt("GetObject", lambda: body.read(max_bytes + 1))
        except Denied as error:
            raise Rejected(str(error), "access_denied") from error
        if len(data) > max_bytes:
            raise Rejected(f"{uri} is larger than {max_bytes} bytes.", "object_too_large")
        return data

    def outputs(self, run_output_uri: str) -> dict[str, Any]:
        """The output object of a run that completed: its own document, else a list of what it left.

        Raises Rejected where neither may be read.
        """
        base = run_output_uri.rstrip("/")
        for name in DOCUMENTS:
            document = self._document(f"{base}/{name}")
            if document is not None:
                return {**document, "output_location": run_output_uri}
        return {**self._listed(base), "output_location": run_output_uri}

    def _document(self, uri: str) -> dict[str, Any] | None:
        """None where there is none that can be used: then the files themselves tell more."""
        try:
            value = load_json(self.read(uri, MAX_DOCUMENT_BYTES), uri)
        except (Rejected, InvalidRequest):
            return None
        return value if isinstance(value, dict) else None

    def _listed(self, base: str) -> dict[str, Any]:
        place = Place.of(base)
        prefix = f"{place.key}/" if place.key else ""
        files: dict[str, Any] = {}
        for found in self._objects(place.bucket, prefix):
            path = found.Key.removeprefix(prefix)
            if path and not path.endswith("/") and not path.startswith("logs/"):
                location, name = f"s3://{place.bucket}/{found.Key}", posixpath.basename(path)
                files[path] = {"class": "File", "location": location, "basename": name, "size": found.Size}
        return files

    def _objects(self, bucket: str, prefix: str) -> Iterator[_Object]:
        """At most as many as an output object can sensibly hold: the rest is where output_location says."""
        left, more = MOST_LISTED, dict[str, str]()
        while left > 0:
            try:
                page = self._api.read(_Listing, "ListObjectsV2", Bucket=bucket, Prefix=prefix, **more)
            except Denied as error:
                raise Rejected(str(error), "access_denied") from error
            yield from page.Contents[:left]
            left -= len(page.Contents)
            if not page.NextContinuationToken:
                return
            more = {"ContinuationToken": page.NextContinuationToken}

    def _size(self, place: Place) -> int | None:
        try:
            size = self._api.call("HeadObject", Bucket=place.bucket, Key=place.key).get("ContentLength")
        except (Rejected, Denied):  # no answer to HEAD has words: where it is not just missing, PUT tells what it is
            return None
        return size if isinstance(size, int) else None


class Inputs:
    """The attachments of a run that its inputs name, and where they will be in S3. `base`: an S3 URI for this run."""

    def __init__(self, parameters: Mapping[str, Any], attachments: Sequence[Attachment], base: str, main: str | None):
        candidates = {attachment.path: attachment for attachment in attachments if attachment.path != main}
        self._named: set[str] = set()
        self._base, self._paths = base, frozenset(candidates)
        self.parameters: dict[str, Any] = {name: self._placed(value) for name, value in parameters.items()}
        wanted = {path for path in candidates if self._is_wanted(path)}
        self.files = [candidates[path] for path in sorted(wanted)]
        self.documents = [attachment for attachment in attachments if attachment.path not in wanted]

    def uri(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _placed(self, value: Any) -> Any:
        """A value with every attachment's path in it replaced by where the attachment will be."""
        if isinstance(value, list):
            return [self._placed(element) for element in value]
        if isinstance(value, dict):
            return {key: self._placed(element) for key, element in value.items()}
        path = posixpath.normpath(value) if isinstance(value, str) and value and "://" not in value else ""
        if path in self._paths or any(one.startswith(f"{path}/") for one in self._paths if path not in ("", ".")):
            self._named.add(path)
            return self.uri(path)
        return value

    def _is_wanted(self, path: str) -> bool:
        """Named, in a folder that is named, or beside a named one as an index is beside its data."""
        beside = not path.endswith(DEFINITIONS) and any(path.startswith(f"{_stem(one)}.") for one in self._named)
        return beside or any(path == one or path.startswith(f"{one}/") for one in self._named)


def _stem(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.split(".")[0])


def check_base(uri: str, what: str) -> str:
    """An S3 URI under which objects can be put, without a slash at its end. Raises Rejected, which names `what`."""
    try:
        usable = bool(Place.of(uri)) and not any(urlsplit(uri)[3:])
    except (Rejected, ValueError):
        usable = False
    if not usable:
        raise Rejected(f"{what}: {uri!r} is not an S3 URI: s3://bucket/path.", "invalid_output_uri")
    return uri.rstrip("/")
