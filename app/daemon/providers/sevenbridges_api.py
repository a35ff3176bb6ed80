"""The calls of the Seven Bridges API that runs need, made with sevenbridges-python, answered by checked records.

The library keeps the last client in its classes, for all threads: every call here names its own. And it reads answers
without looking at them, so whatever it stumbles over is an answer that is none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import sevenbridges
from sevenbridges.errors import SbgError
from sevenbridges.http.error_handlers import maintenance_sleeper
from sevenbridges.models.file import File
from sevenbridges.models.task import Task

from app.daemon.providers.sevenbridges_budget import IDS_A_CALL, Budget
from app.daemon.providers.sevenbridges_http import TooLarge, Transport, is_trusted
from app.daemon.providers.sevenbridges_records import (
    AppRecord,
    FileRecord,
    ImportRecord,
    JobRecord,
    LinkRecord,
    OutputsRecord,
    TaskRecord,
    VolumeRecord,
    read,
)
from app.errors import OutcomeUnknown, ProviderError

log = logging.getLogger(__name__)

One = TypeVar("One", TaskRecord, OutputsRecord)

ENDPOINTS = {
    "us": "https://api.sbgenomics.com/v2",
    "eu": "https://eu-api.sbgenomics.com/v2",
    "cn": "https://api.sevenbridges.cn/v2",
    "cgc": "https://cgc-api.sbgenomics.com/v2",
    "cavatica": "https://cavatica-api.sbgenomics.com/v2",
    "bdc": "https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2",
}
"""The platforms: US, EU, China, Cancer Genomics Cloud, CAVATICA, BioData Catalyst."""
PAGE = 100
MOST_PAGES = 1000
NAMES_A_CALL = 20  # names travel in the address, which may not be long


@dataclass(frozen=True, slots=True)
class SevenBridgesAccess:
    """Where the platform is, and as whom. Raises ValueError where the token could be overheard."""

    endpoint: str
    token: str = field(repr=False)
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not is_trusted(self.url):
            names = ", ".join(ENDPOINTS)
            raise ValueError(f"{self.endpoint!r} is neither an https address nor one of {names}.")

    @property
    def url(self) -> str:
        return ENDPOINTS.get(self.endpoint.lower(), self.endpoint).rstrip("/")


class _Client(sevenbridges.Api):  # type: ignore[misc]
    """The library's client would show its token wherever it is printed."""

    def __repr__(self) -> str:
        return f"<Seven Bridges at {self.url}>"

    __str__ = __repr__


class SevenBridgesApi:
    """Safe to share between threads. Every method raises the provider errors, and no other."""

    def __init__(self, access: SevenBridgesAccess, budget: Budget) -> None:
        logging.getLogger("sevenbridges").setLevel(
            logging.WARNING
        )  # a line for each request, with all of a CWL document
        span = (access.timeout_seconds / 4, access.timeout_seconds / 2)
        # debug: lets loopback addresses go without TLS; SevenBridgesAccess has looked.
        self._client = _Client(url=access.url, token=access.token, timeout=span, debug=True)
        self._client.remove_error_handler(maintenance_sleeper)
        self._client.session.trust_env = False
        for scheme in "http://", "https://":
            self._client.session.mount(scheme, Transport(budget))

    # Tasks

    def create_draft(self, request: dict[str, Any]) -> TaskRecord:
        """A task that does not run yet, even if its inputs are wrong."""
        with _reading():
            return read(TaskRecord, Task.create(**request, run=False, api=self._client))

    def run_task(self, task_id: str) -> TaskRecord:
        """Raises Rejected where it is no draft. With wrong inputs it stays one."""
        with _reading():
            return read(TaskRecord, self._task(task_id).run(inplace=False))

    def abort_task(self, task_id: str) -> None:
        """Raises Rejected where it does not run."""
        with _reading():
            self._task(task_id).abort(inplace=False)

    def delete_draft(self, task_id: str) -> None:
        """Raises Rejected where it is no draft."""
        with _reading():
            self._task(task_id).delete()

    def get_task(self, task_id: str) -> TaskRecord:
        """Raises Missing."""
        return self._get_task(TaskRecord, task_id)

    def get_task_outputs(self, task_id: str) -> OutputsRecord:
        """Raises Missing."""
        return self._get_task(OutputsRecord, task_id)

    def _get_task(self, model: type[One], task_id: str) -> One:
        with _reading():
            task = read(model, Task.get(task_id, api=self._client))
        if task.id != task_id:
            raise OutcomeUnknown(f"Asked for task {task_id}, Seven Bridges told of {task.id}.")
        return task

    def get_tasks(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """At most a hundred; unknown ones are left out. One that cannot be read hides no others."""
        try:
            with _reading():
                resources = _resources(Task.bulk_get(list(task_ids), api=self._client))
        except TooLarge:
            if len(task_ids) < 2:
                raise
            half = len(task_ids) // 2
            return self.get_tasks(task_ids[:half]) | self.get_tasks(task_ids[half:])
        found: dict[str, TaskRecord] = {}
        for resource in resources:
            try:
                task = read(TaskRecord, resource)
            except OutcomeUnknown as error:
                log.warning("a task that cannot be read", extra={"problem": str(error)})
            else:
                found |= {task.id: task} if task.id in task_ids else {}
        return found

    def find_tasks(self, project: str, **filters: str) -> Iterator[TaskRecord]:
        """The tasks of a project, oldest first. Without an order pages would repeat and miss rows."""
        for offset in count(0, PAGE):
            with _reading():
                page = Task.query(
                    project=project,
                    offset=offset,
                    limit=PAGE,
                    order_by="created_time",
                    order="asc",
                    api=self._client,
                    **filters,
                )
                tasks = [read(TaskRecord, task) for task in page]
            yield from tasks
            if len(tasks) < PAGE:
                return
            if offset >= MOST_PAGES * PAGE:
                raise OutcomeUnknown(f"Seven Bridges lists more than {MOST_PAGES} pages of tasks.")

    def get_jobs(self, task_id: str) -> list[JobRecord]:
        """What a task has run so far, as the platform lists it. Raises Missing."""
        with _reading():
            details = self._task(task_id).get_execution_details()
            return [read(JobRecord, _object(job)) for job in details.field("jobs") or []]

    # Apps

    def get_app(self, app_id: str) -> AppRecord:
        """`app_id`: with or without a revision. Raises Missing."""
        with _reading():
            return read(AppRecord, sevenbridges.App.get(app_id, api=self._client))

    def install_app(self, app_id: str, raw: dict[str, Any]) -> AppRecord:
        """Raises Rejected where there is one, or the document is refused."""
        with _reading():
            return read(AppRecord, sevenbridges.App.install_app(app_id, raw, api=self._client))

    # Files

    def find_files(self, names: Sequence[str], **place: str) -> dict[str, FileRecord]:
        """Those of these names in a place, which is a `project` or, as `parent`, a folder."""
        found: dict[str, FileRecord] = {}
        for start in range(0, len(names), NAMES_A_CALL):
            asked = list(names[start : start + NAMES_A_CALL])
            with _reading():
                page = File.query(names=asked, limit=PAGE, api=self._client, **place)
                found |= {file.name: file for file in (read(FileRecord, one) for one in page) if file.name in asked}
        return found

    def list_folder(self, folder_id: str) -> list[FileRecord]:
        """All that is in it, not deeper. Raises OutcomeUnknown where the pages do not fit together."""
        files: dict[str, FileRecord] = {}
        for offset in range(0, MOST_PAGES * PAGE, PAGE):
            with _reading():
                page = File.query(parent=folder_id, offset=offset, limit=PAGE, api=self._client)
                files |= {file.id: file for file in (read(FileRecord, one) for one in page)}
                total = page.total
            if offset + PAGE >= total:
                break
        if len(files) != total:
            raise OutcomeUnknown(f"Seven Bridges lists {len(files)} of the {total} files of a folder.")
        return sorted(files.values(), key=lambda file: file.name)

    def get_files(self, file_ids: Sequence[str]) -> dict[str, FileRecord]:
        """Those that there are, a call for each hundred."""
        found: dict[str, FileRecord] = {}
        for asked in _chunks(file_ids):
            with _reading():
                records = File.bulk_get(asked, api=self._client)
                files = [read(FileRecord, resource) for resource in _resources(records)]
            found |= {file.id: file for file in files}
        return found

    def download_url(self, file_id: str) -> str:
        """A secret that does not last. Raises Missing and Denied."""
        with _reading():
            return read(LinkRecord, File(id=file_id, api=self._client).download_info()).url

    def create_folder(self, name: str, project: str) -> FileRecord:
        """Raises Rejected where there is one."""
        with _reading():
            return read(FileRecord, File.create_folder(name, project=project, api=self._client))

    # Imports

    def get_volume(self, volume_id: str) -> VolumeRecord:
        """Raises Missing."""
        with _reading():
            volume = sevenbridges.Volume.get(volume_id, api=self._client)
            return read(VolumeRecord, {"id": volume.field("id"), "service": dict(volume.field("service"))})

    def start_import(self, volume_id: str, location: str, folder_id: str, name: str) -> ImportRecord:
        """A job that makes a file of an object; it fails where the folder has a file of this name."""
        with _reading():
            job = sevenbridges.Import.submit_import(
                volume_id, location, parent=folder_id, name=name, overwrite=False, api=self._client
            )
            return read(ImportRecord, job)

    def get_imports(self, import_ids: Sequence[str]) -> dict[str, ImportRecord]:
        """Those that there are, a call for each hundred."""
        found: dict[str, ImportRecord] = {}
        for asked in _chunks(import_ids):
            with _reading():
                records = sevenbridges.Import.bulk_get(asked, api=self._client)
                jobs = [read(ImportRecord, resource) for resource in _resources(records)]
            found |= {job.id: job for job in jobs}
        return found

    def _task(self, task_id: str) -> Any:
        """The library's object for a task that nothing was read of."""
        return Task(id=task_id, api=self._client)


@contextmanager
def _reading() -> Iterator[None]:
    """For calls of the library, and nothing else: what it fails at is what the platform answered."""
    try:
        yield
    except ProviderError:
        raise
    except (SbgError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        words = f"Seven Bridges answered with something that cannot be read ({type(error).__name__})."
        raise OutcomeUnknown(words) from None


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), IDS_A_CALL):
        yield list(ids[start : start + IDS_A_CALL])


def _resources(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Of a bulk answer what was found; the others have an error in its place."""
    return [_object(resource) for record in records if (resource := record.field("resource")) is not None]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value
