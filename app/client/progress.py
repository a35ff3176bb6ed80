"""Following a run: a live table on a terminal, one line a change elsewhere. Never changes the run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.client.connection import Json
from app.client.display import STATE_STYLES, Display, duration, printable
from app.client.errors import Unreachable, WesClientError
from app.client.waiting import Pace, Watch
from app.client.wes_client import WesClient

SHOWN_TASKS = 12
READ_TASKS = 2000


def task_state(task: Json) -> str:
    """A word for a task: WES gives tasks no state, only times and an exit code."""
    if task.get("exit_code") not in (None, 0):
        return f"failed ({task['exit_code']})"
    return "done" if task.get("end_time") or task.get("exit_code") == 0 else "running"


def task_key(task: Json) -> str:
    """A task's id; before WES 1.1 tasks had only names."""
    return str(task.get("id") or task.get("name") or "")


@dataclass
class View:
    """The last that is known of a run: what progress is drawn from."""

    run_id: str
    state: str = ""
    tasks: Sequence[Json] = ()
    trouble: str = ""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def headline(self) -> str:
        done = sum(task_state(task) != "running" for task in self.tasks)
        tasks = f", {done} of {len(self.tasks)} tasks done" if self.tasks else ""
        return f"{self.run_id}  {self.state or '…'}  {duration(self.began.isoformat(), None)}{tasks}"

    def _urgent(self) -> Sequence[Json]:
        """Failed tasks, then running ones, then the others; the latest of each first."""
        rank = {"running": 1, "done": 2}
        placed = sorted(enumerate(self.tasks), key=lambda place: (rank.get(task_state(place[1]), 0), -place[0]))
        return [task for _, task in placed[:SHOWN_TASKS]]

    def __rich__(self) -> Group:
        """Drawn again several times a second by the terminal, so that durations move."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for task in self._urgent():
            took = duration(task.get("start_time"), task.get("end_time"))
            table.add_row("  " + task_state(task), Text(printable(str(task.get("name") or task_key(task)))), took)
        head = Text(printable(self.headline()), STATE_STYLES.get(self.state, ""))
        return Group(head, table, Text(printable(self.trouble), "yellow")) if self.trouble else Group(head, table)


@dataclass
class Follower:
    """Watches one run and shows its progress on `display.chatter`."""

    client: WesClient
    display: Display
    view: View
    timeout: float | None = None
    pace: Pace = field(default_factory=lambda: Pace(first=2.0))

    def follow(self) -> str:
        """The end state. Raises TimeoutError, client errors, and KeyboardInterrupt: none of them ends the run."""
        watch = Watch(self.client, self.view.run_id, self.timeout, 0.0, self.pace, on_outage=self._outage)
        with self._showing():
            for status in watch.statuses():
                self._update(str(status.get("state", "UNKNOWN")))
        self.display.say(self.view.headline())
        return self.view.state

    def _showing(self) -> AbstractContextManager[object]:
        if self.display.chatter.is_terminal:
            return Live(self.view, console=self.display.chatter, refresh_per_second=4, transient=True)
        return nullcontext()

    def _update(self, state: str) -> None:
        tasks = self._tasks()
        changes = _changes(self.view, state, tasks)
        if changes:
            self.pace.reset()
        self.view.state, self.view.tasks, self.view.trouble = state, tasks, ""
        self._tell(changes)

    def _tasks(self) -> Sequence[Json]:
        try:
            return list(islice(self.client.iter_tasks(self.view.run_id, page_size=500), READ_TASKS))
        except WesClientError:  # the state is what counts; the next round asks for the tasks again
            return self.view.tasks

    def _outage(self, error: Unreachable) -> None:
        if not self.view.trouble:
            self._tell([f"{error.msg} (the run goes on, trying again)"])
        self.view.trouble = error.msg

    def _tell(self, changes: Sequence[str]) -> None:
        if not self.display.chatter.is_terminal:
            for change in changes:
                self.display.say(f"{datetime.now().astimezone():%H:%M:%S} {change}")


def _changes(view: View, state: str, tasks: Sequence[Json]) -> list[str]:
    """What a reader of lines is told: tasks that began or ended, then the run's own state."""
    before = {task_key(task): task_state(task) for task in view.tasks}
    told = [
        f"{task.get('name') or task_key(task)}: {task_state(task)}"
        for task in tasks
        if before.get(task_key(task)) != task_state(task)
    ]
    return told + ([f"{view.run_id} {state}"] if state != view.state else [])
