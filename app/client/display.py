"""How wesctl shows things: plain JSON or, for people, tables on a terminal and tab-separated lines elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "QUEUED": "cyan",
    "INITIALIZING": "cyan",
    "RUNNING": "blue",
    "PAUSED": "yellow",
    "CANCELING": "yellow",
    "CANCELED": "yellow",
    "COMPLETE": "green",
    "EXECUTOR_ERROR": "red",
    "SYSTEM_ERROR": "red",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text of a server or a tool without what would steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


@dataclass
class Display:
    """Results go to standard output, everything else to standard error."""

    out: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False, markup=False))
    chatter: Console = field(default_factory=lambda: Console(file=sys.stderr, highlight=False, markup=False))

    def say(self, text: str) -> None:
        self.chatter.print(printable(text), soft_wrap=True)

    def json(self, value: Any) -> None:
        click.echo(json.dumps(value, indent=2))

    def line(self, text: str) -> None:
        """One line of a result, as it is: rich would wrap it and expand tabs."""
        click.echo(printable(text))

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        if not self.out.is_terminal:
            for row in rows:
                self.line("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
            return
        table = Table(*heads, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(printable(cell), STATE_STYLES.get(cell, "")) for cell in row))
        self.out.print(table)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Name and value, a line each; unknown ones are left out."""
        for name, value in facts.items():
            if value not in (None, "", [], {}):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                self.line(f"{name + ':':<22} {text}")


def moment(text: Any) -> datetime | None:
    """A time as WES servers write it; None where it is missing or makes no sense."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def duration(start: Any, end: Any, now: datetime | None = None) -> str:
    """`12s`, `5m 07s`, `1h 03m` or `2d 04h` from a start to an end, or to now; empty without a start."""
    begun = moment(start)
    if begun is None:
        return ""
    seconds = max(0, round(((moment(end) or now or datetime.now(UTC)) - begun).total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h {seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d {seconds % 86400 // 3600:02}h"


def size(count: int | None) -> str:
    """`512 B`, `1.5 kB`, `20.3 GB`: powers of 1000."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
