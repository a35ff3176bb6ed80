"""Files, volumes and import jobs of the Seven Bridges fake. File content is served from signed URLs, as on the platform."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.fakes.faults import Reply
from tests.fakes.sb_platform import ApiError, Call, Json, Platform, bulk, known
from tests.fakes.timeline import Plans

SIGNED_FOR = timedelta(hours=1)
IMPORT_SECONDS = {"PENDING": 2, "RUNNING": 5}


@dataclass(slots=True, eq=False)
class StoredFile:
    """`project` None: a log, that no list shows. `parent`: the folder that it is in."""

    id: str
    name: str
    project: str | None
    content: bytes
    created: str
    parent: str | None = None
    type: str = "file"
    task: str | None = None
    storage: Json = field(default_factory=lambda: {"type": "PLATFORM"})


class Files:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._files: dict[str, StoredFile] = {}
        self._copies: Counter[tuple[str | None, str | None, str]] = Counter()
        self._signed: dict[str, tuple[str, datetime]] = {}

    def add(self, name: str, content: bytes, project: str | None, rename: bool = True, **facts: Any) -> StoredFile:
        """A new file; where the name is taken it gets a prefix, as the platform does. `rename` False: ApiError then."""
        place = (project, facts.get("parent"), name)
        copies = self._copies[place]
        if copies and not rename:
            raise ApiError(409, 5003, f"File {name} exists")
        self._copies[place] += 1
        free = f"_{copies}_{name}" if copies else name
        file = StoredFile(secrets.token_hex(12), free, project, content, self._platform.now(), **facts)
        self._files[file.id] = file
        return file

    def find(self, file_id: Any) -> StoredFile:
        found: StoredFile = known(self._files, file_id, 5002, "file")
        return found

    def holds(self, file_id: Any, project: str) -> bool:
        return isinstance(file_id, str) and file_id in self._files and self._files[file_id].project == project

    def describe(self, file: StoredFile) -> Json:
        return {
            "href": f"{self._platform.base}/files/{file.id}",
            "id": file.id,
            "type": file.type,
            "name": file.name,
            "size": len(file.content) if file.type == "file" else None,
            "project": file.project,
            "parent": file.parent,
            "created_on": file.created,
            "modified_on": file.created,
            "origin": {"task": file.task} if file.task else {},
            "storage": file.storage,
            "metadata": {},
            "tags": [],
        }

    def query(self, call: Call) -> tuple[Json, int]:
        """The files of a folder, or those of a project that are in none."""
        project, parent = call.asks("project"), call.asks("parent")
        names, task = call.query.get("name"), call.asks("origin.task")
        project = self.folder(parent).project if parent else project
        self._platform.check_project(project)
        found = [
            file
            for file in self._files.values()
            if (file.project, file.parent) == (project, parent)
            and (not names or file.name in names)
            and task in (None, file.task)
        ]
        return self._platform.page(call, found, self.describe)

    def create_folder(self, call: Call) -> Json:
        asked = call.fields(["name", "type"], ["project", "parent"])
        if asked["type"] != "folder" or ("project" in asked) == ("parent" in asked):
            raise ApiError(400, 5001, "A folder needs a project or a parent")
        return self.describe(self.add_folder(asked["name"], asked.get("project"), asked.get("parent"), rename=False))

    def add_folder(
        self, name: str, project: str | None, parent: str | None = None, rename: bool = True, **facts: Any
    ) -> StoredFile:
        project = self.folder(parent).project if parent else project
        self._platform.check_project(project)
        return self.add(name, b"", project, rename, parent=parent, type="folder", **facts)

    def folder(self, folder_id: Any) -> StoredFile:
        found = self.find(folder_id)
        if found.type != "folder":
            raise ApiError(400, 5004, f"{found.name} is not a folder")
        return found

    def get(self, call: Call) -> Json:
        return self.describe(self.find(call.names["id"]))

    def bulk_get(self, call: Call) -> Json:
        return bulk(call.ids("file_ids"), lambda file_id: self.describe(self.find(file_id)))

    def download_info(self, call: Call) -> Json:
        """A URL that needs no token and does not last."""
        signature = secrets.token_urlsafe(16)
        self._signed[signature] = self.find(call.names["id"]).id, self._platform.timeline.now() + SIGNED_FOR
        return {"url": f"{self._platform.base.removesuffix('/v2')}/content/{signature}"}

    def content(self, signature: str, wanted: str | None) -> Reply:
        """What is behind a signed URL; `wanted`: the Range header."""
        file_id, until = self._signed.get(signature, ("", self._platform.timeline.now()))
        if until <= self._platform.timeline.now():
            return Reply(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
        content = self.find(file_id).content
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if asked is None:
            return Reply(200, content)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return Reply(206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"})


class Volumes:
    """S3 buckets that users attached."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._volumes: dict[str, Json] = {}

    def find(self, volume_id: Any) -> Json:
        return dict(known(self._volumes, volume_id, 9002, "volume"))

    def create(self, call: Call) -> Json:
        asked = call.fields(["name", "service", "access_mode"], ["description"])
        volume_id = f"{self._platform.user}/{asked['name']}"
        service = asked["service"]
        if service.get("type", "").upper() != "S3" or not service.get("bucket") or not service.get("credentials"):
            raise ApiError(400, 9001, "An S3 volume needs a bucket and credentials")
        if volume_id in self._volumes or asked["access_mode"] not in ("RO", "RW"):
            raise ApiError(409 if volume_id in self._volumes else 400, 9003, f"Volume {volume_id} cannot be made")
        shown = {**service, "credentials": {}, "type": "s3"}
        facts = {"id": volume_id, "service": shown, "active": True, "created_on": self._platform.now()}
        self._volumes[volume_id] = {**asked, **facts}
        return self._describe(self._volumes[volume_id])

    def get(self, call: Call) -> Json:
        return self._describe(self.find(call.names["id"]))

    def query(self, call: Call) -> tuple[Json, int]:
        return self._platform.page(call, list(self._volumes.values()), self._describe)

    def _describe(self, volume: Json) -> Json:
        return {**volume, "href": f"{self._platform.base}/storage/volumes/{volume['id']}"}


class Imports:
    """Jobs that make project files of objects on a volume; a plan that matches the location can have one fail."""

    def __init__(self, platform: Platform, files: Files, volumes: Volumes, plans: Plans, fetch: Fetch) -> None:
        self._platform, self._files, self._volumes, self._plans, self._fetch = platform, files, volumes, plans, fetch
        self._imports: dict[str, Json] = {}

    def submit(self, call: Call) -> Json:
        required, optional = (
            ["source", "destination"],
            ["overwrite", "autorename", "preserve_folder_structure", "properties"],
        )
        return self._new(call.fields(required, optional))

    def bulk_submit(self, call: Call) -> Json:
        return bulk(call.ids("items"), self._new)

    def get(self, call: Call) -> Json:
        return self._find(call.names["id"])

    def bulk_get(self, call: Call) -> Json:
        return bulk(call.ids("import_ids"), self._find)

    def query(self, call: Call) -> tuple[Json, int]:
        state, volume = call.asks("state"), call.asks("volume")
        found = [
            job
            for job in self._imports.values()
            if state in (None, job["state"]) and volume in (None, job["source"]["volume"])
        ]
        return self._platform.page(call, found, dict)

    def _find(self, import_id: Any) -> Json:
        return dict(known(self._imports, import_id, 9102, "import"))

    def _new(self, asked: Json) -> Json:
        self._volumes.find(asked["source"]["volume"])
        self._place(asked["destination"])
        import_id = secrets.token_urlsafe(24)
        href = f"{self._platform.base}/storage/imports/{import_id}"
        facts = {"href": href, "id": import_id, "state": "PENDING", "started_on": self._platform.now()}
        job = {name: value for name, value in asked.items() if name != "properties"} | facts
        self._imports[import_id] = job
        plan = self._plans.choose(asked)
        waits = {state: plan.seconds.get(state, seconds) for state, seconds in IMPORT_SECONDS.items()}

        def run() -> None:
            job["state"] = "RUNNING"
            self._platform.timeline.after(waits["RUNNING"], finish)

        def finish() -> None:
            job["finished_on"] = self._platform.now()
            try:
                if plan.outcome != "COMPLETED":
                    raise ApiError(400, 9103, plan.message or "The import failed")
                job.update(state="COMPLETED", result=self._imported(asked))
            except ApiError as error:
                job.update(state="FAILED", error=error.record)

        self._platform.timeline.after(waits["PENDING"], run)
        return dict(job)

    def _imported(self, asked: Json) -> Json:
        source, destination = asked["source"], asked["destination"]
        content = self._fetch(self._volumes.find(source["volume"])["service"], source["location"])
        name = destination.get("name") or source["location"].rpartition("/")[2]
        storage = {"type": "VOLUME", **source}
        rename = bool(asked.get("autorename") or asked.get("overwrite"))
        project, parent = self._place(destination)
        return self._files.describe(self._files.add(name, content, project, rename, parent=parent, storage=storage))

    def _place(self, destination: Json) -> tuple[str | None, str | None]:
        """Project and folder."""
        parent = destination.get("parent")
        project = self._files.folder(parent).project if parent else destination.get("project")
        self._platform.check_project(project)
        return project, parent


Fetch = Callable[[Mapping[str, Any], str], bytes]


def fetcher(s3_endpoint: str | None) -> Fetch:
    """What reads a volume's objects: from S3 where an endpoint is given, else made up."""
    if s3_endpoint is None:
        return lambda service, location: f"content of {location}\n".encode()
    settings = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "fake", "aws_secret_access_key": "fake", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=s3_endpoint, config=settings, **keys)

    def fetch(service: Mapping[str, Any], location: str) -> bytes:
        try:
            found = s3.get_object(Bucket=service["bucket"], Key=f"{service.get('prefix', '')}{location}")
            return bytes(found["Body"].read())
        except (BotoCoreError, ClientError) as error:
            raise ApiError(404, 9104, f"{location}: {error}") from None

    return fetch
