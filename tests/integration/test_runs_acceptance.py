"""accept: one row with everything, once, whoever calls how often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import KeyReused
from app.models import RunEvent, RunTag, WorkflowRun
from app.runs import acceptance, counts, listing
from app.runs.acceptance import AttachedFile, NewRun
from app.states import State
from tests.conftest import Clock
from tests.rows import accept, bring_to, changes, events, new_run, row

FILE = AttachedFile("data/a.txt", "a" * 64, 3)


def put(database: Database, new: NewRun, now: datetime) -> str:
    return database.transact(lambda session: acceptance.accept(session, new, now))


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(WorkflowRun)) or 0


def test_everything_is_stored(database: Database, clock: Clock) -> None:
    new = new_run(
        workflow_params={"numbers": [1, 2.5, None], "text": "ä\u0000☃"},
        workflow_engine="cwltool",
        workflow_engine_version="3",
        workflow_engine_parameters={"verbose": None},
        tags={"project": "x", "empty": ""},
        attachments=(FILE, AttachedFile("b", "b" * 64, 2**40)),
    )
    assert put(database, new, clock()) == new.run_id
    run = row(database, new.run_id)
    given = ["owner", "name", "provider_type", "workflow_type", "workflow_type_version", "workflow_url"]
    given += ["workflow_params", "workflow_engine", "workflow_engine_version", "workflow_engine_parameters", "tags"]
    assert {name: getattr(run, name) for name in given} == {name: getattr(new, name) for name in given}
    assert (run.state, run.submitted_at, run.due_at, run.claim) == (State.QUEUED, clock(), clock(), None)
    assert run.submitted_at.tzinfo is not None
    assert (run.hints, run.unreleased_claims, run.failures, run.attempt) == (0, 0, 0, 0)
    with database.reading() as session:
        attachments = listing.get_attachments(session, new.run_id)
        tags = session.execute(select(RunTag.key, RunTag.value).where(RunTag.run_id == new.run_id)).all()
    assert [(file.path, file.sha256, file.size) for file in attachments] == [
        ("b", "b" * 64, 2**40),
        ("data/a.txt", "a" * 64, 3),
    ]
    assert {tuple(tag) for tag in tags} == {("project", "x"), ("empty", "")}
    (event,) = events(database, new.run_id)
    assert (event.from_state, event.to_state, event.by, event.at) == (None, State.QUEUED, "ann", clock())


def test_however_a_run_is_accepted_the_same_rows_are_stored(database: Database, clock: Clock) -> None:
    odd = {"deep": [[{"a": None}]], "long": 10**30, "float": 0.1, "text": "☃\0😀\ud800", "": True, "nan": float("nan")}
    said: dict[str, object] = {
        "workflow_params": odd,
        "workflow_engine_parameters": {"verbose": None, "text": 'ä\\"'},
        "tags": {"ä": "☃", "empty": ""},
        "attachments": (FILE, AttachedFile("ä/☃", "b" * 64, 2**40)),
        "note": "x" * 20_000,
        "name": "ä☃😀\\'\"",
    }
    alone, together = new_run(**said), new_run(**said)
    put(database, alone, clock())
    database.transact_single(lambda session: acceptance.accept_new(session, [together], clock()))
    one, other = (_stored(database, run.run_id) for run in (alone, together))
    assert one == other
    assert one["run"]["workflow_params"] == odd | {"nan": None}


def _stored(database: Database, run_id: str) -> dict[str, Any]:
    """All that a run has, but for what names it."""
    with database.reading() as session:
        run = session.get_one(WorkflowRun, run_id)
        columns = {column.key: getattr(run, column.key) for column in inspect(WorkflowRun).column_attrs}
        tags = session.execute(select(RunTag.key, RunTag.value).where(RunTag.run_id == run_id).order_by(RunTag.key))
        return {
            "run": columns | {"run_id": ""},
            "tags": [tuple(tag) for tag in tags],
            "files": listing.get_attachments(session, run_id),
            "events": [
                (event.at, event.from_state, event.to_state, event.by, event.note)
                for event in listing.get_events(session, run_id)
            ],
        }


def test_of_several_the_new_ones_are_accepted_with_what_is_theirs(database: Database, clock: Clock) -> None:
    old = new_run(idempotency_key="k", tags={"n": "0"}, attachments=(FILE,))
    put(database, old, clock())
    again = replace(old, run_id=str(uuid4()), note="again")
    fresh = [new_run(tags={"n": str(n)}, attachments=(FILE,), owner=f"owner {n % 2}") for n in range(3)]
    accepted = database.transact_single(
        lambda session: acceptance.accept_new(session, [fresh[0], again, *fresh[1:], old], clock())
    )
    assert accepted == {run.run_id for run in fresh}
    assert count(database) == 4
    for run in (old, *fresh):
        assert changes(database, run.run_id) == [(None, "QUEUED")]
        with database.reading() as session:
            assert [file.path for file in listing.get_attachments(session, run.run_id)] == [FILE.path]
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(RunTag)) == 4
        assert {owner: counts.by_state(session, owner)[State.QUEUED] for owner in ("owner 0", "owner 1")} == {
            "owner 0": 2,
            "owner 1": 1,
        }


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("said", [{"tags": {"k" * 256: ""}}, {"owner": "o" * 256}], ids=["of a tag", "of a run"])
def test_what_is_too_long_is_refused_and_not_cut(database: Database, clock: Clock, said: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="too long"):
        database.transact_single(lambda session: acceptance.accept_new(session, [new_run(**said)], clock()))
    assert count(database) == 0


def test_all_or_nothing(database: Database, clock: Clock) -> None:
    """An attachment that cannot be stored takes the run with it."""
    twice = new_run(attachments=(FILE, FILE))
    with pytest.raises(IntegrityError):
        put(database, twice, clock())
    assert count(database) == 0


def test_same_key_and_request_give_the_first_run(database: Database, clock: Clock) -> None:
    first = accept(database, clock(), idempotency_key="k", attachments=(FILE,), tags={"a": "1", "b": "2"})
    again = accept(
        database, clock.advance(hours=5), idempotency_key="k", attachments=(FILE,), tags={"b": "2", "a": "1"}
    )
    assert again == first
    assert count(database) == 1
    assert changes(database, first) == [(None, "QUEUED")]


def test_same_key_after_the_end_of_the_run(database: Database, clock: Clock) -> None:
    first = bring_to(database, State.COMPLETE, clock(), idempotency_key="k").run_id
    assert accept(database, clock(), idempotency_key="k") == first


@pytest.mark.parametrize(
    "other",
    [
        {"workflow_url": "other.cwl"},
        {"workflow_params": {"who": "you"}},
        {"workflow_type_version": "v1.1"},
        {"workflow_engine": "cwltool"},
        {"workflow_engine_parameters": {"verbose": None}},
        {"tags": {"a": "b"}},
        {"name": "other"},
        {"attachments": (FILE,)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_same_key_with_another_request(database: Database, clock: Clock, other: dict[str, object]) -> None:
    first = accept(database, clock(), idempotency_key="k")
    with pytest.raises(KeyReused, match=first):
        accept(database, clock(), idempotency_key="k", **other)
    assert count(database) == 1


def test_keys_belong_to_their_owner(database: Database, clock: Clock) -> None:
    assert accept(database, clock(), idempotency_key="k") != accept(database, clock(), idempotency_key="k", owner="bob")


def test_runs_without_a_key_are_never_the_same(database: Database, clock: Clock) -> None:
    assert accept(database, clock()) != accept(database, clock())
    assert count(database) == 2


@pytest.mark.parametrize("key", ["k", None])
def test_commit_whose_outcome_was_lost_is_repeated(database: Database, clock: Clock, key: str | None) -> None:
    """The API does not know whether its COMMIT arrived, and sends the same NewRun again."""
    new = new_run(idempotency_key=key, attachments=(FILE,), tags={"a": "b"})
    assert [put(database, new, clock()) for _ in range(3)] == [new.run_id] * 3
    assert count(database) == 1
    assert changes(database, new.run_id) == [(None, "QUEUED")]


def test_race_of_equal_keys(database: Database, clock: Clock) -> None:
    """Eight requests at once with one key: one run, and everybody is told which."""
    barrier = Barrier(8)

    def post(_: int) -> str:
        new = new_run(idempotency_key="k", attachments=(FILE,))
        barrier.wait()
        return put(database, new, clock())

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(post, range(8)))
    assert len(answers) == 1
    assert count(database) == 1
    assert changes(database, answers.pop()) == [(None, "QUEUED")]


def test_race_of_equal_keys_with_different_requests(database: Database, clock: Clock) -> None:
    barrier = Barrier(6)

    def post(number: int) -> str | None:
        new = new_run(idempotency_key="k", workflow_params={"number": number})
        barrier.wait()
        try:
            return put(database, new, clock())
        except KeyReused:
            return None

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(post, range(6)))
    assert sorted(answer is None for answer in answers) == [False] + [True] * 5
    assert count(database) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_winner_of_a_race_that_rolls_back_leaves_room(database: Database, clock: Clock) -> None:
    """The later request waits for the earlier one's end; when that fails, it is the one that is accepted."""
    first, second = new_run(idempotency_key="k"), new_run(idempotency_key="k")
    with ThreadPoolExecutor(1) as pool, Session(database.engine) as earlier:
        acceptance.accept(earlier, first, clock())
        later = pool.submit(put, database, second, clock())
        while not _somebody_waits(database):
            pass
        earlier.rollback()
        assert later.result() == second.run_id


def _somebody_waits(database: Database) -> bool:
    with database.engine.connect() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(connection.exec_driver_sql(waiting).scalar())


def test_step_of_a_pipeline_is_accepted_once(database: Database, clock: Clock) -> None:
    parent = accept(database, clock())
    place = {"parent_id": parent, "step": "align"}
    first = accept(database, clock(), **place)
    assert accept(database, clock(), **place) == first
    others = [
        accept(database, clock(), **place | other) for other in ({"shard": 1}, {"try_number": 2}, {"step": "sort"})
    ]
    assert len({first, *others}) == 4
    assert events(database, first)[0].by == f"parent {parent}"


def test_steps_of_different_pipelines(database: Database, clock: Clock) -> None:
    one, two = accept(database, clock()), accept(database, clock())
    assert accept(database, clock(), parent_id=one, step="s") != accept(database, clock(), parent_id=two, step="s")


def test_parent_must_exist(database: Database, clock: Clock) -> None:
    with pytest.raises(IntegrityError):
        accept(database, clock(), parent_id=str(uuid4()), step="s")


def test_fingerprint_tells_requests_apart_by_meaning_only() -> None:
    new = new_run(workflow_params={"a": 1, "b": [1, 2]}, attachments=(FILE, AttachedFile("b", "b" * 64, 1)))
    same = replace(new, run_id="other", workflow_params={"b": [1, 2], "a": 1}, attachments=new.attachments[::-1])
    assert same.fingerprint == new.fingerprint
    assert replace(new, workflow_params={"a": 1, "b": [2, 1]}).fingerprint != new.fingerprint
    assert replace(new, workflow_params={"a": "1", "b": [1, 2]}).fingerprint != new.fingerprint
    moved = (replace(FILE, path="c"), new.attachments[1])
    assert replace(new, attachments=moved).fingerprint != new.fingerprint


def test_times_come_back_in_utc(database: Database, clock: Clock) -> None:
    east = clock().astimezone(timezone(timedelta(hours=9))) + timedelta(microseconds=7)
    run = row(database, accept(database, east))
    assert run.submitted_at == east
    assert run.submitted_at.utcoffset() == timedelta(0)


def test_event_rows_are_ordered_as_written(database: Database, clock: Clock) -> None:
    run_id = bring_to(database, State.RUNNING, clock()).run_id
    with database.reading() as session:
        stored = session.scalars(select(RunEvent.to_state).order_by(RunEvent.id)).all()
        assert [event.to_state for event in listing.get_events(session, run_id)] == list(stored)
