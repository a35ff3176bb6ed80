"""From a request to a checked pipeline, and from its steps to requests like any other. No database, no HTTP.

The document is `workflow_params` itself (workflow_url `inline:`), an attachment, or what a URL holds; of the latter two
`workflow_params` are further names of its base_context.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urljoin

import yaml

from app.attachment_names import attachment_of
from app.dag.document import MAX_SHARDS, Step
from app.dag.pipeline import DocumentRefused, Pipeline, parse
from app.errors import InvalidRequest, WesError
from app.locations import INLINE, refuse_credentials, scheme_of
from app.routing import Offers, Route, Rules, route
from app.run_requests import RunRequest, read_fields
from app.strict import check_yaml, load_json

MAX_JSON_BYTES = 16 * 1024**2
MAX_YAML_BYTES = 2 * 1024**2
MAX_SHEET_BYTES = 32 * 1024**2
MAX_PARALLEL = 1000
PARALLEL = "max_parallel_steps"
"""The engine parameter: how many steps of one pipeline run at once."""
APP_PROVIDER = "bvbrc"
"""Where a step's `app` is, unless the step names another provider."""

Read = Callable[[str, int], bytes]
"""(path of an attachment, most bytes) -> its bytes, one more than the most where it is longer."""


@dataclass(frozen=True, slots=True)
class Source:
    """A request's document and sheets, checked. `document` and `sheets` are JSON; `base`: its URL, if any."""

    pipeline: Pipeline
    document: dict[str, Any]
    sheets: dict[str, list[dict[str, str]]]
    base: str = ""


def read_source(request: RunRequest, read: Read, fetch: Callable[[str], bytes] | None = None) -> Source | None:
    """The pipeline of a request. Without `fetch` None where the document is behind a URL.

    Raises InvalidRequest with every problem in it.
    """
    name, base = attachment_of(request.workflow_url, request.attachments), ""
    if request.workflow_url == INLINE:
        document: Any = request.workflow_params
    elif name is not None:
        document = _with_context(parse_document(read(name, MAX_JSON_BYTES), name), request.workflow_params)
    elif fetch is not None:
        base = request.workflow_url
        document = _with_context(parse_document(fetch(base), base), request.workflow_params)
    else:
        return None
    sheets = _read_sheets(document, request.attachments, read)
    try:
        return Source(parse(document, sheets), document, sheets, base)
    except DocumentRefused as error:
        raise InvalidRequest(f"This pipeline cannot be run:\n{error}") from None


def max_parallel(request_parameters: Mapping[str, str | None], pipeline: Pipeline, default: int) -> int:
    """How many steps may run at once: the request's word, else the document's, else the default.

    Raises InvalidRequest.
    """
    asked = request_parameters.get(PARALLEL)
    if asked is None:
        return pipeline.document.max_parallel_steps or default
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:10]) <= MAX_PARALLEL):
        raise InvalidRequest(f"workflow_engine_parameters.{PARALLEL} must be a whole number from 1 to {MAX_PARALLEL}.")
    return int(asked)


def check_steps(source: Source, attachments: tuple[str, ...], offers: Offers, rules: Rules) -> None:
    """Raises InvalidRequest with every step that nothing here would run. What holds references is left for later."""
    problems = []
    for number, step in enumerate(source.pipeline.document.steps):
        try:
            refuse_credentials(step.workflow_url or "", "workflow_url")
            if "${" in (step.workflow_url or ""):
                continue
            route_step(step_request(step, {}, attachments, offers, source.base), offers, rules)
        except WesError as error:
            problems.append((f"/steps/{number}", str(error)))
    if problems:
        raise InvalidRequest(f"This pipeline cannot be run:\n{DocumentRefused(problems)}")


def route_step(request: RunRequest, offers: Offers, rules: Rules) -> Route:
    """Raises InvalidRequest, also for a pipeline inside a pipeline."""
    chosen = route(request, offers, rules)
    if chosen.provider == "dag":
        raise InvalidRequest("A step cannot be a pipeline itself.")
    return chosen


def step_request(
    step: Step, params: Mapping[str, Any], attachments: tuple[str, ...], offers: Offers, base: str = "", name: str = ""
) -> RunRequest:
    """A step as a request of its own. `base`: the document's URL, which relative addresses are relative to.

    Raises InvalidRequest.
    """
    parameters: dict[str, Any] = dict(step.workflow_engine_parameters)
    if step.provider is not None:
        parameters["provider"] = step.provider
    fields = {
        "workflow_url": _url(step, attachments, base),
        "workflow_type": step.workflow_type or _type_of_app(step, offers),
        "workflow_type_version": step.workflow_type_version,
        "workflow_engine": step.workflow_engine,
        "workflow_engine_version": step.workflow_engine_version,
        "workflow_engine_parameters": parameters,
        "workflow_params": dict(params),
        "tags": step.tags,
        "name": name or step.step_name,
    }
    return read_fields(fields, attachments)


def _url(step: Step, attachments: tuple[str, ...], base: str) -> str:
    if step.app is not None:
        return f"{APP_PROVIDER}:{step.app}" if step.provider in (None, APP_PROVIDER) else step.app
    url = step.workflow_url or ""
    is_relative = not scheme_of(url) and not url.startswith("/") and attachment_of(url, attachments) is None
    return urljoin(base, url) if base and is_relative and step.provider in (None, "local") else url


def _type_of_app(step: Step, offers: Offers) -> str | None:
    """What the app's provider calls its workflows; None for a step that is no app."""
    if step.app is None:
        return None
    offer = offers.get(step.provider or APP_PROVIDER)
    return next((word for engine in offer.engines for word in engine.workflow_types), None) if offer else "BVBRC"


def _with_context(document: Any, params: Mapping[str, Any]) -> Any:
    context = document.get("base_context") if isinstance(document, dict) else None
    if not params or not isinstance(context, dict | None):
        return document
    return {**document, "base_context": {**(context or {}), **params}}


def parse_document(data: bytes, name: str) -> Any:
    """JSON, or YAML without anchors; `name` is what errors call it. Raises InvalidRequest."""
    if len(data) > MAX_JSON_BYTES:
        raise InvalidRequest(f"{name}: a pipeline document has at most {MAX_JSON_BYTES} bytes.")
    if data.lstrip()[:1] == b"{":
        return load_json(data, name)
    if len(data) > MAX_YAML_BYTES:
        raise InvalidRequest(f"{name}: a pipeline in YAML has at most {MAX_YAML_BYTES} bytes; JSON may be longer.")
    try:
        text = data.decode()
        check_yaml(text)
        return load_json(json.dumps(yaml.load(text, _LOADER)), name)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        words = " ".join(str(error).split())[:300]
        raise InvalidRequest(f"{name} is neither JSON nor YAML that can be used: {words}") from None


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read_sheets(document: Any, attachments: tuple[str, ...], read: Read) -> dict[str, list[dict[str, str]]]:
    """The sample sheets that the document names and that are attached."""
    steps = document.get("steps") if isinstance(document, dict) else None
    scatters = [step.get("scatter") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    named = [scatter.get("sheet") for scatter in scatters if isinstance(scatter, dict)]
    sheets = [name for name in attachments if name in named and _separator(name)]
    return {name: _read_sheet(name, read(name, MAX_SHEET_BYTES)) for name in sheets}


def _separator(name: str) -> str | None:
    return {"csv": ",", "tsv": "\t"}.get(name.rpartition(".")[2].lower())


def _read_sheet(name: str, data: bytes) -> list[dict[str, str]]:
    if len(data) > MAX_SHEET_BYTES:
        raise InvalidRequest(f"{name}: a sample sheet has at most {MAX_SHEET_BYTES} bytes.")
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(name) or ",", strict=True)
        rows = [row for row in islice(reader, MAX_SHARDS + 2) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{name} is no sample sheet that can be read: {error}") from None
    if not rows or len(set(rows[0])) != len(rows[0]) or "" in rows[0]:
        raise InvalidRequest(f"{name}: the first row must name every column, each once.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise InvalidRequest(f"{name}: row {number} has {len(row)} cells, not {len(rows[0])}.")
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
