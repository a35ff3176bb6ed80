"""Migrations: up, down and up again; the models are the head; an interrupted one leaves the schema as it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from app.database import Database
from app.models import Base
from app.states import State
from tests.conftest import MIGRATIONS, Clock, migrating
from tests.postgresql import Postgresql
from tests.rows import accept, bring_to, events, row

ROOT = MIGRATIONS.parent
MakeDatabase = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDatabase]:
    """Makes empty databases, without tables."""
    made: list[str] = []
    server: Postgresql | None = None if request.param == "sqlite" else request.getfixturevalue("postgresql")

    def make() -> str:
        made.append(f"empty_{len(made)}_{request.node.name.split('[')[0][:30]}")
        return server.create_database(made[-1]) if server else f"sqlite:///{tmp_path / made[-1]}"

    yield make
    for name in made if server else []:
        server.drop_database(name)


def schema(engine: Engine) -> dict[str, Any]:
    """All that a database says of its tables, in a form that can be compared."""
    found = inspect(engine)
    return {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in found.get_columns(table)
            },
            "primary key": found.get_pk_constraint(table),
            "foreign keys": _by_name(found.get_foreign_keys(table)),
            "unique": _by_name(found.get_unique_constraints(table)),
            "checks": _by_name(found.get_check_constraints(table)),
            "indexes": {
                index["name"]: (index["column_names"], index["unique"], _words(index.get("dialect_options", {})))
                for index in found.get_indexes(table)
            },
        }
        for table in found.get_table_names()
    }


def _by_name(constraints: list[Any]) -> dict[str, Any]:
    return {constraint["name"]: constraint for constraint in constraints}


def _words(options: dict[str, Any]) -> dict[str, str]:
    """The condition of a partial index among them; SQLite gives it as an object that equals only itself."""
    return {name: str(value) for name, value in options.items()}


def version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def heads() -> list[str]:
    return sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("*.py"))


def test_up_down_up(make_database: MakeDatabase) -> None:
    with migrating(make_database()) as engine:
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        first = schema(engine)
        assert version(engine) == heads()[-1]
        flask_migrate.downgrade(directory=str(MIGRATIONS), revision="base")
        assert set(schema(engine)) <= {"alembic_version"}
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        assert schema(engine) == first
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        assert schema(engine) == first


def test_models_are_the_head(make_database: MakeDatabase) -> None:
    """Column by column, with constraints, CHECKs and the conditions of partial indexes, as the database tells them."""
    fresh = create_engine(make_database())
    Base.metadata.create_all(fresh)
    with migrating(make_database()) as engine:
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        migrated = schema(engine)
        with engine.connect() as connection:
            found = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
            assert compare_metadata(found, Base.metadata) == []
    migrated.pop("alembic_version")
    assert migrated == schema(fresh)
    assert {"ck_workflow_runs_state", "ck_workflow_runs_due"} <= set(migrated["workflow_runs"]["checks"])
    fresh.dispose()


def test_schema_comparison_notices_differences(make_database: MakeDatabase) -> None:
    """What the test above compares is there to be compared: each of these changes shows."""
    engine = create_engine(make_database())
    Base.metadata.create_all(engine)
    before = schema(engine)
    for statement in (
        "DROP INDEX ix_workflow_runs_new",
        "CREATE INDEX ix_workflow_runs_new ON workflow_runs (provider_type, due_at) WHERE state = 'RUNNING'",
        "ALTER TABLE daemons ADD COLUMN more INTEGER",
        "DROP TABLE run_tags",
    ):
        with engine.begin() as connection:
            connection.execute(text(statement))
        after = schema(engine)
        assert after != before
        before = after
    engine.dispose()


SECOND = """
revision = "9999"
down_revision = {head!r}


def upgrade():
    import os
    import sqlalchemy as sa
    from alembic import op

    with op.batch_alter_table("workflow_runs", recreate={recreate!r}) as batch_op:
        batch_op.add_column(sa.Column("colour", sa.String(10), nullable=True))
        batch_op.alter_column("name", type_=sa.String(300), existing_type=sa.String(255), existing_nullable=False)
    op.create_table("colours", sa.Column("name", sa.String(10), primary_key=True))
    {then}


def downgrade():
    pass
"""


def with_second(folder: Path, then: str = "") -> Path:
    """These migrations and one more, which changes a table that others refer to, adds one, and then does `then`."""
    copy = folder / "migrations"
    shutil.copytree(MIGRATIONS, copy, dirs_exist_ok=True)
    code = SECOND.format(head=heads()[-1], recreate="auto", then=then)
    (copy / "versions" / "9999_colours.py").write_text(code)
    return copy


def test_later_migration_keeps_every_row(database: Database, database_url: str, tmp_path: Path, clock: Clock) -> None:
    """SQLite changes a table by making it anew; dropping the old one must not take the rows that refer to it along."""
    parent = bring_to(database, State.RUNNING, clock(), tags={"a": "b"})
    step = accept(database, clock(), parent_id=parent.run_id, step="s")
    database.engine.dispose()
    with migrating(database_url) as engine:
        flask_migrate.upgrade(directory=str(with_second(tmp_path)))
        assert {"colours"} <= set(schema(engine))
        assert version(engine) == "9999"
        assert {index for index in schema(engine)["workflow_runs"]["indexes"] if "known" in index or "new" in index}
    assert [row(database, run_id).state for run_id in (parent.run_id, step)] == [State.RUNNING, State.QUEUED]
    assert len(events(database, parent.run_id)) == 3
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM run_tags")).scalar() == 1


def test_migration_that_fails_changes_nothing(database_url: str, tmp_path: Path) -> None:
    directory = with_second(tmp_path, then="op.execute('SELECT no_such_function()')")
    with migrating(database_url) as engine:
        before = schema(engine)
        with pytest.raises(DBAPIError):
            flask_migrate.upgrade(directory=str(directory))
        assert schema(engine) == before
        assert version(engine) == heads()[-1]


KILLED = """
import sys
import flask_migrate
from tests.conftest import migrating
with migrating(sys.argv[1]):
    flask_migrate.upgrade(directory=sys.argv[2])
"""


def test_migration_that_is_killed_changes_nothing(database_url: str, tmp_path: Path) -> None:
    """kill -9 after everything was done and before it was committed; then it is simply run again."""
    directory = with_second(tmp_path, then="os.kill(os.getpid(), 9)")
    with migrating(database_url) as engine:
        before = schema(engine)
        engine.dispose()
        killed = subprocess.run([sys.executable, "-c", KILLED, database_url, str(directory)], cwd=ROOT)
        assert killed.returncode == -9
        assert schema(engine) == before
        assert version(engine) == heads()[-1]
        flask_migrate.upgrade(directory=str(with_second(tmp_path)))
        assert version(engine) == "9999"


def test_first_migration_that_is_killed_leaves_an_empty_database(make_database: MakeDatabase, tmp_path: Path) -> None:
    url = make_database()
    directory = with_second(tmp_path, then="os.kill(os.getpid(), 9)")
    killed = subprocess.run([sys.executable, "-c", KILLED, url, str(directory)], cwd=ROOT)
    assert killed.returncode == -9
    with migrating(url) as engine:
        assert schema(engine) == {}
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        assert version(engine) == heads()[-1]


def test_keys_are_still_kept_after_a_migration(make_database: MakeDatabase) -> None:
    """The connection on which a migration ran without foreign keys does not come back."""
    with migrating(make_database()) as engine:
        flask_migrate.upgrade(directory=str(MIGRATIONS))
        with pytest.raises(DBAPIError), engine.begin() as connection:
            connection.execute(text("INSERT INTO run_tags (run_id, key, value) VALUES ('nobody', 'a', 'b')"))


def test_offline_script_has_every_table(make_database: MakeDatabase, capsys: pytest.CaptureFixture[str]) -> None:
    with migrating(make_database()):
        flask_migrate.upgrade(directory=str(MIGRATIONS), sql=True)
    script = capsys.readouterr().out
    for table in Base.metadata.tables:
        assert f"CREATE TABLE {table}" in script
