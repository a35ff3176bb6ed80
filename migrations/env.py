"""Runs Alembic on the application's engine. `flask --app application db upgrade` comes here."""

from alembic import context
from flask import current_app

from app.database import WRITES, Prose, UtcDateTime


def render(kind, item, autogen_context):
    """Migrations stand on their own: they name SQLAlchemy's types, not ours."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Prose):
        return "sa.Text()"
    return False


migrate = current_app.extensions["migrate"]
arguments = {"render_item": render, **migrate.configure_args}

if context.is_offline_mode():
    context.configure(
        url=migrate.db.engine.url,
        target_metadata=migrate.db.metadata,
        literal_binds=True,
        **arguments,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    with migrate.db.engine.connect().execution_options(**WRITES) as connection:
        if connection.dialect.name == "sqlite":
            # A batch drops a table and makes it anew: with foreign keys on, the rows that name its rows would go along.
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
            connection.detach()
        context.configure(
            connection=connection,
            target_metadata=migrate.db.metadata,
            transactional_ddl=True,  # also on SQLite, where app/database.py begins every transaction itself
            **arguments,
        )
        with context.begin_transaction():
            context.run_migrations()
