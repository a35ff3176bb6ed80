"""Fixtures for every test. A test that names `database_url` (or what stands on it) runs on SQLite and on PostgreSQL.

    database_url   a fresh, migrated, empty database; SQLite and PostgreSQL in turn
    settings       Settings on that database, data in tmp_path; blind to the developer's environment and .env
    clock          the clock that everything uses: `clock()` is now, `clock.advance(seconds=90)`, `clock.set(datetime)`
    database       app.database.Database on that database
    storage        DirectoryStorage where the application has it
    app, client    create_app(settings, clock) and its test client; `app.extensions["wes"]` is the Context
    postgresql     the embedded server itself (tests/postgresql.py), one for each test process

One database only:      @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Other settings:         @pytest.mark.parametrize("changes", [{"max_page_size": 7}])   (a fixture, {} by default)
A long test:            @pytest.mark.long, run by `pytest --long` only

Where PostgreSQL cannot run these tests are skipped with the reason; where CI=true they fail.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import flask_migrate
import hypothesis
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, Pool, event

from app.artifacts import DirectoryStorage
from app.database import Database, engine_options, prepare
from app.extensions import db
from app.extensions import migrate as migrate_extension
from config import Settings
from tests.postgresql import Postgresql, Unavailable

MIGRATIONS = Path(__file__).parents[1] / "migrations"
TEMPLATE = "wes_template"
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that are marked long")


def pytest_configure(config: pytest.Config) -> None:
    """The gate tries the same examples every time and never looks at how long one takes; `--long` tries new ones."""
    hypothesis.settings.register_profile("wes", deadline=None, derandomize=not config.getoption("--long"))
    hypothesis.settings.load_profile("wes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: run it with --long"))


class Clock:
    """An aware UTC time that moves only when told to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def set(self, now: datetime) -> None:
        self.now = now

    def advance(self, **how_much: float) -> datetime:
        """As timedelta takes it: `advance(minutes=2)`. Returns the new time."""
        self.now += timedelta(**how_much)
        return self.now


def migrate(url: str) -> None:
    """Bring a database to the newest schema, as `flask db upgrade` does."""
    with migrating(url):
        flask_migrate.upgrade(directory=str(MIGRATIONS))


@contextmanager
def migrating(url: str) -> Iterator[Engine]:
    """An application context in which Flask-Migrate's functions work on that database, without the rest of the app."""
    app = Flask("migrating")
    app.config |= {"SQLALCHEMY_DATABASE_URI": url, "SQLALCHEMY_ENGINE_OPTIONS": engine_options(url)}
    db.init_app(app)
    migrate_extension.init_app(app)
    with app.app_context():
        prepare(db.engine)
        yield db.engine
        db.engine.dispose()


@pytest.fixture(autouse=True)
def _no_open_results() -> Iterator[None]:
    """A SELECT that was not read to its end keeps SQLite's read lock past the transaction: no test leaves one behind."""
    open_results: list[str] = []

    def probe(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            try:
                for _ in range(2):  # a function cannot be replaced while a statement is active
                    connection.create_function("probe", 0, None)
                    connection.create_function("probe", 0, str)
            except sqlite3.OperationalError as error:
                open_results.append(str(error))

    event.listen(Pool, "checkin", probe)
    yield
    event.remove(Pool, "checkin", probe)
    assert not open_results, "a connection came back to its pool with a statement that is still active"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Postgresql())
        except Unavailable as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no PostgreSQL on this machine: {error}")
        yield server


@pytest.fixture(scope="session")
def _postgresql_template(postgresql: Postgresql) -> str:
    migrate(postgresql.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "wes.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        path = tmp_path / "wes.sqlite"
        shutil.copyfile(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template, server = request.getfixturevalue("_postgresql_template"), request.getfixturevalue("postgresql")
    name = f"wes_{next(_numbers)}"
    yield server.create_database(name, template)
    server.drop_database(name)


@pytest.fixture
def changes() -> dict[str, Any]:
    return {}


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings see nothing of the environment that the tests run in."""
    for name, field in Settings.model_fields.items():
        choices = getattr(field.validation_alias, "choices", [])
        for spelled in (name, name.upper(), *map(str, choices)):
            monkeypatch.delenv(spelled, raising=False)


@pytest.fixture
def settings(blind: None, database_url: str, tmp_path: Path, changes: dict[str, Any]) -> Settings:
    usual: dict[str, Any] = {"database_uri": database_url, "data_dir": tmp_path / "data", "secret_key": "0" * 64}
    return Settings(_env_file=None, **usual | changes)


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 11, 20, 12, tzinfo=UTC))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database.connect(database_url)
    yield database
    database.engine.dispose()


@pytest.fixture
def storage(settings: Settings) -> DirectoryStorage:
    return DirectoryStorage(settings.data_dir / "artifacts")


@pytest.fixture
def app(settings: Settings, clock: Clock) -> Iterator[Flask]:
    from app.factory import create_app

    app = create_app(settings, clock)
    app.testing = True
    yield app
    app.extensions["wes"].database.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
