"""Rows of new runs, with what belongs to them: a statement for each table, or for PostgreSQL one for all of them.

That one goes past SQLAlchemy, so that a durable accept is one round trip and costs little more than the server needs
(measured in docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import count
from typing import Any

from sqlalchemy import JSON, Table, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.schema import ColumnDefault

from app.database import Prose, UtcDateTime, clean_prose, dump_json, execute_past_sqlalchemy
from app.models import ATTACHMENTS, COUNTS, EVENTS, RUNS, TAGS
from app.runs import counts

Row = dict[str, Any]
Parts = Mapping[Table, Sequence[Row]]
"""What belongs to runs, which it names by `run_id`."""
_WRITTEN = (RUNS, ATTACHMENTS, TAGS, EVENTS, COUNTS)
_INSERT = {table: insert(table).inline() for table in _WRITTEN}
_INSERT_NEW = {
    name: made(RUNS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    for name, made in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}


def insert_if_new(session: Session, run: Row, parts: Parts) -> bool:
    """False where a unique constraint says that it is there, after waiting for another transaction's word on it."""
    if not session.connection().execute(_INSERT_NEW[session.get_bind().dialect.name], run).rowcount:
        return False
    _insert(session, {**parts, COUNTS: counts.of_new([run])})
    return True


def insert_all(session: Session, runs: Sequence[Row], parts: Parts) -> None:
    """Rows that are not large. Raises IntegrityError where one is there already; for PostgreSQL it is one statement."""
    rows = {RUNS: runs, **parts, COUNTS: counts.of_new(runs)}
    if session.get_bind().dialect.name == "postgresql":
        _insert_at_once(session, rows)
    else:
        _insert(session, rows)


def _insert(session: Session, parts: Parts) -> None:
    for table, rows in parts.items():
        if rows:
            session.connection().execute(_INSERT[table], rows if len(rows) > 1 else rows[0])


def _insert_at_once(session: Session, parts: Parts) -> None:
    given = [(table, rows) for table, rows in parts.items() if rows]
    sql = _sql(*((table, tuple(rows[0]), len(rows)) for table, rows in given))
    execute_past_sqlalchemy(session, sql, [value for table, rows in given for value in _values(table, rows)])


@lru_cache(1000)
def _sql(*shapes: tuple[Table, tuple[str, ...], int]) -> str:
    """For so many rows of these columns in each table, whose values are $1, $2 and so on."""
    numbers = count(1)
    *others, last = (_insert_rows(*shape, numbers) for shape in shapes)
    return f"WITH {', '.join(f'part_{n} AS ({other})' for n, other in enumerate(others))} {last}"


def _insert_rows(table: Table, names: tuple[str, ...], rows: int, numbers: count[int]) -> str:
    defaults = {name: value for name, value in _DEFAULTS[table].items() if name not in names}
    columns = ", ".join(f'"{name}"' for name in (*names, *defaults))
    values = (", ".join((*(f"${next(numbers)}" for _ in names), *defaults.values())) for _ in range(rows))
    return f"INSERT INTO {table.name} ({columns}) VALUES {', '.join(f'({row})' for row in values)}"  # noqa: S608  our names


_DEFAULTS = {
    table: {
        column.name: "'{}'" if column.default.is_callable else f"'{column.default.arg}'"
        for column in table.c
        if isinstance(column.default, ColumnDefault)
    }
    for table in _WRITTEN
}
"""What SQLAlchemy would see to: numbers and {}."""


def _values(table: Table, rows: Sequence[Row]) -> Iterator[Any]:
    makers = [_MADE[table].get(name) for name in rows[0]]
    for row in rows:
        for to, value in zip(makers, row.values(), strict=True):
            yield to(value) if to and value is not None else value


_MAKERS: dict[type, Callable[[Any], str]] = {JSON: dump_json, Prose: clean_prose, UtcDateTime: datetime.isoformat}
_MADE = {
    table: {
        name: to for name, column in table.c.items() for kind, to in _MAKERS.items() if isinstance(column.type, kind)
    }
    for table in _WRITTEN
}
"""What SQLAlchemy would do with values."""
