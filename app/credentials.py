"""Secrets that users send with their runs: encrypted, in a table of their own by root run, gone when that has ended.

The keys are never in the database: CREDENTIALS_KEYS, or a file in DATA_DIR. Knows no provider.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import CTE, Row, bindparam, delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.database import Database
from app.models import OwedCancel, RunCredential, WorkflowRun
from app.states import TERMINAL

log = logging.getLogger(__name__)

BVBRC = "bvbrc"
"""The kind of a BV-BRC token."""
USED_BY = {BVBRC: frozenset({"bvbrc", "dag"})}
"""Kind -> the providers whose runs may need it."""
CHUNK = 500

_PART = or_(WorkflowRun.run_id == bindparam("root"), WorkflowRun.parent_id == bindparam("root"))
_OWED = exists().where(OwedCancel.run_id == WorkflowRun.run_id, _PART)
_LIVING = exists().where(_PART, WorkflowRun.state.not_in(TERMINAL))
_WIPE = (
    delete(RunCredential)
    .where(RunCredential.root_run_id == bindparam("root"), ~or_(_LIVING, _OWED))
    .execution_options(synchronize_session=False)
)


class Vault:
    """Seals with the first key, opens with any; so a new first key may be added, and the old one dropped later."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._closed: set[str] = set()  # root runs whose secret no key here opens: told once

    def store(self, session: Session, root_run_id: str, kind: str, secret: str) -> bool:
        """Keep it with this root run, in place of an earlier one; False where the run has no use for it, or is over."""
        seen = select(WorkflowRun.state, WorkflowRun.provider_type).where(WorkflowRun.run_id == root_run_id)
        run = session.execute(seen.with_for_update(key_share=True)).one_or_none()
        if run is None or run.provider_type not in USED_BY[kind]:
            return False
        if run.state in TERMINAL and not session.scalar(select(_OWED), {"root": root_run_id}):
            return False
        sealed = self._fernet.encrypt(json.dumps([root_run_id, kind, secret]).encode()).decode()
        session.merge(RunCredential(root_run_id=root_run_id, kind=kind, secret=sealed))
        return True

    def read(self, session: Session, run_ids: Iterable[str], kind: str) -> dict[str, str | None]:
        """By run, also for steps: the secret of its root run. None where no key here fits; else left out."""
        run_ids, found = list(run_ids), {}
        for start in range(0, len(run_ids), CHUNK):
            for run_id, kept in _kept(session, run_ids[start : start + CHUNK], kind):
                found[run_id] = self._opened(kept)
        return found

    def _opened(self, kept: RunCredential) -> str | None:
        """A sealed text belongs to one run: copied to another row it opens nothing."""
        try:
            root_run_id, kind, secret = json.loads(self._fernet.decrypt(kept.secret))
        except InvalidToken:
            root_run_id, kind, secret = "", "", ""
        if (root_run_id, kind) == (kept.root_run_id, kept.kind):
            return str(secret)
        if kept.root_run_id not in self._closed:
            words = "a secret cannot be opened: give the API and the daemon the same CREDENTIALS_KEYS"
            log.error(words, extra={"run_id": kept.root_run_id, "kind": kept.kind})
            self._closed.add(kept.root_run_id)
        return None


class StoredCredentials:
    """What a provider is lent: the secrets of one kind, by run id."""

    def __init__(self, database: Database, vault: Vault, kind: str) -> None:
        self._database, self._vault, self._kind = database, vault, kind

    def __call__(self, run_ids: Iterable[str]) -> Mapping[str, str | None]:
        with self._database.reading() as session:
            return self._vault.read(session, run_ids, self._kind)


def wipe(session: Session, root_run_id: str) -> None:
    """Forget everything that was sent with this root run, once it and its steps have ended, second executions too."""
    session.execute(_WIPE, {"root": root_run_id})


def root_of(session: Session, run_id: str) -> str:
    """The run itself, or the one at the top of the pipeline that it is a step of."""
    roots = _roots([run_id])
    return str(session.scalars(select(roots.c.root).where(roots.c.parent.is_(None))).one())


def _kept(session: Session, run_ids: list[str], kind: str) -> Sequence[Row[str, RunCredential]]:
    roots = _roots(run_ids)
    query = select(roots.c.run_id, RunCredential).join(RunCredential, RunCredential.root_run_id == roots.c.root)
    return session.execute(query.where(roots.c.parent.is_(None), RunCredential.kind == kind)).all()


def _roots(run_ids: list[str]) -> CTE:
    """Rows (run_id, root, parent) for every run on the way up; where `parent` is NULL, `root` is the top."""
    own = WorkflowRun.run_id
    start = select(own.label("run_id"), own.label("root"), WorkflowRun.parent_id.label("parent"))
    way = start.where(own.in_(run_ids)).cte("way", recursive=True)
    above = aliased(WorkflowRun)
    return way.union_all(select(way.c.run_id, above.run_id, above.parent_id).join(above, above.run_id == way.c.parent))
