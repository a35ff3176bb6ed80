"""Finding the tasks of a run again, after an answer was lost: by the mark that they carry, or by their output.

enumerate_tasks_qstat knows marks, but is young and may not be deployed; enumerate_tasks_filtered shows parameters
(PROVIDERS.md, C2). A service that does not know a filter leaves it out, so every row is looked at here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.bvbrc_token import BvbrcToken
from app.daemon.providers.bvbrc_api import NO_METHOD, BvbrcService, Refusal
from app.daemon.providers.bvbrc_apps import OUTPUT_FILE
from app.daemon.providers.bvbrc_records import QueueEntry, Task, read_many
from app.daemon.providers.bvbrc_requests import mark_of, names_its_output
from app.daemon.providers.provider_interface import Submission
from app.errors import OutcomeUnknown

PAGE = 100
MOST_PAGES = 20
LOOK_BACK = timedelta(days=1)
"""Tasks are looked for that were submitted so long before the last attempt: it may be the one before it."""
SHORT_LOOK_BACK = timedelta(minutes=2)
"""Where only the parameters tell runs apart, an earlier run with the same ones must not be taken for this one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A task of a run, and the service's word for its state."""

    task_id: str
    word: str


class TaskSearch:
    """Asks with the token of the run's user, who sees only their own tasks. Thread-safe."""

    def __init__(self, service: BvbrcService) -> None:
        self._service = service

    def find(self, token: BvbrcToken, run: Submission) -> list[Seen]:
        """All tasks of this run, the oldest first. Raises OutcomeUnknown where there are more than can be looked at."""
        try:
            seen = [Seen(entry.id, entry.status) for entry in self._marked(token, run.run_id)]
        except Refusal as refusal:
            if refusal.code != NO_METHOD:
                raise
            seen = [Seen(task.id, task.status) for task in self._alike(token, run)]
        return sorted(seen, key=lambda one: int(one.task_id))

    def entries(self, token: BvbrcToken, run_id: str) -> list[QueueEntry]:
        """What the queue says of the run's tasks; nothing where the service cannot tell."""
        try:
            return list(self._marked(token, run_id))
        except Refusal:
            return []

    def _marked(self, token: BvbrcToken, run_id: str) -> Iterator[QueueEntry]:
        which = {"user_metadata": mark_of(run_id), "include_archived": 1, "sort_field": "id", "sort_order": "asc"}
        for rows in self._pages(token, "enumerate_tasks_qstat", which):
            yield from (entry for entry in read_many(QueueEntry, rows) if entry.user_metadata == mark_of(run_id))

    def _alike(self, token: BvbrcToken, run: Submission) -> Iterator[Task]:
        """By its output: the name is the run's own, or the user's, and then everything else must be the same too."""
        params: Mapping[str, Any] = run.request.get("params") or {}
        is_named = names_its_output(run)
        compared = params if is_named else {OUTPUT_FILE: params.get(OUTPUT_FILE)}
        which: dict[str, Any] = {"app": run.request.get("app"), "include_archived": 1, "sort_order": "desc"}
        if run.sent_at is not None:
            which["start_time"] = f"{run.sent_at - (SHORT_LOOK_BACK if is_named else LOOK_BACK):%Y-%m-%dT%H:%M:%SZ}"
        for rows in self._pages(token, "enumerate_tasks_filtered", which):
            for task in read_many(Task, rows):
                same = all(task.parameters.get(name) == value for name, value in compared.items())
                if same and task.app == run.request.get("app"):
                    yield task

    def _pages(self, token: BvbrcToken, method: str, which: Mapping[str, Any]) -> Iterator[list[Any]]:
        for page in range(MOST_PAGES):
            match self._service.call(token, method, page * PAGE, PAGE, which):
                case [list(rows), *_]:
                    yield rows
                    if len(rows) < PAGE:
                        return
                case _:
                    raise OutcomeUnknown(f"BV-BRC answered {method} with something else.")
        raise OutcomeUnknown("BV-BRC lists more tasks than can be looked at.")
