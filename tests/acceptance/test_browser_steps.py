"""The picture of a run's steps in a real Chromium: for everybody, by mouse and keyboard, alive, and within its box."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from app.states import State
from tests.acceptance.test_browser_pages import overflow, violations
from tests.browser import Site
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

WORKFLOW = """
cwlVersion: v1.2
class: Workflow
steps:
  trim: {run: tool.cwl, scatter: reads, in: {reads: samples}, out: [o]}
  <b>"fast" & careful</b>: {run: tool.cwl, in: {x: trim/o}, out: [o]}
  report: {run: tool.cwl, in: {all: {source: [trim/o, <b>"fast" & careful</b>/o]}}, out: [o]}
"""


def step(name: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "tool.cwl", "depends_on": list(needs), **fields}


DIAMOND = {
    "workflow_name": "diamond",
    "steps": [
        step("fetch"),
        step("align", "fetch", scatter={"over": list(range(12))}),
        step("coverage_statistics_of_every_sample", "align"),
        step("call", "align"),
        step("annotate", "call", "fetch"),
        step("plots", "coverage_statistics_of_every_sample"),
        step("report", "annotate", "plots"),
    ],
}


@pytest.fixture
def pipeline(runs: SampleRuns) -> str:
    """One step has failed, one runs, two cannot run any more, one waits."""
    run_id = runs.accept_pipeline(DIAMOND)
    runs.accept_step(run_id, "fetch", State.COMPLETE)
    for shard in range(12):
        runs.accept_step(run_id, "align", State.COMPLETE, shard)
    runs.accept_step(run_id, "coverage_statistics_of_every_sample", State.RUNNING)
    runs.accept_step(run_id, "call", State.EXECUTOR_ERROR)
    return run_id


@pytest.fixture
def others(runs: SampleRuns, clock: Clock) -> list[str]:
    """A CWL run, one graph that is wide, one that is deep, one that is too large."""
    attachments = (runs.attach(WORKFLOW, "wf.cwl"),)
    cwl = runs.accept("cwl", workflow_url="wf.cwl", attachments=attachments)
    runs.start(cwl)
    runs.set_tasks(cwl, [task("trim", exit_code=0, has_stderr=True), task("trim_2", start_time=clock())])
    wide = [step("s", *[f"s{number}" for number in range(30)]), *(step(f"s{number}") for number in range(30))]
    deep = [step(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(60)]
    many = [step(f"s{number}") for number in range(300)]
    return [cwl, *(runs.accept_pipeline({"workflow_name": "p", "steps": steps}) for steps in (wide, deep, many))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360, 320])
def test_steps_suit_everybody(width: int, scheme: str, pipeline: str, others: list[str], site: Site) -> None:
    visit = site.visit(width=width, color_scheme=scheme)
    for run_id in (pipeline, *others):
        visit.open(f"/runs/{run_id}")
        for table in visit.page.locator("#steps-table > summary").all():
            table.click()
        expect(visit.page.get_by_role("table", name="Steps")).to_be_visible()
        assert violations(visit.page) == ""
        assert overflow(visit.page) == 0
    assert visit.complaints == []


def test_nodes_say_and_lead_to_what_they_stand_for(pipeline: str, site: Site) -> None:
    page = site.visit(f"/runs/{pipeline}").page
    picture = page.get_by_role("region", name="Picture of the steps")
    expect(picture.get_by_role("link")).to_have_count(4)
    expect(picture.get_by_role("link", name="align: succeeded, 12/12")).to_be_visible()
    expect(picture.get_by_role("img", name="annotate: upstream failed")).to_be_visible()
    expect(picture.get_by_role("img", name="plots: pending")).to_be_visible()
    expect(picture.get_by_role("link", name="coverage_statistics_of_every_sample: running")).to_contain_text("coverage")
    picture.get_by_role("link", name="call: failed").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("call")
    page.get_by_role("link", name=pipeline[:8]).click()
    page.get_by_text("Steps as a table").click()
    page.get_by_role("link", name="12 succeeded of align").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("align")


def test_the_table_says_what_the_picture_says(pipeline: str, site: Site) -> None:
    page = site.visit(f"/runs/{pipeline}").page
    page.get_by_text("Steps as a table").click()
    table = page.get_by_role("table", name="Steps, each after those that it waits for")
    expect(table.get_by_role("columnheader")).to_have_text(["Step", "State", "Runs", "Waits for"])
    in_table = {
        row.locator("th").inner_text(): row.locator(".state").inner_text() for row in table.locator("tbody tr").all()
    }
    titles = [title.text_content() or "" for title in page.locator(".node > title").all()]
    assert in_table == {name: said.split(",")[0] for name, _, said in (title.partition(": ") for title in titles)}
    icons = {
        node.locator("use").get_attribute("href"): node.get_attribute("class") for node in page.locator(".node").all()
    }
    assert len(icons) == len(set(icons.values())) == 5


def test_the_keyboard_goes_through_the_nodes_and_is_seen_there(pipeline: str, site: Site) -> None:
    page = site.visit(f"/runs/{pipeline}", color_scheme="dark").page
    page.get_by_role("region", name="Picture of the steps").focus()
    stroke = "getComputedStyle(document.activeElement.querySelector('.box')).strokeWidth"
    for name in ("fetch", "align", "coverage", "call"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.querySelector('title').textContent").startswith(name)
        assert page.evaluate(stroke) == "4px"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("call")


def test_a_cwl_nodes_link_opens_the_log_of_its_task(others: list[str], site: Site, runs: SampleRuns) -> None:
    runs.log(others[0], "tasks/trim/stderr", "said by the first\n")
    page = site.visit(f"/runs/{others[0]}").page
    expect(page.get_by_role("img", name='<b>"fast" & careful</b>: pending')).to_be_visible()
    page.get_by_text("Steps as a table").click()
    page.get_by_role("link", name="1 succeeded of trim").click()
    expect(page.get_by_role("region", name="End of the log stderr of trim")).to_contain_text("said by the first")


def test_a_picture_opens_in_its_middle_and_stays_where_it_was_moved(
    others: list[str], site: Site, runs: SampleRuns
) -> None:
    visit = site.visit(width=360)
    visit.stop_time()
    visit.open(f"/runs/{others[1]}")
    box = visit.page.locator("#graph")
    assert box.evaluate("box => Math.abs(2 * box.scrollLeft + box.clientWidth - box.scrollWidth) < 3")
    box.evaluate("box => box.scrollTo(10, 0)")
    visit.page.locator("#steps-table > summary").click()
    runs.accept_step(others[1], "s0", State.RUNNING)
    visit.poll()
    expect(visit.page.get_by_role("link", name="s0: running")).to_have_count(1)
    assert box.evaluate("box => box.scrollLeft") == 10
    assert visit.page.locator("#steps-table").get_attribute("open") is not None


def test_a_picture_comes_alive_on_an_open_page(site: Site, runs: SampleRuns) -> None:
    run_id = runs.accept("p", provider_type="dag", workflow_type="DAG")
    visit = site.visit()
    visit.stop_time()
    visit.open(f"/runs/{run_id}")
    expect(visit.page.locator("#steps")).to_be_hidden()
    runs.start(run_id, {"document": DIAMOND, "sheets": {}})
    visit.poll()
    expect(visit.page.get_by_role("img", name="fetch: ready")).to_be_visible()
