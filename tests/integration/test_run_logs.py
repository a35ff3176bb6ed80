"""The structured log of each run: whole, in order, bounded, and no run's trouble."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from app.artifacts import ArtifactStorage, DirectoryStorage
from app.artifacts.s3 import S3Storage
from app.daemon import run_logs
from app.daemon.run_logs import NAME, NOTE_CHARACTERS, RunLogs
from app.database import Database
from app.runs import deletion, transitions
from app.runs.transitions import End
from app.states import State
from tests.api_calls import EDGE
from tests.conftest import Clock
from tests.fakes.s3 import S3Server
from tests.rows import accept, bring_to, claim_new, move
from tests.sample_runs import task

MAX_BYTES = 100_000


@pytest.fixture
def logs(database: Database, storage: DirectoryStorage) -> RunLogs:
    """Told by the database; writes when a test says so."""
    logs = RunLogs(database, storage, MAX_BYTES)
    database.listeners.append(logs.listen)
    return logs


def text(storage: ArtifactStorage, run_id: str) -> str:
    file = storage.log(run_id, NAME)
    if file is None:
        return ""
    with file.open() as stream:
        return stream.read().decode()


def lines(storage: ArtifactStorage, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text(storage, run_id).splitlines()]


def states(storage: ArtifactStorage, run_id: str) -> list[tuple[str | None, str | None]]:
    return [(line.get("from"), line.get("to")) for line in lines(storage, run_id) if "id" in line]


WHOLE = [(None, "QUEUED"), ("QUEUED", "INITIALIZING"), ("INITIALIZING", "COMPLETE")]


def test_every_event_is_there_once_however_often_it_is_written(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs
) -> None:
    run_id = accept(database, clock(), parent_id=None)
    assert logs.write_waiting()
    (run,) = claim_new(database, clock())
    assert move(database, run, State.INITIALIZING, clock() + timedelta(seconds=1), note="on its way")
    assert logs.write_waiting() and logs.write_waiting()
    first, second = lines(storage, run_id)
    assert (first["to"], first["by"], first["note"], first["provider"]) == ("QUEUED", "ann", "accepted", "local")
    assert (second["from"], second["to"], second["by"], second["note"]) == (
        "QUEUED", "INITIALIZING", "daemon", "on its way",
    )  # fmt: skip
    assert (first["run_id"], first["at"], second["at"][:19]) == (run_id, clock().isoformat(), "2026-11-20T12:00:01")


def test_what_others_did_meanwhile_is_there_too(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs
) -> None:
    """The API accepts and cancels; the daemon that works on the run writes it down."""
    run_id = accept(Database(database.engine), clock())
    (run,) = claim_new(Database(database.engine), clock())
    move(Database(database.engine), run, State.INITIALIZING, clock())
    Database(database.engine).transact(lambda session: transitions.cancel(session, run_id, clock(), by="ann"))
    assert text(storage, run_id) == ""
    database.transact(lambda session: transitions.add_event(session, run_id, clock(), "daemon", "heard of it"))
    logs.write_waiting()
    assert [line["by"] for line in lines(storage, run_id)] == ["ann", "daemon", "ann", "daemon"]


def test_the_end_comes_after_the_tasks(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logs, "TASKS_AT_ONCE", 2)
    run = bring_to(database, State.RUNNING, clock())
    tasks = [task(f"t{number}", exit_code=number, end_time=clock()) for number in range(3)]
    end = End(State.EXECUTOR_ERROR, "a task failed", tasks=tasks)
    database.transact(lambda session: transitions.finish(session, run, end, clock(), by="daemon"))
    logs.write_waiting()
    *_, one, two, three, last = lines(storage, run.run_id)
    assert [(line["task"], line["exit_code"]) for line in (one, two, three)] == [("t0", 0), ("t1", 1), ("t2", 2)]
    assert (last["to"], last["note"]) == ("EXECUTOR_ERROR", "a task failed")


def test_a_pipelines_tasks_are_its_steps(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs
) -> None:
    parent = bring_to(database, State.RUNNING, clock(), provider_type="local", workflow_type="DAG")
    step = accept(database, clock(), parent_id=parent.run_id, step="align", shard=3, name="align[3]")
    database.transact(lambda session: transitions.finish(session, parent, End(State.COMPLETE, "over"), clock(), by="d"))
    logs.write_waiting()
    *_, of_step, last = lines(storage, parent.run_id)
    assert (of_step["task"], of_step["name"], last["to"]) == (step, "align[3]", "COMPLETE")
    assert [(line["step"], line["parent"]) for line in lines(storage, step)] == [("align", parent.run_id)]


def test_a_line_that_a_full_disk_cut_is_written_again(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs
) -> None:
    run = bring_to(database, State.COMPLETE, clock())
    logs.write_waiting()
    whole = text(storage, run.run_id)
    sink = storage.log_sink(run.run_id, MAX_BYTES)
    sink.replace(NAME, whole.encode()[:-20])
    database.transact(lambda session: transitions.add_event(session, run.run_id, clock(), "daemon", "later"))
    logs.write_waiting()
    kept = [line for line in text(storage, run.run_id).splitlines() if line.endswith("}")]
    assert [json.loads(line)["id"] for line in kept] == sorted({json.loads(line)["id"] for line in kept})
    assert (len(kept), json.loads(kept[-1])["note"]) == (4, "later")


def test_it_is_bounded(database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs) -> None:
    run_id = accept(database, clock())
    for _ in range(80):
        database.transact(lambda session: transitions.add_event(session, run_id, clock(), "daemon", "x" * 9000))
        logs.write_waiting()
    assert MAX_BYTES <= len(text(storage, run_id)) < MAX_BYTES + 100
    assert max(map(len, text(storage, run_id).splitlines())) < NOTE_CHARACTERS + 500


def test_what_cannot_be_written_now_is_written_later(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs
) -> None:
    storage.root.mkdir(parents=True)
    (storage.root / "runs").write_text("in the way")
    run = bring_to(database, State.COMPLETE, clock())
    assert not logs.write_waiting()
    (storage.root / "runs").unlink()
    assert logs.write_waiting()
    assert states(storage, run.run_id) == WHOLE


@EDGE
def test_in_a_bucket_it_is_the_same(database: Database, clock: Clock) -> None:
    """Also where a write arrived and its answer was lost: no line is there twice."""
    with S3Server() as server:
        bucket = S3Storage(server.bucket, server.new_prefix())
        logs = RunLogs(database, bucket, MAX_BYTES)
        database.listeners.append(logs.listen)
        run = bring_to(database, State.RUNNING, clock())
        server.fail("lost", times=1000, method="PUT")
        assert not logs.write_waiting()
        server.heal()
        database.transact(lambda s: transitions.finish(s, run, End(State.COMPLETE, "over"), clock(), by="daemon"))
        assert logs.write_waiting()
        assert states(bucket, run.run_id) == [*WHOLE[:2], ("INITIALIZING", "RUNNING"), ("RUNNING", "COMPLETE")]


def test_a_daemon_that_died_before_the_last_line_is_made_up_for(
    database: Database, storage: DirectoryStorage, clock: Clock
) -> None:
    ended = bring_to(Database(database.engine), State.COMPLETE, clock())
    living = accept(Database(database.engine), clock())
    logs = RunLogs(database, storage, MAX_BYTES)
    logs.start()
    logs.stop()
    assert states(storage, ended.run_id) == WHOLE
    assert text(storage, living) == ""


def test_a_daemon_that_stops_waits_for_it_only_for_a_moment(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_logs, "STOP_SECONDS", -1.0)
    run_id = accept(database, clock())
    logs.start()
    logs.stop()
    assert text(storage, run_id) == ""


def test_a_run_whose_log_is_a_defect_holds_up_no_other(
    database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = accept(database, clock(), run_id="bad"), accept(database, clock())
    sink = storage.log_sink
    monkeypatch.setattr(storage, "log_sink", lambda run_id, most: sink(run_id, most) if run_id != bad else 1 / 0)
    assert logs.write_waiting()
    assert (text(storage, bad), len(lines(storage, good))) == ("", 1)


def test_it_goes_with_the_run(database: Database, storage: DirectoryStorage, clock: Clock, logs: RunLogs) -> None:
    run = bring_to(database, State.COMPLETE, clock())
    logs.write_waiting()
    database.transact(lambda session: transitions.add_event(session, run.run_id, clock(), "daemon", "late"))
    database.transact(lambda session: deletion.delete_run(session, run.run_id, "ann"))
    storage.drop_run(run.run_id)
    assert logs.write_waiting()
    assert text(storage, run.run_id) == "" and not (storage.root / "runs" / run.run_id).exists()
