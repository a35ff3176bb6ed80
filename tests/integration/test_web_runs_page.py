"""The runs page, by test client: what is listed, filtered, paged and said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined

from app.artifacts import DirectoryStorage
from app.database import Database
from app.states import State
from app.web import run_list
from tests.conftest import Clock
from tests.sample_runs import SampleRuns


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


@pytest.fixture(autouse=True)
def no_undefined_names(app: Flask) -> Iterator[None]:
    """A name that a template uses and nobody passes is an error here."""
    app.jinja_env.undefined = StrictUndefined
    yield


def names_on(page: str) -> list[str]:
    return [unescape(name) for name in re.findall(r'class="run-name"[^>]*><bdi>(.*?)</bdi>', page)]


def link(page: str, element_id: str) -> str | None:
    found = re.search(rf'id="{element_id}"[^>]*href="([^"]*)"|href="([^"]*)"[^>]*id="{element_id}"', page)
    return unescape(found[1] or found[2]) if found else None


def test_every_state_is_a_shape_and_a_word(runs: SampleRuns, client: FlaskClient) -> None:
    running, ends = runs.accept("running"), [State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR]
    runs.start(running)
    for state in ends:
        runs.start(run_id := runs.accept(state.lower()))
        runs.end(run_id, state, reason="any")
    runs.accept("queued")
    page = client.get("/").text
    for state in [*ends, State.RUNNING, State.QUEUED]:
        assert re.search(
            rf'<span class="state state-{state.lower()}"><svg[^>]*><use href="[^"]*#{state.lower()}"', page
        )
        assert f"</svg>{state}</span>" in page


def test_a_row_says_what_and_when(runs: SampleRuns, clock: Clock, client: FlaskClient) -> None:
    run_id = runs.accept("align", tags={"project": "X"}, workflow_engine="cwltool")
    clock.advance(minutes=2)
    runs.start(run_id)
    clock.advance(hours=1, minutes=3)
    runs.end(run_id, State.COMPLETE)
    clock.advance(minutes=5)
    page = client.get("/").text
    assert f'href="/runs/{run_id}"' in page
    assert f'data-copy="{run_id}"' in page
    assert "cwltool · " in page
    assert '<time datetime="2026-11-20T12:00:00Z" title="2026-11-20 12:00:00 UTC" data-age>1 h ago</time>' in page
    assert '<span class="duration">1h 03m</span>' in page
    assert 'href="/?tag=project%3DX"' in page


def test_the_newest_is_first(runs: SampleRuns, clock: Clock, client: FlaskClient) -> None:
    for name in ("oldest", "middle", "newest"):
        runs.accept(name)
        clock.advance(seconds=1)
    assert names_on(client.get("/").text) == ["newest", "middle", "oldest"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", {"wgs_a", "wgs_b", "rna%"}),
        ("state=QUEUED", {"wgs_b", "rna%"}),
        ("state=COMPLETE,RUNNING", {"wgs_a"}),
        ("name=gs", {"wgs_a", "wgs_b"}),
        ("name=wgs", {"wgs_a", "wgs_b"}),
        ("name=*_b", {"wgs_b"}),
        ("name=%25", {"rna%"}),
        ("name=gs_", {"wgs_a", "wgs_b"}),
        ("tag=project=X", {"wgs_a", "rna%"}),
        ("tag=project=X&tag=batch=1", {"wgs_a"}),
        ("tag=project=", set()),
        ("workflow_type=wdl", {"rna%"}),
        ("since=30m", {"rna%"}),
        ("since=2026-11-20", {"wgs_a", "wgs_b", "rna%"}),
        ("state=QUEUED&tag=project=X&since=2h", {"rna%"}),
    ],
)
def test_filters_narrow(query: str, names: set[str], runs: SampleRuns, clock: Clock, client: FlaskClient) -> None:
    first = runs.accept("wgs_a", tags={"project": "X", "batch": "1"})
    runs.start(first)
    runs.end(first, State.COMPLETE)
    runs.accept("wgs_b", tags={"project": "Y"})
    clock.advance(hours=1)
    runs.accept("rna%", tags={"project": "X"}, workflow_type="WDL")
    answer = client.get(f"/?{query}")
    assert answer.status_code == 200
    assert set(names_on(answer.text)) == names


@pytest.mark.parametrize("query", ["state=DONE", "since=soon", "tag=x", "color=red", "older=x", "name=a%00b"])
def test_a_wrong_filter_is_said_and_nothing_is_listed(query: str, runs: SampleRuns, client: FlaskClient) -> None:
    runs.accept("visible")
    answer = client.get(f"/?{query}")
    assert answer.status_code == 400
    assert "This filter is not understood" in answer.text
    assert names_on(answer.text) == []
    assert client.get(f"/fragment?{query}").status_code == 400


def test_what_was_typed_stays_in_the_form(runs: SampleRuns, client: FlaskClient) -> None:
    page = client.get("/?since=soon&name=x%22y&tag=a=1").text
    assert 'value="soon"' in page
    assert 'value="x&#34;y"' in page
    assert 'value="a=1"' in page
    assert 'aria-describedby="problem-since"' in page


def test_tabs_count_with_the_other_filters_and_keep_them(
    runs: SampleRuns, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "COUNT_CEILING", 2)
    for name in ("a", "a", "a", "b"):
        runs.accept(name)
    runs.start(runs.accept("b"))
    page = client.get("/?name=b").text
    counts = dict(re.findall(r'id="tab-(\w+)"[^>]*>\w+\s*<span class="count">([^<]*)</span>', page))
    assert counts == {"all": "2", "queued": "1", "active": "1", "complete": "0", "failed": "0", "canceled": "0"}
    assert names_on(client.get(link(page, "tab-active") or "").text) == ["b"]
    assert re.search(r'<span class="count">2\+</span>', client.get("/").text)


def test_pages_meet_without_gap_or_overlap(
    runs: SampleRuns, client: FlaskClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "PAGE_SIZE", 3)
    for number in range(8):
        runs.accept(f"run {number}")
        if number % 3:
            clock.advance(seconds=1)
    runs.accept("other", tags={"k": "v"})
    address: str | None = "/?name=run"
    older: list[list[str]] = []
    while address:
        page = client.get(address).text
        older.append(names_on(page))
        address = link(page, "page-older")
    assert [len(names) for names in older] == [3, 3, 2]
    assert sorted(name for names in older for name in names) == [f"run {number}" for number in range(8)]
    newer: list[list[str]] = []
    address = link(page, "page-newer")
    while address:
        page = client.get(address).text
        newer.append(names_on(page))
        address = link(page, "page-newer")
    assert newer == older[-2::-1]


def test_a_run_that_comes_while_paging_moves_nothing(
    runs: SampleRuns, client: FlaskClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "PAGE_SIZE", 2)
    for number in range(4):
        clock.advance(seconds=1)
        runs.accept(f"run {number}")
    older = link(client.get("/").text, "page-older")
    clock.advance(seconds=1)
    runs.accept("run 4")
    assert names_on(client.get(older or "").text) == ["run 1", "run 0"]


def test_other_peoples_runs_are_not_there(runs: SampleRuns, client: FlaskClient) -> None:
    runs.accept("mine")
    runs.accept("theirs", owner="somebody else")
    page = client.get("/").text
    assert names_on(page) == ["mine"]
    assert "theirs" not in page


def test_the_first_visit_says_how_to_submit(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "wesctl submit examples/hello_world.cwl" in page
    assert "curl http://localhost/ga4gh/wes/v1/runs -F" in page


def test_no_match_says_how_to_see_all(runs: SampleRuns, client: FlaskClient) -> None:
    runs.accept("x")
    page = client.get("/?name=nothing").text
    assert "No run matches" in page
    assert "wesctl" not in page


def test_the_banner_is_there_while_no_daemon_lives(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    run_id = runs.accept()
    words = "python scripts/workflow_daemon.py"
    pages = ("/", "/fragment", "/?color=red", f"/runs/{run_id}", f"/runs/{run_id}/fragment")
    assert all(words in client.get(page).text for page in pages)
    runs.sign_on_daemon()
    assert not any(words in client.get(page).text for page in pages)
    clock.advance(seconds=61)
    assert all(words in client.get(page).text for page in pages)


def test_the_json_twin_lists_the_same_runs(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    runs.accept("wgs 1", tags={"a b": "c&d"})
    runs.accept("wgs 2")
    page = client.get("/?name=wgs&tag=a b=c%26d&state=QUEUED&since=1d&workflow_type=CWL").text
    twin = re.search(r'<link rel="alternate" type="application/json" href="([^"]*)"', page)
    assert twin
    answer = client.get(unescape(twin[1]))
    assert [run["tags"] for run in answer.get_json()["runs"]] == [{"a b": "c&d"}]


def test_the_fragment_is_what_the_page_shows(runs: SampleRuns, client: FlaskClient) -> None:
    runs.accept("x")
    page = client.get("/?name=x").text
    address = re.search(r'data-live-url="([^"]*)" data-etag="([^"]*)"', page)
    assert address
    fragment = client.get(unescape(address[1]))
    assert fragment.text in page
    assert fragment.headers["ETag"] == unescape(address[2])


def test_a_fragment_that_only_grew_older_is_not_sent_again(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    run_id = runs.accept()
    runs.start(run_id)
    etag = client.get("/fragment").headers["ETag"]
    clock.advance(minutes=3)
    again = client.get("/fragment", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    runs.end(run_id, State.COMPLETE)
    assert client.get("/fragment", headers={"If-None-Match": etag}).status_code == 200


def test_the_server_says_when_to_look_again(runs: SampleRuns, client: FlaskClient) -> None:
    assert 'data-poll-seconds="60"' in client.get("/fragment").text
    runs.accept()
    assert 'data-poll-seconds="3"' in client.get("/fragment").text
