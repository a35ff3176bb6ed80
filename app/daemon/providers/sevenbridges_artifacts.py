"""What a Seven Bridges task leaves: its jobs as tasks, their logs and the output files, brought into our sinks.

Files above a size stay on the platform, where they last; the output object then names them by their platform id.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from app.daemon.providers.provider_interface import LogSink, OutputSink, Task
from app.daemon.providers.sevenbridges_api import SevenBridgesApi
from app.daemon.providers.sevenbridges_http import Denied, Downloads, Missing
from app.daemon.providers.sevenbridges_inputs import AT_HOME, FILE_CLASSES, SCHEME
from app.daemon.providers.sevenbridges_records import FileRecord, JobRecord
from app.errors import Rejected

log = logging.getLogger(__name__)

MOST_LOGS = 200
"""Log files that are brought here for a run: each costs two requests of the token's budget."""
MAX_DEPTH = 50
MAX_NAME_BYTES = 200
LOG_NAMES = {"stdout": ("stdout", "job.out.log", "std.out"), "stderr": ("stderr", "job.err.log", "std.err")}
"""Ours -> the platform's, the first that a job has."""
LOG_ADDRESS = re.compile(r"/files/([A-Za-z0-9]{1,64})(?:/|$)")
FAILED = "FAILED"


def tasks_of(jobs: list[JobRecord]) -> list[Task]:
    """In the order in which they began."""
    kept = {path for path, _ in log_files(jobs)}
    return [_task(task_id, job, kept) for task_id, job in _named(jobs)]


def log_files(jobs: list[JobRecord]) -> list[tuple[str, str]]:
    """(name in the sink, file id) of the logs to keep: of all jobs, or first of those that failed."""
    named = sorted(_named(jobs), key=lambda one: one[1].status != FAILED)
    found = [
        (f"tasks/{task_id}/{stream}", file_id)
        for task_id, job in named
        for stream in LOG_NAMES
        if (file_id := _log_of(job, stream))
    ]
    return found[:MOST_LOGS]


class Artifacts:
    """`max_bytes`: of a file, and `max_files`: of a run, that are brought here."""

    def __init__(self, api: SevenBridgesApi, downloads: Downloads, max_bytes: int, max_files: int) -> None:
        self._api, self._downloads, self._max_bytes, self._max_files = api, downloads, max_bytes, max_files

    def append_logs(self, jobs: list[JobRecord], sink: LogSink) -> None:
        """What is new; a log that the platform does not give is done without."""
        wanted = log_files(jobs)
        files = self._api.get_files([file_id for _, file_id in wanted])
        for name, file_id in wanted:
            size = files[file_id].size if file_id in files else None
            if (kept := sink.size(name)) and size is not None and kept >= size:
                continue
            try:
                url = self._api.download_url(file_id)
                with self._downloads.open(url, max((size or 0) - kept, 0), kept) as source:
                    sink.append(name, source)
            except (Missing, Denied) as error:
                log.warning("a log cannot be had", extra={"log": name, "problem": str(error)})

    def keep_outputs(self, outputs: dict[str, Any], sink: OutputSink) -> dict[str, Any]:
        """The output object with the location of each file. Raises Rejected where a file is gone or refused."""
        ids = [file["path"] for file in _files_in(outputs)]
        keeping = _Keeping(self, self._api.get_files(list(dict.fromkeys(ids))), sink)
        return {name: keeping.kept(value) for name, value in outputs.items()}

    def fetch(self, file: FileRecord, path: str, sink: OutputSink) -> str:
        """Returns the location. Raises Rejected."""
        try:
            url = self._api.download_url(file.id)
            with self._downloads.open(url, file.size or 0) as source:
                return sink.put_stream(path, source)
        except Missing as error:
            raise Rejected(f"The output file {file.name!r} is gone: {error}", "outputs_lost") from None
        except Denied as error:
            raise Rejected(f"The output file {file.name!r} is refused: {error}", "outputs_denied") from None

    def why_not(self, file: FileRecord, fetched: int) -> str | None:
        """Why a file stays on the platform; None for one that is brought here."""
        if file.size is None or file.size > self._max_bytes:
            return f"It is larger than {self._max_bytes} bytes (SEVENBRIDGES_MAX_OUTPUT_BYTES)"
        if fetched >= self._max_files:
            return f"The run has more than {self._max_files} files (SEVENBRIDGES_MAX_OUTPUT_FILES)"
        return None

    def list_folder(self, folder_id: str) -> list[FileRecord]:
        return self._api.list_folder(folder_id)


class _Keeping:
    """One run's outputs on their way into the sink."""

    def __init__(self, artifacts: Artifacts, files: dict[str, FileRecord], sink: OutputSink) -> None:
        self._artifacts, self._files, self._sink = artifacts, files, sink
        self._paths: set[str] = set()
        self._fetched = 0

    def kept(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.kept(element) for element in value]
        if not isinstance(value, dict):
            return value
        if not _is_file(value):
            return {key: self.kept(element) for key, element in value.items()}
        file = self._files.get(value["path"])
        if file is None:
            name = value.get("name") or value["path"]
            raise Rejected(f"Seven Bridges no longer has the output {name!r}.", "outputs_lost")
        entry = self._entry(file, "", 0)
        if secondary := value.get("secondaryFiles"):
            entry["secondaryFiles"] = self.kept(secondary)
        return entry

    def _entry(self, file: FileRecord, folder: str, depth: int) -> dict[str, Any]:
        """A File or Directory as CWL has it, kept as far as it may be."""
        at_home = f"{SCHEME}{file.id}"
        if file.type == "folder":
            if depth > MAX_DEPTH:
                raise Rejected(f"Output folders are nested deeper than {MAX_DEPTH}.", "outputs_unreadable")
            path = self._free(folder, file)
            inside = [self._entry(child, f"{path}/", depth + 1) for child in self._artifacts.list_folder(file.id)]
            return {"class": "Directory", "location": at_home, "basename": file.name, "listing": inside}
        entry: dict[str, Any] = {"class": "File", "location": at_home, "basename": file.name, AT_HOME: at_home}
        entry |= {"size": file.size} if file.size is not None else {}
        if why := self._artifacts.why_not(file, self._fetched):
            return entry | {"sbg:note": f"{why}: get it from the platform by this id."}
        self._fetched += 1
        return entry | {"location": self._artifacts.fetch(file, self._free(folder, file), self._sink)}

    def _free(self, folder: str, file: FileRecord) -> str:
        """Names may meet: those that do, and those that cannot be names here, go by their ids."""
        path = folder + (file.name if _is_name(file.name) else file.id)
        path = f"{folder}{file.id}" if path in self._paths else path
        self._paths.add(path)
        return path


def _named(jobs: list[JobRecord]) -> list[tuple[str, JobRecord]]:
    """(task id, job), by when they began. Jobs of one name are numbered: what begins later comes later."""
    begun = sorted(jobs, key=lambda job: (job.start_time is None, job.start_time and job.start_time.timestamp()))
    named: dict[str, JobRecord] = {}
    for job in begun:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", job.name)[:80].strip(".-") or "job"
        task_id, number = slug, 1
        while task_id in named:
            number += 1
            task_id = f"{slug}.{number}"
        named[task_id] = job
    return list(named.items())


def _task(task_id: str, job: JobRecord, kept: set[str]) -> Task:
    return Task(
        task_id,
        job.name,
        cmd=(job.command_line,) if job.command_line else (),
        start_time=job.start_time,
        end_time=job.end_time,
        system_logs=tuple(_facts(job)),
        has_stdout=f"tasks/{task_id}/stdout" in kept,
        has_stderr=f"tasks/{task_id}/stderr" in kept,
    )


def _facts(job: JobRecord) -> Iterator[str]:
    if job.status:
        yield f"status {job.status}"
    if job.instance and job.instance.type:
        yield f"instance {job.instance.type}" + (f" at {job.instance.provider}" if job.instance.provider else "")
    if job.retried:
        yield "retried by the platform"


def _log_of(job: JobRecord, stream: str) -> str | None:
    """The id of the file that holds a job's log."""
    logs = job.logs or {}
    address = next((logs[name] for name in LOG_NAMES[stream] if isinstance(logs.get(name), str)), "")
    found = LOG_ADDRESS.search(address)
    return found[1] if found else None


def _files_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for element in value:
            yield from _files_in(element)
    elif isinstance(value, dict):
        if _is_file(value):
            yield value
        for element in value.values():
            yield from _files_in(element)


def _is_file(value: dict[str, Any]) -> bool:
    return value.get("class") in FILE_CLASSES and isinstance(value.get("path"), str)


def _is_name(name: str) -> bool:
    return name.isprintable() and "/" not in name and name not in (".", "..") and len(name.encode()) <= MAX_NAME_BYTES
