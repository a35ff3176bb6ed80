"""Can this process serve requests: the database answers and is migrated, artifact storage can be used."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.artifacts import ArtifactStorage
from app.database import Database

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def database_problem(database: Database) -> str | None:
    """What is wrong with the database, and what to do; None where all is well."""
    try:
        present = _present(database.engine)
    except SQLAlchemyError as error:
        log.warning("the database does not answer", exc_info=error)
        return "The database does not answer."
    if present == _newest():
        return None
    found, wanted = (", ".join(sorted(revisions)) or "none" for revisions in (present, _newest()))
    return f"The database's revision is {found} and must be {wanted}. Run: flask --app application db upgrade"


def storage_problem(storage: ArtifactStorage) -> str | None:
    """That artifact storage cannot be used; why is for the log, not for everybody."""
    why = storage.problem()
    if why is None:
        return None
    log.warning("artifact storage cannot be used", extra={"why": why})
    return "Artifact storage cannot be used."


def _present(engine: Engine) -> frozenset[str]:
    with engine.connect() as connection:
        return frozenset(MigrationContext.configure(connection).get_current_heads())


@cache
def _newest() -> frozenset[str]:
    return frozenset(ScriptDirectory(str(MIGRATIONS)).get_heads())
