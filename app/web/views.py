"""The pages: parse, query, render. Knows HTTP and HTML; every question about runs goes to `app.runs`."""

from __future__ import annotations

import re
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from markupsafe import Markup
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from app.auth import current_user
from app.context import current
from app.errors import InvalidRequest
from app.runs import listing, transitions
from app.states import State, is_terminal
from app.submissions import resubmit
from app.watching import read_seconds
from app.web.addresses import api_url, twin_query
from app.web.daemons import daemon_lives
from app.web.run_list import read_run_list
from app.web.run_page import RunPage, read_run_page, show_json
from app.web.run_query import WORKFLOW_TYPES, RunQuery, parse_query

pages = Blueprint("web", __name__, template_folder="templates", static_folder="static", static_url_path="/static")

_TIME_TEXT = re.compile(r"(<time [^>]*>)[^<]*")


@pages.get("/")
def show_runs() -> AnyResponse:
    query = parse_query(request.args, current().now())
    frame = {"query": query, "workflow_types": WORKFLOW_TYPES}
    if query.problems:
        with current().database.reading() as session:
            lives = daemon_lives(session, current().now())
        return make_response(render_template("web/runs.html", **frame, daemon_lives=lives), 400)
    fragment = _render_list(query)
    return make_response(
        render_template(
            "web/runs.html",
            **frame,
            fragment=fragment,
            fragment_url=url_for("web.show_runs_fragment", **query.words, **query.place),
            etag=_etag(fragment),
            twin_url=api_url("runs", **twin_query(query)),
        )
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
    page = _read_run(run_id)
    fragment = _render_run(page)
    asked: dict[str, Any] = {name: request.args[name] for name in ("log", "tasks_after") if name in request.args}
    with current().database.reading() as session:
        attachments = listing.get_attachments(session, page.run.run_id)
    return make_response(
        render_template(
            "web/run.html",
            page=page,
            fragment=fragment,
            fragment_url=url_for("web.show_run_fragment", run_id=run_id, **asked),
            etag=_etag(fragment),
            attachments=attachments,
            rerun_key=uuid4(),
            params=show_json(page.run.workflow_params),
            engine_params=show_json(page.run.workflow_engine_parameters),
        )
    )


@pages.get("/runs/<uuid:run_id>/fragment")
def show_run_fragment(run_id: UUID) -> AnyResponse:
    """The live part of a run's page; `wait`: held for so many seconds at most, until the state is new."""
    owner, database = current_user(), current().database
    seconds = read_seconds(request.args.get("wait", ""))

    def look() -> State:
        with database.reading() as session:
            return listing.get_state(session, str(run_id), owner)

    state = look()
    response = _fragment_response(_render_run(_read_run(run_id)))
    if response.status_code == HTTPStatus.NOT_MODIFIED and current().waiters.wait(look, seconds, state) != state:
        response = _fragment_response(_render_run(_read_run(run_id)))
    return response


@pages.post("/runs/<uuid:run_id>/cancel")
def cancel_run(run_id: UUID) -> AnyResponse:
    context, owner = current(), current_user()

    def ask(session: Session) -> State:
        state = listing.get_state(session, str(run_id), owner)
        transitions.cancel(session, str(run_id), context.now(), by=owner)
        return state

    before = context.database.transact(ask)
    context.hinter.hint(str(run_id))
    flash("This run had already ended." if is_terminal(before) else "Asked for the end of this run.")
    return redirect(url_for("web.show_run", run_id=run_id), 303)


@pages.post("/runs/<uuid:run_id>/rerun")
def rerun(run_id: UUID) -> AnyResponse:
    """The same request as a new run; the form's key makes a double click one run."""
    key = request.form.get("key", type=UUID)
    again = resubmit(current(), current_user(), str(run_id), f"rerun-{key}" if key else None)
    flash("Submitted again: this is the new run.")
    return redirect(url_for("web.show_run", run_id=again), 303)


def _read_run(run_id: UUID) -> RunPage:
    """Raises NotFound, and InvalidRequest for a wrong `tasks_after`."""
    after = request.args.get("tasks_after", "-1")
    if not re.fullmatch(r"-1|[0-9]{1,9}", after):
        raise InvalidRequest(f"tasks_after={after!r} is not the number of a task.")
    return read_run_page(current(), current_user(), str(run_id), request.args.get("log", ""), int(after))


def _render_run(page: RunPage) -> Markup:
    return Markup(render_template("web/_run_live.html", page=page))  # noqa: S704  rendered by us, with autoescape


def _render_list(query: RunQuery) -> Markup:
    page = read_run_list(current(), current_user(), query)
    return Markup(render_template("web/_run_list.html", query=query, page=page))  # noqa: S704  as above


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
