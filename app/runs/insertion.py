"""Rows of new runs, with what belongs to them: a statement for each table, or for PostgreSQL one for all of them.

That one has one parameter a table, and a durable accept is one round trip. For drivers and for SQLAlchemy a statement
and a parameter cost more than a row (measured in docs/performance.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.schema import ColumnDefault

from app.database import Prose, clean_prose, dump_json
from app.models import ATTACHMENTS, COUNTS, EVENTS, RUNS, TAGS
from app.runs import counts

Row = dict[str, Any]
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
    given = [(table, rows) for table, rows in parts.items() if rows]
    texts = {table.name: _text(table, rows) for table, rows in ((RUNS, runs), *given)}
    names = (tuple(runs[0]), *((table, tuple(rows[0])) for table, rows in given))
    return {run_id for (run_id,) in session.connection().execute(_statement(*names), texts).all()}


@cache
def _statement(names: tuple[str, ...], *parts: tuple[Table, tuple[str, ...]]) -> Select[Any]:
    """For rows of these columns."""
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in names}
    all_columns = select(*_given(RUNS, names), *defaults.values())
    inserted = postgresql.insert(RUNS).from_select((*names, *defaults), all_columns, include_defaults=False)
    new = inserted.on_conflict_do_nothing().returning(RUNS.c.run_id, RUNS.c.owner, RUNS.c.state).cte("new")
    counted = select(new.c.owner, new.c.state, func.count()).group_by(new.c.owner, new.c.state)
    others: list[tuple[Table, tuple[str, ...], Select[Any]]] = [(COUNTS, ("owner", "state", "n"), counted)]
    for table, columns in parts:
        given = _given(table, columns)
        run_id = given[columns.index("run_id")]
        others.append((table, columns, select(*given).where(run_id.in_(select(new.c.run_id)))))
    written = [
        insert(table).from_select(columns, rows, include_defaults=False).cte(table.name)
        for table, columns, rows in others
    ]
    return select(new.c.run_id).add_cte(*written)


_DEFAULTS = {
    column.name: cast(literal_column("'{}'" if column.default.is_callable else f"'{column.default.arg}'"), column.type)
    for column in RUNS.c
    if isinstance(column.default, ColumnDefault)
}
"""SQLAlchemy sees to these only where an INSERT is not part of another statement; those of RUNS are numbers and {}."""


def _given(table: Table, names: Sequence[str]) -> list[ColumnElement[Any]]:
    """What comes as JSON under the table's name. JSON inside it is text: what a text may hold is more than PostgreSQL
    reads as a value (NUL, lone surrogates)."""
    types = {name: Text() if isinstance(table.c[name].type, JSON) else table.c[name].type for name in names}
    rows = func.json_to_recordset(cast(bindparam(table.name, type_=Text), JSON))
    typed = rows.table_valued(*(column(name, kind) for name, kind in types.items())).render_derived(with_types=True)
    return [cast(typed.c[name], JSON) if isinstance(table.c[name].type, JSON) else typed.c[name] for name in names]


def _text(table: Table, rows: Sequence[Row]) -> str:
    """As JSON; each row of the same columns. Raises ValueError for a NUL: PostgreSQL would log the value with it."""
    made = [(name, to) for name, to in _MADE[table].items() if name in rows[0]]
    texts = [row | {name: to(row[name]) for name, to in made if row[name] is not None} for row in rows]
    if any("\0" in value for row in texts for value in row.values() if isinstance(value, str)):
        raise ValueError("PostgreSQL takes no text with a NUL.")
    return json.dumps(texts, ensure_ascii=False, default=datetime.isoformat)


_MADE: dict[Table, dict[str, Callable[[Any], Any]]] = {
    table: {
        name: dump_json if isinstance(kind.type, JSON) else clean_prose
        for name, kind in table.c.items()
        if isinstance(kind.type, JSON | Prose)
    }
    for table in (RUNS, ATTACHMENTS, TAGS, EVENTS)
}
