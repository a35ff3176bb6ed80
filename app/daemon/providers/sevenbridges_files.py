"""From the names of input files to ids on Seven Bridges: looked up in the project, or imported through a volume.

An import makes a file of an object in a bucket that the lab has attached to the platform; no bytes pass through here.
Imported files keep their names, in a folder for each directory of a bucket, so that an object is imported once.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.daemon.providers.sevenbridges_api import SevenBridgesApi
from app.daemon.providers.sevenbridges_http import Missing
from app.daemon.providers.sevenbridges_inputs import named_files, with_ids
from app.daemon.providers.sevenbridges_records import FILE_ID, FileRecord, ImportRecord, VolumeRecord
from app.errors import NotReady, Rejected

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
S3_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,62})/(?P<key>.+)")
LOOK_AGAIN_SECONDS = 10.0
NOT_FOUND = "input_not_found"
FOLDER_TYPE = "folder"


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of a bucket as one of the volumes has it."""

    address: str
    volume_id: str
    location: str

    @property
    def name(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The same for all that lie side by side, so that an index is found beside its data."""
        place = f"{self.volume_id}:{self.location.rpartition('/')[0]}"
        return f"wes-imports-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


class InputFiles:
    """Thread-safe. Remembers imports under way; after a restart an object may be asked for once more, harmlessly."""

    def __init__(self, api: SevenBridgesApi, volume_ids: Collection[str]) -> None:
        self._api, self._volume_ids = api, volume_ids
        self._volumes: dict[str, VolumeRecord] = {}
        self._lock = threading.Lock()
        self._imports: dict[tuple[str, str], str] = {}  # (folder id, name) -> import id

    def find(self, inputs: dict[str, Any], project: str, attached: Collection[str] = ()) -> dict[str, Any]:
        """Typed inputs with ids for names. Raises Rejected, or NotReady while files are being imported.

        `attached`: names of attachments, which are not on the platform.
        """
        named = dict.fromkeys(named_files(inputs))
        unknown = {name: kind for kind, name in named if not FILE_ID.fullmatch(name)}
        addresses = {name: kind for name, kind in unknown.items() if ADDRESS.match(name)}
        objects = [self._object(kind, address) for address, kind in addresses.items()]
        paths = {name: kind for name, kind in unknown.items() if name not in addresses}
        return dict(with_ids(inputs, self._ids_of(paths, project, attached) | self._imported(objects, project)))

    # Files of the project

    def _ids_of(self, paths: Mapping[str, str], project: str, attached: Collection[str]) -> dict[str, str]:
        """A path begins at the project, whether with a slash or not. `paths`: path -> class."""
        parts = {path: tuple(part for part in path.split("/") if part) for path in paths}
        found = self._look({path: names for path, names in parts.items() if names}, project=project)
        for path, kind in paths.items():
            if path not in found:
                words = f"There is no file {path!r} in the Seven Bridges project {project}"
                how = "upload it there, as attachments do not get there" if path in attached else "name it by its path"
                raise Rejected(f"{words}: {how}, or name one by its id.", NOT_FOUND)
            if (found[path].type == FOLDER_TYPE) != (kind == "Directory"):
                raise Rejected(f"{path!r} in the Seven Bridges project {project} is not a {kind}.", NOT_FOUND)
        return {path: file.id for path, file in found.items()}

    def _look(self, paths: Mapping[str, tuple[str, ...]], **place: str) -> dict[str, FileRecord]:
        """Folder by folder, each once."""
        there = self._api.find_files(sorted({names[0] for names in paths.values()}), **place) if paths else {}
        found = {path: there[names[0]] for path, names in paths.items() if len(names) == 1 and names[0] in there}
        for name, file in there.items():
            inside = {path: names[1:] for path, names in paths.items() if names[0] == name and len(names) > 1}
            found |= self._look(inside, parent=file.id) if file.type == FOLDER_TYPE else {}
        return found

    # Imports

    def _object(self, kind: str, address: str) -> _Object:
        found = S3_ADDRESS.fullmatch(address)
        if found and kind == "File" and (there := self._on_a_volume(address, found["bucket"], found["key"])):
            return there
        words = f"{kind} {address}: Seven Bridges reads files of its projects only. "
        if kind == "File" and found:
            words += "Attach the bucket as a volume and add it to SEVENBRIDGES_VOLUMES, or import the file"
        else:
            words += "Upload or import it"
        raise Rejected(f"{words} into the project, and name it by its path there or by its id.", "input_not_imported")

    def _on_a_volume(self, address: str, bucket: str, key: str) -> _Object | None:
        for volume_id in self._volume_ids:
            service = self._volume(volume_id).service
            prefix = str(service.get("prefix") or "")
            if str(service.get("type")).lower() == "s3" and service.get("bucket") == bucket and key.startswith(prefix):
                return _Object(address, volume_id, key.removeprefix(prefix))
        return None

    def _volume(self, volume_id: str) -> VolumeRecord:
        if volume_id not in self._volumes:
            try:
                self._volumes[volume_id] = self._api.get_volume(volume_id)
            except Missing:
                words = f"SEVENBRIDGES_VOLUMES: there is no volume {volume_id!r}, or the token may not see it."
                raise Rejected(words, "volume_not_found") from None
        return self._volumes[volume_id]

    def _imported(self, objects: Iterable[_Object], project: str) -> dict[str, str]:
        """Address -> id. Raises NotReady until all are there."""
        ids: dict[str, str] = {}
        waiting: list[str] = []
        folders: dict[str, list[_Object]] = {}
        for one in objects:
            folders.setdefault(one.folder, []).append(one)
        for folder, inside in folders.items():
            folder_id = self._folder(folder, project).id
            there = self._api.find_files(sorted({one.name for one in inside}), parent=folder_id)
            ids |= {one.address: there[one.name].id for one in inside if one.name in there}
            missing = [one for one in inside if one.name not in there]
            waiting += [one.address for one in missing]
            self._import(missing, folder_id)
        if waiting:
            more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            raise NotReady(f"Seven Bridges is importing {waiting[0]}{more}.", LOOK_AGAIN_SECONDS)
        return ids

    def _folder(self, name: str, project: str) -> FileRecord:
        if found := self._api.find_files([name], project=project).get(name):
            return found
        try:
            return self._api.create_folder(name, project)
        except Rejected:
            if found := self._api.find_files([name], project=project).get(name):  # somebody else was faster
                return found
            raise

    def _import(self, objects: list[_Object], folder_id: str) -> None:
        """See to it that each is on its way. Raises Rejected where one cannot be imported."""
        with self._lock:
            known = {one: self._imports.get((folder_id, one.name)) for one in objects}
        jobs = self._api.get_imports([import_id for import_id in known.values() if import_id])
        for one, import_id in known.items():
            job = jobs.get(import_id or "")
            if job is None:
                job = self._api.start_import(one.volume_id, one.location, folder_id, one.name)
                with self._lock:
                    self._imports[folder_id, one.name] = job.id
            elif job.state in ("COMPLETED", "FAILED"):
                self._over(one, job, folder_id)

    def _over(self, one: _Object, job: ImportRecord, folder_id: str) -> None:
        """Forget it: where its file was not there a moment ago, a next look finds it, or imports it once more."""
        with self._lock:
            self._imports.pop((folder_id, one.name), None)
        there = self._api.find_files([one.name], parent=folder_id)
        if job.state == "FAILED" and one.name not in there:
            why = (job.error and job.error.message) or "no reason is given"
            raise Rejected(f"Seven Bridges could not import {one.address}: {why}", "import_failed")
