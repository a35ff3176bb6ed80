"""WES.md, "Responses": one test or more for each numbered point, through the API on both databases."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.artifacts import DirectoryStorage, output_location
from app.database import Database
from app.factory import create_app
from app.runs import transitions
from app.states import State
from config import Settings
from tests.api_calls import ALIAS, BASE, EDGE, HELLO, error_of, post, run, sign_on
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
EVERY_STATE = list(State)


@pytest.fixture
def samples(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


@pytest.fixture
def complete(samples: SampleRuns, clock: Clock) -> str:
    """A run with all that a run can have."""
    run_id = samples.accept(workflow_params={"who": "world"}, tags={"project": "X"}, workflow_engine="cwltool")
    samples.start(run_id, cmd=["cwltool", "main.cwl"])
    samples.log(run_id, "stdout", "out\n")
    samples.log(run_id, "tasks/t1/stderr", "task error\n")
    outputs = {
        "report": samples.output(run_id, "report é.txt", b"0123456789"),
        "many": [{"class": "Directory", "location": output_location("dir"), "listing": []}, 3, None],
        "remote": {"class": "File", "location": "s3://bucket/x"},
        "number": 1.5,
    }
    steps = [task("t1", cmd=["sort"], exit_code=0, has_stderr=True, start_time=clock(), end_time=clock()), task("t2")]
    clock.advance(seconds=90.7)
    samples.end(run_id, State.COMPLETE, "all done", outputs=outputs, tasks=steps, exit_code=0)
    return run_id


def bring_to(samples: SampleRuns, database: Database, clock: Clock, state: State) -> str:
    run_id = samples.accept()
    if state in (State.QUEUED, State.CANCELED):
        pass
    elif state == State.INITIALIZING:
        samples.move(run_id, State.INITIALIZING)
    else:
        samples.start(run_id)
    if state in (State.CANCELING, State.CANCELED):
        database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="local"))
    elif state == State.PAUSED:
        samples.move(run_id, State.PAUSED)
    elif state in (State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR):
        samples.end(run_id, state, reason="because" if state == State.SYSTEM_ERROR else None)
    return run_id


def state_of(client: FlaskClient, run_id: str) -> str:
    answer = client.get(f"{BASE}/runs/{run_id}/status")
    assert set(answer.json) == {"run_id", "state"}
    return str(answer.json["state"])


def pages(client: FlaskClient, query: str = "") -> list[list[str]]:
    """The run ids of every page."""
    found, token = [], ""
    while True:
        answer = client.get(f"{BASE}/runs?{query}&page_token={token}")
        assert answer.status_code == 200, answer.text
        found.append([one["run_id"] for one in answer.json["runs"]])
        if not (token := answer.json["next_page_token"]):
            return found


def test_1_post_answers_the_run_id(client: FlaskClient) -> None:
    answer = post(client)
    assert answer.status_code == 200
    assert list(answer.json) == ["run_id"]
    assert state_of(client, answer.json["run_id"]) == "QUEUED"


@pytest.mark.parametrize("state", EVERY_STATE)
def test_1_cancel_is_idempotent_in_every_state(
    client: FlaskClient, samples: SampleRuns, database: Database, clock: Clock, state: State
) -> None:
    run_id = bring_to(samples, database, clock, state)
    expected = {State.QUEUED: "CANCELED"} | dict.fromkeys(
        (State.INITIALIZING, State.RUNNING, State.PAUSED, State.CANCELING), "CANCELING"
    )
    for _ in range(2):
        answer = client.post(f"{BASE}/runs/{run_id}/cancel")
        assert (answer.status_code, answer.json) == (200, {"run_id": run_id})
        assert state_of(client, run_id) == expected.get(state, state)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/status"),
        ("GET", "/tasks"),
        ("GET", "/tasks/t"),
        ("POST", "/cancel"),
        ("POST", "/rerun"),
        ("GET", "/events"),
        ("GET", "/outputs"),
        ("GET", "/outputs/x"),
        ("GET", "/logs/stdout"),
        ("GET", "/tasks/t/logs/stderr"),
    ],
)
def test_2_unknown_and_malformed_ids_are_404(client: FlaskClient, method: str, path: str) -> None:
    for run_id in (UNKNOWN_ID, "x", "%00", "a%00b", "..", "%2e%2e", "a%2Fb", "ü", "x" * 3000, "%F0%28"):
        answer = client.open(f"{BASE}/runs/{run_id}{path}", method=method)
        assert answer.status_code == 404
        error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "", 404),
        ("GET", "/", 404),
        ("POST", "/service-info", 405),
        ("DELETE", "/runs", 405),
        ("PUT", "/runs", 405),
        ("GET", "/runs/validate/x/y/z", 404),
        ("GET", "/runs?page_size=x", 400),
    ],
)
@pytest.mark.parametrize("base", [BASE, ALIAS])
def test_2_every_error_has_the_same_shape(client: FlaskClient, base: str, method: str, path: str, status: int) -> None:
    answer = client.open(base + path, method=method)
    assert answer.status_code == status
    error_of(answer)
    assert ("Allow" in answer.headers) == (status == 405)


def test_3_content_type_is_exactly_json(client: FlaskClient, complete: str) -> None:
    for path in ("/service-info", "/runs", f"/runs/{complete}", f"/runs/{complete}/status", f"/runs/{complete}/tasks"):
        for accept in ("application/json", "*/*", "text/html", "text/plain", "application/xml"):
            answer = client.get(BASE + path, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")


def test_4_dates_are_utc_in_whole_seconds(client: FlaskClient, complete: str) -> None:
    log = client.get(f"{BASE}/runs/{complete}").json
    (summary,) = client.get(f"{BASE}/runs").json["runs"]
    for times in (log["run_log"], log["task_logs"][0], summary):
        assert DATE.fullmatch(times["start_time"])
        assert DATE.fullmatch(times["end_time"])
    assert summary["end_time"] == "2026-11-20T12:01:30Z"


def test_4_what_is_not_known_is_left_out(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    log = client.get(f"{BASE}/runs/{run_id}").json
    assert set(log["run_log"]) == {"name", "stdout", "stderr", "system_logs"}
    assert set(log["request"]) == {
        "workflow_type", "workflow_type_version", "workflow_url", "workflow_params", "workflow_engine_parameters", "tags",
    }  # fmt: skip
    (summary,) = client.get(f"{BASE}/runs").json["runs"]
    assert set(summary) == {"run_id", "state", "name", "submitted_at", "tags"}


def nulls(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in nulls(item, f"{path}/{key}")]
    if isinstance(value, list):
        return [found for item in value for found in nulls(item, path)]
    return [path] if value is None or value == "" else []


@pytest.mark.parametrize("state", EVERY_STATE)
def test_4_no_field_is_null_or_empty_in_any_state(
    client: FlaskClient, samples: SampleRuns, database: Database, clock: Clock, state: State
) -> None:
    run_id = bring_to(samples, database, clock, state)
    assert nulls(client.get(f"{BASE}/runs/{run_id}").json) == []
    assert nulls(client.get(f"{BASE}/runs").json) == ["/next_page_token"]


@pytest.mark.parametrize("exit_code", [0, 1, 33, 137])
def test_4_exit_codes_pass_through(client: FlaskClient, samples: SampleRuns, exit_code: int) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    samples.end(run_id, State.EXECUTOR_ERROR if exit_code else State.COMPLETE, exit_code=exit_code)
    assert client.get(f"{BASE}/runs/{run_id}").json["run_log"]["exit_code"] == exit_code


def test_5_pages_newest_first_without_gap_or_repetition(client: FlaskClient, samples: SampleRuns, clock: Clock) -> None:
    made = []
    for number in range(7):
        made.append(samples.accept())
        clock.advance(seconds=number % 2)  # some at the same time: then the id decides
    made.reverse()
    assert pages(client, "page_size=2") == [made[:2], made[2:4], made[4:6], made[6:]]


def test_5_paging_shows_the_list_as_it_was_at_the_first_page(
    client: FlaskClient, samples: SampleRuns, clock: Clock
) -> None:
    old = [samples.accept() for _ in range(3)]
    first = client.get(f"{BASE}/runs?page_size=2").json
    clock.advance(seconds=1)
    samples.accept()
    second = client.get(f"{BASE}/runs?page_size=2&page_token={first['next_page_token']}").json
    assert [one["run_id"] for one in first["runs"] + second["runs"]] == old[::-1]
    assert (first["total_runs"], second["total_runs"]) == (3, 3)


def test_5_tokens_are_signed_and_bound_to_their_query(client: FlaskClient, samples: SampleRuns) -> None:
    for _ in range(3):
        run_id = samples.accept(tags={"a": "b"})
    token = client.get(f"{BASE}/runs?page_size=1&tag.a=b").json["next_page_token"]
    assert client.get(f"{BASE}/runs?page_size=2&tag.a=b&page_token={token}").status_code == 200
    for query in (
        f"page_token={token}",
        f"tag.a=c&page_token={token}",
        f"tag.a=b&page_token={token[:-1]}",
        f"tag.a=b&page_token=x{token}",
        "page_token=%00",
        "page_token=ü",
        "page_token=.eJx.x",
    ):
        answer = client.get(f"{BASE}/runs?{query}")
        assert answer.status_code == 400
        assert "page_token" in error_of(answer)
    assert client.get(f"{BASE}/runs/{run_id}/tasks?page_token={token}").status_code == 400


def test_5_a_token_outlives_a_restart_and_a_second_process(
    client: FlaskClient, samples: SampleRuns, settings: Settings, clock: Clock
) -> None:
    made = [samples.accept() for _ in range(2)]
    token = client.get(f"{BASE}/runs?page_size=1").json["next_page_token"]
    other = create_app(settings, clock)
    (rest,) = other.test_client().get(f"{BASE}/runs?page_size=1&page_token={token}").json["runs"]
    other.extensions["wes"].database.engine.dispose()
    assert rest["run_id"] == made[0]


@EDGE
@pytest.mark.parametrize("path", ["/runs", "/runs/{}/tasks"])
@pytest.mark.parametrize("page_size", ["0", "-1", "x", "1.5", "1e3", "²", "%00", "00"])
def test_5_a_page_size_below_1_is_400(client: FlaskClient, path: str, page_size: str) -> None:
    answer = client.get(BASE + path.format(run(client)) + f"?page_size={page_size}")
    assert answer.status_code == 400
    assert "page_size" in error_of(answer)


@pytest.mark.parametrize("changes", [{"max_page_size": 2, "default_page_size": 1}])
@pytest.mark.parametrize(("page_size", "expected"), [("", 1), ("1", 1), ("3", 2), ("9" * 30, 2), ("002", 2)])
def test_5_page_size_is_clamped(client: FlaskClient, samples: SampleRuns, page_size: str, expected: int) -> None:
    for _ in range(3):
        samples.accept()
    assert len(client.get(f"{BASE}/runs?page_size={page_size}").json["runs"]) == expected


def test_5_a_summary_has_tags_always_and_a_name(client: FlaskClient, samples: SampleRuns) -> None:
    samples.accept(name="first")
    samples.accept(name="second", tags={"a": "b"})
    listed = client.get(f"{BASE}/runs").json["runs"]
    assert [(one["name"], one["tags"]) for one in listed] == [("second", {"a": "b"}), ("first", {})]


def test_5_filters_narrow_the_list(client: FlaskClient, samples: SampleRuns, clock: Clock) -> None:
    one = samples.accept(name="wgs-one", tags={"project": "X", "n": "1"})
    clock.advance(hours=1)
    two = samples.accept(name="two", tags={"project": "X"}, workflow_type="WDL", workflow_url="https://e.org/a?b=c")
    samples.start(two)
    clock.advance(hours=1)
    three = samples.accept(name="three", provider_type="dag")
    step = samples.accept(name="step of one", parent_id=one, step="s", tags={"project": "X"})
    expected = {
        "state=RUNNING": [two],
        "state=RUNNING,QUEUED": [three, two, one],
        "state=RUNNING&state=QUEUED": [three, two, one],
        "tag.project=X": [two, one],
        "tag.project=X&tag.n=1": [one],
        "tag.project=Y": [],
        "name=*o*": [two, one],
        "name=two": [two],
        "name=%25": [],
        "workflow_type=wdl": [two],
        "workflow_url=https%3A//e.org/a%3Fb%3Dc": [two],
        "provider=dag": [three],
        "user=local": [three, two, one],
        "user=ann": [],
        f"parent={one}": [step],
        f"parent={one}&state=QUEUED&name=step*": [step],
        f"parent={one}&state=RUNNING": [],
        "since=2026-11-20T13:00:00Z": [three, two],
        "until=2026-11-20T14:00:00%2B01:00": [one],
        "since=2026-11-20T12:30:00&until=2026-11-20T13:30:00Z": [two],
        'filters={"tags": {"project": "X"}, "state": "RUNNING"}': [two],
        'filters={"state": ["RUNNING", "QUEUED"], "workflow_url": "https://e.org/a?b=c"}': [two],
        "filters={}": [three, two, one],
        "filters=": [three, two, one],
        "unknown=x": [three, two, one],
    }
    for query, run_ids in expected.items():
        answer = client.get(f"{BASE}/runs", query_string=query.replace("?b", "%3Fb"))
        assert [found["run_id"] for found in answer.json["runs"]] == run_ids, query
        assert answer.json["total_runs"] == len(run_ids)


@EDGE
@pytest.mark.parametrize(
    "query",
    [
        "state=NONSENSE",
        "state=running",
        "since=yesterday",
        "until=0001-01-01T00:00:00%2B23:00",
        "filters={",
        "filters=[]",
        'filters={"nonsense": 1}',
        'filters={"tags": []}',
        'filters={"tags": {"a": 1}}',
        'filters={"state": 1}',
        'filters={"name": {}}',
        "filters=" + "[" * 2000,
        "name=%00",
        "tag.%00=x",
        "tag.a=%00",
        "user=%0a",
        "workflow_url=" + "x" * 9000,
    ],
)
def test_5_filters_that_mean_nothing_are_400(client: FlaskClient, query: str) -> None:
    answer = client.get(f"{BASE}/runs?{query}")
    assert answer.status_code == 400
    error_of(answer)


def test_6_a_run_log_has_all_that_is_known(client: FlaskClient, complete: str) -> None:
    log = client.get(f"{BASE}/runs/{complete}").json
    url = f"http://localhost{BASE}/runs/{complete}"
    assert log["request"]["workflow_params"] == {"who": "world"}
    assert log["state"] == "COMPLETE"
    assert log["run_log"]["cmd"] == ["cwltool", "main.cwl"]
    assert log["run_log"]["exit_code"] == 0
    assert (log["run_log"]["stdout"], log["run_log"]["stderr"]) == (f"{url}/logs/stdout", f"{url}/logs/stderr")
    assert log["task_logs_url"] == f"{url}/tasks"
    assert [one["id"] for one in log["task_logs"]] == ["t1", "t2"]
    assert log["task_logs"] == client.get(log["task_logs_url"]).json["task_logs"]


def test_6_system_logs_tell_the_history_in_words(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    samples.end(run_id, State.SYSTEM_ERROR, "The machine is on fire.", reason="fire")
    lines = client.get(f"{BASE}/runs/{run_id}").json["run_log"]["system_logs"]
    assert lines[0] == "2026-11-20T12:00:00Z QUEUED: accepted (local)"
    assert lines[-1] == "2026-11-20T12:00:00Z SYSTEM_ERROR: fire: The machine is on fire. (daemon)"
    assert len(lines) >= 4


def test_6_outputs_are_the_engines_object_with_addresses_that_work(client: FlaskClient, complete: str) -> None:
    outputs = client.get(f"{BASE}/runs/{complete}").json["outputs"]
    url = f"http://localhost{BASE}/runs/{complete}/outputs"
    assert outputs["report"]["location"] == f"{url}/report%20%C3%A9.txt"
    assert client.get(outputs["report"]["location"]).data == b"0123456789"
    assert outputs["many"] == [{"class": "Directory", "location": f"{url}/dir", "listing": []}, 3, None]
    assert outputs["remote"] == {"class": "File", "location": "s3://bucket/x"}
    assert outputs["number"] == 1.5


def test_6_inline_tasks_are_capped(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    samples.set_tasks(run_id, [task(f"t{number}") for number in range(1005)])
    assert len(client.get(f"{BASE}/runs/{run_id}").json["task_logs"]) == 1000
    page = client.get(f"{BASE}/runs/{run_id}/tasks?page_size=1000").json
    assert len(page["task_logs"]) == 1000
    rest = client.get(f"{BASE}/runs/{run_id}/tasks?page_size=1000&page_token={page['next_page_token']}").json
    assert [one["id"] for one in rest["task_logs"]] == [f"t{number}" for number in range(1000, 1005)]
    assert rest["next_page_token"] == ""


def test_7_log_addresses_are_ours_absolute_and_plain(client: FlaskClient, complete: str) -> None:
    log = client.get(f"{BASE}/runs/{complete}").json
    for address in (log["run_log"]["stdout"], log["run_log"]["stderr"], log["task_logs"][0]["stderr"]):
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query) == ("http", "localhost", "")
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.mimetype == "text/plain"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert client.get(log["run_log"]["stdout"]).data == b"out\n"
    assert client.get(log["task_logs"][0]["stderr"]).data == b"task error\n"


def test_7_a_log_that_is_not_there_yet_is_empty(client: FlaskClient, samples: SampleRuns, complete: str) -> None:
    waiting = samples.accept()
    for path in (f"{waiting}/logs/stdout", f"{complete}/logs/stderr", f"{complete}/tasks/t2/logs/stdout"):
        answer = client.get(f"{BASE}/runs/{path}", headers={"Range": "bytes=0-"})
        assert (answer.status_code, answer.data, answer.mimetype) == (200, b"", "text/plain")


@pytest.mark.parametrize(
    ("asked", "status", "data", "content_range"),
    [
        ("bytes=0-", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=4-6", 206, b"456", "bytes 4-6/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-99", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=x", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
    ],
)
@pytest.mark.parametrize("path", ["logs/stderr", "outputs/digits"])
def test_7_ranges(
    client: FlaskClient, samples: SampleRuns, path: str, asked: str, status: int, data: bytes, content_range: str | None
) -> None:
    run_id = samples.accept()
    samples.log(run_id, "stderr", "0123456789")
    samples.output(run_id, "digits", b"0123456789")
    answer = client.get(f"{BASE}/runs/{run_id}/{path}", headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    if data is None:
        error_of(answer)
    else:
        assert (answer.data, answer.content_length) == (data, len(data))


def test_7_a_log_that_grows_while_it_is_sent_ends_where_it_was(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    samples.log(run_id, "stdout", "x" * 3_000_000)
    answer = client.get(f"{BASE}/runs/{run_id}/logs/stdout", buffered=False)
    samples.log(run_id, "stdout", "y" * 1000)
    assert answer.content_length == 3_000_000
    assert answer.data == b"x" * 3_000_000
    answer.close()


@pytest.mark.parametrize(
    ("changes", "headers", "expected"),
    [
        ({}, {}, "http://localhost"),
        ({}, {"Host": "127.0.0.1:5000"}, "http://127.0.0.1:5000"),
        ({}, {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}, "http://localhost"),
        ({"public_url": "https://wes.example.org/lab/"}, {}, "https://wes.example.org/lab"),
        (
            {"trusted_proxies": 1, "allowed_hosts": ("wes.example.org",)},
            {"X-Forwarded-Host": "wes.example.org", "X-Forwarded-Proto": "https"},
            "https://wes.example.org",
        ),
        (
            {"trusted_proxies": 1, "allowed_hosts": ("wes.example.org",)},
            {"X-Forwarded-Host": "evil.example, wes.example.org", "X-Forwarded-Proto": "http, https"},
            "https://wes.example.org",
        ),
    ],
)
@pytest.mark.parametrize("base", [BASE, ALIAS])
@EDGE
def test_7_absolute_addresses_come_from_trusted_words_only(
    client: FlaskClient, base: str, headers: dict[str, str], expected: str
) -> None:
    run_id = run(client)
    log = client.get(f"{base}/runs/{run_id}", headers=headers).json
    assert log["task_logs_url"] == f"{expected}{base}/runs/{run_id}/tasks"
    assert log["run_log"]["stdout"] == f"{expected}{base}/runs/{run_id}/logs/stdout"


def test_8_tasks_of_any_run_are_a_list(client: FlaskClient, samples: SampleRuns) -> None:
    answer = client.get(f"{BASE}/runs/{samples.accept()}/tasks")
    assert answer.json == {"task_logs": [], "next_page_token": ""}


def test_8_a_task_by_its_id(client: FlaskClient, complete: str) -> None:
    listed = client.get(f"{BASE}/runs/{complete}/tasks").json["task_logs"]
    assert client.get(f"{BASE}/runs/{complete}/tasks/t1").json == listed[0]
    assert listed[0]["exit_code"] == 0
    assert "stdout" not in listed[0]
    for unknown in ("t3", "%00", "x" * 3000):
        assert client.get(f"{BASE}/runs/{complete}/tasks/{unknown}").status_code == 404


def test_8_paging_of_tasks(client: FlaskClient, complete: str) -> None:
    first = client.get(f"{BASE}/runs/{complete}/tasks?page_size=1").json
    assert [one["id"] for one in first["task_logs"]] == ["t1"]
    second = client.get(f"{BASE}/runs/{complete}/tasks?page_size=1&page_token={first['next_page_token']}").json
    assert ([one["id"] for one in second["task_logs"]], second["next_page_token"]) == (["t2"], "")


def test_9_service_info_tells_what_is_really_there(
    client: FlaskClient, database: Database, clock: Clock, samples: SampleRuns
) -> None:
    sign_on(database, clock())
    samples.accept()
    samples.accept(owner="somebody else")
    info = client.get(f"{BASE}/service-info").json
    assert info["type"] == {"group": "org.ga4gh", "artifact": "wes", "version": "1.1.0"}
    assert info["supported_wes_versions"] == ["1.0", "1.0.0", "1.1", "1.1.0"]
    assert info["workflow_type_versions"] == {"CWL": {"workflow_type_version": ["v1.0", "v1.1", "v1.2"]}}
    assert info["workflow_engine_versions"] == {"cwltool": {"workflow_engine_version": ["3.3"]}}
    assert info["default_workflow_engine_parameters"] == [{"name": "outdir", "type": "string", "default_value": "out"}]
    assert info["supported_filesystem_protocols"] == ["file", "http", "https"]
    assert info["system_state_counts"] == {str(state): int(state == State.QUEUED) for state in State}
    assert json.loads(info["tags"]["provider:local"])["task_logs"] is True
    assert set(info) >= {
        "id", "name", "description", "organization", "contactUrl", "documentationUrl", "createdAt", "updatedAt",
        "environment", "version",
    }  # fmt: skip
    assert client.get(info["auth_instructions_url"]).status_code == 200
    assert client.get(info["documentationUrl"]).status_code == 200


def test_9_service_info_is_public_and_tells_nobody_about_runs(
    settings: Settings, samples: SampleRuns, clock: Clock
) -> None:
    samples.accept()
    app = create_app(settings, clock, identify=lambda request: None)
    answer = app.test_client().get(f"{BASE}/service-info")
    app.extensions["wes"].database.engine.dispose()
    assert answer.status_code == 200
    assert set(answer.json["system_state_counts"].values()) == {0}


@pytest.mark.parametrize("base", [BASE, ALIAS])
def test_10_a_slash_at_the_end_changes_nothing(client: FlaskClient, base: str) -> None:
    answer = client.post(f"{base}/runs/", json=HELLO)
    assert answer.status_code == 200
    for path in ("/runs/", "/service-info/", f"/runs/{answer.json['run_id']}/"):
        assert client.get(base + path).status_code == 200


@pytest.mark.parametrize("changes", [{}, {"allowed_origins": ("https://portal.example.org",)}])
@EDGE
def test_10_other_origins_read_nothing_unless_they_are_listed(client: FlaskClient, settings: Settings) -> None:
    for origin in ("https://portal.example.org", "https://evil.example", "null"):
        answer = client.get(f"{BASE}/service-info", headers={"Origin": origin})
        allowed = origin if origin in settings.allowed_origins else None
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert ("Origin" in answer.headers.get("Vary", "")) == bool(settings.allowed_origins)


def test_the_same_api_answers_under_both_base_paths(app: Flask, client: FlaskClient) -> None:
    run_id = run(client)
    assert client.get(f"{ALIAS}/runs/{run_id}/status").json == client.get(f"{BASE}/runs/{run_id}/status").json
    made = client.post(f"{ALIAS}/runs", json=HELLO).json["run_id"]
    assert client.get(f"{BASE}/runs/{made}/status").status_code == 200
    assert client.get("/api/ga4gh/wes/v1x/runs").status_code == 404
    assert client.get("/api/healthz").status_code == 404


def test_waiting_ends_at_once_where_there_is_nothing_to_wait_for(
    client: FlaskClient, complete: str, samples: SampleRuns
) -> None:
    assert state_of(client, complete) == "COMPLETE"
    assert client.get(f"{BASE}/runs/{complete}/status?wait=50").json["state"] == "COMPLETE"
    waiting = samples.accept()
    assert client.get(f"{BASE}/runs/{waiting}/status?wait=0").json["state"] == "QUEUED"
    for wait in ("x", "-1", "nan", "inf", "1e99"):
        assert client.get(f"{BASE}/runs/{waiting}/status?wait={wait}").status_code == 400


def test_times_of_other_zones_are_told_in_utc(client: FlaskClient, samples: SampleRuns, clock: Clock) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    clock.advance(seconds=timedelta(hours=2).total_seconds())
    samples.end(run_id, State.COMPLETE, end_time=clock().astimezone())
    assert client.get(f"{BASE}/runs/{run_id}").json["run_log"]["end_time"] == "2026-11-20T14:00:00Z"
