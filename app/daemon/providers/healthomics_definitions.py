"""Registers CWL, WDL and Nextflow definitions as workflows of HealthOmics, once for a content. Knows no runs of it.

A definition is found again by its name, which is its content's hash, so nothing has to be stored here and any number of
daemons agree. Making a workflow takes the service a while: whoever asks comes again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field

from app.attachment_names import attachment_of
from app.daemon.engines.cwl_staging import Staging
from app.daemon.engines.fetcher import Fetcher, FetchPolicy
from app.daemon.providers.healthomics_aws import AwsApi, Conflicting
from app.daemon.providers.healthomics_files import Files
from app.daemon.providers.healthomics_workflows import ACTIVE, AGAIN_SECONDS, PRIVATE
from app.daemon.providers.provider_interface import Attachment, Submission
from app.errors import InvalidRequest, NotReady, Rejected
from app.strict import load_json

ENGINES = {"CWL": "CWL", "WDL": "WDL", "NFL": "NEXTFLOW"}
TEMPLATE = "parameter-template.json"
"""A definition's own file that says what it takes; without it the service reads that from the definition."""
MAX_BYTES = 20 * 1024**2
URL_KEPT_SECONDS = 60.0
MOST_KNOWN = 10_000
USABLE = (ACTIVE, "CREATING", "UPDATING", "FAILED")
"""The status words of workflows that count as registered, the best first: a failed one tells why it failed."""
TAG = "WESDefinition"
_EPOCH = (1980, 1, 1, 0, 0, 0)


class _Listed(BaseModel):
    id: str = Field(pattern=r"^[0-9]{1,18}$")
    name: str | None = None
    status: str


class _Created(BaseModel):
    id: str = Field(pattern=r"^[0-9]{1,18}$")


@dataclass(frozen=True, slots=True)
class _Definition:
    """Documents in a folder. `main`: the path of the one to run below it, None where the archive has but one."""

    folder: Path
    main: str | None
    engine: str

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def key(self) -> str:
        """The same for the same content."""
        hashes = [hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in self.files()]
        said = [self.engine, self.main or "", *self.files(), *hashes]
        return hashlib.sha256("\0".join(said).encode()).hexdigest()

    def template(self) -> dict[str, Any]:
        """What it says that it takes; {} where it leaves that to the service. Raises Rejected."""
        file = self.folder / TEMPLATE
        try:
            template = load_json(file.read_bytes(), TEMPLATE) if file.is_file() else {}
        except InvalidRequest as error:
            raise Rejected(str(error), "invalid_parameter_template") from None
        if not isinstance(template, dict):
            raise Rejected(f"{TEMPLATE} must be a JSON object.", "invalid_parameter_template")
        return template


class Definitions:
    """Thread-safe. `policy`: what may be fetched from the web."""

    def __init__(
        self, api: AwsApi, files: Files, policy: FetchPolicy, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._files, self._policy, self._monotonic = api, files, policy, monotonic
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}  # key -> workflow id
        self._of_url: dict[tuple[str, str], tuple[float, str]] = {}  # (workflow_url, type) -> when, workflow id
        self._deleted: dict[str, int] = {}  # key -> how often its workflow was found deleted

    def workflow_id(self, run: Submission, documents: Collection[Attachment]) -> str:
        """The workflow that this run's definition is registered as, or is being registered as from now on.

        `documents`: the attachments that are no inputs. Raises Rejected where there is no usable definition.
        """
        if run.workflow_type not in ENGINES:
            words = f"HealthOmics runs {', '.join(ENGINES)}, not {run.workflow_type}."
            raise Rejected(words, "workflow_type_unsupported")
        of_url = run.workflow_url, run.workflow_type
        at, workflow_id = self._of_url.get(of_url, (0.0, ""))
        if workflow_id and self._monotonic() - at < URL_KEPT_SECONDS:
            return workflow_id
        with tempfile.TemporaryDirectory(prefix="wes-definition-") as folder:
            workflow_id = self._registered(self._collected(run, documents, Path(folder)))
        if attachment_of(run.workflow_url, [document.path for document in documents]) is None:
            with self._lock:
                _make_room(self._of_url)
                self._of_url[of_url] = self._monotonic(), workflow_id
        return workflow_id

    def forget(self, workflow_id: str) -> None:
        """It does not exist any more: register its definition anew, under another requestId."""
        with self._lock:
            for key in [key for key, known in self._known.items() if known == workflow_id]:
                del self._known[key]
                self._deleted[key] = self._deleted.get(key, 0) + 1
            self._of_url = {url: kept for url, kept in self._of_url.items() if kept[1] != workflow_id}

    # Registering

    def _registered(self, definition: _Definition) -> str:
        key = definition.key()
        workflow_id = self._known.get(key) or self._find(key) or self._create(key, definition)
        with self._lock:
            _make_room(self._known)
            self._known[key] = workflow_id
        return workflow_id

    def _find(self, key: str) -> str | None:
        listed = self._api.items(_Listed, "ListWorkflows", type=PRIVATE, name=_name(key))
        ours = [one for one in listed if one.name == _name(key) and one.status in USABLE]
        ours.sort(key=lambda one: (USABLE.index(one.status), int(one.id)))
        return ours[0].id if ours else None

    def _create(self, key: str, definition: _Definition) -> str:
        files = definition.files()
        template = definition.template()  # a path to it is for definitions in a repository
        said = {"main": definition.main, "parameterTemplate": template}
        again = self._deleted.get(key, 0)
        try:
            created = self._api.read(
                _Created,
                "CreateWorkflow",
                name=_name(key),
                description="Registered by a workflow execution service; named by its content.",
                engine=definition.engine,
                definitionZip=_zipped(definition.folder, files),
                requestId=f"{_name(key)}-{again}" if again else _name(key),
                tags={TAG: key},
                **{name: value for name, value in said.items() if value},
            )
        except Conflicting as error:  # it was asked for before, and lists do not show it yet
            words = "The workflow definition is being registered at HealthOmics."
            raise NotReady(words, AGAIN_SECONDS) from error
        return created.id

    # Collecting

    def _collected(self, run: Submission, documents: Collection[Attachment], folder: Path) -> _Definition:
        if sum(document.size for document in documents) > MAX_BYTES:
            raise _too_large()
        main = self._laid_out(run, documents, folder)
        engine = ENGINES[run.workflow_type]
        if zipfile.is_zipfile(folder / main):
            fragment = unquote(urlsplit(run.workflow_url).fragment)
            return _Definition(_unpacked(folder / main), fragment or None, engine)
        return _Definition(folder, main, engine)

    def _laid_out(self, run: Submission, documents: Collection[Attachment], folder: Path) -> str:
        """Put every document below the folder; returns the path of the one that workflow_url means."""
        for document in documents:
            place = folder / document.path
            place.parent.mkdir(parents=True, exist_ok=True)
            with document.open() as source, place.open("xb") as target:
                shutil.copyfileobj(source, target)
        attached = attachment_of(run.workflow_url, [document.path for document in documents])
        if attached and zipfile.is_zipfile(folder / attached):
            return attached
        if run.workflow_type == "CWL" and not run.workflow_url.startswith("s3:"):
            return self._staged_cwl(run.workflow_url, folder)
        return attached or self._fetched(run.workflow_url, folder)

    def _staged_cwl(self, workflow_url: str, folder: Path) -> str:
        """With every document that it refers to, as the service's engine has no network."""
        if urlsplit(workflow_url).path.endswith(".zip"):
            return self._fetched(workflow_url, folder)
        process, _ = Staging(folder, "wes-imports", self._policy, Fetcher(self._policy)).stage(workflow_url, {})
        parts = urlsplit(process)
        if parts.fragment not in ("", "main"):
            words = f"workflow_url: HealthOmics runs the main process of a CWL document, not #{parts.fragment}."
            raise Rejected(words, "workflow_unsupported")
        return Path(unquote(parts.path)).relative_to(folder.resolve()).as_posix()

    def _fetched(self, workflow_url: str, folder: Path) -> str:
        name = Path(unquote(urlsplit(workflow_url).path)).name or "workflow"
        if workflow_url.startswith("s3:"):
            (folder / name).write_bytes(self._files.read(workflow_url.partition("#")[0], MAX_BYTES))
        elif workflow_url.startswith(("http:", "https:")):
            Fetcher(self._policy).fetch(workflow_url.partition("#")[0], folder / name, MAX_BYTES)
        else:
            words = f"workflow_url: {workflow_url!r} cannot be had here; http, https, s3 and attachments can."
            raise Rejected(words, "workflow_unreachable")
        return name


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= MOST_KNOWN:
        kept.clear()


def _name(key: str) -> str:
    return f"wes-{key}"


def _unpacked(archive: Path) -> Path:
    """The archive's files in a folder of their own; nothing leaves it and nothing grows without end."""
    folder = Path(f"{archive}.unpacked")
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            if sum(entry.file_size for entry in opened.infolist()) > MAX_BYTES:
                raise _too_large()
            opened.extractall(folder)  # drops what would leave the folder
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError) as error:
        raise Rejected(f"workflow_url: the archive cannot be read: {error}", "workflow_unreadable") from error
    return folder


def _zipped(folder: Path, files: Collection[str]) -> bytes:
    with tempfile.TemporaryFile() as buffer:
        _write_zip(buffer, folder, files)
        if buffer.tell() > MAX_BYTES:
            raise _too_large()
        buffer.seek(0)
        return buffer.read()


def _write_zip(buffer: BinaryIO, folder: Path, files: Collection[str]) -> None:
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)


def _too_large() -> Rejected:
    words = (
        f"The workflow definition is larger than {MAX_BYTES // 1024**2} MiB. Attachments that inputs name do not count."
    )
    return Rejected(words, "workflow_too_large")
