"""Rows of new runs, with what belongs to them: a statement for each table, or for PostgreSQL one for all of them.

That one goes past SQLAlchemy, so that a durable accept is one round trip and costs little more than the server needs
(measured in docs/performance.md).
"""

# ruff: noqa: S608  the names are ours, and values are parameters

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Column, Table, insert, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.schema import ColumnDefault

from app.database import Prose, UtcDateTime, clean_prose, dump_json, execute_past_sqlalchemy
from app.models import ATTACHMENTS, COUNTS, EVENTS, RUNS, TAGS
from app.runs import counts

Row = dict[str, Any]
Shape = tuple[Table, tuple[str, ...], int]
"""So many rows of these columns."""
Insert = Callable[[Session, Sequence[Row], Mapping[Table, Sequence[Row]]], set[str]]
"""Inserts runs with their parts, which name them by `run_id`; those that a unique constraint says to be there are left
as they are, after waiting for another transaction's word on it. Returns the run_ids of the others."""

_INSERT_RUN = {
    name: made(RUNS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    for name, made in (("postgresql", postgresql.insert), ("sqlite", sqlite.insert))
}
_INSERT_PART = {table: insert(table).inline() for table in (ATTACHMENTS, TAGS, EVENTS)}


def insert_new(session: Session, runs: Sequence[Row], parts: Mapping[Table, Sequence[Row]]) -> set[str]:
    """An `Insert`, in the caller's transaction."""
    statement = _INSERT_RUN[session.get_bind().dialect.name]
    new = [row for row in runs if session.connection().execute(statement, row).rowcount]
    run_ids = {row["run_id"] for row in new}
    for table, rows in parts.items():
        if of_new := [row for row in rows if row["run_id"] in run_ids]:
            session.connection().execute(_INSERT_PART[table], of_new if len(of_new) > 1 else of_new[0])
    for (owner, state), count in Counter((row["owner"], row["state"]) for row in new).items():
        counts.appeared(session, owner, state, count)
    return run_ids


def insert_at_once(session: Session, runs: Sequence[Row], parts: Mapping[Table, Sequence[Row]]) -> set[str]:
    """An `Insert`, of rows that are not large; PostgreSQL only."""
    given = [(table, rows) for table, rows in ((RUNS, runs), *parts.items()) if rows]
    sql = _sql(*((table, tuple(rows[0]), len(rows)) for table, rows in given))
    values = [value for table, rows in given for value in _values(table, rows)]
    return {run_id for (run_id,) in execute_past_sqlalchemy(session, sql, values)}


@lru_cache(200)
def _sql(runs: Shape, *parts: Shape) -> str:
    """In PostgreSQL's own words, with $1, $2 and so on for the values of the rows."""
    numbers = itertools.count(1)
    _, names, rows = runs
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in names}
    given = _tuples([f"${next(numbers)}" for _ in names] + [*defaults.values()] for _ in range(rows))
    written = f"""
        new AS (
            INSERT INTO {RUNS} ({_columns(*names, *defaults)}) VALUES {given}
            ON CONFLICT DO NOTHING RETURNING run_id, owner, state
        ),
        counted AS (
            INSERT INTO {COUNTS} (owner, state, n) SELECT owner, state, count(*) FROM new GROUP BY owner, state
        )"""
    for table, names, rows in parts:
        given = _tuples([f"${next(numbers)}::{_type(table.c[name])}" for name in names] for _ in range(rows))
        written += f""",
        of_{table} AS (
            INSERT INTO {table} ({_columns(*names)}) SELECT * FROM (VALUES {given}) AS given ({_columns(*names)})
            WHERE run_id IN (SELECT run_id FROM new)
        )"""
    return f"WITH {written} SELECT run_id FROM new"


def _tuples(rows: Iterable[Iterable[str]]) -> str:
    return ", ".join(f"({', '.join(row)})" for row in rows)


def _columns(*names: str) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _type(column: Column[Any]) -> str:
    """Without its length: a cast would cut silently what an INSERT refuses."""
    return column.type.compile(_POSTGRESQL).partition("(")[0]


_POSTGRESQL = make_url("postgresql://").get_dialect()()
_DEFAULTS = {
    column.name: "'{}'" if column.default.is_callable else f"'{column.default.arg}'"
    for column in RUNS.c
    if isinstance(column.default, ColumnDefault)
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
    for table in (RUNS, ATTACHMENTS, TAGS, EVENTS)
}
"""What SQLAlchemy would do with values."""
