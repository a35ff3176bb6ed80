"""The end of a kept log as text. Knows artifact storage, not HTML."""

from __future__ import annotations

from dataclasses import dataclass

from app.artifacts import StoredFile
from app.web.formatting import plain_text

TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a log of `size` bytes; `is_cut` where earlier ones are left out."""

    text: str
    size: int
    is_cut: bool

    def last_lines(self, count: int) -> str:
        return "\n".join(self.text.rstrip().split("\n")[-count:])


def read_tail(file: StoredFile | None, limit: int = TAIL_BYTES) -> LogTail:
    """At most `limit` bytes from the end, beginning with a whole line; empty where there is no log yet."""
    if file is None:
        return LogTail("", 0, False)
    start = max(0, file.size - limit)
    with file.open() as stream:
        stream.seek(start)
        data = stream.read(limit)
    if start:
        data = data.partition(b"\n")[2] or data
    return LogTail(plain_text(data.decode("utf-8", "replace")), file.size, start > 0)
