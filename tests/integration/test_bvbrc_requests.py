"""BV-BRC tokens at the edge: taken from headers, kept sealed with the run, never shown, sent anew, gone with the end."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text, update

from app.credentials import BVBRC, StoredCredentials
from app.daemon.providers.provider_interface import Capabilities, EngineOffer
from app.database import Database
from app.models import Base, WorkflowRun
from tests.api_calls import BASE, EDGE, OFFERS, error_of, post, sign_on
from tests.conftest import Clock
from tests.rows import accept, row

pytestmark = EDGE
SIGNATURES = "0b5e55ed", "5ca1ab1e"
TOKEN, FRESH = (f"un=alice@patricbrc.org|tokenid=7f1e|expiry=1800000000|sig={sig}" for sig in SIGNATURES)
APP = {"workflow_url": "bvbrc:Date", "workflow_type": "BVBRC", "workflow_type_version": "1.0", "workflow_params": {}}
PIPELINE = {"workflow_name": "p", "steps": [{"step_name": "one", "app": "Date", "params": {}}]}
BVBRC_OFFER = {
    "engines": [asdict(EngineOffer("bvbrc", "1.0", {"BVBRC": ("1.0",)}))],
    "capabilities": asdict(Capabilities()),
    "problem": None,
}
DAG_OFFER = {
    "engines": [asdict(EngineOffer("dag", "1.0", {"DAG": ("1.0",)}))],
    "capabilities": asdict(Capabilities()),
    "problem": None,
}


@pytest.fixture(autouse=True)
def daemon(database: Database, clock: Clock) -> None:
    sign_on(database, clock(), {**OFFERS, "bvbrc": BVBRC_OFFER, "dag": DAG_OFFER})


def sent(token: str = TOKEN, **more: str) -> dict[str, Any]:
    return {"headers": {"X-BVBRC-Token": token, **more}}


def submit(client: FlaskClient, **more: Any) -> str:
    answer = post(client, APP, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json["run_id"])


def kept(app: Flask, run_id: str) -> str | None:
    """The token that the provider would be lent."""
    context = app.extensions["wes"]
    return StoredCredentials(context.database, context.vault, BVBRC)([run_id]).get(run_id)


def everything_stored(database: Database) -> str:
    with database.reading() as session:
        tables = (session.execute(text(f"SELECT * FROM {table}")).all() for table in Base.metadata.tables)
        return repr(list(tables))


@pytest.mark.parametrize("header", ["X-BVBRC-Token", "Authorization"])
def test_the_token_is_kept_with_the_run(app: Flask, client: FlaskClient, header: str) -> None:
    run_id = submit(client, headers={header: TOKEN})
    assert kept(app, run_id) == TOKEN


def test_it_is_shown_nowhere(client: FlaskClient, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run_id = submit(client, **sent())
        answers = [
            client.get(f"{BASE}{path}").text
            for path in ("/runs", f"/runs/{run_id}", f"/runs/{run_id}/events", f"/runs/{run_id}/tasks", "/service-info")
        ]
        answers.append(client.get(f"/runs/{run_id}").text)
        answers.append(post(client, APP | {"workflow_url": "bvbrc:../x"}, **sent()).text)
    records = [repr(vars(record)) for record in caplog.records]
    for place in [*answers, *records, everything_stored(database)]:
        assert not any(secret in place for secret in (TOKEN, "7f1e", SIGNATURES[0]))
    assert run_id in everything_stored(database)


@pytest.mark.parametrize("value", ["Bearer abc", "Basic YTpi", "un=alice"])
def test_another_authorization_is_somebody_elses(app: Flask, client: FlaskClient, value: str) -> None:
    assert kept(app, submit(client, headers={"Authorization": value})) is None


@pytest.mark.parametrize("value", ["Bearer abc", "s3cret", "un=alice"])
def test_a_header_that_holds_something_else_is_refused_and_not_repeated(client: FlaskClient, value: str) -> None:
    answer = post(client, APP, **sent(value))
    assert answer.status_code == 400
    assert "X-BVBRC-Token" in error_of(answer)
    assert value.rpartition("=")[2] not in error_of(answer)


def test_a_run_that_goes_elsewhere_keeps_none(client: FlaskClient, database: Database) -> None:
    assert post(client, **sent()).status_code == 200
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM run_credentials")).scalar_one() == 0


def test_the_token_is_no_part_of_the_request(app: Flask, client: FlaskClient) -> None:
    """The same Idempotency-Key with a fresh token is the same request; the fresh token counts."""
    key = {"Idempotency-Key": "k"}
    first, second = submit(client, **sent(TOKEN, **key)), submit(client, **sent(FRESH, **key))
    assert first == second
    assert kept(app, first) == FRESH


def test_a_run_without_a_token_is_accepted_and_waits(app: Flask, client: FlaskClient) -> None:
    assert kept(app, submit(client)) is None


def test_a_rerun_sends_it_again(app: Flask, client: FlaskClient) -> None:
    run_id = submit(client, **sent())
    again = client.post(f"{BASE}/runs/{run_id}/rerun", **sent(FRESH)).json["run_id"]
    without = client.post(f"{BASE}/runs/{run_id}/rerun").json["run_id"]
    assert (kept(app, run_id), kept(app, again), kept(app, without)) == (TOKEN, FRESH, None)


def test_a_cancelled_run_keeps_none(app: Flask, client: FlaskClient) -> None:
    run_id = submit(client, **sent())
    assert client.post(f"{BASE}/runs/{run_id}/cancel").status_code == 200
    assert kept(app, run_id) is None


def test_a_fresh_token_wakes_the_run(app: Flask, client: FlaskClient, database: Database, clock: Clock) -> None:
    run_id = submit(client)
    postpone(database, clock, run_id)
    answer = client.put(f"{BASE}/runs/{run_id}/credentials", **sent(FRESH))
    assert (answer.status_code, answer.json) == (200, {"run_id": run_id})
    assert kept(app, run_id) == FRESH
    assert row(database, run_id).due_at == clock()


def test_a_fresh_token_is_for_the_whole_pipeline(
    app: Flask, client: FlaskClient, database: Database, clock: Clock
) -> None:
    top = client.post("/api/v1/workflows/submit", json=PIPELINE, headers={"Authorization": TOKEN}).json["run_id"]
    steps = [accept(database, clock(), provider_type="bvbrc", owner="local", parent_id=top, step=name) for name in "ab"]
    for run_id in top, *steps:
        postpone(database, clock, run_id)
    assert kept(app, steps[0]) == TOKEN
    assert client.put(f"{BASE}/runs/{steps[0]}/credentials", **sent(FRESH)).status_code == 200
    assert [kept(app, run_id) for run_id in (top, *steps)] == [FRESH] * 3
    assert [row(database, run_id).due_at for run_id in (top, *steps)] == [clock()] * 3


@pytest.mark.parametrize(("headers", "status"), [({}, 400), ({"X-BVBRC-Token": "x"}, 400)])
def test_a_fresh_token_has_to_be_one(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    assert client.put(f"{BASE}/runs/{submit(client)}/credentials", headers=headers).status_code == status


def test_a_fresh_token_for_nothing(client: FlaskClient) -> None:
    ended, elsewhere = submit(client, **sent()), str(post(client).json["run_id"])
    client.post(f"{BASE}/runs/{ended}/cancel")
    for run_id, status in (("nobody", 404), (ended, 409), (elsewhere, 409)):
        answer = client.put(f"{BASE}/runs/{run_id}/credentials", **sent(FRESH))
        assert answer.status_code == status
        assert error_of(answer)


@pytest.mark.parametrize("url", ["bvbrc:Date", "BVBRC:Date"])
def test_the_scheme_tells_provider_and_type(client: FlaskClient, database: Database, url: str) -> None:
    answer = client.post(f"{BASE}/runs", json={"workflow_url": url})
    run = row(database, str(answer.json["run_id"]))
    assert (run.provider_type, run.workflow_type, run.workflow_type_version) == ("bvbrc", "BVBRC", "1.0")


def test_a_bare_name_is_an_app_where_the_engine_says_so(client: FlaskClient, database: Database) -> None:
    fields = {"workflow_url": "Date", "workflow_type": "bvbrc", "workflow_engine": "bvbrc"}
    answer = client.post(f"{BASE}/runs", json=fields)
    assert row(database, str(answer.json["run_id"])).provider_type == "bvbrc"


@pytest.mark.parametrize("url", ["bvbrc:", "bvbrc:a b", "bvbrc:../x", "bvbrc:1", "bvbrc://host/Date"])
def test_what_names_no_app_is_malformed(client: FlaskClient, url: str) -> None:
    answer = client.post(f"{BASE}/runs", json={"workflow_url": url, "workflow_type": "BVBRC"})
    assert answer.status_code == 400
    assert "bvbrc:<app>" in error_of(answer)


def test_other_types_do_not_go_there(client: FlaskClient) -> None:
    answer = post(client, {"workflow_url": "bvbrc:Date"})
    assert answer.status_code == 400


def postpone(database: Database, clock: Clock, run_id: str) -> None:
    """As the daemon does with a run that waits for something."""
    later = update(WorkflowRun).where(WorkflowRun.run_id == run_id).values(due_at=clock() + timedelta(hours=1))
    database.transact(lambda session: session.execute(later))
