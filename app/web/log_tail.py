"""The logs of a run by name, and the end of one as text. Knows artifact storage, not HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.artifacts import StoredFile
from app.models import TaskLog
from app.web.formatting import plain_text

TAIL_BYTES = 65_536
_NAME = re.compile(r"(?:tasks/(?P<task_id>[A-Za-z0-9._-]+)/)?(?P<stream>stdout|stderr)")


@dataclass(frozen=True, slots=True)
class LogName:
    """One log: a stream of the run, or of one of its steps."""

    stream: str
    task: TaskLog | None = None

    @property
    def stored(self) -> str:
        """As artifact storage names it, and addresses of pages too."""
        return f"tasks/{self.task.task_id}/{self.stream}" if self.task else self.stream

    @property
    def title(self) -> str:
        return f"{self.stream} of {self.task.name}" if self.task else self.stream

    @property
    def api_parts(self) -> tuple[str, ...]:
        """Where the API has it, below the run."""
        return ("tasks", self.task.task_id, "logs", self.stream) if self.task else ("logs", self.stream)


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a log of `size` bytes; `is_cut` where earlier ones are left out."""

    text: str
    size: int
    is_cut: bool

    def last_lines(self, count: int) -> str:
        return "\n".join(self.text.rstrip().split("\n")[-count:])


NO_LOG = LogTail("", 0, False)


def split_name(name: str) -> tuple[str | None, str] | None:
    """(task_id or None, stream) of a stored name; None for what is no log's name."""
    found = _NAME.fullmatch(name)
    return (found["task_id"], found["stream"]) if found else None


def read_tail(file: StoredFile | None, limit: int = TAIL_BYTES) -> LogTail:
    """At most `limit` bytes from the end, beginning with a whole line; empty where there is no log yet."""
    if file is None:
        return NO_LOG
    start = max(0, file.size - limit)
    with file.open() as stream:
        stream.seek(start)
        data = stream.read(limit)
    if start:
        data = data.partition(b"\n")[2] or data
    return LogTail(plain_text(data.decode("utf-8", "replace")), file.size, start > 0)
