"""A request in any of its encodings -> one checked `Submission` -> an accepted run. Used by the API and by the UI.

Knows WES's fields and forms; where a run goes is `app/routing.py`'s, how it is stored is `app/runs`'.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from flask import Request
from sqlalchemy.orm import Session
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app import fleet
from app.artifacts import Upload
from app.attachment_names import check_name, check_together
from app.context import Context
from app.errors import Conflict, InvalidRequest, TooLarge
from app.models import WorkflowRun
from app.pipeline_documents import Read, check_steps, max_parallel, read_source
from app.routing import Offers, Route, Rules, read_offers, route
from app.run_requests import FIELDS, MAX_KEY_BYTES, RunRequest, read_fields
from app.runs import listing
from app.runs.acceptance import AttachedFile, NewRun
from app.sent_credentials import read_credentials
from app.states import is_terminal
from app.strict import check_text, load_json
from config import Settings

ATTACHMENT = "workflow_attachment"


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request. Its uploads are staged, not kept: they go with the HTTP request unless `submit` keeps them."""

    request: RunRequest
    uploads: tuple[Upload, ...] = ()
    idempotency_key: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # kind -> secret


def read_submission(http: Request, settings: Settings) -> Submission:
    """Read multipart, urlencoded or JSON. Raises InvalidRequest, TooLarge and UnsupportedMediaType."""
    with _within_limits(settings):
        fields, files = _read_body(http, settings)
    names = tuple(check_name(file.filename or "") for file in files)
    check_together(names)
    return Submission(
        read_fields(fields, names),
        tuple(cast(Upload, file.stream) for file in files),
        read_idempotency_key(http),
        read_credentials(http),
    )


def known_offers(context: Context) -> Offers:
    """What living daemons offer; where none lives, what was offered last."""
    with context.database.reading() as session:
        return read_offers(fleet.offered(session, context.now()))


def route_request(context: Context, request: RunRequest) -> Route:
    """Raises InvalidRequest for what cannot be run here now; what was offered a second ago may be taken still."""
    rules = Rules(context.settings.default_wes_provider, context.settings.file_roots)
    if recent := context.recent_offers.get():
        with suppress(InvalidRequest):
            return route(request, recent, rules)
    offers = known_offers(context)
    context.recent_offers.set(offers)
    return route(request, offers, rules)


def submit(context: Context, owner: str, submission: Submission) -> str:
    """Accept the request and return its run_id: once this returns, attachments and row are on disk.

    Raises InvalidRequest, KeyReused, and the database's errors where the outcome stays unknown.
    """
    chosen = route_request(context, submission.request)
    if chosen.provider == "dag":
        check_pipeline(context, submission.request, reader(submission))
    kept = [upload.keep() for upload in submission.uploads]
    names = submission.request.attachments
    files = tuple(AttachedFile(name, *file) for name, file in zip(names, kept, strict=True))
    new = _new_run(owner, submission.request, chosen, files, submission.idempotency_key)
    return _accept(context, new, submission.credentials)


def resubmit(
    context: Context,
    owner: str,
    run_id: str,
    idempotency_key: str | None = None,
    credentials: Mapping[str, str] | None = None,
    *,
    from_failed: bool = False,
) -> str:
    """The same request as a new run; `from_failed`: a pipeline's steps that succeeded are not done again.

    `credentials` come anew: those of the earlier run are gone. Raises NotFound, Conflict and what `submit` raises.
    """
    with context.database.reading() as session:
        run = listing.get_run(session, run_id, owner)
        files = tuple(listing.get_attachments(session, run_id))
    if from_failed:
        _check_resumable(run)
    request = request_of(run, tuple(file.path for file in files))
    for file in files:
        context.storage.renew_blob(file.sha256)
    new = _new_run(owner, request, route_request(context, request), files, idempotency_key)
    words = f"accepted as a re-run of {run_id}" + (", from what failed" if from_failed else "")
    new = replace(new, note=words, reused_from=run_id if from_failed else None)
    return _accept(context, new, credentials or {})


def check_pipeline(context: Context, request: RunRequest, read: Read) -> None:
    """Raises InvalidRequest with everything that is wrong with a pipeline and with its steps; one behind a URL is
    checked by the daemon, which fetches it."""
    source = read_source(request, read)
    if source is not None:
        max_parallel(request.workflow_engine_parameters, source.pipeline, 1)
        rules = Rules(context.settings.default_wes_provider, context.settings.file_roots)
        check_steps(source, request.attachments, known_offers(context), rules)


def reader(submission: Submission) -> Read:
    """How a pipeline reads the attachments of a request that is not accepted yet."""
    uploads = dict(zip(submission.request.attachments, submission.uploads, strict=True))

    def read(name: str, most: int) -> bytes:
        uploads[name].seek(0)
        return uploads[name].read(most + 1)

    return read


def _check_resumable(run: WorkflowRun) -> None:
    if run.provider_type != "dag":
        raise InvalidRequest("Only a pipeline can be run again from what failed.")
    if not is_terminal(run.state):
        raise Conflict(f"Run {run.run_id} is {run.state}. Wait for its end, or cancel it.")


def request_of(run: WorkflowRun, attachments: tuple[str, ...] = ()) -> RunRequest:
    """The request that a run was made from."""
    return RunRequest(
        workflow_url=run.workflow_url,
        workflow_params=run.workflow_params,
        workflow_type=run.workflow_type,
        workflow_type_version=run.workflow_type_version,
        workflow_engine=run.workflow_engine,
        workflow_engine_version=run.workflow_engine_version,
        workflow_engine_parameters=run.workflow_engine_parameters,
        tags=run.tags,
        given_name=run.name,
        attachments=attachments,
    )


def read_idempotency_key(http: Request) -> str | None:
    """The Idempotency-Key header; None where it is empty or absent. Raises InvalidRequest."""
    return check_text(http.headers.get("Idempotency-Key", "").strip(), "Idempotency-Key", MAX_KEY_BYTES) or None


def _read_body(http: Request, settings: Settings) -> tuple[dict[str, Any], list[FileStorage]]:
    """(field -> text or JSON value, attachments)."""
    if http.mimetype == "multipart/form-data":
        return _read_multipart(http, settings.max_field_bytes)
    http.max_content_length = settings.max_field_bytes
    if http.mimetype == "application/x-www-form-urlencoded" or not (data := http.get_data(cache=True)):
        return _read_form(http), []
    if http.mimetype == "application/json" or http.mimetype.endswith("+json"):
        return _read_json(data), []
    raise UnsupportedMediaType("Send multipart/form-data, application/x-www-form-urlencoded or application/json.")


def _read_json(data: bytes) -> dict[str, Any]:
    body = load_json(data, "The body")
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if body.get(ATTACHMENT):
        raise InvalidRequest(f"{ATTACHMENT} needs multipart/form-data.")
    return body


def _read_form(http: Request) -> dict[str, Any]:
    try:
        form = http.form
    except ValueError as error:
        raise InvalidRequest(f"The body is not a form that can be read: {error}") from None
    if any(form.getlist(ATTACHMENT)):
        raise InvalidRequest(f"{ATTACHMENT} must be a file part with a filename.")
    return {name: _only(name, form.getlist(name)) for name in FIELDS if name in form}


def _read_multipart(http: Request, max_field_bytes: int) -> tuple[dict[str, Any], list[FileStorage]]:
    """A field may also be a file part; an attachment without name and bytes is what browsers send for "no file"."""
    fields = _read_form(http)
    attachments = []
    for name, file in http.files.items(multi=True):
        if name in FIELDS:
            fields[name] = _only(name, [fields.get(name), _text_of(name, file, max_field_bytes)])
        elif name != ATTACHMENT:
            raise InvalidRequest(f"There is no file part {name!r}. Attachments are called {ATTACHMENT}.")
        elif file.filename or file.stream.read(1):
            attachments.append(file)
    return fields, attachments


def _text_of(name: str, file: FileStorage, max_bytes: int) -> str:
    text = file.stream.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise RequestEntityTooLarge
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8 text.") from None


def _only(name: str, values: list[Any]) -> Any:
    given = [value for value in values if value]
    if len(given) > 1:
        raise InvalidRequest(f"{name} is given more than once.")
    return given[0] if given else None


@contextmanager
def _within_limits(settings: Settings) -> Iterator[None]:
    try:
        yield
    except RequestEntityTooLarge:
        raise TooLarge(
            f"The request is over a limit: {settings.max_request_bytes} bytes in all (MAX_REQUEST_BYTES), "
            f"{settings.max_field_bytes} bytes a field or a JSON body (MAX_FIELD_BYTES), "
            f"{settings.max_attachments} attachments (MAX_ATTACHMENTS)."
        ) from None


def _new_run(
    owner: str, request: RunRequest, chosen: Route, files: tuple[AttachedFile, ...], idempotency_key: str | None
) -> NewRun:
    return NewRun(
        run_id=str(uuid.uuid4()),
        owner=owner,
        name=request.name,
        provider_type=chosen.provider,
        workflow_type=chosen.workflow_type,
        workflow_type_version=chosen.workflow_type_version,
        workflow_url=request.workflow_url,
        workflow_params=request.workflow_params,
        workflow_engine=chosen.engine,
        workflow_engine_version=chosen.engine_version,
        workflow_engine_parameters=request.workflow_engine_parameters,
        tags=request.tags,
        attachments=files,
        idempotency_key=idempotency_key,
    )


def _accept(context: Context, new: NewRun, credentials: Mapping[str, str]) -> str:
    """Accepted, then hinted at."""

    def keep_credentials(session: Session, run_id: str) -> None:
        for kind, secret in credentials.items():
            context.vault.store(session, run_id, kind, secret)

    run_id = context.intake.accept(context.database, new, context.now(), keep_credentials if credentials else None)
    context.hinter.hint_new(run_id, new.provider_type)
    return run_id
