"""The database engine and its transactions: the rules that SQLite and PostgreSQL need. Knows no table.

SQLite: a write transaction begins with BEGIN IMMEDIATE (a deferred one fails SQLITE_BUSY in spite of busy_timeout), and
WAL is used only from SQLite 3.51.3 on (older ones can corrupt the file when two processes write). Sources: sqlite.org
"isolation", "wal"; measured in docs/decisions/0002.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, DateTime, Dialect, Engine, Text, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 6
BUSY_SECONDS = 30
PROSE_CHARACTERS = 10_000
TRUSTED_SECONDS, RECYCLE_SECONDS = 1.0, 1800
"""So long after its last use a connection to PostgreSQL is taken to live; so old it is replaced."""
_NEWS, _USED_AT = "wes_news", "wes_used_at"
WRITES = {"wes_writes": True}
"""Execution options of connections that write."""
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})  # serialization failure, deadlock, lock not available
_POSTGRESQL_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "statement_timeout": 30_000,
        "lock_timeout": 10_000,
        "idle_in_transaction_session_timeout": 60_000,
        "timezone": "UTC",
    }.items()
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite stores it without the zone, in text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def clean_prose(words: str) -> str:
    return words[:PROSE_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


class Prose(TypeDecorator[str]):
    """Words that somebody else chose, a provider's error say: cut to a limit, and what no database takes replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_prose(value)


class Database:
    """Short transactions on one engine. Safe to share between threads; every `with` is its own session."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.listeners: list[Callable[[Sequence[object]], None]] = []
        """Told, in the thread that wrote, what `add_news` was given in a transaction that is now committed."""
        self._reads = sessionmaker(engine, expire_on_commit=False)
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        """SQLite has one writer at a time: threads of one process wait here, where waiting costs nothing."""
        self._writes = sessionmaker(engine.execution_options(**WRITES), expire_on_commit=False)
        self._singles = _Singles(engine) if engine.dialect.name == "postgresql" else self._writes

    @classmethod
    def connect(cls, url: str) -> Database:
        engine = create_engine(url, **engine_options(url))
        prepare(engine)
        return cls(engine)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read transaction; nothing in it is committed."""
        with self._reads() as session:
            yield session

    def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work(session)` and commit. Conflicts with other writers are retried, so `work` may run more than once.

        Raises sqlalchemy.exc.DBAPIError; where the connection was lost the outcome is unknown and must be read again.
        """
        return self._transact(self._writes.begin, work)

    def transact_single(self, work: Callable[[Session], T]) -> T:
        """As `transact`, for work that is one statement on PostgreSQL: that is whole or nothing without BEGIN and
        COMMIT, so it is one round trip instead of three. Nothing undoes it where `work` fails afterwards."""
        return self._transact(self._singles.begin, work)

    def _transact(self, begin: Callable[[], AbstractContextManager[Session]], work: Callable[[Session], T]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                with self._turn, begin() as session:
                    done, news = work(session), session.info.pop(_NEWS, ())
                self._tell(news)
                return done
            except DBAPIError as error:
                if not is_conflict(error) or attempt == TRIES:
                    raise
                log.info("write conflict, trying again", extra={"attempt": attempt})
                time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311
        raise AssertionError("unreachable")

    def _tell(self, news: Sequence[object]) -> None:
        """What was committed is not made undone by a listener that fails."""
        for listen in self.listeners if news else ():
            try:
                listen(news)
            except Exception:
                log.exception("a listener failed")


class _Singles:
    """Sessions on PostgreSQL whose statements are transactions of their own.

    They are kept with their connection: to get one and to give it back costs more than a statement.
    """

    def __init__(self, engine: Engine) -> None:
        autocommit = engine.execution_options(**WRITES, isolation_level="AUTOCOMMIT")
        self._make = sessionmaker(autocommit, expire_on_commit=False)
        self._kept: deque[tuple[Session, float, float]] = deque()  # made and used last at these times
        event.listen(engine, "engine_disposed", lambda _: self._close_kept())

    @contextmanager
    def begin(self) -> Iterator[Session]:
        session, made_at = self._take() or (self._make(), time.monotonic())
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._kept.append((session, made_at, time.monotonic()))

    def _take(self) -> tuple[Session, float] | None:
        try:
            session, made_at, used_at = self._kept.pop()
        except IndexError:
            return None
        try:
            if time.monotonic() - used_at > TRUSTED_SECONDS:
                session.connection().exec_driver_sql("SELECT 1")
        except DBAPIError:  # it died meanwhile
            session.close()
            return None
        if time.monotonic() - made_at < RECYCLE_SECONDS:
            return session, made_at
        session.close()
        return None

    def _close_kept(self) -> None:
        while self._kept:
            self._kept.pop()[0].invalidate()


def execute_past_sqlalchemy(session: Session, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a statement in PostgreSQL's own words, with `values` for $1, $2 and so on. Raises what SQLAlchemy
    would."""
    driver: Any = session.connection().connection.driver_connection
    try:
        return psycopg.RawCursor(driver).execute(sql, values).fetchall()
    except psycopg.Error as error:
        if driver.closed:
            session.connection().exec_driver_sql("SELECT 1")  # fails as well, and SQLAlchemy then renews its pool
        raise DBAPIError.instance(None, None, error, psycopg.Error) from error


def add_news(session: Session, item: object) -> None:
    """The database's listeners are told once this transaction is committed, and never where it is not."""
    session.info.setdefault(_NEWS, []).append(item)


def engine_options(url: str) -> dict[str, Any]:
    """Arguments for `create_engine`, also used by Flask-SQLAlchemy."""
    always = {"json_serializer": dump_json, "hide_parameters": True}  # errors are logged, and values may be secrets
    if make_url(url).get_backend_name() == "sqlite":
        return {**always, "connect_args": {"timeout": BUSY_SECONDS}}
    return {
        **always,
        "pool_use_lifo": True,
        "pool_size": 10,
        "max_overflow": 20,
        "pool_timeout": 10,
        "pool_recycle": RECYCLE_SECONDS,
        "connect_args": {"options": _POSTGRESQL_OPTIONS, "connect_timeout": 5},
    }


def prepare(engine: Engine) -> None:
    """Attach what every connection of this engine needs; idempotent."""
    if engine.dialect.name == "sqlite":
        listeners: dict[str, Callable[..., None]] = {"connect": prepare_sqlite, "begin": _begin_sqlite}
    else:
        listeners = {"connect": _note_use, "checkin": _note_use, "checkout": _check_if_idle}
    for name, listener in listeners.items():
        if not event.contains(engine, name, listener):
            event.listen(engine, name, listener)


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _check_if_idle(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """As `pool_pre_ping`, but not for a connection that worked a moment ago: that costs a round trip each time."""
    if time.monotonic() - record.info[_USED_AT] > TRUSTED_SECONDS:
        try:
            connection.autocommit = True
            connection.execute("SELECT 1")
            connection.autocommit = False
        except psycopg.Error as error:
            raise InvalidatePoolError from error


def is_conflict(error: DBAPIError) -> bool:
    """Another writer was in the way: nothing was committed, trying again may succeed."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return (getattr(error.orig, "sqlite_errorname", None) or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS


def dump_json(value: Any) -> str:
    """JSON that PostgreSQL takes and that every client reads: a NaN or an infinity that a program put out is null."""
    try:
        return _STRICT.encode(value)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


_STRICT = json.JSONEncoder(allow_nan=False)


def prepare_sqlite(connection: sqlite3.Connection, _record: object = None) -> None:
    """What makes a connection durable and patient."""
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    journal = "WAL" if sqlite3.sqlite_version_info >= (3, 51, 3) else "TRUNCATE"
    for pragma in (
        f"journal_mode={journal}",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_SECONDS * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Writers wait here in short random pauses: SQLite's own grow to 100 ms, and who waits longest comes last."""
    if not WRITES.items() <= connection.get_execution_options().items():
        connection.exec_driver_sql("BEGIN")
        return
    deadline = time.monotonic() + BUSY_SECONDS
    driver: Any = connection.connection.dbapi_connection  # past SQLAlchemy, which takes longer than this pragma
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while not _began(connection, last_try=time.monotonic() > deadline):
            time.sleep(random.uniform(0.0005, 0.002))  # noqa: S311
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")


def _began(connection: Connection, last_try: bool) -> bool:
    """False where another writer is at work; raises that on the last try."""
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except DBAPIError as error:
        if last_try or not is_conflict(error):
            raise
        return False
    return True
