"""Transactions that are tried again, times, words and JSON that survive, and the rules that each database needs."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from threading import Barrier, Event
from typing import Any

import pytest
from psycopg.errors import DeadlockDetected
from sqlalchemy import Connection, event, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from app.database import TRIES, Database, is_conflict
from app.models import WorkflowRun
from app.runs import acceptance, claims
from app.states import State
from tests.conftest import Clock, migrate
from tests.postgresql import Postgresql
from tests.rows import accept, bring_to, claim_new, new_run, row

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def rename(session: Session, run_id: str, name: str) -> None:
    session.execute(update(WorkflowRun).where(WorkflowRun.run_id == run_id).values(name=name))


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(WorkflowRun)) or 0


# Transactions


def test_transaction_is_whole_or_not_at_all(database: Database, clock: Clock) -> None:
    def work(session: Session) -> None:
        acceptance.accept(session, new_run(), clock())
        raise KeyError("no")

    with pytest.raises(KeyError):
        database.transact(work)
    assert count(database) == 0


def test_nothing_that_is_read_is_written(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock(), name="before")
    with database.reading() as session:
        rename(session, run_id, "after")
    assert row(database, run_id).name == "before"


def test_rows_outlive_their_session(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock(), name="kept")
    run = database.transact(lambda session: session.get_one(WorkflowRun, run_id))
    assert run.name == "kept"


def test_increments_from_many_threads_all_count(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    claim_new(database, clock())  # hints for one that is due, and nobody's, are not counted
    barrier = Barrier(8)

    def add(_: int) -> None:
        barrier.wait()
        for _ in range(10):
            database.transact(lambda session: claims.hint(session, [run_id], clock()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert row(database, run_id).hints == 80


def test_reading_and_then_writing_in_one_transaction_is_never_stale(database: Database, clock: Clock) -> None:
    """With a deferred BEGIN this is where SQLite gives up at once, whatever its timeout."""
    run_id = accept(database, clock())
    barrier = Barrier(6)

    def add(_: int) -> None:
        def work(session: Session) -> None:
            seen = session.scalar(select(WorkflowRun.failures).where(WorkflowRun.run_id == run_id).with_for_update())
            session.execute(update(WorkflowRun).values(failures=(seen or 0) + 1))

        barrier.wait()
        for _ in range(5):
            database.transact(work)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(6)))
    assert row(database, run_id).failures == 30


class Faults:
    """Statements of the next transactions fail as the database would."""

    def __init__(self, database: Database, error: Exception, times: int, on: str) -> None:
        self.tries, self._error, self._times, self._on = 0, error, times, on
        event.listen(database.engine, "do_execute", self._fail)

    def _fail(self, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(self._on):
            self.tries += 1
            if self.tries <= self._times:
                raise self._error


def conflict(database: Database) -> Exception:
    """A write conflict, as this database's driver reports it."""
    if database.engine.dialect.name == "sqlite":
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorname = "SQLITE_BUSY"
        return error
    return DeadlockDetected("deadlock detected")


def test_conflicts_are_tried_again(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    faults = Faults(database, conflict(database), TRIES - 1, "UPDATE")
    database.transact(lambda session: rename(session, run_id, "after"))
    assert (faults.tries, row(database, run_id).name) == (TRIES, "after")


def test_conflicts_are_not_tried_for_ever(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    faults = Faults(database, conflict(database), 1000, "UPDATE")
    with pytest.raises(DBAPIError) as caught:
        database.transact(lambda session: rename(session, run_id, "after"))
    assert is_conflict(caught.value)
    assert faults.tries == TRIES


def test_other_errors_are_not_tried_again(database: Database, clock: Clock) -> None:
    run_id, calls = accept(database, clock()), []

    def work(session: Session) -> None:
        calls.append(1)
        acceptance.accept(session, new_run(parent_id="nobody", step="s"), clock())

    with pytest.raises(IntegrityError):
        database.transact(work)
    assert (len(calls), row(database, run_id).state) == (1, State.QUEUED)


# What goes in comes out


@pytest.mark.parametrize("offset", [-11, 0, 5.5, 14])
def test_times_keep_their_instant(database: Database, offset: float) -> None:
    moment = datetime(2026, 3, 29, 1, 59, 59, 123456, tzinfo=timezone(timedelta(hours=offset)))
    run = row(database, accept(database, moment))
    assert (run.submitted_at, run.submitted_at.tzinfo) == (moment, UTC)


def test_times_compare_in_the_database_as_they_do_here(database: Database, clock: Clock) -> None:
    times = [clock() + timedelta(microseconds=n) for n in (0, 1, 999_999, 1_000_000, 10_000_000)]
    for moment in times[::-1]:
        accept(database, moment)
    with database.reading() as session:
        assert session.scalars(select(WorkflowRun.submitted_at).order_by(WorkflowRun.submitted_at)).all() == times
        late = session.scalars(select(WorkflowRun.submitted_at).where(WorkflowRun.submitted_at >= times[2])).all()
    assert sorted(late) == times[2:]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"deep": [[[{"a": None}]]], "long": 10**30, "float": 0.1, "text": "☃\0😀\ud800", "": True},
        {"large": "x" * 5_000_000},
    ],
    ids=["empty", "odd", "large"],
)
def test_json_comes_back_as_it_was(database: Database, clock: Clock, value: dict[str, Any]) -> None:
    assert row(database, accept(database, clock(), workflow_params=value)).workflow_params == value


def test_json_that_is_none_is_null(database: Database, clock: Clock) -> None:
    accept(database, clock())
    with database.reading() as session:
        assert session.scalar(select(func.count()).where(WorkflowRun.outputs.is_(None))) == 1


def test_numbers_that_json_does_not_know_are_null(database: Database, clock: Clock) -> None:
    odd = {"nan": float("nan"), "list": [float("inf"), 1.5, -float("inf")], "text": "NaN"}
    run_id = accept(database, clock(), workflow_params=odd)
    assert row(database, run_id).workflow_params == {"nan": None, "list": [None, 1.5, None], "text": "NaN"}
    with database.reading() as session:
        stored = session.scalar(text("SELECT CAST(workflow_params AS text) FROM workflow_runs"))
    assert json.loads(stored or "", parse_constant=pytest.fail) == row(database, run_id).workflow_params


# SQLite


@SQLITE
def test_every_sqlite_connection_is_prepared(database: Database) -> None:
    expected = {"synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    expected["journal_mode"] = "wal" if sqlite3.sqlite_version_info >= (3, 51, 3) else "truncate"
    with database.engine.connect() as one, database.engine.connect() as two:
        for connection in (one, two):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
            assert found == expected


@SQLITE
def test_writers_take_the_lock_when_they_begin(database: Database) -> None:
    begun: list[str] = []

    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("PRAGMA"):
            begun.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    database.transact(lambda session: session.scalar(text("SELECT 1")))
    with database.reading() as session:
        session.scalar(text("SELECT 2"))
    assert begun == ["BEGIN IMMEDIATE", "SELECT 1", "BEGIN", "SELECT 2"]


@SQLITE
def test_writer_waits_for_another_process(database: Database, database_url: str, clock: Clock) -> None:
    """Another process holds the write lock; the write is late, not lost."""
    run_id = accept(database, clock())
    with _process_with_write_lock(database_url) as (let_go, locked):
        assert locked
        with ThreadPoolExecutor(1) as pool:
            begun = Event()

            def write() -> None:
                begun.set()
                database.transact(lambda session: rename(session, run_id, "after"))

            late = pool.submit(write)
            begun.wait()
            assert row(database, run_id).name == "hello"
            let_go()
            late.result()
    assert row(database, run_id).name == "after"


@SQLITE
def test_locked_for_too_long_is_a_conflict(database: Database, database_url: str) -> None:
    with _process_with_write_lock(database_url), database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        with pytest.raises(OperationalError) as caught:
            connection.exec_driver_sql("UPDATE workflow_runs SET name = 'x'")
        assert is_conflict(caught.value)


class _process_with_write_lock:
    """Another process that has begun to write to a SQLite file. Gives the function that makes it end."""

    CODE = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
        "print('locked', flush=True); sys.stdin.read(); c.execute('ROLLBACK')"
    )

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("sqlite:///")

    def __enter__(self) -> tuple[Any, str]:
        command = [sys.executable, "-c", self.CODE, self._path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return self._let_go, self._process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self._let_go()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@SQLITE
def test_full_disk_leaves_no_row(database: Database, clock: Clock) -> None:
    accept(database, clock())
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def full(raw: sqlite3.Connection, *_: Any) -> None:
        raw.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(database.engine, "checkout", full)
    with pytest.raises(OperationalError, match="full") as caught:
        accept(database, clock(), workflow_params={"large": "x" * 1_000_000})
    assert not is_conflict(caught.value)
    assert count(database) == 1


@SQLITE
def test_foreign_keys_are_kept(database: Database) -> None:
    with pytest.raises(IntegrityError):
        database.transact(
            lambda session: session.execute(
                text("INSERT INTO run_events (run_id, at, by) VALUES ('nobody', '2026-01-01', 'x')")
            )
        )


# PostgreSQL


@POSTGRESQL
def test_postgresql_sessions_are_bounded(database: Database) -> None:
    with database.engine.connect() as connection:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
        isolation = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    assert found == ["30s", "10s", "1min", "UTC"]
    assert isolation == "read committed"


@POSTGRESQL
def test_real_deadlock_is_tried_again(database: Database, clock: Clock) -> None:
    one, two = accept(database, clock()), accept(database, clock())
    barrier, one_is_through, tries = Barrier(2), Event(), []

    def cross(first: str, second: str) -> None:
        def work(session: Session) -> None:
            tries.append(first)
            if len(tries) > 2:
                assert one_is_through.wait(60)
            session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            rename(session, first, f"by {first}")
            if len(tries) <= 2:
                barrier.wait()
            rename(session, second, f"by {first}")

        database.transact(work)
        one_is_through.set()

    with ThreadPoolExecutor(2) as pool:
        for done in (pool.submit(cross, one, two), pool.submit(cross, two, one)):
            done.result()
    assert len(tries) == 3
    assert row(database, one).name == row(database, two).name


def backend(database: Database) -> int:
    """The server process that serves a single statement, of a session that is kept or of a new one."""
    pid = database.transact_single(lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    assert pid is not None
    return pid


def kill_backend(database: Database, pid: int) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")


@POSTGRESQL
def test_single_statements_share_a_connection_until_it_is_old(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkouts: list[object] = []
    event.listen(database.engine, "checkout", lambda *_: checkouts.append(1))
    assert len({backend(database) for _ in range(5)}) == len(checkouts) == 1
    monkeypatch.setattr("app.database.RECYCLE_SECONDS", 0.0)
    backend(database)
    assert len(checkouts) == 2
    assert isinstance(database.engine.pool, QueuePool) and database.engine.pool.checkedout() == 1


@POSTGRESQL
def test_kept_connection_that_died_in_a_pause_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = backend(database)
    kill_backend(database, kept)
    monkeypatch.setattr("app.database.TRUSTED_SECONDS", 0.0)
    assert backend(database) != kept


@POSTGRESQL
def test_single_statement_is_there_at_once_or_not_at_all(database: Database, clock: Clock) -> None:
    one, two = new_run(), new_run(parent_id="nobody", step="s")
    with pytest.raises(IntegrityError):
        database.transact_single(lambda session: acceptance.accept_new(session, [one, two], clock()))
    assert count(database) == 0
    database.transact_single(lambda session: acceptance.accept_new(session, [one], clock()))
    assert row(database, one.run_id).state == State.QUEUED


@POSTGRESQL
def test_connection_that_died_in_a_pause_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.engine.connect() as connection:
        idle = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with database.engine.connect() as _, database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT pg_terminate_backend({idle}, 5000)")
    monkeypatch.setattr("app.database.TRUSTED_SECONDS", 0.0)
    for _ in range(3):
        with database.reading() as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) != idle


@POSTGRESQL
def test_single_statement_on_a_connection_that_died_fails_and_the_next_does_not(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.TRUSTED_SECONDS", math.inf)
    kept = backend(database)
    kill_backend(database, kept)
    with pytest.raises(OperationalError):
        backend(database)
    assert backend(database) != kept


@POSTGRESQL
def test_connection_that_an_accept_found_dead_takes_the_others_with_it(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLAlchemy does it, past which the accept goes: else each would be found dead by another request."""
    monkeypatch.setattr("app.database.TRUSTED_SECONDS", math.inf)
    kept = backend(database)
    with ExitStack() as stack:
        idle = [stack.enter_context(database.engine.connect()) for _ in range(4)]
        pids = [connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for connection in idle]
    with database.engine.connect() as last:
        own = last.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        for pid in {kept, *pids} - {own}:
            last.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with pytest.raises(OperationalError) as caught:
        database.transact_single(lambda session: acceptance.accept_new(session, [new_run()], clock()))
    assert caught.value.connection_invalidated
    with ExitStack() as stack:
        for _ in range(4):
            assert stack.enter_context(database.reading()).scalar(text("SELECT 1")) == 1


def test_killed_server_is_not_noticed_once_it_is_back(postgresql: Postgresql, clock: Clock) -> None:
    """kill -9 of all of PostgreSQL: what was committed is there, and the pool makes new connections by itself."""
    assert postgresql.pid
    with Postgresql(durable=True) as server:
        url = server.create_database("mine")
        migrate(url)
        database = Database.connect(url)
        run_id = accept(database, clock())
        server.kill()
        with pytest.raises(OperationalError):
            accept(database, clock())
        server.start()
        assert row(database, run_id).state == State.QUEUED
        assert bring_to(database, State.RUNNING, clock()).state == State.RUNNING
        database.engine.dispose()
