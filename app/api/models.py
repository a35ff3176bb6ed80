"""What the Swagger page says of requests and answers. Answers are plain dicts: nothing is marshalled with these."""

from __future__ import annotations

from flask_restx import Model, fields

from app.api.pipeline_shapes import WORDS as STATE_WORDS
from app.dag.planning import StepState
from app.run_requests import JSON_FIELDS, TEXT_FIELDS
from app.states import State

WORDS = list(dict.fromkeys(STATE_WORDS.values()))
ERROR = Model("ErrorResponse", {"msg": fields.String(required=True), "status_code": fields.Integer(required=True)})
RUN_ID = Model("RunId", {"run_id": fields.String(required=True)})
RUN_STATUS = Model(
    "RunStatus", {"run_id": fields.String(required=True), "state": fields.String(enum=[str(state) for state in State])}
)
TEXT_MAP = fields.Raw(description="Text values by name")
RUN_SUMMARY = RUN_STATUS.clone(
    "RunSummary",
    {
        "name": fields.String,
        "submitted_at": fields.DateTime,
        "start_time": fields.DateTime,
        "end_time": fields.DateTime,
        "tags": TEXT_MAP,
    },
)
RUN_LIST = Model(
    "RunListResponse",
    {
        "runs": fields.List(fields.Nested(RUN_SUMMARY)),
        "next_page_token": fields.String(description="Empty on the last page"),
        "total_runs": fields.Integer(description="Matching runs, at most 10,000"),
    },
)
LOG = Model(
    "Log",
    {
        "name": fields.String,
        "cmd": fields.List(fields.String),
        "start_time": fields.DateTime,
        "end_time": fields.DateTime,
        "stdout": fields.Url(description="Absolute address of the text"),
        "stderr": fields.Url(description="Absolute address of the text"),
        "exit_code": fields.Integer,
        "system_logs": fields.List(fields.String),
    },
)
TASK_LOG = LOG.clone("TaskLog", {"id": fields.String(required=True)})
TASK_LIST = Model(
    "TaskListResponse", {"task_logs": fields.List(fields.Nested(TASK_LOG)), "next_page_token": fields.String}
)
RUN_REQUEST = Model(
    "RunRequest",
    {
        **{name: fields.String(required=name == "workflow_url") for name in TEXT_FIELDS},
        **{name: fields.Raw(description="JSON object") for name in JSON_FIELDS},
    },
)
RUN_LOG = Model(
    "RunLog",
    {
        "run_id": fields.String,
        "request": fields.Nested(RUN_REQUEST),
        "state": fields.String,
        "run_log": fields.Nested(LOG),
        "task_logs_url": fields.String,
        "task_logs": fields.List(fields.Nested(TASK_LOG)),
        "outputs": fields.Raw,
    },
)
VALIDATION = Model("Validation", {"valid": fields.Boolean, "problems": fields.List(fields.String)})
EVENTS = Model("Events", {"events": fields.List(fields.Raw)})
OUTPUTS = Model("Outputs", {"outputs": fields.List(fields.Raw)})
WORKFLOW = Model(
    "Workflow",
    {"workflow_id": fields.String(required=True), "status": fields.String(enum=WORDS), "message": fields.String},
)
SUBMITTED = WORKFLOW.clone(
    "SubmittedWorkflow",
    {"run_id": fields.String(required=True), "mode": fields.String(enum=["dag", "cwl"], description="Of CWL only")},
)
STEP = Model(
    "WorkflowStep",
    {
        "step_id": fields.String(description="The job's id at its provider; null before there is one"),
        "step_name": fields.String,
        "status": fields.String(enum=[str(state) for state in StepState]),
        "app": fields.String,
        "run_ids": fields.List(fields.String, description="Its runs: of each element, each try"),
        "error_message": fields.String,
    },
)
WORKFLOW_STATUS = Model(
    "WorkflowStatus",
    {
        "workflow_id": fields.String(required=True),
        "workflow_name": fields.String,
        "status": fields.String(enum=WORDS),
        "created_at": fields.DateTime,
        "updated_at": fields.DateTime,
        "error_message": fields.String,
        "steps": fields.List(fields.Nested(STEP)),
    },
)
DOCUMENT = Model(
    "WorkflowDocument",
    {
        "workflow_name": fields.String(required=True),
        "version": fields.String,
        "base_context": fields.Raw(description="Names with values, for ${name}"),
        "steps": fields.List(fields.Raw(description="/workflows/schema says what a step has"), required=True),
        "workflow_outputs": fields.Raw(description="References, as a list or by names"),
        "max_parallel_steps": fields.Integer,
    },
)
WHOLE_WORKFLOW = WORKFLOW_STATUS.clone(
    "WholeWorkflow",
    {
        "run_id": fields.String,
        "document": fields.Nested(DOCUMENT),
        "outputs": fields.Raw,
        "step_outputs": fields.Raw(description="By run_id"),
        "started_at": fields.DateTime,
        "completed_at": fields.DateTime,
    },
)
CWL = Model(
    "CwlWorkflow",
    {"cwl": fields.Raw(description="A CWL document; it may be the body itself"), "inputs": fields.Raw},
)
HEALTH = Model("Health", dict.fromkeys(("status", "database", "executor"), fields.String))
ALL = (
    ERROR, RUN_ID, RUN_STATUS, RUN_SUMMARY, RUN_LIST, LOG, TASK_LOG, TASK_LIST, RUN_REQUEST, RUN_LOG, VALIDATION,
    EVENTS, OUTPUTS,
)  # fmt: skip
OF_PIPELINES = (
    ERROR, VALIDATION, DOCUMENT, CWL, WORKFLOW, SUBMITTED, STEP, WORKFLOW_STATUS, WHOLE_WORKFLOW, HEALTH,
)  # fmt: skip
