"""Bytes under our own names. `storage` is the seam; `directory` keeps them on a shared disk, `s3` in a bucket."""

from __future__ import annotations

from app.artifacts.directory import DirectoryStorage as DirectoryStorage
from app.artifacts.storage import CHUNK as CHUNK
from app.artifacts.storage import DAY_SECONDS as DAY_SECONDS
from app.artifacts.storage import ArtifactStorage as ArtifactStorage
from app.artifacts.storage import Known as Known
from app.artifacts.storage import StoredFile as StoredFile
from app.artifacts.storage import Upload as Upload
from app.artifacts.storage import output_location as output_location
from app.artifacts.storage import output_path as output_path
from config import Settings


def make_storage(settings: Settings) -> ArtifactStorage:
    """The storage that the settings name; asks nothing of it yet."""
    if not settings.artifacts_s3_uri:
        return DirectoryStorage(settings.artifacts_root)
    from app.artifacts.bucket import Access, Bucket
    from app.artifacts.s3 import S3Storage

    bucket, _, prefix = settings.artifacts_s3_uri.removeprefix("s3://").partition("/")
    access = Access(
        bucket,
        endpoint=settings.artifacts_s3_endpoint,
        region=settings.aws_region,
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        session_token=settings.aws_session_token.get_secret_value(),
    )
    return S3Storage(Bucket(access), prefix, links=settings.artifacts_redirect)
