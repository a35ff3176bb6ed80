"""Every page: its headers, hostile text in every place, errors in words, and nobody's credentials."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined

from app.artifacts import DirectoryStorage
from app.database import Database
from app.factory import create_app
from app.states import State
from config import Settings
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""What differs between databases is tested on the runs page and below the pages."""

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}\u202e"
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


@pytest.fixture
def hostile_run(runs: SampleRuns, app: Flask) -> str:
    """A run with hostile text wherever a user, a provider or a workflow can put some."""
    app.jinja_env.undefined = StrictUndefined
    run_id = runs.accept(
        HOSTILE,
        tags={HOSTILE: HOSTILE},
        workflow_url=f"javascript:alert(1)//{HOSTILE}",
        workflow_params={HOSTILE: HOSTILE},
        workflow_engine=HOSTILE[:64],
        workflow_engine_version=HOSTILE[:64],
        workflow_engine_parameters={HOSTILE: HOSTILE},
    )
    runs.start(run_id, provider_status=HOSTILE)
    for name in ("stdout", "stderr", "tasks/t/stderr"):
        runs.log(run_id, name, HOSTILE)
    outputs = {
        HOSTILE: runs.output(run_id, "<b>.txt", b"x") | {"basename": HOSTILE},
        "link": {"class": "File", "location": f"javascript:alert(3)//{HOSTILE}"},
        "web": f"https://example.org/{HOSTILE}",
        "list": [{HOSTILE: HOSTILE}],
    }
    tasks = [task("t", HOSTILE, exit_code=1, has_stderr=True)]
    runs.end(run_id, State.EXECUTOR_ERROR, HOSTILE, reason=HOSTILE, outputs=outputs, tasks=tasks)
    return run_id


class Page(HTMLParser):
    """The tags of a page, read as a browser would."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def all_pages(client: FlaskClient, run_id: str) -> list[str]:
    ways = [f"/runs/{run_id}", f"/runs/{run_id}/fragment", f"/runs/{run_id}?log=tasks/t/stderr", "/", "/fragment"]
    typed = {
        "name": HOSTILE,
        "tag": HOSTILE,
        "since": HOSTILE,
        "state": HOSTILE,
        "workflow_type": HOSTILE,
        HOSTILE: "x",
    }
    pages = [client.get(way).text for way in ways]
    return [*pages, client.get("/", query_string=typed).text, client.get("/" + HOSTILE).text]


def test_hostile_text_makes_no_tag_attribute_or_address(hostile_run: str, client: FlaskClient) -> None:
    for html in all_pages(client, hostile_run):
        for tag, attributes in Page(html).tags:
            assert tag != "img"
            assert tag != "script" or re.fullmatch(r"/static/\w+\.js", attributes["src"] or "")
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            for name in ("href", "src", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#", "https://example.org/"))


def test_hostile_text_is_still_readable(hostile_run: str, client: FlaskClient) -> None:
    page = client.get(f"/runs/{hostile_run}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{7*7}}" in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/?x=1", 400),
        ("/nothing", 404),
        ("/runs/nothing", 404),
        ("/runs/RUN", 200),
        ("/runs/RUN/cancel", 405),
    ],
)
def test_every_page_has_a_strict_policy(path: str, status: int, runs: SampleRuns, client: FlaskClient) -> None:
    answer = client.get(path.replace("RUN", runs.accept()))
    assert answer.status_code == status
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_everything_that_a_page_loads_is_ours_and_there(runs: SampleRuns, client: FlaskClient) -> None:
    page = Page(client.get(f"/runs/{runs.accept()}").text)
    loaded = [attributes["src"] for tag, attributes in page.tags if tag == "script"]
    loaded += [a["href"] for tag, a in page.tags if tag == "link" and a["rel"] != "alternate"]
    loaded += [attributes["href"] for tag, attributes in page.tags if tag == "use"]
    assert len(loaded) > 5
    for address in loaded:
        assert client.get((address or "").partition("#")[0], buffered=True).status_code == 200


def test_every_icon_that_is_used_is_drawn(hostile_run: str, client: FlaskClient) -> None:
    drawn = set(re.findall(r'<symbol [^>]*id="(\w+)"', client.get("/static/icons.svg", buffered=True).text))
    used = {
        address.partition("#")[2]
        for page in all_pages(client, hostile_run)
        for address in re.findall(r'<use href="([^"]*)"', page)
    }
    assert used <= drawn
    assert {state.lower() for state in State} <= drawn


def test_pages_need_no_script(runs: SampleRuns, client: FlaskClient) -> None:
    """What happens on a page is a link or a form; buttons that only a script serves are hidden without it."""
    run_id = runs.accept()
    for path in ("/", f"/runs/{run_id}"):
        for tag, attributes in Page(client.get(path).text).tags:
            if tag == "button" and attributes.get("type") == "button":
                assert "copy" in (attributes.get("class") or "") or "data-live-pause" in attributes
            assert attributes.get("href") != "#"
    css = client.get("/static/ui.css", buffered=True).text
    assert re.search(r"^\.copy \{ display: none;", css, re.MULTILINE)
    assert re.search(r"^\.live-bar \{ display: none;", css, re.MULTILINE)


def test_nobody_sees_nothing(settings: Settings, clock: Clock, runs: SampleRuns) -> None:
    run_id = runs.accept("secret")
    app = create_app(settings, clock, identify=lambda request: None)
    client = app.test_client()
    for path in ("/", "/fragment", f"/runs/{run_id}", f"/runs/{run_id}/fragment"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "WWW-Authenticate" in answer.headers
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert "secret" not in answer.text
    assert client.post(f"/runs/{run_id}/cancel").status_code == 401
    app.extensions["wes"].database.engine.dispose()


def test_another_host_name_is_refused(client: FlaskClient) -> None:
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 400


def test_a_database_that_is_away_is_a_page_in_words(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"database_uri": f"sqlite:///{tmp_path}/nowhere/wes.sqlite"})
    answer = create_app(away).test_client().get("/")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "Not available for a while" in answer.text


@pytest.mark.parametrize("changes", [{"public_url": "https://wes.example.org"}])
def test_the_cookie_is_kept_from_scripts_and_other_sites(runs: SampleRuns, client: FlaskClient) -> None:
    cookie = client.get(f"/runs/{runs.accept()}").headers["Set-Cookie"]
    assert cookie.startswith("wes_session=")
    for word in ("HttpOnly", "SameSite=Lax", "Secure"):
        assert word in cookie


def test_the_api_reads_and_sets_no_cookie(runs: SampleRuns, client: FlaskClient) -> None:
    client.get(f"/runs/{runs.accept()}")
    client.set_cookie("wes_session", "spoilt")
    answer = client.get("/ga4gh/wes/v1/runs")
    assert answer.status_code == 200
    assert not {"Set-Cookie", "Vary"} & set(answer.headers.keys())
