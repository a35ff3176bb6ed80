"""The steps of a run, as its provider reported them."""

from __future__ import annotations

from flask_restx import Namespace

from app.api import models
from app.api.queries import read_page_size, read_page_token
from app.api.resource import Resource
from app.api.shapes import Json, task_log
from app.auth import current_user
from app.context import current
from app.runs import listing

ns = Namespace("tasks", "The steps of a run", path="/runs/<string:run_id>/tasks")


@ns.route("")
@ns.response(404, "No such run of yours", models.ERROR)
class Tasks(Resource):
    @ns.doc(params={"page_size": "At most so many", "page_token": "next_page_token of the page before"})
    @ns.response(200, "In the order in which they began", models.TASK_LIST)
    def get(self, run_id: str) -> Json:
        """List a run's tasks"""
        size, scope = read_page_size(), ("tasks", current_user(), run_id)
        position = read_page_token(scope)
        with current().database.reading() as session:
            listing.get_state(session, run_id, current_user())
            tasks = listing.get_tasks(session, run_id, position[0] if position else -1, size + 1)
        page = tasks[:size]
        token = current().page_tokens.make(scope, [page[-1].position]) if len(tasks) > size else ""
        return {"task_logs": [task_log(task) for task in page], "next_page_token": token}


@ns.route("/<string:task_id>")
@ns.response(404, "No such task of a run of yours", models.ERROR)
class Task(Resource):
    @ns.response(200, "", models.TASK_LOG)
    def get(self, run_id: str, task_id: str) -> Json:
        """Get a task"""
        with current().database.reading() as session:
            listing.get_state(session, run_id, current_user())
            return task_log(listing.get_task(session, run_id, task_id))
