"""What is counted of runs, and when: once, after the commit, by whoever did it. And what the gauges say."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import metrics
from app.artifacts import DirectoryStorage
from app.daemon.queue_gauges import KEPT_SECONDS, QueueGauges
from app.database import Database
from app.errors import KeyReused
from app.runs import acceptance, pipelines, transitions
from app.runs.news import Accepted, Ended, Noted
from app.runs.pipelines import NewStep
from app.runs.transitions import End
from app.states import State
from tests.api_calls import BASE, EDGE, run, sign_on
from tests.conftest import Clock
from tests.daemon_world import World
from tests.rows import accept, bring_to, new_run, row
from tests.unit.test_metrics import growth, value

COMPLETE = End(State.COMPLETE, "over")


@pytest.fixture
def told(database: Database) -> list[object]:
    """Everything that this database tells, less that histories grew."""
    found: list[object] = []

    def listen(news: Sequence[object]) -> None:
        found.extend(item for item in news if not isinstance(item, Noted))

    database.listeners.append(listen)
    return found


def test_a_run_is_told_of_when_it_comes_and_when_it_ends(database: Database, clock: Clock, told: list[object]) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert told == [Accepted(False, "CWL")]
    end = End(State.EXECUTOR_ERROR, "no", start_time=clock(), end_time=clock() + timedelta(seconds=7))
    assert database.transact(lambda session: transitions.finish(session, run, end, clock(), by="daemon"))
    assert told[1:] == [Ended(False, "CWL", "local", State.EXECUTOR_ERROR, 7.0)]


@pytest.mark.parametrize("at_the_commit", [False, True])
def test_what_was_not_committed_is_not_told(
    database: Database, clock: Clock, told: list[object], at_the_commit: bool
) -> None:
    def fail(*_: object) -> None:
        raise KeyReused("no")

    def work(session: Session) -> None:
        acceptance.accept(session, new_run(), clock())
        if not at_the_commit:
            fail()
        event.listen(session, "before_commit", fail)

    with pytest.raises(KeyReused):
        database.transact(work)
    assert told == []


def test_what_is_done_again_after_a_conflict_is_told_once(database: Database, clock: Clock, told: list[object]) -> None:
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorname = "SQLITE_BUSY"
    conflicts = [OperationalError("UPDATE", {}, busy)] * 2

    def work(session: Session) -> None:
        acceptance.accept(session, new_run(), clock())
        if conflicts:
            raise conflicts.pop()

    database.transact(work)
    assert told == [Accepted(False, "CWL")]


def test_a_run_that_is_sent_again_is_told_once(database: Database, clock: Clock, told: list[object]) -> None:
    run_id = accept(database, clock(), idempotency_key="k")
    accept(database, clock(), run_id=run_id, idempotency_key="k")
    assert told == [Accepted(False, "CWL")]


def test_of_two_that_end_a_run_one_is_told(database: Database, clock: Clock, told: list[object]) -> None:
    run = bring_to(database, State.RUNNING, clock())
    told.clear()
    for _ in range(2):
        database.transact(lambda session: transitions.finish(session, run, COMPLETE, clock(), by="daemon"))
    assert [type(item) for item in told] == [Ended]


def test_a_cancel_is_told_where_it_is_the_end(database: Database, clock: Clock, told: list[object]) -> None:
    """A run that began ends by its provider's word, which comes later."""
    queued, running = accept(database, clock()), bring_to(database, State.RUNNING, clock()).run_id
    told.clear()
    for run_id in (queued, queued, running):
        database.transact(lambda session, run_id=run_id: transitions.cancel(session, run_id, clock(), by="ann"))
    assert told == [Ended(False, "CWL", "local", State.CANCELED, None)]


def test_steps_are_told_as_steps_and_those_of_an_earlier_run_not_at_all(
    database: Database, clock: Clock, told: list[object]
) -> None:
    parent = accept(database, clock(), provider_type="dag", workflow_type="DAG")
    place = {"parent_id": parent, "workflow_type": "BVBRC", "workflow_url": "bvbrc:Date", "provider_type": "bvbrc"}
    steps = [
        NewStep(new_run(step="begins", **place)),
        NewStep(new_run(step="is refused", **place), End(State.SYSTEM_ERROR, "no", "step_refused")),
        NewStep(new_run(step="is reused", reused_from=parent, **place), COMPLETE),
    ]
    told.clear()
    assert database.transact(lambda session: pipelines.accept_steps(session, parent, steps, clock()))
    began, refused = Accepted(True, "Date"), Ended(True, "Date", "bvbrc", State.SYSTEM_ERROR, None)
    assert sorted(told, key=repr) == [began, began, refused]


def test_a_listener_that_fails_undoes_nothing(database: Database, clock: Clock) -> None:
    def fail(news: Sequence[object]) -> None:
        raise ZeroDivisionError

    database.listeners.append(fail)
    assert row(database, accept(database, clock())).state == State.QUEUED


# Counting


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.COMPLETE, "succeeded"),
        (State.EXECUTOR_ERROR, "failed"),
        (State.SYSTEM_ERROR, "failed"),
        (State.CANCELED, "cancelled"),
    ],
)
def test_workflows_and_steps_count_apart(state: State, status: str) -> None:
    workflow, step = Ended(False, "CWL", "local", state, 3.0), Ended(True, "CWL", "local", state, 3.0)
    durations = {"provider": "local", "state": str(state)}
    assert growth("workflows_completed_total", lambda: metrics.count([workflow, step]), status=status) == 1
    assert growth("steps_completed_total", lambda: metrics.count([workflow, step]), app="CWL", status=status) == 1
    assert growth("workflow_execution_duration_seconds_sum", lambda: metrics.count([workflow, step])) == 3
    assert growth("step_execution_duration_seconds_sum", lambda: metrics.count([workflow, step]), app="CWL") == 3
    assert growth("wes_run_duration_seconds_count", lambda: metrics.count([workflow, step]), **durations) == 2


def test_a_run_that_never_began_has_no_duration() -> None:
    never = Ended(False, "CWL", "local", State.CANCELED, None)
    assert growth("workflow_execution_duration_seconds_count", lambda: metrics.count([never])) == 0
    assert (
        growth("workflows_submitted_total", lambda: metrics.count([Accepted(False, "CWL"), Accepted(True, "x")])) == 1
    )


# Gauges


@pytest.fixture
def gauges(database: Database, clock: Clock) -> Callable[..., float | None]:
    """The value of a gauge, as it is read now."""
    registry = CollectorRegistry()
    registry.register(QueueGauges(database, ["local", "dag"], clock, lambda: clock().timestamp()))
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_gauges_tell_what_waits_where_and_for_how_long(
    database: Database, clock: Clock, gauges: Callable[..., float | None]
) -> None:
    parent = bring_to(database, State.RUNNING, clock())
    clock.advance(seconds=30)
    accept(database, clock(), parent_id=parent.run_id, step="s", provider_type="cloud")
    accept(database, clock())
    bring_to(database, State.COMPLETE, clock(), provider_type="local")
    clock.advance(seconds=10)
    names = ("wes_queue_runs", "wes_queue_oldest_seconds")
    assert [gauges(name, provider="local", state="QUEUED") for name in names] == [1, 10]
    assert [gauges(name, provider="local", state="RUNNING") for name in names] == [1, 40]
    assert [gauges(name, provider="cloud", state="QUEUED") for name in names] == [1, 10]
    assert [gauges(name, provider="dag", state="PAUSED") for name in names] == [0, 0]
    assert gauges("active_workflows_count") == 1
    assert [gauges("wes_runs", state=state) for state in ("QUEUED", "RUNNING", "COMPLETE", "CANCELED")] == [2, 1, 1, 0]


def test_gauges_ask_the_database_once_in_a_while(
    database: Database, clock: Clock, gauges: Callable[..., float | None]
) -> None:
    told = []
    for _ in range(3):
        told.append(gauges("wes_queue_runs", provider="local", state="QUEUED"))
        accept(database, clock())
        clock.advance(seconds=KEPT_SECONDS * 0.6)
    assert told == [0, 0, 2]


def test_without_a_database_there_are_no_gauges(clock: Clock) -> None:
    away = Database(create_engine("sqlite:////nowhere/at-all.sqlite"))
    registry = CollectorRegistry()
    registry.register(QueueGauges(away, ["local"], clock))
    assert b"wes_queue_runs" not in metrics.exposition(registry)
    assert b"workflows_submitted_total" in metrics.exposition(registry)


# The daemon


def test_a_run_is_as_late_as_it_was_due_before(database: Database, storage: DirectoryStorage, clock: Clock) -> None:
    world, late = World(database, storage, clock), "wes_poll_lag_seconds_sum"
    run_id = world.submit()
    clock.advance(seconds=7)
    assert growth(late, world.tick, provider="scripted", run="new") == 7
    world.platform.set(str(world.run(run_id).provider_id), State.RUNNING)
    clock.advance(seconds=1 + 40)
    assert growth(late, world.tick, provider="scripted", run="known") == 40
    assert growth(late, world.tick, provider="scripted", run="new") == 0


# Requests


@EDGE
@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("GET", f"{BASE}/runs/one", {"method": "GET", "route": f"{BASE}/runs/<string:run_id>", "status": "404"}),
        ("GET", f"/api{BASE}/runs", {"method": "GET", "route": f"{BASE}/runs", "status": "200"}),
        ("GET", "/no/such/page", {"method": "GET", "route": "none", "status": "404"}),
        ("BREW", f"{BASE}/runs", {"method": "other", "route": "none", "status": "405"}),
        ("GET", "/metrics", {"method": "GET", "route": "/metrics", "status": "200"}),
    ],
)
def test_requests_count_by_the_template_of_their_route(
    client: FlaskClient, method: str, path: str, labels: dict[str, str]
) -> None:
    assert growth("wes_http_requests_total", lambda: client.open(path, method=method), **labels) == 1


@EDGE
def test_a_request_that_waits_on_purpose_is_not_slow(client: FlaskClient) -> None:
    route = {"method": "GET", "route": f"{BASE}/runs/<string:run_id>/status"}
    seconds = "wes_http_request_duration_seconds_count"
    assert growth(seconds, lambda: client.get(f"{BASE}/runs/one/status?wait=1"), **route) == 0
    assert growth(seconds, lambda: client.get(f"{BASE}/runs/one/status"), **route) == 1


@EDGE
def test_the_api_tells_its_metrics(client: FlaskClient, database: Database, clock: Clock) -> None:
    sign_on(database, clock())
    assert growth("workflows_submitted_total", lambda: run(client)) == 1
    answer = client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert answer.content_type.startswith("text/plain; version=")
    assert families["workflows_submitted"].samples[0].value == value("workflows_submitted_total")
    assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 400


@EDGE
def test_every_metric_is_documented_and_every_documented_one_is_told(database: Database, clock: Clock) -> None:
    families = [*REGISTRY.collect(), *QueueGauges(database, [], clock).collect()]
    told = {family.name + "_total" * (family.type == "counter") for family in families}
    page = Path(__file__).parents[2] / "docs" / "monitoring.md"
    documented = re.findall(r"^\| `(\w+)` \|", page.read_text(), flags=re.M)
    assert sorted(name for name in told if not name.startswith(("python_", "process_"))) == sorted(documented)
