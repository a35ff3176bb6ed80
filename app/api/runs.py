"""Runs: submit, list, look, cancel, delete, re-run. Every query is limited to the caller's own runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from flask import request
from flask_restx import Namespace
from sqlalchemy.orm import Session

from app.api import models
from app.api.queries import read_filter, read_page_size, read_page_token
from app.api.resource import Resource
from app.api.shapes import Json, run_event, run_log, run_summary
from app.auth import current_user
from app.bvbrc_token import HEADER
from app.context import current
from app.database import Database
from app.errors import InvalidRequest
from app.runs import deletion, listing, transitions
from app.runs.listing import Cursor, RunFilter
from app.sent_credentials import read_credentials, renew_credentials
from app.states import State, is_terminal
from app.submissions import read_idempotency_key, read_submission, resubmit, submit
from app.validation import check_request
from app.watching import read_seconds

MAX_INLINE_TASKS = 1000
ns = Namespace("runs", "Submit, follow, cancel, delete", path="/runs")
_TOKEN = {HEADER: {"in": "header", "description": "The caller's BV-BRC token, for runs that go there"}}
_PAGE = {"page_size": "At most so many", "page_token": "next_page_token of the page before"}
_FILTERS = {
    "state": "One or several, with commas",
    "tag.<key>": "Value of a tag",
    "name": "May hold *",
    "workflow_type": "",
    "workflow_url": "",
    "provider": "",
    "user": "",
    "since": "Submitted at or after this time",
    "until": "Submitted before this time",
    "parent": "run_id of a pipeline: its steps, which are not listed without this",
    "filters": "The same as one JSON object, tags under `tags`",
}


@ns.route("")
class Runs(Resource):
    @ns.doc(params={**_PAGE, **_FILTERS})
    @ns.response(200, "Newest first", models.RUN_LIST)
    @ns.response(400, "Malformed", models.ERROR)
    def get(self) -> Json:
        """List runs"""
        owner, which, size = current_user(), read_filter(request.args), read_page_size()
        scope = ("runs", owner, which)
        position = read_page_token(scope)
        return _list(scope, owner, which, size, position)

    @ns.expect(models.RUN_REQUEST)
    @ns.doc(params={"Idempotency-Key": {"in": "header", "description": "The same key makes no second run"}, **_TOKEN})
    @ns.response(200, "Accepted", models.RUN_ID)
    @ns.response(400, "Malformed, or not supported here", models.ERROR)
    def post(self) -> Json:
        """Run a workflow"""
        context = current()
        submission = read_submission(request, context.settings)
        return {"run_id": submit(context, current_user(), submission)}


@ns.route("/validate")
class Validation(Resource):
    @ns.expect(models.RUN_REQUEST)
    @ns.response(200, "What would be wrong with this request", models.VALIDATION)
    def post(self) -> Json:
        """Check a request without running it"""
        problems = check_request(current(), request)
        return {"valid": not problems, "problems": problems}


@ns.route("/<string:run_id>")
@ns.response(404, "No such run of yours", models.ERROR)
class Run(Resource):
    @ns.response(200, "", models.RUN_LOG)
    def get(self, run_id: str) -> Json:
        """Get all that is known of a run"""
        with current().database.reading() as session:
            run = listing.get_run(session, run_id, current_user())
            events = listing.get_events(session, run_id)
            tasks = listing.get_tasks(session, run_id, limit=MAX_INLINE_TASKS)
        return run_log(run, events, tasks)

    @ns.response(200, "Deleted", models.RUN_ID)
    @ns.response(409, "It has not ended, or was started twice and the second is not over", models.ERROR)
    def delete(self, run_id: str) -> Json:
        """Delete an ended run with its logs and outputs"""
        context, owner = current(), current_user()
        for gone in context.database.transact(lambda session: deletion.delete_run(session, run_id, owner)):
            context.storage.drop_run(gone)
        return {"run_id": run_id}


@ns.route("/<string:run_id>/status")
@ns.response(404, "No such run of yours", models.ERROR)
class RunStatus(Resource):
    @ns.doc(params={"wait": "Seconds to wait for another state"})
    @ns.response(200, "", models.RUN_STATUS)
    def get(self, run_id: str) -> Json:
        """Get the state of a run"""
        database, owner, seconds = current().database, current_user(), read_seconds(request.args.get("wait", ""))
        state = current().waiters.wait(lambda: _state(database, run_id, owner), seconds)
        return {"run_id": run_id, "state": state}


@ns.route("/<string:run_id>/cancel")
@ns.response(404, "No such run of yours", models.ERROR)
class Cancellation(Resource):
    @ns.response(200, "It has ended, or will", models.RUN_ID)
    def post(self, run_id: str) -> Json:
        """Cancel a run; harmless if it has ended"""
        context, owner = current(), current_user()

        def work(session: Session) -> State:
            state = listing.get_state(session, run_id, owner)
            transitions.cancel(session, run_id, context.now(), by=owner)
            return state

        if not is_terminal(context.database.transact(work)):
            context.hinter.hint(run_id)
        return {"run_id": run_id}


@ns.route("/<string:run_id>/rerun")
@ns.response(404, "No such run of yours", models.ERROR)
class Rerun(Resource):
    @ns.doc(params={"from": "`failed`: of a pipeline, only what has not succeeded", **_TOKEN})
    @ns.response(200, "Accepted", models.RUN_ID)
    def post(self, run_id: str) -> Json:
        """Run the same request again, as a new run"""
        key, start = read_idempotency_key(request), request.args.get("from", "")
        if start not in ("", "failed"):
            raise InvalidRequest("from can be `failed` only.")
        sent, only_failed = read_credentials(request), start == "failed"
        return {"run_id": resubmit(current(), current_user(), run_id, key, sent, from_failed=only_failed)}


@ns.route("/<string:run_id>/credentials")
@ns.response(404, "No such run of yours", models.ERROR)
class RunCredentials(Resource):
    @ns.doc(params=_TOKEN)
    @ns.response(200, "Kept until the run has ended", models.RUN_ID)
    @ns.response(409, "It has ended", models.ERROR)
    def put(self, run_id: str) -> Json:
        """Send a fresh token for a run that waits for one"""
        renew_credentials(current(), current_user(), run_id, read_credentials(request))
        return {"run_id": run_id}


@ns.route("/<string:run_id>/events")
@ns.response(404, "No such run of yours", models.ERROR)
class Events(Resource):
    @ns.response(200, "Oldest first", models.EVENTS)
    def get(self, run_id: str) -> Json:
        """List every change of a run's state, with who and why"""
        with current().database.reading() as session:
            listing.get_state(session, run_id, current_user())
            return {"events": [run_event(event) for event in listing.get_events(session, run_id)]}


def _state(database: Database, run_id: str, owner: str) -> State:
    with database.reading() as session:
        return listing.get_state(session, run_id, owner)


def _list(scope: object, owner: str, which: RunFilter, size: int, position: list[str] | None) -> Json:
    """`position`: where the page begins, and the newest run's time when the first page was asked for."""
    after: Cursor | None = None
    if position:
        after = (datetime.fromisoformat(position[0]), position[1])
    with current().database.reading() as session:
        page = listing.list_summaries(session, owner, which, size, after)
        newest = position[2] if position else (page.runs[0].submitted_at.isoformat() if page.runs else "")
        until = datetime.fromisoformat(newest) + timedelta(microseconds=1) if newest else None
        total = listing.count_runs(session, owner, replace(which, until=until) if until else which)
    token = ""
    if page.next:
        token = current().page_tokens.make(scope, [page.next[0].isoformat(), page.next[1], newest])
    return {"runs": [run_summary(run) for run in page.runs], "next_page_token": token, "total_runs": total}
