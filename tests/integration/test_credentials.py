"""Secrets at rest: sealed, bound to their run, found for every step of it, gone with its end. On both databases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select, text

from app import credentials
from app.credentials import BVBRC, StoredCredentials, Vault
from app.database import Database
from app.models import RunCredential
from app.runs import deletion, transitions
from app.runs.transitions import End
from app.states import TERMINAL, State
from tests.conftest import Clock
from tests.rows import accept as rows_accept
from tests.rows import bring_to, claim_new, move, row, who

SECRET = "un=alice|tokenid=0d1f|expiry=1800000000|sig=5eC4e7"
KEY, OTHER_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def vault() -> Vault:
    return Vault([KEY])


def accept(database: Database, now: datetime, **changes: Any) -> str:
    return rows_accept(database, now, **{"provider_type": "bvbrc"} | changes)


def store(database: Database, vault: Vault, run_id: str, secret: str = SECRET) -> bool:
    return database.transact(lambda session: vault.store(session, run_id, BVBRC, secret))


def read(database: Database, vault: Vault, *run_ids: str) -> Mapping[str, str | None]:
    return StoredCredentials(database, vault, BVBRC)(run_ids)


def rows(database: Database) -> list[RunCredential]:
    with database.reading() as session:
        return list(session.scalars(select(RunCredential)))


def step(database: Database, clock: Clock, parent_id: str, name: str = "one") -> str:
    return accept(database, clock(), parent_id=parent_id, step=name)


def end(database: Database, clock: Clock, run_id: str, state: State = State.COMPLETE) -> None:
    run = next(run for run in claim_new(database, clock(), who(provider="bvbrc"), 1000) if run.run_id == run_id)
    assert move(database, run, State.INITIALIZING, clock())
    over = End(state, "over", reason="because" if state == State.SYSTEM_ERROR else None)
    assert database.transact(lambda session: transitions.finish(session, run, over, clock(), by="daemon"))


def test_what_was_stored_is_read(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    store(database, vault, run_id)
    assert read(database, vault, run_id, "nobody") == {run_id: SECRET}


def test_nothing_of_it_is_in_the_database_in_clear(database: Database, vault: Vault, clock: Clock) -> None:
    store(database, vault, accept(database, clock()))
    with database.reading() as session:
        kept = session.execute(text("SELECT secret FROM run_credentials")).scalar_one()
    assert not any(part in kept for part in (SECRET, "alice", "5eC4e7"))


def test_a_fresh_one_takes_the_place_of_the_old(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    for secret in SECRET, "un=alice|sig=fresh":
        store(database, vault, run_id, secret)
    assert read(database, vault, run_id) == {run_id: "un=alice|sig=fresh"}
    assert len(rows(database)) == 1


def test_kinds_are_kept_apart(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    assert store(database, vault, run_id)
    assert StoredCredentials(database, vault, "another")([run_id]) == {}


@pytest.mark.parametrize("provider", ["bvbrc", "dag", "local"])
def test_it_is_kept_only_where_it_is_of_use(database: Database, vault: Vault, clock: Clock, provider: str) -> None:
    run_id = accept(database, clock(), provider_type=provider)
    assert store(database, vault, run_id) == (provider != "local")
    assert len(rows(database)) == (provider != "local")


def test_steps_have_the_secret_of_the_run_at_the_top(database: Database, vault: Vault, clock: Clock) -> None:
    top, stranger = accept(database, clock()), accept(database, clock())
    store(database, vault, top)
    inner = step(database, clock, top)
    innermost = step(database, clock, inner)
    assert read(database, vault, innermost, stranger, top, inner) == dict.fromkeys((top, inner, innermost), SECRET)
    with database.reading() as session:
        assert credentials.root_of(session, innermost) == credentials.root_of(session, top) == top


def test_many_runs_are_asked_for_at_once(database: Database, vault: Vault, clock: Clock) -> None:
    run_ids = [accept(database, clock()) for _ in range(3)]
    for run_id in run_ids[:2]:
        store(database, vault, run_id, f"un={run_id}|sig=0")
    asked = [*run_ids, *(f"nobody-{number}" for number in range(1200))]
    assert read(database, vault, *asked) == {run_id: f"un={run_id}|sig=0" for run_id in run_ids[:2]}


@pytest.mark.parametrize("state", sorted(TERMINAL - {State.CANCELED}))
def test_it_goes_with_the_end(database: Database, vault: Vault, clock: Clock, state: State) -> None:
    run_id, other = accept(database, clock()), accept(database, clock())
    store(database, vault, run_id)
    store(database, vault, other)
    end(database, clock, run_id, state)
    assert [kept.root_run_id for kept in rows(database)] == [other]


def test_it_goes_when_an_unstarted_run_is_cancelled(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    store(database, vault, run_id)
    database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="ann"))
    assert rows(database) == []


def test_a_run_that_is_being_cancelled_still_needs_it(database: Database, vault: Vault, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock(), who(provider="bvbrc"), provider_type="bvbrc")
    store(database, vault, run.run_id)
    database.transact(lambda session: transitions.cancel(session, run.run_id, clock(), by="ann"))
    assert read(database, vault, run.run_id) == {run.run_id: SECRET}


def test_the_end_of_a_step_takes_nothing_away(database: Database, vault: Vault, clock: Clock) -> None:
    top = accept(database, clock())
    store(database, vault, top)
    first, second = (step(database, clock, top, name) for name in ("one", "two"))
    end(database, clock, first)
    assert read(database, vault, second) == {second: SECRET}


def test_it_stays_until_the_last_step_has_ended(database: Database, vault: Vault, clock: Clock) -> None:
    """A root that ended without its steps: each of them still has to be cancelled at its provider."""
    top = accept(database, clock())
    store(database, vault, top)
    steps = [step(database, clock, top, name) for name in ("one", "two")]
    database.transact(lambda session: transitions.cancel(session, top, clock(), by="ann"))
    for left in steps:
        assert read(database, vault, left) == {left: SECRET}
        database.transact(lambda session, left=left: transitions.cancel(session, left, clock(), by="ann"))
    assert rows(database) == []


def test_nothing_is_kept_for_a_run_that_is_over_or_gone(database: Database, vault: Vault, clock: Clock) -> None:
    over = bring_to(database, State.COMPLETE, clock(), who(provider="bvbrc"), provider_type="bvbrc").run_id
    assert not any(store(database, vault, run_id) for run_id in (over, "gone"))
    assert rows(database) == []


def test_a_deleted_run_leaves_nothing(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    store(database, vault, run_id)
    database.transact(lambda session: session.execute(text("UPDATE workflow_runs SET state='CANCELED', due_at=NULL")))
    database.transact(lambda session: deletion.delete_run(session, run_id, None))
    assert rows(database) == []


def test_with_another_key_it_is_there_and_cannot_be_read(
    database: Database, vault: Vault, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = accept(database, clock())
    store(database, vault, run_id)
    stranger = Vault([OTHER_KEY])
    with caplog.at_level(logging.ERROR):
        assert [read(database, stranger, run_id) for _ in range(3)] == [{run_id: None}] * 3
    assert caplog.text.count("cannot be opened") == 1


def test_a_new_first_key_seals_and_the_old_one_still_opens(database: Database, vault: Vault, clock: Clock) -> None:
    old, new = accept(database, clock()), accept(database, clock())
    store(database, vault, old)
    both = Vault([OTHER_KEY, KEY])
    store(database, both, new)
    assert read(database, both, old, new) == {old: SECRET, new: SECRET}
    assert read(database, Vault([OTHER_KEY]), old, new) == {old: None, new: SECRET}


def test_a_sealed_text_opens_nothing_in_another_row(database: Database, vault: Vault, clock: Clock) -> None:
    """Who can write to the database, and has no key, cannot lend one user's token to another user's run."""
    alices, mallorys = accept(database, clock()), accept(database, clock())
    for run_id in alices, mallorys:
        store(database, vault, run_id, f"un={run_id}|sig=0")
    (sealed,) = [kept.secret for kept in rows(database) if kept.root_run_id == alices]
    database.transact(lambda session: session.execute(text("UPDATE run_credentials SET secret=:it"), {"it": sealed}))
    assert read(database, vault, alices, mallorys) == {alices: f"un={alices}|sig=0", mallorys: None}


def test_the_row_of_a_run_does_not_show_it(database: Database, vault: Vault, clock: Clock) -> None:
    run_id = accept(database, clock())
    store(database, vault, run_id)
    assert SECRET not in str(vars(row(database, run_id))) and SECRET not in str(vars(rows(database)[0]))
