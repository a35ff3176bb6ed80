"""Numbers, times, names and logs as people read them. Pure: knows neither HTML nor the database.

`ui.js` says ages and durations in the same words, so that a page stays true while it is open.
"""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from itertools import accumulate
from unicodedata import east_asian_width

MINUTE, HOUR, DAY = 60, 3600, 86_400

_EXIT_WORDS = {
    126: "the command could not be executed",
    127: "the command was not found",
    137: "ended by SIGKILL, often for lack of memory",
}
_TERMINAL_CODES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b[ -/]*[0-~]?"
)
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OVERWRITTEN = re.compile(r"^.*\r(?=[^\r\n])", re.MULTILINE)


def format_duration(seconds: float) -> str:
    """The two largest units: `12s`, `3m 05s`, `1h 03m`, `2d 04h`."""
    whole = max(0, int(seconds))
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m {whole % MINUTE:02}s"
    if whole < DAY:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE:02}m"
    return f"{whole // DAY}d {whole % DAY // HOUR:02}h"


def format_age(seconds: float) -> str:
    """How long ago, in its largest unit: `just now`, `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago" if seconds >= 5 else "just now"


def format_utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_iso(time: datetime) -> str:
    """For machines: `2026-11-20T12:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_size(size: int) -> str:
    """Bytes in decimal units: `512 B`, `1.4 kB`, `23 MB`."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if value < 9.95 and units[0] != "B" else f"{value:.0f} {units[0]}"


def explain_exit(code: int) -> str | None:
    """What an exit code means by convention (128+n: ended by signal n); None where it is the program's own."""
    if code in _EXIT_WORDS:
        return _EXIT_WORDS[code]
    try:
        return f"ended by {signal.Signals(code - 128).name}" if code > 128 else None
    except ValueError:
        return None


def plain_text(log: str) -> str:
    """A log as a terminal would leave it, without colours, and without characters that hide or reorder others."""
    lines = _OVERWRITTEN.sub("", _TERMINAL_CODES.sub("", log))
    return _INVISIBLE.sub("", lines)


def shorten(text: str, columns: int) -> str:
    """At most so many columns wide. What is left out is left out of the middle: names differ at their ends."""
    tail = columns // 3
    if _fitting(text, columns) == text:
        return text
    return f"{_fitting(text, columns - 1 - tail)}…{_fitting(text[::-1], tail)[::-1]}"


def _fitting(text: str, columns: int) -> str:
    ends = accumulate(2 if east_asian_width(character) in "WF" else 1 for character in text)
    return text[: sum(end <= columns for end in ends)]
