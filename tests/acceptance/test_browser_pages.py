"""How the pages look in a real Chromium: wide and narrow, light and dark, for everybody, with and without scripts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.states import State
from tests.browser import Site
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

AXE_OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
LONG = "a_name_without_any_place_to_break_it_" * 6
REFUSALS = ("400 (BAD REQUEST)", "404 (NOT FOUND)")


@pytest.fixture
def paths(runs: SampleRuns, clock: Clock) -> dict[str, str]:
    """A page of each kind, with a run in every state."""
    complete = runs.accept("rnaseq", tags={"project": "rna"}, workflow_params={"reads": "x" * 300})
    runs.start(complete)
    runs.log(complete, "stderr", "".join(f"line {number} {'x' * 120}\n" for number in range(300)))
    table = runs.output(complete, "a/table.tsv", b"1")
    steps = [task("t1", "align", start_time=clock(), end_time=clock(), exit_code=0, has_stdout=True, has_stderr=True)]
    runs.end(complete, State.COMPLETE, exit_code=0, outputs={"table": table, "deep": {"a": [1, table]}}, tasks=steps)
    failed = runs.accept(
        f"<script>alert(1)</script>{LONG}", tags={"<b>": LONG}, workflow_url=f"https://x.example/{LONG}"
    )
    runs.start(failed)
    runs.log(failed, "tasks/t/stderr", f"{LONG}\n<img src=x onerror=alert(1)>\n")
    broken = [task("t", LONG, start_time=clock(), exit_code=137, has_stderr=True), task("u")]
    runs.end(failed, State.EXECUTOR_ERROR, LONG, reason="step_failed", exit_code=137, tasks=broken)
    for state in (State.SYSTEM_ERROR, State.CANCELED):
        runs.start(other := runs.accept(state.lower()))
        runs.end(other, state, reason="any")
    clock.advance(minutes=5)
    paused, running = runs.accept("paused"), runs.accept("running")
    runs.start(paused)
    runs.move(paused, State.PAUSED)
    runs.start(running, provider_status="RUNNING")
    runs.set_tasks(running, [task("t", "align", start_time=clock() - timedelta(minutes=2))])
    queued = runs.accept("queued")
    return {
        "list": "/",
        "nothing matches": "/?name=zzz&tag=a=1&tag=b=2",
        "problem": "/?since=soon",
        "missing": "/runs/none",
        "complete": f"/runs/{complete}",
        "failed": f"/runs/{failed}",
        "running": f"/runs/{running}",
        "queued": f"/runs/{queued}",
        "task log": f"/runs/{failed}?log=tasks/t/stderr",
    }


def violations(page: Page) -> str:
    found = Axe().run(page, options=AXE_OPTIONS)
    return found.generate_report() if found.violations_count else ""


def overflow(page: Page) -> int:
    """Pixels that the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360, 320])
def test_every_page_suits_everybody(width: int, scheme: str, paths: dict[str, str], site: Site) -> None:
    visit = site.visit(width=width, color_scheme=scheme)
    for name, path in paths.items():
        visit.open(path)
        assert violations(visit.page) == "", name
        assert overflow(visit.page) == 0, name
    assert [said for said in visit.complaints if not said.endswith(tuple(f"of {words}" for words in REFUSALS))] == []
    assert {url.removeprefix(site.base)[0] for url in visit.requests} == {"/"}


@pytest.mark.parametrize("width", [1280, 360])
def test_long_names_and_tags_leave_room_for_other_runs(width: int, runs: SampleRuns, site: Site) -> None:
    run_id = runs.accept("W" * 250, tags={"note": "v" * 1000})
    visit = site.visit("/", width=width)
    row = visit.page.locator(f"[data-run='{run_id}']").bounding_box()
    assert row is not None and row["height"] < 400
    assert violations(visit.page) == ""


def test_the_first_page_suits_everybody(site: Site) -> None:
    visit = site.visit("/", width=320)
    expect(visit.page.get_by_role("heading", name="No runs yet")).to_be_visible()
    assert violations(visit.page) == ""
    assert overflow(visit.page) == 0
    assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_suit_everybody_without_our_script(scheme: str, paths: dict[str, str], site: Site) -> None:
    """Our script is kept away; scripting stays on, since axe needs it."""
    visit = site.visit(width=360, color_scheme=scheme)
    visit.page.route("**/ui.js", lambda route: route.abort())
    for name in ("list", "failed", "running"):
        visit.open(paths[name])
        assert violations(visit.page) == "", name
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(33, 37, 41)"}[scheme]


def test_the_question_before_a_cancel_suits_everybody(paths: dict[str, str], site: Site) -> None:
    page = site.visit(paths["running"], width=320, reduced_motion="reduce").page
    page.get_by_text("Cancel…").click()
    expect(page.get_by_role("button", name="Cancel the run")).to_be_visible()
    assert violations(page) == ""
    assert overflow(page) == 0


def test_a_log_opens_at_its_end(paths: dict[str, str], site: Site) -> None:
    for scripts in (True, False):
        page = site.visit(paths["complete"], java_script_enabled=scripts).page
        box = page.get_by_role("region", name="End of the log stderr")
        box.scroll_into_view_if_needed()
        distance = box.evaluate(
            "box => box.firstElementChild.getBoundingClientRect().bottom - box.getBoundingClientRect().bottom"
        )
        assert abs(distance) < 5


def test_the_keyboard_gets_past_the_head(paths: dict[str, str], site: Site) -> None:
    page = site.visit(paths["list"]).page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_focus_can_be_seen(paths: dict[str, str], site: Site) -> None:
    page = site.visit(paths["list"]).page
    for _ in range(12):
        page.keyboard.press("Tab")
        look = page.evaluate("(s => [s.outlineStyle, s.boxShadow])(getComputedStyle(document.activeElement))")
        assert look != ["none", "none"]


def test_tables_are_tables_to_a_screen_reader_on_a_phone_too(paths: dict[str, str], site: Site) -> None:
    for width in (1280, 360):
        page = site.visit(paths["list"], width=width).page
        table = page.get_by_role("table", name="Runs, the newest first")
        expect(table.get_by_role("columnheader")).to_have_text(
            ["State", "Run", "Workflow", "Tags", "Submitted", "Duration"]
        )
        expect(table.get_by_role("row")).to_have_count(8)
        expect(table.get_by_role("row", name="rnaseq").get_by_role("cell").first).to_have_text("COMPLETE")


def test_without_scripts_everything_still_works(paths: dict[str, str], site: Site) -> None:
    page = site.visit(paths["list"], java_script_enabled=False).page
    page.get_by_label("Name").fill("rna")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name="project=rna").click()
    assert "tag=project%3Drna" in page.url
    page.get_by_role("link", name="rnaseq").click()
    page.get_by_role("link", name="stdout of align").click()
    expect(page.locator("#logs")).to_contain_text("Nothing was written to stdout of align.")
    with page.expect_download() as download:
        page.get_by_role("link", name="table.tsv").first.click()
    assert download.value.path().read_bytes() == b"1"
    page.goto(site.base + paths["queued"])
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#run-head .state")).to_have_text("CANCELED")
    expect(page.get_by_text("Asked for the end of this run.")).to_be_visible()
