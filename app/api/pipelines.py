"""The pipeline engine's own API, under /api/v1: documents in, states in its words. The runs are those of the WES API.

A `workflow_id` is `wf_` and a run_id. Errors, owners and limits are as everywhere.
"""

from __future__ import annotations

from typing import Any

from flask import Response, json, request
from flask_restx import Namespace
from sqlalchemy.orm import Session

from app import fleet
from app.api import models
from app.api.pipeline_shapes import PREFIX, status_word, whole_workflow, workflow_status
from app.api.resource import Resource
from app.api.shapes import Json
from app.artifacts import Upload
from app.auth import current_user
from app.bvbrc_token import HEADER
from app.context import current
from app.cwl_to_dag import Converted, convert
from app.dag.document import json_schema
from app.errors import InvalidRequest, NotFound
from app.locations import INLINE
from app.models import WorkflowRun
from app.pipeline_documents import parse_document
from app.pipeline_log import pipeline_log
from app.pipeline_states import read_outlook
from app.readiness import database_problem
from app.run_requests import read_fields
from app.runs import listing, pipelines, transitions
from app.sent_credentials import read_credentials
from app.states import is_terminal
from app.submissions import Submission, check_pipeline, read_idempotency_key, reader, route_request, submit

DOCUMENT = "workflow.cwl"
ns = Namespace("workflows", "Pipelines: submit, follow, cancel", path="/workflows")
health_ns = Namespace("health", "Whether workflows are stored and run", path="/health")
_TOKEN = {HEADER: {"in": "header", "description": "The caller's BV-BRC token; Authorization does too, if it holds one"}}
_KEY = {"Idempotency-Key": {"in": "header", "description": "The same key makes no second workflow"}}


@ns.route("/submit")
class Submitting(Resource):
    @ns.expect(models.DOCUMENT)
    @ns.doc(params=_KEY | _TOKEN)
    @ns.response(200, "Accepted", models.SUBMITTED)
    @ns.response(400, "Everything that is wrong with it", models.ERROR)
    def post(self) -> Json:
        """Run the document in the body, which is JSON or YAML"""
        return _submit(_pipeline_submission(_read_body()), "Workflow submitted successfully")


@ns.route("/validate")
class Validating(Resource):
    @ns.expect(models.DOCUMENT)
    @ns.response(200, "Everything that is wrong with it", models.VALIDATION)
    def post(self) -> Json:
        """Say what is wrong with the document in the body, without running it"""
        try:
            submission = _pipeline_submission(_read_body())
            route_request(current(), submission.request)
            check_pipeline(current(), submission.request, reader(submission))
        except InvalidRequest as error:
            return {"valid": False, "problems": str(error).splitlines()}
        return {"valid": True, "problems": []}


@ns.route("/submit-cwl")
class SubmittingCwl(Resource):
    @ns.expect(models.CWL)
    @ns.doc(params=_KEY | _TOKEN)
    @ns.response(200, "Accepted; `mode` says as what", models.SUBMITTED)
    @ns.response(400, "Malformed, or not supported here", models.ERROR)
    def post(self) -> Json:
        """Run a CWL Workflow: as a pipeline of its steps where that is the same, else as one CWL run"""
        body = _read_body()
        wrapped = isinstance(body.get("cwl"), dict)
        document, inputs = (body["cwl"], body.get("inputs") or {}) if wrapped else (body, {})
        if not isinstance(inputs, dict):
            raise InvalidRequest("inputs must be a JSON object.")
        converted = convert(document, inputs)
        if isinstance(converted, Converted):
            submission = _pipeline_submission(converted.document, converted.tools)
            return _submit(submission, "Submitted as a pipeline of its steps") | {"mode": "dag"}
        submission = _cwl_submission(document, inputs)
        return _submit(submission, f"Submitted as one CWL run: {converted}") | {"mode": "cwl"}


@ns.route("/schema")
class Schema(Resource):
    def get(self) -> Json:
        """Get the JSON Schema of the document"""
        return json_schema()


@ns.route("/<string:workflow_id>")
@ns.response(404, "No such workflow of yours", models.ERROR)
class Workflow(Resource):
    @ns.response(200, "", models.WHOLE_WORKFLOW)
    def get(self, workflow_id: str) -> Json:
        """Get the whole document, with what became of it"""
        with current().database.reading() as session:
            run = _run(session, workflow_id)
            steps = pipelines.runs_of(session, run.run_id)
        return whole_workflow(run, steps) | _status(workflow_id)


@ns.route("/<string:workflow_id>/status")
@ns.response(404, "No such workflow of yours", models.ERROR)
class Status(Resource):
    @ns.response(200, "", models.WORKFLOW_STATUS)
    def get(self, workflow_id: str) -> Json:
        """Get how the workflow and its steps stand"""
        return _status(workflow_id)


@ns.route("/<string:workflow_id>/log")
@ns.response(404, "No such workflow of yours", models.ERROR)
class Log(Resource):
    @ns.produces(["text/plain"])
    def get(self, workflow_id: str) -> Response:
        """Get what happened to the workflow and its steps, a line each, up to now"""
        with current().database.reading() as session:
            run = _run(session, workflow_id)
            text = pipeline_log(run, pipelines.runs_of(session, run.run_id))
        return Response(text, mimetype="text/plain")


@ns.route("/<string:workflow_id>/cancel")
@ns.response(404, "No such workflow of yours", models.ERROR)
class Cancelling(Resource):
    @ns.response(200, "It has ended, or will", models.WORKFLOW)
    def post(self, workflow_id: str) -> Json:
        """Cancel what runs and begin nothing more; harmless if it has ended"""
        context, owner = current(), current_user()

        def work(session: Session) -> WorkflowRun:
            run_id = _run(session, workflow_id).run_id
            transitions.cancel(session, run_id, context.now(), by=owner)
            session.expire_all()
            return _run(session, workflow_id)

        run = context.database.transact(work)
        over = is_terminal(run.state)
        if not over:
            context.hinter.hint(run.run_id)
        words = f"Workflow is {status_word(run.state)}" if over else "Cancellation requested"
        return {"workflow_id": workflow_id, "status": status_word(run.state), "message": words}


@health_ns.route("")
class Health(Resource):
    @health_ns.response(200, "", models.HEALTH)
    @health_ns.response(503, "The database is away", models.HEALTH)
    def get(self) -> tuple[Json, int]:
        """Get whether workflows can be stored, and whether a daemon lives to run them"""
        context = current()
        if problem := database_problem(context.database):
            return {"status": "unhealthy", "database": problem}, 503
        with context.database.reading() as session:
            living = bool(fleet.living(session, context.now() - fleet.ALIVE_FOR))
        return {"status": "healthy", "database": "connected", "executor": "running" if living else "not running"}, 200


def _status(workflow_id: str) -> Json:
    with current().database.reading() as session:
        run = _run(session, workflow_id)
        outlook, steps = read_outlook(session, run), pipelines.runs_of(session, run.run_id)
        tasks = [] if outlook or steps else listing.get_tasks(session, run.run_id, limit=1000)
        events = listing.get_events(session, run.run_id)
    return workflow_status(run, outlook, steps, tasks, events)


def _read_body() -> dict[str, Any]:
    request.max_content_length = current().settings.max_field_bytes
    document = parse_document(request.get_data(), "The body")
    if not isinstance(document, dict):
        raise InvalidRequest("The body must be one JSON object, or the same as YAML.")
    return document


def _pipeline_submission(document: dict[str, Any], tools: dict[str, Any] | None = None) -> Submission:
    name = document.get("workflow_name")
    fields = {
        "workflow_type": "DAG",
        "workflow_url": INLINE,
        "workflow_params": document,
        "name": "".join(filter(str.isprintable, name))[:60] if isinstance(name, str) else None,
    }
    return _submission(fields, tools or {})


def _cwl_submission(document: dict[str, Any], inputs: dict[str, Any]) -> Submission:
    name = str(document.get("label") or document.get("id") or "workflow").lstrip("#")
    fields = {"workflow_type": "CWL", "workflow_url": DOCUMENT, "workflow_params": inputs, "name": name[:255]}
    if isinstance(document.get("cwlVersion"), str):
        fields["workflow_type_version"] = document["cwlVersion"]
    return _submission(fields, {DOCUMENT: document})


def _submission(fields: dict[str, Any], files: dict[str, Any]) -> Submission:
    """`files`: JSON documents by the names under which they are attached."""
    asked, key, sent = read_fields(fields, tuple(files)), read_idempotency_key(request), read_credentials(request)
    return Submission(asked, tuple(_upload(document) for document in files.values()), key, sent)


def _upload(document: Any) -> Upload:
    upload = current().storage.new_upload()
    upload.write(json.dumps(document).encode())
    return upload


def _submit(submission: Submission, words: str) -> Json:
    try:
        run_id = submit(current(), current_user(), submission)
    finally:
        for upload in submission.uploads:
            upload.close()
    return {"workflow_id": f"{PREFIX}{run_id}", "run_id": run_id, "status": "pending", "message": words}


def _run(session: Session, workflow_id: str) -> WorkflowRun:
    if not workflow_id.startswith(PREFIX):
        raise NotFound(f"There is no workflow {workflow_id!r}.")
    return listing.get_run(session, workflow_id.removeprefix(PREFIX), current_user())
