"""The pages: parse, query, render. Knows HTTP and HTML; every question about runs goes to `app.runs`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from app import fleet
from app.auth import current_user
from app.context import current
from app.errors import InvalidRequest, NotFound
from app.models import TaskLog, WorkflowRun
from app.runs import listing, transitions
from app.runs.listing import Page
from app.states import State, is_terminal
from app.submissions import resubmit
from app.watching import LOG_WANTED_EVERY, want_log
from app.web.addresses import api_url, twin_query
from app.web.log_tail import read_tail
from app.web.run_page import describe_failure, list_logs, log_title, show_json, show_outputs
from app.web.run_query import TABS, WORKFLOW_TYPES, RunQuery, format_cursor, parse_query

PAGE_SIZE = 50
TASKS_SHOWN = 100
EVENTS_SHOWN = 200
COUNT_CEILING = 1000
ACTIVE_POLL_SECONDS, IDLE_POLL_SECONDS = 3, 60

pages = Blueprint("web", __name__, template_folder="templates", static_folder="static", static_url_path="/static")

_TIME_TEXT = re.compile(r"(<time [^>]*>)[^<]*")
_LOG_NAME = re.compile(r"(?:tasks/(?P<task_id>[A-Za-z0-9._-]+)/)?(?:stdout|stderr)")


@pages.get("/")
def show_runs() -> AnyResponse:
    query = parse_query(request.args, current().now())
    frame = {
        "query": query,
        "tabs": TABS,
        "all_states": list(State),
        "workflow_types": WORKFLOW_TYPES,
        "twin_url": api_url("runs", **twin_query(query)),
    }
    if query.problems:
        return make_response(render_template("web/runs.html", **frame), 400)
    fragment = Markup(_render_list(query))  # noqa: S704  rendered by us, with autoescape
    url = url_for("web.show_runs_fragment", **query.words, **query.place)
    return make_response(
        render_template("web/runs.html", **frame, fragment=fragment, fragment_url=url, etag=_etag(fragment))
    )


@pages.get("/fragment")
def show_runs_fragment() -> AnyResponse:
    """The live part of the runs page."""
    query = parse_query(request.args, current().now())
    if query.problems:
        raise InvalidRequest(" ".join(query.problems.values()))
    return _fragment_response(_render_list(query))


@pages.get("/runs/<uuid:run_id>")
def show_run(run_id: UUID) -> AnyResponse:
    live = _read_run(str(run_id))
    run = live["run"]
    fragment = Markup(render_template("web/_run_live.html", **live))  # noqa: S704  rendered by us, with autoescape
    with current().database.reading() as session:
        attachments = listing.get_attachments(session, run.run_id)
    return make_response(
        render_template(
            "web/run.html",
            run=run,
            fragment=fragment,
            fragment_url=url_for("web.show_run_fragment", run_id=run_id, **live["asked"]),
            etag=_etag(fragment),
            poll_seconds=live["poll_seconds"],
            attachments=attachments,
            rerun_key=uuid4(),
            params=show_json(run.workflow_params),
            engine_params=show_json(run.workflow_engine_parameters) if run.workflow_engine_parameters else "",
        )
    )


@pages.get("/runs/<uuid:run_id>/fragment")
def show_run_fragment(run_id: UUID) -> AnyResponse:
    """The live part of a run's page."""
    return _fragment_response(render_template("web/_run_live.html", **_read_run(str(run_id))))


@pages.post("/runs/<uuid:run_id>/cancel")
def cancel_run(run_id: UUID) -> AnyResponse:
    context, owner = current(), current_user()

    def ask(session: Session) -> State:
        listing.get_run(session, str(run_id), owner)
        transitions.cancel(session, str(run_id), context.now(), by=owner)
        session.expire_all()
        return listing.get_state(session, str(run_id), owner)

    state = context.database.transact(ask)
    if state == State.CANCELING:
        context.hinter.hint(str(run_id))
    flash(_CANCEL_WORDS.get(state, f"Nothing to cancel: the run had already ended, {state}."))
    return redirect(url_for("web.show_run", run_id=run_id), 303)


@pages.post("/runs/<uuid:run_id>/rerun")
def rerun(run_id: UUID) -> AnyResponse:
    """The same request again; the form's key makes a double click one run."""
    key = request.form.get("key", type=UUID)
    again = resubmit(current(), current_user(), str(run_id), f"rerun-{key}" if key else None)
    flash("Submitted again: this is the new run.")
    return redirect(url_for("web.show_run", run_id=again), 303)


_CANCEL_WORDS = {
    State.CANCELED: "The run is canceled.",
    State.CANCELING: "Asked the provider to end the run. It is CANCELED once the provider has confirmed.",
}


@dataclass(frozen=True, slots=True)
class TabLink:
    """A tab above the list; `count` is bounded and says so."""

    label: str
    url: str
    count: str
    is_chosen: bool


def _render_list(query: RunQuery) -> str:
    owner = current_user()
    with current().database.reading() as session:
        page, newer, older = _read_page(session, owner, query)
        tabs = [_tab(session, owner, query, label, states) for label, states in TABS.items()]
        lives = _daemon_lives(session)
    is_active = any(not is_terminal(run.state) for run in page.runs)
    return render_template(
        "web/_run_list.html",
        query=query,
        runs=page.runs,
        tab_links=tabs,
        newer_url=newer,
        older_url=older,
        is_further_page=bool(query.older_than or query.newer_than),
        daemon_lives=lives,
        poll_seconds=ACTIVE_POLL_SECONDS if is_active else IDLE_POLL_SECONDS,
    )


def _read_page(session: Session, owner: str, query: RunQuery) -> tuple[Page, str | None, str | None]:
    """The page, and the addresses of the pages beside it."""
    if query.newer_than:
        page = listing.list_newer(session, owner, query.which, PAGE_SIZE, query.newer_than)
        has_newer, has_older = page.next is not None, True
    else:
        page = listing.list_runs(session, owner, query.which, PAGE_SIZE, query.older_than)
        has_newer, has_older = query.older_than is not None, page.next is not None
    if not page.runs:
        return page, None, None
    newer = url_for("web.show_runs", **query.words, newer=_place(page.runs[0])) if has_newer else None
    older = url_for("web.show_runs", **query.words, older=_place(page.runs[-1])) if has_older else None
    return page, newer, older


def _place(run: WorkflowRun) -> str:
    return format_cursor((run.submitted_at, run.run_id))


def _tab(session: Session, owner: str, query: RunQuery, label: str, states: tuple[State, ...]) -> TabLink:
    count = listing.count_runs(session, owner, query.which_with(states), COUNT_CEILING + 1)
    return TabLink(
        label,
        url_for("web.show_runs", **query.with_state(states)),
        f"{COUNT_CEILING}+" if count > COUNT_CEILING else str(count),
        set(query.which.states) == set(states),
    )


def _read_run(run_id: str) -> dict[str, Any]:
    """Everything that the live part of a run's page shows."""
    context, owner = current(), current_user()
    name = request.args.get("log", "")
    after = _tasks_after()
    with context.database.reading() as session:
        run = listing.get_run(session, run_id, owner)
        events = listing.get_events(session, run_id)
        tasks = listing.get_tasks(session, run_id, after, TASKS_SHOWN + 1)
        failed = listing.get_failed_task(session, run_id)
        task = _task_of_log(session, run_id, name)
        lives = _daemon_lives(session)
    _want_logs(run)
    links = list_logs(run, name, task, context.storage)
    name = name or next((link.name for link in links if link.size), "stderr")
    return {
        "run": run,
        "events": events[::-1][:EVENTS_SHOWN],
        "events_left_out": max(0, len(events) - EVENTS_SHOWN),
        "tasks": tasks[:TASKS_SHOWN],
        "tasks_url": _tasks_url(run_id, tasks) if len(tasks) > TASKS_SHOWN else None,
        "failure": describe_failure(run, events, failed, context.storage),
        "log": read_tail(context.storage.log(run_id, name)),
        "log_links": links,
        "log_name": name,
        "log_title": log_title(name, task),
        "raw_log_url": _raw_log_url(run_id, name),
        "output_url": lambda path: api_url("runs", run_id, "outputs", path),
        "log_url": lambda chosen: url_for("web.show_run", run_id=run_id, log=chosen, _anchor="logs"),
        "outputs": show_outputs(run, context.storage),
        "can_cancel": not is_terminal(run.state) and run.state != State.CANCELING,
        "daemon_lives": lives,
        "asked": {"log": request.args.get("log"), "tasks_after": request.args.get("tasks_after")},
        "poll_seconds": 0 if is_terminal(run.state) else ACTIVE_POLL_SECONDS,
    }


def _task_of_log(session: Session, run_id: str, name: str) -> TaskLog | None:
    """The step whose log is asked for. Raises NotFound for a name that is no log of this run."""
    if not name:
        return None
    words = _LOG_NAME.fullmatch(name)
    if words is None:
        raise NotFound(f"Run {run_id} has no log {name!r}.")
    return listing.get_task(session, run_id, words["task_id"]) if words["task_id"] else None


def _raw_log_url(run_id: str, name: str) -> str:
    """`name` as artifact storage has it; the API keeps a step's logs below the step."""
    place, _, stream = name.rpartition("/")
    return (
        api_url("runs", run_id, *place.split("/"), "logs", stream) if place else api_url("runs", run_id, "logs", stream)
    )


def _tasks_after() -> int:
    """The position after which the page of steps begins; the first page without it."""
    word = request.args.get("tasks_after", "-1")
    if not re.fullmatch(r"-1|[0-9]{1,9}", word):
        raise InvalidRequest(f"tasks_after={word!r} is not the number of a task.")
    return int(word)


def _tasks_url(run_id: str, tasks: Sequence[TaskLog]) -> str:
    return url_for("web.show_run", run_id=run_id, tasks_after=tasks[TASKS_SHOWN - 1].position, _anchor="tasks")


def _want_logs(run: WorkflowRun) -> None:
    """Whoever looks at the page of an active run watches its log."""
    context = current()
    is_said = run.log_wanted_at is not None and run.log_wanted_at >= context.now() - LOG_WANTED_EVERY
    if not is_terminal(run.state) and not is_said:
        want_log(context.database, context.hinter, run.run_id, context.now())


def _daemon_lives(session: Session) -> bool:
    return bool(fleet.living(session, current().now() - fleet.ALIVE_FOR))


def _fragment_response(html: str) -> Response:
    """304 where nothing but times said from now has changed."""
    response = make_response(html)
    response.headers["ETag"] = _etag(html)
    response.headers["X-Server-Time"] = f"{current().now().timestamp():.3f}"
    response.make_conditional(request)
    return response


def _etag(html: str) -> str:
    digest = sha256(_TIME_TEXT.sub(r"\1", html).encode()).hexdigest()[:32]
    return f'"{digest}"'
