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
