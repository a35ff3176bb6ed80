"""Who may ask at all, from where, and whose runs are seen: I6, and the Security section of RELIABILITY.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Request
from flask.testing import FlaskClient

from app.artifacts import DirectoryStorage
from app.auth import PUBLIC_ENDPOINTS
from app.database import Database
from app.factory import create_app
from app.runs import transitions
from app.states import State
from config import Settings
from tests.api_calls import BASE, EDGE, HELLO, error_of, post, run
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def by_header(request: Request) -> str | None:
    """Stands for accounts: whoever says a name is that user."""
    return request.headers.get("X-User")


@pytest.fixture
def multi_user(settings: Settings, clock: Clock) -> Iterator[Flask]:
    app = create_app(settings, clock, identify=by_header)
    app.testing = True
    yield app
    app.extensions["wes"].database.engine.dispose()


@pytest.fixture
def ann(multi_user: Flask) -> FlaskClient:
    return as_user(multi_user, "ann")


@pytest.fixture
def bob(multi_user: Flask) -> FlaskClient:
    return as_user(multi_user, "bob")


def as_user(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_X_USER"] = name
    return client


@pytest.fixture
def anns_run(database: Database, storage: DirectoryStorage, clock: Clock) -> str:
    samples = SampleRuns(database, storage, clock)
    run_id = samples.accept(owner="ann", tags={"secret": "yes"}, name="anns")
    samples.start(run_id)
    samples.log(run_id, "stdout", "secret")
    samples.log(run_id, "tasks/t1/stdout", "secret")
    samples.output(run_id, "secret.txt", b"secret")
    samples.end(run_id, State.COMPLETE, tasks=[task("t1", has_stdout=True)])
    return run_id


def addresses(app: Flask, run_id: str) -> list[tuple[str, str, str]]:
    """(endpoint, method, path) of every route, its arguments filled in."""
    values = {"run_id": run_id, "task_id": "t1", "stream": "stdout", "path": "secret.txt"}
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:<>]+:)?(\w+)>", lambda name: values.get(name[1], "x"), rule.rule)
        found += [(rule.endpoint, method, path) for method in sorted((rule.methods or set()) & set(METHODS))]
    return found


@EDGE
def test_every_route_that_is_not_public_asks_for_credentials(multi_user: Flask, anns_run: str) -> None:
    nobody = multi_user.test_client()
    checked = 0
    for endpoint, method, path in addresses(multi_user, anns_run):
        answer = nobody.open(path, method=method)
        if endpoint in PUBLIC_ENDPOINTS:
            assert answer.status_code != 401, path
        else:
            checked += 1
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"]
    assert checked > 15


@EDGE
def test_public_is_a_short_list_of_things_that_exist(app: Flask) -> None:
    assert {rule.endpoint for rule in app.url_map.iter_rules()} >= PUBLIC_ENDPOINTS
    shows_runs = re.compile("run|task|output|log|event")
    assert [name for name in PUBLIC_ENDPOINTS if shows_runs.search(name)] == []


def test_without_credentials_the_answer_is_401_in_our_shape(multi_user: Flask) -> None:
    answer = multi_user.test_client().get(f"{BASE}/runs")
    assert answer.status_code == 401
    error_of(answer)


def test_I6_other_peoples_runs_are_404_on_every_route(multi_user: Flask, bob: FlaskClient, anns_run: str) -> None:
    paths = [
        (method, path)
        for endpoint, method, path in addresses(multi_user, anns_run)
        if anns_run in path and endpoint not in PUBLIC_ENDPOINTS and not endpoint.startswith("web.")
    ]
    assert len(paths) > 10
    for method, path in paths:
        answer = bob.open(path, method=method)
        assert answer.status_code == 404, (method, path)
        assert b"secret" not in answer.data
        unknown = bob.open(path.replace(anns_run, "0" * 36), method=method)
        assert unknown.status_code == 404
        assert unknown.text.replace("0" * 36, "") == answer.text.replace(anns_run, "")


def test_I6_the_owner_sees_every_one_of_them(multi_user: Flask, ann: FlaskClient, anns_run: str) -> None:
    for endpoint, method, path in addresses(multi_user, anns_run):
        if anns_run in path and method == "GET" and not endpoint.startswith("web."):
            assert ann.open(path).status_code == 200, path


def test_I6_lists_counts_and_tokens_are_the_callers_own(
    ann: FlaskClient, bob: FlaskClient, anns_run: str, clock: Clock
) -> None:
    for _ in range(2):
        clock.advance(seconds=1)
        run(ann)
    assert [one["run_id"] for one in ann.get(f"{BASE}/runs").json["runs"]][-1] == anns_run
    nothing = {"runs": [], "next_page_token": "", "total_runs": 0}
    for query in ("", "user=ann", "tag.secret=yes", "name=*", "state=COMPLETE", f"parent={anns_run}"):
        assert bob.get(f"{BASE}/runs?{query}").json == nothing
    token = ann.get(f"{BASE}/runs?page_size=1").json["next_page_token"]
    assert ann.get(f"{BASE}/runs?page_token={token}").status_code == 200
    assert bob.get(f"{BASE}/runs?page_token={token}").status_code == 400
    assert set(bob.get(f"{BASE}/service-info").json["system_state_counts"].values()) == {0}
    assert ann.get(f"{BASE}/service-info").json["system_state_counts"]["COMPLETE"] == 1


def test_I6_idempotency_keys_are_the_callers_own(ann: FlaskClient, bob: FlaskClient) -> None:
    key = {"Idempotency-Key": "k"}
    assert run(ann, headers=key) != run(bob, headers=key)


def test_I6_a_refused_cancel_or_delete_changes_nothing(
    bob: FlaskClient, ann: FlaskClient, database: Database, clock: Clock
) -> None:
    run_id = run(ann)
    assert bob.post(f"{BASE}/runs/{run_id}/cancel").status_code == 404
    assert ann.get(f"{BASE}/runs/{run_id}/status").json["state"] == "QUEUED"
    database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="ann"))
    assert bob.delete(f"{BASE}/runs/{run_id}").status_code == 404
    assert ann.get(f"{BASE}/runs/{run_id}/status").status_code == 200


@EDGE
@pytest.mark.parametrize("changes", [{"allowed_hosts": ("WES.example.org",), "public_url": "https://public.example/x"}])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:5000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:5000", 200),
        ("wes.example.org", 200),
        ("WES.EXAMPLE.ORG:8000", 200),
        ("public.example", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("evil.example:5000", 400),
        ("127.0.0.1.evil.example", 400),
        ("127.0.0.2", 400),
        ("", 400),
        ("localhost@evil.example", 400),
        ("[::1", 400),
        ("[:::", 400),
    ],
)
def test_unknown_host_names_are_refused(client: FlaskClient, host: str, status: int) -> None:
    for path in (f"{BASE}/service-info", "/healthz"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == status
        if status != 200:
            error_of(answer)


SAME = {"Origin": "http://localhost"}


@EDGE
@pytest.mark.parametrize("changes", [{"allowed_origins": ("https://portal.example.org",), "public_url": ""}])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (SAME, 200),
        ({**SAME, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://portal.example.org", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://localhost"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_change_nothing(client: FlaskClient, headers: dict[str, str], status: int) -> None:
    answer = post(client, headers=headers)
    assert answer.status_code == status
    if status == 403:
        error_of(answer)
        assert client.get(f"{BASE}/runs").json["runs"] == []
    assert client.get(f"{BASE}/runs", headers=headers).status_code == 200


@EDGE
@pytest.mark.parametrize("changes", [{"allowed_origins": ("https://portal.example.org",)}])
def test_a_listed_origin_may_ask_before_it_sends(multi_user: Flask) -> None:
    headers = {"Origin": "https://portal.example.org", "Access-Control-Request-Method": "POST"}
    answer = multi_user.test_client().options(f"{BASE}/runs", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://portal.example.org"
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]


@EDGE
def test_the_user_of_a_loopback_service_is_local(client: FlaskClient, database: Database) -> None:
    run_id = run(client)
    (event,) = client.get(f"{BASE}/runs/{run_id}/events").json["events"]
    assert event["by"] == "local"


@EDGE
def test_downloads_cannot_run_in_a_browser(ann: FlaskClient, anns_run: str) -> None:
    answer = ann.get(f"{BASE}/runs/{anns_run}/outputs/secret.txt")
    expected: dict[str, Any] = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": "attachment; filename*=UTF-8''secret.txt",
        "Content-Type": "application/octet-stream",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert ann.get(f"{BASE}/service-info").headers["X-Content-Type-Options"] == "nosniff"
    assert ann.post(f"{BASE}/runs", json=HELLO).headers["X-Content-Type-Options"] == "nosniff"
