"""The steps on a run's page: a picture whose nodes lead to runs and logs, and a table that says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import StrictUndefined
from sqlalchemy import event

from app.artifacts import DirectoryStorage
from app.dag.layout import MAX_NODES
from app.database import Database
from app.states import State
from app.web.step_graph import ROWS_SHOWN
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<img src=x onerror=alert(1)>\"'&]]>${x}"
QC = "class: Workflow\nsteps: {first: {run: t.cwl, in: {}}, second: {run: t.cwl, in: {x: first/o}}}"
WORKFLOW = """
cwlVersion: v1.2
class: Workflow
steps:
  trim: {run: tool.cwl, scatter: reads, in: {reads: samples}, out: [o]}
  trim_2: {run: tool.cwl, in: {reads: samples}, out: [o]}
  qc: {run: qc.cwl, in: {x: trim/o}, out: [o]}
  report: {run: tool.cwl, in: {all: {source: [trim/o, trim_2/o, qc/o]}}, out: [o]}
"""


pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


@pytest.fixture(autouse=True)
def no_undefined_names(app: Flask) -> Iterator[None]:
    app.jinja_env.undefined = StrictUndefined
    yield


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "tool.cwl", **fields}


def document(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"workflow_name": "p", "steps": list(steps)}


DIAMOND = document(
    step("split"),
    step("left", scatter={"over": [1, 2, 3]}, depends_on=["split"]),
    step("right", depends_on=["split"]),
    step("join", depends_on=["left", "right"]),
)


def accept_cwl(runs: SampleRuns, text: str = WORKFLOW, **changes: Any) -> str:
    attachments = (runs.attach(text, "wf.cwl"), runs.attach(QC, "qc.cwl"))
    return runs.accept("cwl", **{"workflow_url": "wf.cwl", "attachments": attachments} | changes)


def page_of(client: FlaskClient, run_id: str) -> str:
    answer = client.get(f"/runs/{run_id}")
    assert answer.status_code == 200
    return answer.text


def picture(page: str) -> ElementTree.Element:
    """What is drawn, read strictly: as XML."""
    found = re.search(r'<section id="steps".*?(<svg width.*?)</div>', page, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[1].replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def nodes(page: str) -> dict[str, tuple[str, str | None]]:
    """Step -> (what is said of it, where its node leads)."""
    found = {}
    for node in picture(page).iterfind("*[@transform]"):
        name, _, said = (node.findtext(f"{SVG}title") or "").rpartition(": ")
        found[name] = (said, node.get("href"))
    return found


def table(page: str) -> dict[str, list[str]]:
    """Step -> the other cells of its row, as text."""
    found = re.search(r'<table class="[^"]*step-table.*?</table>', page, re.DOTALL)
    assert found
    rows = re.findall(r"<tr role=\"row\">(.*?)</tr>", found[0], re.DOTALL)
    cells = [[" ".join(unescape(re.sub(r"<[^>]*>", " ", cell)).split()) for cell in _cells(row)] for row in rows]
    return {name: others for name, *others in cells}


def _cells(row: str) -> list[str]:
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)


def counts(page: str) -> str:
    found = re.search(r'<p class="step-counts">(.*?)</p>', page, re.DOTALL)
    assert found
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", found[1])).split())


def test_a_pipelines_steps_are_drawn_and_lead_to_their_runs(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept_pipeline(DIAMOND)
    assert nodes(page_of(client, run_id)) == {
        "split": ("ready", None),
        "left": ("pending, 0/3", None),
        "right": ("pending", None),
        "join": ("pending", None),
    }
    split = runs.accept_step(run_id, "split", State.COMPLETE)
    left = [
        runs.accept_step(run_id, "left", state, shard) for shard, state in enumerate([State.COMPLETE, State.RUNNING])
    ]
    right = runs.accept_step(run_id, "right", State.EXECUTOR_ERROR)
    page = page_of(client, run_id)
    assert nodes(page) == {
        "split": ("succeeded", f"/runs/{split}"),
        "left": ("running, 1/3", f"/runs/{left[1]}"),
        "right": ("failed", f"/runs/{right}"),
        "join": ("upstream failed", None),
    }
    assert table(page) == {
        "Step": ["State", "Runs", "Waits for"],
        "split": ["succeeded", "1 succeeded", "– nothing"],
        "left": ["running", "1 running 1 succeeded", "split"],
        "right": ["failed", "1 failed", "split"],
        "join": ["upstream failed", "– none", "left , right"],
    }
    assert counts(page) == "1 failed 1 running 1 upstream failed 1 succeeded"
    assert len(picture(page).findall(f"{SVG}g/{SVG}path")) == 4


def test_a_scatter_leads_to_the_run_that_failed(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept_pipeline(DIAMOND)
    runs.accept_step(run_id, "split", State.COMPLETE)
    runs.accept_step(run_id, "left", State.EXECUTOR_ERROR, 0)
    second = runs.accept_step(run_id, "left", State.EXECUTOR_ERROR, 0, try_number=2)
    runs.accept_step(run_id, "left", State.RUNNING, 1)
    assert nodes(page_of(client, run_id))["left"][0] == "running, 0/3, 1 failed"
    for shard in (1, 2):
        runs.accept_step(run_id, "left", State.COMPLETE, shard, try_number=2)
    page = page_of(client, run_id)
    assert nodes(page)["left"] == ("failed, 2/3", f"/runs/{second}")
    assert f'href="/runs/{second}" id="part-{second}" aria-label="1 failed of left"' in page


def test_a_scatter_over_what_another_step_put_out_is_counted_by_that(runs: SampleRuns, client: FlaskClient) -> None:
    over = "${steps.split.outputs.parts}"
    run_id = runs.accept_pipeline(document(step("split"), step("each", scatter={"over": over})))
    assert nodes(page_of(client, run_id))["each"] == ("pending", None)
    runs.accept_step(run_id, "split", State.COMPLETE, outputs={"parts": [1, 2, 3, 4]})
    assert nodes(page_of(client, run_id))["each"] == ("ready, 0/4", None)
    runs.accept_step(run_id, "each", State.COMPLETE)
    assert nodes(page_of(client, run_id))["each"][0] == "ready, 1/4"


def test_a_cwl_runs_steps_are_drawn_and_lead_to_their_logs(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    run_id = accept_cwl(runs)
    assert nodes(page_of(client, run_id))["report"] == ("pending", None)
    runs.start(run_id)
    done: dict[str, Any] = {"start_time": clock(), "end_time": clock(), "exit_code": 0}
    begun = [
        task("trim", **done, has_stderr=True),
        task("trim_3", **done, has_stderr=True),
        task("trim_4", start_time=clock()),
        task("trim_2", **done, has_stdout=True),
    ]
    runs.set_tasks(run_id, begun)
    page = page_of(client, run_id)
    assert nodes(page) == {
        "trim": ("running, 2 done", f"/runs/{run_id}?log=tasks/trim_4/stdout#logs"),
        "trim_2": ("succeeded", f"/runs/{run_id}?log=tasks/trim_2/stdout#logs"),
        "qc": ("pending", None),
        "report": ("pending", None),
    }
    begun[2] |= {"end_time": clock(), "exit_code": 1}
    ended = [*begun, task("first", **done), task("second", **done | {"exit_code": 3}, has_stderr=True), task("other")]
    runs.end(run_id, State.EXECUTOR_ERROR, tasks=ended)
    page = page_of(client, run_id)
    assert nodes(page) == {
        "trim": ("failed, 2/3", f"/runs/{run_id}?log=tasks/trim_4/stdout#logs"),
        "trim_2": ("succeeded", f"/runs/{run_id}?log=tasks/trim_2/stdout#logs"),
        "qc": ("failed", f"/runs/{run_id}?log=tasks/second/stderr#logs"),
        "report": ("not run", None),
    }
    assert table(page)["Step"] == ["State", "Tasks", "Waits for"]
    assert table(page)["trim"] == ["failed", "1 failed 2 succeeded", "– nothing"]
    assert client.get(f"/runs/{run_id}?log=tasks/second/stderr").status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"workflow_url": "https://example.org/wf.cwl"},
        {"workflow_url": "other.cwl"},
        {"workflow_type": "WDL"},
        {"workflow_url": "qc.cwl#none", "attachments": ()},
    ],
)
def test_where_the_graph_is_not_known_there_is_no_picture(
    runs: SampleRuns, client: FlaskClient, changes: dict[str, Any]
) -> None:
    run_id = accept_cwl(runs, **changes)
    assert '<section id="steps" data-live hidden></section>' in page_of(client, run_id)
    runs.start(run_id)
    runs.end(run_id, State.COMPLETE)
    assert 'id="steps"' not in page_of(client, run_id)


@pytest.mark.parametrize("text", ["class: CommandLineTool", "- " * 50_000, b"\xff\xfe", "&a [*a]", "steps: {"])
def test_a_document_that_is_no_workflow_gives_no_picture(runs: SampleRuns, client: FlaskClient, text: Any) -> None:
    assert '<section id="steps" data-live hidden></section>' in page_of(client, accept_cwl(runs, text))


def test_an_attachment_that_is_gone_gives_no_picture(
    runs: SampleRuns, client: FlaskClient, storage: DirectoryStorage
) -> None:
    run_id = accept_cwl(runs)
    storage.sweep(frozenset, lambda hashes: frozenset(), older_than_seconds=-60)
    assert '<section id="steps" data-live hidden></section>' in page_of(client, run_id)


def test_a_pipeline_that_no_daemon_has_taken_gets_its_picture_with_that(runs: SampleRuns, client: FlaskClient) -> None:
    run_id = runs.accept("p", provider_type="dag", workflow_type="DAG")
    fragment = client.get(f"/runs/{run_id}/fragment").text
    assert '<section id="steps" data-live hidden></section>' in fragment
    runs.start(run_id, {"document": DIAMOND, "sheets": {}})
    assert list(nodes(page_of(client, run_id))) == ["split", "left", "right", "join"]


def test_hostile_names_stay_text(runs: SampleRuns, client: FlaskClient) -> None:
    name = HOSTILE.replace('"', '\\"')
    run_id = accept_cwl(runs, f'class: Workflow\nsteps: {{"{name}": {{in: {{}}}}, b: {{in: {{x: "{name}/o"}}}}}}')
    page = page_of(client, run_id)
    assert "<img" not in page
    assert nodes(page)[HOSTILE] == ("pending", None)
    assert table(page)["b"][-1] == HOSTILE


def test_the_live_part_changes_only_when_a_step_does(runs: SampleRuns, client: FlaskClient, clock: Clock) -> None:
    run_id = runs.accept_pipeline(DIAMOND)
    first = client.get(f"/runs/{run_id}/fragment")
    clock.advance(seconds=2)
    asked = {"If-None-Match": first.headers["ETag"]}
    assert client.get(f"/runs/{run_id}/fragment", headers=asked).status_code == 304
    runs.accept_step(run_id, "split", State.RUNNING)
    changed = client.get(f"/runs/{run_id}/fragment", headers=asked)
    assert changed.status_code == 200
    assert nodes(changed.text)["split"][0] == "running"


def test_too_many_steps_are_told_of_and_not_drawn(runs: SampleRuns, client: FlaskClient) -> None:
    many = [step(f"s{number:04}", depends_on=["first"]) for number in range(1000)]
    run_id = runs.accept_pipeline(document(step("first"), *many))
    runs.accept_step(run_id, "first", State.COMPLETE)
    runs.accept_step(run_id, "s0900", State.EXECUTOR_ERROR)
    runs.accept_step(run_id, "s0950", State.RUNNING)
    page = page_of(client, run_id)
    assert "<svg width" not in page
    assert "1001 steps with 1000 edges between them are too many to draw." in page
    assert counts(page) == "1 failed 1 running 998 ready 1 succeeded"
    assert list(table(page))[1:4] == ["s0900", "s0950", "s0000"]
    assert len(table(page)) == ROWS_SHOWN + 1


@pytest.mark.parametrize("shape", ["wide", "deep", "scattered", "cwl"])
def test_what_a_page_asks_of_the_database_does_not_grow(
    shape: str, runs: SampleRuns, client: FlaskClient, database: Database
) -> None:
    """Once the graph is known: the same few queries for one run of a step and for many, and few rows for a scatter."""

    def asked(run_id: str) -> int:
        page_of(client, run_id)
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)

        event.listen(database.engine, "before_cursor_execute", note)
        page_of(client, run_id)
        event.remove(database.engine, "before_cursor_execute", note)
        return len(statements)

    small, large = (make(runs, shape, size) for size in (1, 300))
    assert asked(small) == asked(large)


def make(runs: SampleRuns, shape: str, size: int) -> str:
    names = [f"s{number}" for number in range(size)]
    if shape == "cwl":
        run_id = accept_cwl(runs)
        runs.start(run_id)
        runs.set_tasks(run_id, [task(f"trim_{number + 2}", exit_code=0) for number in range(size)])
        return run_id
    if shape == "scattered":
        run_id = runs.accept_pipeline(document(step("s", scatter={"over": list(range(size))})))
        for shard in range(min(size, 5)):
            runs.accept_step(run_id, "s", State.COMPLETE, shard)
        return run_id
    before = {name: [names[number - 1]] if shape == "deep" and number else [] for number, name in enumerate(names)}
    return runs.accept_pipeline(document(*(step(name, depends_on=before[name]) for name in names)))


def test_the_largest_picture_is_whole(runs: SampleRuns, client: FlaskClient) -> None:
    chain = [step(f"s{number}", depends_on=[f"s{number - 1}"] if number else []) for number in range(MAX_NODES)]
    page = page_of(client, runs.accept_pipeline(document(*chain)))
    assert len(nodes(page)) == MAX_NODES
    assert len(table(page)) == MAX_NODES + 1
