"""Runs Alembic on the application's engine. `flask --app application db upgrade` comes here."""

from alembic import context
from flask import current_app

from app.database import Prose, UtcDateTime


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
    with migrate.db.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=migrate.db.metadata, **arguments)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
