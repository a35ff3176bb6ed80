"""What our script does in a real Chromium: live parts, pause, copying. The browser's timers are moved by hand."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from app.database import Database
from app.runs import deletion, listing
from app.states import State
from tests.browser import Site, Visit
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def visit(site: Site) -> Visit:
    """An empty page whose timers stand still."""
    visit = site.visit(permissions=["clipboard-read", "clipboard-write"])
    visit.stop_time()
    return visit


def hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_run_is_followed_to_its_end(runs: SampleRuns, visit: Visit, clock: Clock) -> None:
    run_id = runs.accept("align")
    visit.open(f"/runs/{run_id}")
    state, announced = visit.page.locator("#run-head .state"), visit.page.locator("[data-announcer]")
    expect(state).to_have_text("QUEUED")
    runs.start(run_id)
    visit.poll()
    expect(state).to_have_text("RUNNING")
    expect(announced).to_have_text("align is now RUNNING")
    assert visit.page.title().startswith("align · RUNNING")
    kept = runs.output(run_id, "table.tsv", b"1")
    runs.end(run_id, State.COMPLETE, exit_code=0, outputs={"table": kept})
    visit.poll()
    expect(state).to_have_text("COMPLETE")
    expect(visit.page.locator("#timeline li")).to_have_count(5)
    expect(visit.page.get_by_role("link", name="table.tsv")).to_be_visible()
    expect(visit.page.get_by_role("button", name="Run again")).to_be_visible()
    expect(visit.page.locator("[data-live-word]")).to_have_text("This run has ended")
    polls = visit.polls()
    visit.pass_time(600)
    assert visit.polls() == polls
    assert visit.complaints == []


def test_a_failure_shows_at_once_what_went_wrong(runs: SampleRuns, visit: Visit) -> None:
    runs.start(run_id := runs.accept("align"))
    visit.open(f"/runs/{run_id}")
    failure = visit.page.locator("#failure")
    expect(failure).to_be_hidden()
    runs.end(run_id, State.EXECUTOR_ERROR, exit_code=3)
    visit.poll()
    expect(failure).to_be_visible()
    expect(failure).to_contain_text("The workflow failed")


def test_the_server_keeps_the_question_until_it_has_news(
    runs: SampleRuns, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the browser's own clock, which would ask again only much later."""
    monkeypatch.setattr("app.web.run_page.POLL_SECONDS", 30)
    run_id = runs.accept("align")
    visit = site.visit()
    with visit.page.expect_request(lambda request: "fragment" in request.url) as asked:
        visit.open(f"/runs/{run_id}")
    runs.start(run_id)
    answer = asked.value.response()
    assert answer is not None and answer.status == 200
    expect(visit.page.locator("#run-head .state")).to_have_text("RUNNING")


def test_the_list_is_followed(runs: SampleRuns, visit: Visit, clock: Clock) -> None:
    first = runs.accept("first")
    visit.open("/")
    clock.advance(seconds=1)
    runs.start(first)
    runs.accept("second")
    visit.poll()
    expect(visit.page.locator(".run-name")).to_have_text(["second", "first"])
    expect(visit.page.locator("[data-announcer]")).to_have_text("first is now RUNNING")
    expect(visit.page.locator("#tab-all .count")).to_have_text("2")


def test_a_quiet_list_is_asked_for_once_a_minute(runs: SampleRuns, visit: Visit) -> None:
    runs.start(run_id := runs.accept())
    runs.end(run_id, State.COMPLETE)
    visit.open("/")
    visit.pass_time(50)
    assert visit.polls() == 0
    with visit.page.expect_response(lambda answer: "fragment" in answer.url) as answer:
        visit.pass_time(11)
    assert answer.value.status == 304


def test_updates_can_be_paused_and_resumed(runs: SampleRuns, visit: Visit) -> None:
    """A question that was open when the reader paused is answered, and its answer is not shown."""
    run_id = runs.accept("align")
    visit.open(f"/runs/{run_id}")
    with visit.page.expect_response(lambda answer: "fragment" in answer.url):
        visit.pass_time(1)
        visit.page.get_by_role("button", name="Pause updates").click()
        expect(visit.page.locator("[data-live-word]")).to_have_text("Paused")
        asked = visit.polls()
        runs.start(run_id)
    visit.pass_time(60)
    assert visit.polls() == asked
    expect(visit.page.locator("#run-head .state")).to_have_text("QUEUED")
    visit.page.get_by_role("button", name="Resume updates").click()
    expect(visit.page.locator("#run-head .state")).to_have_text("RUNNING")
    expect(visit.page.locator("[data-live-word]")).to_have_text("Live")


def test_a_hidden_page_asks_for_nothing(runs: SampleRuns, visit: Visit) -> None:
    run_id = runs.accept("align")
    visit.open(f"/runs/{run_id}")
    hide(visit.page, True)
    asked = visit.polls()
    runs.start(run_id)
    visit.pass_time(600)
    assert visit.polls() == asked
    hide(visit.page, False)
    visit.pass_time(1)
    expect(visit.page.locator("#run-head .state")).to_have_text("RUNNING")


def test_a_server_that_does_not_answer_is_said_and_asked_again(runs: SampleRuns, visit: Visit) -> None:
    run_id = runs.accept("align")
    visit.open(f"/runs/{run_id}")
    word = visit.page.locator("[data-live-word]")
    visit.page.route("**/fragment*", lambda route: route.abort())
    visit.pass_time(3)
    expect(word).to_have_text("The server does not answer, trying again")
    visit.page.unroute("**/fragment*")
    runs.start(run_id)
    visit.poll()
    expect(visit.page.locator("#run-head .state")).to_have_text("RUNNING")
    expect(word).to_have_text("Live")


def test_a_server_error_is_asked_again(runs: SampleRuns, visit: Visit) -> None:
    def fail(route: Route) -> None:
        route.fulfill(status=503, body="away")

    visit.open(f"/runs/{runs.accept('align')}")
    visit.page.route("**/fragment*", fail, times=1)
    visit.pass_time(3)
    expect(visit.page.locator("[data-live-word]")).to_have_text("The server does not answer, trying again")
    visit.poll()
    expect(visit.page.locator("[data-live-word]")).to_have_text("Live")


def test_a_run_that_was_deleted_is_not_asked_for_again(runs: SampleRuns, visit: Visit, database: Database) -> None:
    run_id = runs.accept("align")
    visit.open(f"/runs/{run_id}")
    runs.start(run_id)
    runs.end(run_id, State.COMPLETE)
    database.transact(lambda session: deletion.delete_run(session, run_id, None))
    visit.poll()
    expect(visit.page.locator("[data-live-word]")).to_have_text("Reload the page to see what has changed")
    polls = visit.polls()
    visit.pass_time(600)
    assert visit.polls() == polls


def test_times_stay_true_while_a_page_is_open(runs: SampleRuns, visit: Visit, clock: Clock) -> None:
    runs.start(runs.accept("align"))
    visit.open("/")
    row = visit.page.get_by_role("row", name="align")
    expect(row.locator("[data-age]")).to_have_text("just now")
    hide(visit.page, True)
    clock.advance(minutes=63)
    visit.pass_time(63 * 60)
    hide(visit.page, False)
    visit.pass_time(1)
    expect(row.locator("[data-age]")).to_have_text("1 h ago")
    expect(row.locator("[data-elapsed]")).to_have_text("1h 03m")


def test_an_update_takes_nothing_from_the_reader(runs: SampleRuns, visit: Visit) -> None:
    """Focus, an open question and the place in a log survive the parts around them being replaced."""
    run_id = runs.accept("align")
    runs.start(run_id)
    runs.set_tasks(run_id, [task("t", "trim", has_stdout=True)])
    runs.log(run_id, "stderr", "".join(f"line {number}\n" for number in range(200)))
    visit.open(f"/runs/{run_id}")
    page = visit.page
    page.get_by_text("Cancel…").click()
    page.get_by_role("link", name="stdout of trim").focus()
    box = page.locator("#log-text")
    box.evaluate("box => box.scrollTo(0, -500)")
    runs.log(run_id, "stderr", "one more\n")
    runs.set_tasks(run_id, [task("t", "trim", has_stdout=True), task("u", "align")])
    runs.move(run_id, State.PAUSED)
    visit.poll()
    expect(page.locator("#run-head .state")).to_have_text("PAUSED")
    expect(page.get_by_role("link", name="stdout of trim")).to_be_focused()
    expect(page.get_by_role("button", name="Cancel the run")).to_be_visible()
    expect(box).to_contain_text("one more")
    assert box.evaluate("box => box.scrollTop") == -500


def test_a_log_that_is_read_at_its_end_stays_there(runs: SampleRuns, visit: Visit) -> None:
    run_id = runs.accept()
    runs.start(run_id)
    runs.log(run_id, "stderr", "".join(f"line {number}\n" for number in range(200)))
    visit.open(f"/runs/{run_id}")
    runs.log(run_id, "stderr", "the newest line\n" * 50)
    visit.poll()
    box = visit.page.locator("#log-text")
    expect(box).to_contain_text("the newest line")
    assert box.evaluate("box => box.scrollTop") == 0


def test_cancel_works_from_the_keyboard(runs: SampleRuns, visit: Visit, database: Database) -> None:
    run_id = runs.accept("align")
    runs.start(run_id)
    visit.open(f"/runs/{run_id}")
    visit.page.locator("#cancel-open").focus()
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Tab")
    expect(visit.page.get_by_role("button", name="Cancel the run")).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#run-head .state")).to_have_text("CANCELING")
    with database.reading() as session:
        assert listing.get_state(session, run_id, None) == State.CANCELING
    assert visit.complaints == []


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_a_run_id_can_be_copied(has_clipboard: bool, runs: SampleRuns, visit: Visit) -> None:
    """Also where the clipboard API is missing, as on plain http off loopback."""
    run_id = runs.accept()
    if not has_clipboard:
        visit.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    visit.open("/")
    visit.page.get_by_role("button", name="Copy the run id").click()
    expect(visit.page.locator("[data-announcer]")).to_have_text("Copied")
    name = visit.page.get_by_label("Name")
    name.focus()
    visit.page.keyboard.press("Control+V")
    expect(name).to_have_value(run_id)
