"""A structured log of each run, as a file with its other logs: one JSON object a line. Nothing waits for it.

What happened is stored with the run; the file is a copy for those who collect or keep files. A thread of its own writes
it after each commit, and appends what is stored and not yet there. So it is whole again after whatever went wrong, and
nothing that goes wrong with it, a full disk say, is any run's trouble.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.database import Database
from app.errors import StorageUnavailable
from app.models import RunEvent, TaskLog
from app.runs import listing
from app.runs.listing import RunPlace
from app.runs.news import Noted
from app.states import TERMINAL

log = logging.getLogger(__name__)

NAME = "events.jsonl"
GATHER_SECONDS = 5.0
"""What happens to a run within this time is appended at once."""
AGAIN_SECONDS = 60.0
STOP_SECONDS = 5.0
"""What is still waiting when the daemon stops is given so long."""
NOTE_CHARACTERS = 2000
TAIL_BYTES = 64 * 1024
"""More than a line can have: the id of the last event is looked for in so much of the file's end."""
MAX_WAITING = 100_000
TASKS_AT_ONCE = 1000
RECENT = 1000
"""Events that are looked at when it begins: the daemon before may have died between a commit and its line."""


class RunLogs:
    """Told of news by the database, it brings the files of those runs up to date."""

    def __init__(self, database: Database, storage: ArtifactStorage, max_bytes: int) -> None:
        self._database, self._storage, self._max_bytes = database, storage, max_bytes
        self._waiting: dict[str, None] = {}  # in order, each once
        self._changed, self._stopping = threading.Condition(), threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="run-logs", daemon=True)

    def listen(self, news: Sequence[object]) -> None:
        """Returns at once."""
        self._await(item.run_id for item in news if isinstance(item, Noted))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, if that is possible now, and end within STOP_SECONDS and the write under way."""
        self._deadline = time.monotonic() + STOP_SECONDS
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()
        self.write_waiting()

    def write_waiting(self) -> bool:
        """Bring the waiting runs' files up to date. False where that is not possible now: then they wait on."""
        while run_id := self._next():
            if not self._write(run_id):
                self._await([run_id])
                return False
        return True

    def _next(self) -> str | None:
        with self._changed:
            run_id = next(iter(self._waiting), None) if time.monotonic() < self._deadline else None
            if run_id:
                del self._waiting[run_id]
            return run_id

    def _work(self) -> None:
        self._note_recent()
        while not self._stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            self._stopping.wait(GATHER_SECONDS)
            if not self.write_waiting():
                self._stopping.wait(AGAIN_SECONDS)

    def _note_recent(self) -> None:
        """Runs that ended lately; the others come by themselves with what happens to them next."""
        try:
            with self._database.reading() as session:
                self._await(listing.ended_lately(session, RECENT))
        except SQLAlchemyError:
            log.warning("recent runs' logs are not looked at", exc_info=True)

    def _await(self, run_ids: Iterable[str]) -> None:
        with self._changed:
            room = MAX_WAITING - len(self._waiting)
            self._waiting |= dict.fromkeys(islice(run_ids, room))
            self._changed.notify()

    def _write(self, run_id: str) -> bool:
        try:
            last, is_torn = self._end_of_file(run_id)
            if text := self._text(run_id, last):
                whole = b"\n" * is_torn + text
                self._storage.log_sink(run_id, self._max_bytes).append(NAME, io.BytesIO(whole))
        except (OSError, StorageUnavailable, SQLAlchemyError) as error:
            log.warning("a run's log is not written for now", extra={"run_id": run_id, "error": str(error)})
            return False
        except Exception:  # of no use to try again
            log.exception("a run's log is not written", extra={"run_id": run_id})
        return True

    def _end_of_file(self, run_id: str) -> tuple[int, bool]:
        """The id of the last event in the file, 0 where there is none; whether its last line is unfinished."""
        file = self._storage.log(run_id, NAME)
        if file is None or file.size == 0:
            return 0, False
        with file.open() as stream:
            stream.seek(max(0, file.size - TAIL_BYTES))
            end = stream.read(TAIL_BYTES)
        ids = (_event_id(line) for line in reversed(end.splitlines()))
        return next((found for found in ids if found), 0), not end.endswith(b"\n")

    def _text(self, run_id: str, after: int) -> bytes:
        with self._database.reading() as session:
            place = listing.get_place(session, run_id)
            events = listing.get_events(session, run_id, after) if place else ()
            lines = [line for event in events for line in _lines(session, place, event)] if place else []
        return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode(errors="replace")


def _lines(session: Session, place: RunPlace, event: RunEvent) -> Iterator[dict[str, Any]]:
    """An event; the end of a run comes after its tasks, which are known for good then."""
    if event.to_state in TERMINAL:
        yield from _task_lines(session, event.run_id)
    change = {"from": event.from_state, "to": event.to_state, "by": event.by}
    has_id = place.processed_at is not None and event.at >= place.processed_at
    where = {"provider": place.provider_type, "provider_id": place.provider_id if has_id else None}
    where |= {"parent": place.parent_id, "step": place.step}
    note = (event.note or "")[:NOTE_CHARACTERS]
    yield _line(event.at, event.run_id, id=event.id, **change, note=note, **where)


def _task_lines(session: Session, run_id: str) -> Iterator[dict[str, Any]]:
    after, found = -1, TASKS_AT_ONCE
    while found == TASKS_AT_ONCE:
        tasks = listing.get_tasks(session, run_id, after, TASKS_AT_ONCE)
        yield from (_task_line(run_id, task) for task in tasks)
        after, found = after + len(tasks), len(tasks)


def _task_line(run_id: str, task: TaskLog) -> dict[str, Any]:
    began, ended = task.start_time, task.end_time
    facts = {"start_time": began and began.isoformat(), "end_time": ended and ended.isoformat()}
    return _line(ended or began, run_id, task=task.task_id, name=task.name, exit_code=task.exit_code, **facts)


def _line(at: datetime | None, run_id: str, **facts: Any) -> dict[str, Any]:
    """Without what is not known."""
    known = {name: value for name, value in facts.items() if value is not None and value != ""}
    return {"at": at and at.isoformat(), "run_id": run_id, **known}


def _event_id(line: bytes) -> int:
    """0 for a line that is no event's, or not whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return 0
    return int(found.get("id", 0)) if isinstance(found, dict) else 0
