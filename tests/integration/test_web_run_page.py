"""A run's page, by test client: its state, its failure, tasks, logs and outputs, and what its buttons do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined
from werkzeug.test import TestResponse

from app import fleet
from app.artifacts import DirectoryStorage
from app.database import Database
from app.models import Daemon
from app.runs import listing
from app.states import State
from app.watching import Waiters
from app.web import run_page
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""What differs between databases is tested on the runs page and below the pages."""

UNKNOWN = "0f0f0f0f-0000-4000-8000-000000000000"


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


@pytest.fixture(autouse=True)
def no_undefined_names(app: Flask) -> Iterator[None]:
    app.jinja_env.undefined = StrictUndefined
    yield


@pytest.fixture
def running(runs: SampleRuns) -> str:
    run_id = runs.accept("align")
    runs.start(run_id)
    return run_id


def section(page: str, element_id: str) -> str:
    """The text of one part of the page, up to the next."""
    found = re.search(rf'id="{element_id}"(.*?)(?:<section|<form|</main>)', page, re.DOTALL)
    assert found, f"no part {element_id}"
    return unescape(re.sub(r"<[^>]*>", "", found[1]))


def links(page: str) -> list[str]:
    return [unescape(href) for href in re.findall(r'<a [^>]*?href="([^"]*)"', page)]


def press(client: FlaskClient, run_id: str, what: str, **headers: str) -> TestResponse:
    """Send the form of the run's page, token and all."""
    page = client.get(f"/runs/{run_id}").text
    form = re.search(rf'<form id="{what}-form".*?</form>', page, re.DOTALL)
    assert form
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0]))
    return client.post(f"/runs/{run_id}/{what}", data=fields, headers=headers)


def state_of(database: Database, run_id: str) -> State:
    with database.reading() as session:
        return listing.get_state(session, run_id, None)


@pytest.mark.parametrize("path", ["", "/fragment"])
@pytest.mark.parametrize("run_id", [UNKNOWN, "nonsense", "..", "%00", "1" * 300])
def test_an_unknown_run_is_a_404_page(path: str, run_id: str, client: FlaskClient) -> None:
    answer = client.get(f"/runs/{run_id}{path}")
    assert answer.status_code == 404
    assert answer.content_type.startswith("text/html")
    assert "Not found" in answer.text


def test_another_users_run_looks_like_none(runs: SampleRuns, client: FlaskClient, database: Database) -> None:
    mine, theirs = runs.accept("mine"), runs.accept("secret name", owner="somebody else")
    token = re.search(r'name="csrf_token" value="([^"]*)"', client.get(f"/runs/{mine}").text)
    assert token
    answers = [client.get(f"/runs/{theirs}{path}") for path in ("", "/fragment")]
    answers += [client.post(f"/runs/{theirs}/{verb}", data={"csrf_token": token[1]}) for verb in ("cancel", "rerun")]
    assert [answer.status_code for answer in answers] == [404] * 4
    assert not any("secret" in answer.text for answer in answers)
    assert state_of(database, theirs) == State.QUEUED


def test_the_head_says_what_happens_now(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    run_id = runs.accept("align")
    assert "Waiting for a daemon to take it" in section(client.get(f"/runs/{run_id}").text, "run-head")
    runs.start(run_id, provider_status="STARTING")
    clock.advance(seconds=12)
    head = section(client.get(f"/runs/{run_id}").text, "run-head")
    assert f"local-{run_id[:8]}" in head
    assert "Running for 12s" in head
    assert "STARTING · last observed 12 s ago" in head


def test_a_queued_run_waits_for_what_its_provider_waits_for(
    client: FlaskClient, runs: SampleRuns, database: Database, clock: Clock
) -> None:
    run_id = runs.accept("align")
    offers = {"local": {"engines": [], "capabilities": {}, "problem": "Rate exceeded"}}
    daemon = Daemon(id="d", host="h", hostname="h", version="1", started_at=clock(), last_seen=clock(), offers=offers)
    database.transact(lambda session: session.add(daemon))
    assert "Waiting: Rate exceeded" in section(client.get(f"/runs/{run_id}").text, "run-head")
    clock.advance(hours=1)
    database.transact(lambda session: fleet.beat(session, "d", clock(), {"local": {"problem": None}}))
    assert "Rate exceeded" not in client.get(f"/runs/{run_id}").text


def test_the_head_says_what_it_waits_for(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept("align")
    runs.postpone(run_id, waiting_for="local does not answer: <refused>")
    assert "Waiting: local does not answer: <refused>" in section(client.get(f"/runs/{run_id}").text, "run-head")


def test_the_head_says_how_it_ended(runs: SampleRuns, running: str, client: FlaskClient, clock: Clock) -> None:
    clock.advance(hours=1, minutes=3)
    runs.end(running, State.COMPLETE, exit_code=0)
    clock.advance(minutes=2)
    head = re.sub(r"\s+", " ", section(client.get(f"/runs/{running}").text, "run-head"))
    assert "Ended 2 min ago after 1h 03m, exit code 0." in head


def test_a_failure_comes_first_with_reason_task_and_last_lines(
    runs: SampleRuns, running: str, client: FlaskClient
) -> None:
    runs.log(running, "stderr", "the engine's own words\n")
    runs.log(running, "tasks/call-1/stderr", "".join(f"line {number}\n" for number in range(30)))
    tasks = [task("align-1", exit_code=0), task("call-1", "call", exit_code=137, has_stderr=True)]
    runs.end(running, State.EXECUTOR_ERROR, "Step call failed.", reason="step_failed", exit_code=1, tasks=tasks)
    page = client.get(f"/runs/{running}").text
    card = section(page, "failure")
    assert page.index('id="failure"') < page.index('id="tasks"') < page.index('id="logs"') < page.index('id="outputs"')
    assert "Step call failed." in card
    assert "step_failed" in card
    assert "call" in card and "exit code 137" in card
    assert "line 10\n" in card and "line 29" in card
    assert "line 9\n" not in card
    assert f"/runs/{running}?log=tasks/call-1/stderr#logs" in links(page)


def test_a_failure_without_task_logs_shows_the_runs(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.log(running, "stdout", "only here\n")
    runs.end(running, State.SYSTEM_ERROR, "The host is gone.", reason="host_lost", exit_code=127)
    card = section(client.get(f"/runs/{running}").text, "failure")
    assert "The service could not finish this run" in card
    assert "host_lost" in card
    assert "127 (the command was not found)" in card
    assert "only here" in card


@pytest.mark.parametrize("state", [State.COMPLETE, State.CANCELED])
def test_an_end_that_is_no_failure_has_no_card(
    state: State, runs: SampleRuns, running: str, client: FlaskClient
) -> None:
    runs.end(running, state)
    page = client.get(f"/runs/{running}").text
    assert '<section id="failure" data-live class="failure" hidden>' in page and "failure-title" not in page


def test_the_timeline_has_every_change_with_who_and_why(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.end(running, State.COMPLETE, "all went well")
    timeline = section(client.get(f"/runs/{running}").text, "timeline")
    found = re.findall(r"COMPLETE|RUNNING|INITIALIZING|QUEUED|accepted by the provider|by daemon|by local", timeline)
    assert found == [
        *("COMPLETE", "by daemon", "RUNNING", "by daemon", "by daemon", "accepted by the provider"),
        *("INITIALIZING", "by daemon", "QUEUED", "by local"),
    ]
    assert "all went well" in timeline
    assert "2026-11-20 12:00:00 UTC" in timeline


def test_tasks_say_their_state(runs: SampleRuns, running: str, client: FlaskClient, clock: Clock) -> None:
    start = clock() - timedelta(minutes=5)
    runs.set_tasks(
        running,
        [
            task("a", start_time=start, end_time=start + timedelta(minutes=1), exit_code=0, has_stdout=True),
            task("b", start_time=start, exit_code=2, end_time=clock()),
            task("c", start_time=start),
            task("d"),
        ],
    )
    page = client.get(f"/runs/{running}").text
    words = section(page, "tasks").split()
    assert [word for word in words if word in ("running", "waiting", "0", "2")] == ["0", "2", "running", "waiting"]
    assert f"/runs/{running}?log=tasks/a/stdout#logs" in links(page)


def test_many_tasks_come_in_pages(
    runs: SampleRuns, running: str, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "TASKS_SHOWN", 2)
    runs.set_tasks(running, [task(f"t{number}", f"task{number}") for number in range(5)])
    seen, address = [], f"/runs/{running}"
    while address:
        page = client.get(address).text
        seen.append(re.findall(r"task\d", section(page, "tasks")))
        address = next((link for link in links(page) if "tasks_after" in link), "")
    assert seen == [["task0", "task1"], ["task2", "task3"], ["task4"]]


@pytest.mark.parametrize("word", ["x", "-2", "99999999999999999999", "1e3", "٣"])
def test_a_wrong_place_in_the_tasks_is_said(word: str, running: str, client: FlaskClient) -> None:
    assert client.get(f"/runs/{running}?tasks_after={word}").status_code == 400


def test_a_log_is_shown_from_its_end_as_text(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.log(running, "stderr", "".join(f"[{number:06}] \x1b[31mword\x1b[0m <b>\n" for number in range(5000)))
    page = client.get(f"/runs/{running}").text
    shown = re.findall(r"\[(\d{6})\] word &lt;b&gt;\n", page)
    assert shown[-1] == "004999"
    assert 1000 < len(shown) < 5000
    assert shown == sorted(shown)
    assert "The last 66 kB of" in section(page, "logs")


def test_the_stream_with_something_in_it_is_chosen(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.log(running, "stdout", "on stdout\n")
    assert "on stdout" in section(client.get(f"/runs/{running}").text, "logs")
    runs.log(running, "stderr", "on stderr\n")
    assert "on stderr" in section(client.get(f"/runs/{running}").text, "logs")
    assert "on stdout" in section(client.get(f"/runs/{running}?log=stdout").text, "logs")


def test_a_tasks_log_can_be_chosen_and_read_whole(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.set_tasks(running, [task("a.b-1", "trim & cut", has_stderr=True)])
    runs.log(running, "tasks/a.b-1/stderr", "0123456789")
    page = client.get(f"/runs/{running}?log=tasks/a.b-1/stderr").text
    assert "stderr of trim & cut" in section(page, "logs")
    (raw,) = [link for link in links(page) if link.startswith("/ga4gh/") and "/logs/" in link]
    assert client.get(raw).text == "0123456789"
    assert client.get(raw, headers={"Range": "bytes=-3"}).data == b"789"


@pytest.mark.parametrize(
    "name", ["stdin", "../stdout", "tasks/none/stdout", "tasks/../../x/stdout", "tasks//stdout", "%00"]
)
def test_a_log_that_is_none_is_a_404(name: str, running: str, client: FlaskClient) -> None:
    assert client.get(f"/runs/{running}?log={name}").status_code == 404


def test_looking_at_an_active_run_asks_for_its_log_now_and_then(
    running: str, client: FlaskClient, database: Database, clock: Clock
) -> None:
    def wanted() -> object:
        with database.reading() as session:
            return listing.get_run(session, running, None).log_wanted_at

    client.get(f"/runs/{running}")
    first = clock()
    assert wanted() == first
    clock.advance(seconds=2)
    client.get(f"/runs/{running}/fragment")
    assert wanted() == first
    clock.advance(seconds=4)
    client.get(f"/runs/{running}/fragment")
    assert wanted() == clock()


def test_outputs_can_be_downloaded(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    kept = runs.output(running, "sub dir/näme#1.txt", b"content")
    runs.end(
        running, State.COMPLETE, outputs={"table": kept, "n": 3, "where": {"class": "File", "location": "s3://b/k"}}
    )
    page = client.get(f"/runs/{running}").text
    outputs = section(page, "outputs")
    assert "näme#1.txt" in outputs and "7 B" in outputs and "s3://b/k" in outputs
    (address,) = [link for link in links(page) if "/outputs/" in link]
    download = client.get(address)
    assert download.data == b"content"
    assert download.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "Outputs appear here when the run is complete"),
        (State.COMPLETE, "produced no outputs"),
        (State.CANCELED, "did not complete"),
    ],
)
def test_no_outputs_are_explained(
    state: State | None, words: str, runs: SampleRuns, running: str, client: FlaskClient
) -> None:
    if state:
        runs.end(running, state)
    assert words in section(client.get(f"/runs/{running}").text, "outputs")


def test_the_request_is_shown_with_its_json_twin(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept(workflow_params={"ä": [1, {"b": None}]}, workflow_engine_parameters={"--parallel": None})
    page = client.get(f"/runs/{run_id}").text
    assert '"ä": [\n    1,' in section(page, "request")
    assert '"--parallel": null' in section(page, "request")
    twin = re.search(r'<link rel="alternate" type="application/json" href="([^"]*)"', page)
    assert twin
    assert client.get(twin[1]).get_json()["request"]["workflow_params"] == {"ä": [1, {"b": None}]}


def test_huge_parameters_are_cut(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept(workflow_params={"x": "y" * 500_000})
    page = client.get(f"/runs/{run_id}").text
    assert "cut here" in page
    assert len(page) < 200_000


def test_the_fragment_is_held_until_the_state_is_new(
    runs: SampleRuns, running: str, client: FlaskClient, app: Flask
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            runs.end(running, State.COMPLETE)

    app.extensions["wes"] = replace(app.extensions["wes"], waiters=Waiters(1, pause))
    address = f"/runs/{running}/fragment"
    known = {"If-None-Match": client.get(address).headers["ETag"]}
    assert client.get(address, headers=known).status_code == 304
    assert client.get(f"{address}?wait=20").status_code == 200  # something is new to this client
    assert pauses == []
    assert "COMPLETE" in client.get(f"{address}?wait=20", headers=known).text
    assert len(pauses) == 3
    assert client.get(f"{address}?wait=soon").status_code == 400


def test_a_run_over_is_not_asked_for_again(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    assert 'data-poll-seconds="3"' in client.get(f"/runs/{running}/fragment").text
    runs.end(running, State.COMPLETE)
    assert 'data-poll-seconds="0"' in client.get(f"/runs/{running}/fragment").text
    assert "data-live-pause" not in client.get(f"/runs/{running}").text


def test_the_fragment_is_what_the_page_shows(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.set_tasks(running, [task("t", has_stdout=True)])
    page = client.get(f"/runs/{running}?log=tasks/t/stdout").text
    address = re.search(r'data-live-url="([^"]*)" data-etag="([^"]*)"', page)
    assert address
    fragment = client.get(unescape(address[1]))
    assert fragment.text in page
    assert fragment.headers["ETag"] == unescape(address[2])
    assert client.get(unescape(address[1]), headers={"If-None-Match": unescape(address[2])}).status_code == 304


def test_cancel_ends_a_queued_run_at_once(runs: SampleRuns, client: FlaskClient, database: Database) -> None:
    run_id = runs.accept()
    answer = press(client, run_id, "cancel")
    assert (answer.status_code, answer.location) == (303, f"/runs/{run_id}")
    assert state_of(database, run_id) == State.CANCELED
    assert "Asked for the end of this run." in client.get(f"/runs/{run_id}").text


def test_cancel_asks_the_provider_of_a_running_run(running: str, client: FlaskClient, database: Database) -> None:
    press(client, running, "cancel")
    assert state_of(database, running) == State.CANCELING
    page = client.get(f"/runs/{running}").text
    assert "Waiting for the provider to end it" in page
    assert "cancel-now" not in page


def test_cancel_leaves_an_ended_run_alone(
    runs: SampleRuns, running: str, client: FlaskClient, database: Database
) -> None:
    runs.end(running, State.COMPLETE)
    press(client, running, "cancel")
    assert state_of(database, running) == State.COMPLETE
    assert "had already ended" in client.get(f"/runs/{running}").text


@pytest.mark.parametrize("token", [None, "", "forged"])
@pytest.mark.parametrize("verb", ["cancel", "rerun"])
def test_a_form_that_is_not_ours_does_nothing(
    token: str | None, verb: str, running: str, client: FlaskClient, database: Database
) -> None:
    answer = client.post(f"/runs/{running}/{verb}", data={} if token is None else {"csrf_token": token})
    assert answer.status_code == 400
    assert "reload the page" in answer.text
    assert state_of(database, running) == State.RUNNING


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_form_from_another_site_does_nothing(
    headers: dict[str, str], running: str, client: FlaskClient, database: Database
) -> None:
    assert press(client, running, "cancel", **headers).status_code == 403
    assert state_of(database, running) == State.RUNNING


@pytest.mark.parametrize("verb", ["cancel", "rerun"])
def test_looking_never_changes_anything(verb: str, running: str, client: FlaskClient) -> None:
    answer = client.get(f"/runs/{running}/{verb}")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]


def test_run_again_makes_one_new_run_however_often_it_is_pressed(
    runs: SampleRuns, client: FlaskClient, database: Database
) -> None:
    url = "https://example.org/workflow.cwl"
    run_id = runs.accept("again", workflow_url=url, workflow_params={"a": 1}, tags={"k": "v"})
    runs.start(run_id)
    runs.end(run_id, State.EXECUTOR_ERROR)
    page = client.get(f"/runs/{run_id}").text
    form = re.search(r'<form id="rerun-form".*?</form>', page, re.DOTALL)
    assert form
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0]))
    places = {client.post(f"/runs/{run_id}/rerun", data=fields).location for _ in range(2)}
    (place,) = places
    assert place != f"/runs/{run_id}"
    new = client.get(place).text
    assert "this is the new run" in new
    assert '"a": 1' in section(new, "request")
    assert press(client, run_id, "rerun").location not in places


def test_a_long_reason_is_a_headline_and_a_text(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.log(running, "stderr", "  first words\nlast words\n")
    runs.end(running, State.EXECUTOR_ERROR, "Step a failed:\n  last words\nand the engine says more")
    page = client.get(f"/runs/{running}").text
    assert '<p class="failure-message">Step a failed</p>' in page
    assert "and the engine says more" in section(page, "failure")
    assert re.search(r"<summary>Step a failed:</summary>Step a failed:\n  last words", page)


def test_a_reason_that_only_repeats_the_log_is_said_once(runs: SampleRuns, running: str, client: FlaskClient) -> None:
    runs.log(running, "stderr", "first words\nlast words\n")
    runs.end(running, State.EXECUTOR_ERROR, "Step a failed:\n  last words")
    assert section(client.get(f"/runs/{running}").text, "failure").count("last words") == 1
