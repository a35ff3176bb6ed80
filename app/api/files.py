"""Logs and outputs of a run, from artifact storage. No session is open while bytes are sent."""

from __future__ import annotations

from flask import Response
from flask_restx import Namespace

from app.api import models
from app.api.addresses import output_url
from app.api.resource import Resource
from app.api.shapes import Json
from app.artifacts import StoredFile
from app.auth import current_user
from app.context import current
from app.errors import NotFound
from app.runs import listing, pipelines
from app.serving import send_download, send_log
from app.states import ACTIVE
from app.watching import want_log

ns = Namespace("files", "Logs and outputs", path="/runs/<string:run_id>")
STREAM = "<any(stdout, stderr):stream>"


@ns.route(f"/logs/{STREAM}")
@ns.response(200, "Text, empty while there is none; Range is understood")
@ns.response(404, "No such run of yours", models.ERROR)
class RunLogText(Resource):
    def get(self, run_id: str, stream: str) -> Response:
        """Read a run's standard output or error"""
        _watch(run_id)
        return send_log(current().storage.log(run_id, stream))


@ns.route(f"/tasks/<string:task_id>/logs/{STREAM}")
@ns.response(200, "Text, empty while there is none; Range is understood")
@ns.response(404, "No such task of a run of yours", models.ERROR)
class TaskLogText(Resource):
    def get(self, run_id: str, task_id: str, stream: str) -> Response:
        """Read a task's standard output or error"""
        if _watch(run_id, task_id):
            return send_log(current().storage.log(task_id, stream))
        return send_log(current().storage.log(run_id, f"tasks/{task_id}/{stream}"))


@ns.route("/outputs")
@ns.response(404, "No such run of yours", models.ERROR)
class Outputs(Resource):
    @ns.response(200, "path, url and size in bytes of each file", models.OUTPUTS)
    def get(self, run_id: str) -> Json:
        """List a run's output files"""
        _check_owner(run_id)
        return _listed(run_id, current().storage.outputs(run_id))


@ns.route("/outputs/<path:path>")
@ns.response(200, "The file, as an attachment; of a directory, the list of its files. Range is understood")
@ns.response(302, "A large file, where it may be fetched from its storage for some minutes")
@ns.response(404, "No such output of a run of yours", models.ERROR)
class Output(Resource):
    def get(self, run_id: str, path: str) -> Response | Json:
        """Download an output file"""
        _check_owner(run_id)
        storage = current().storage
        try:
            return send_download(storage.output(run_id, path))
        except NotFound:
            inside = [file for file in storage.outputs(run_id) if file.path.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise
        return _listed(run_id, inside)


def _listed(run_id: str, files: list[StoredFile]) -> Json:
    shown = [{"path": file.path, "url": output_url(run_id, file.path), "size": file.size} for file in files]
    return {"outputs": shown}


def _check_owner(run_id: str) -> None:
    with current().database.reading() as session:
        listing.get_state(session, run_id, current_user())


def _watch(run_id: str, task_id: str | None = None) -> bool:
    """The run is the caller's; while it is active, its daemon is asked to bring the logs up to date.

    True where the task is the run of a pipeline's step, which has its own logs.
    """
    context, is_step = current(), False
    with context.database.reading() as session:
        state = listing.get_state(session, run_id, current_user())
        if task_id is not None:
            listing.get_task(session, run_id, task_id)
            if is_step := pipelines.task_of(session, run_id, task_id) is not None:
                state = listing.get_state(session, task_id, current_user())
    if state in ACTIVE:
        want_log(context.database, context.hinter, task_id if task_id and is_step else run_id, context.now())
    return is_step
