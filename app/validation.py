"""What can be said of a request before it runs, without an engine. Nothing is stored and nothing is fetched."""

from __future__ import annotations

from flask import Request

from app.attachment_names import attachment_of
from app.context import Context
from app.cwl_documents import MAX_BYTES, cwl_problems
from app.errors import InvalidRequest
from app.locations import type_of
from app.run_requests import RunRequest
from app.submissions import Submission, check_pipeline, read_submission, reader, route_request


def check_request(context: Context, http: Request) -> list[str]:
    """Every problem in words; none where the request would be accepted and looks runnable. Raises TooLarge."""
    try:
        submission = read_submission(http, context.settings)
        workflow_type = route_request(context, submission.request).workflow_type
        if workflow_type == "DAG":
            check_pipeline(context, submission.request, reader(submission))
    except InvalidRequest as error:
        return [str(error)]
    return _document_problems(submission, workflow_type)


def _document_problems(submission: Submission, workflow_type: str) -> list[str]:
    request = submission.request
    problems = []
    told = type_of(request.workflow_url)
    if told and told != workflow_type:
        problems.append(f"workflow_type is {workflow_type}, but workflow_url looks like {told}.")
    name = attachment_of(request.workflow_url, request.attachments)
    if name is None or workflow_type == "DAG":
        return problems
    upload = submission.uploads[request.attachments.index(name)]
    upload.seek(0)
    data = upload.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return problems
    return [*problems, *_text_problems(name, data, workflow_type, request)]


def _text_problems(name: str, data: bytes, workflow_type: str, request: RunRequest) -> list[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return [f"{name} is not UTF-8 text."]
    if not text.strip():
        return [f"{name} is empty."]
    if workflow_type != "CWL":
        return []
    fragment = request.workflow_url.partition("#")[2]
    return cwl_problems(text, fragment, request.workflow_type_version, request.workflow_params)
