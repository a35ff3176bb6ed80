"""From a run to the exact arguments of start_app2: app, parameters and start parameters. Starts nothing."""

from __future__ import annotations

import re
from typing import Any

from app.bvbrc_token import BvbrcToken
from app.daemon.providers.bvbrc_apps import (
    OUTPUT_FILE,
    OUTPUT_PATH,
    Apps,
    check_parameters,
    needed_defaults,
    workspace_paths,
)
from app.daemon.providers.provider_interface import Submission
from app.errors import Rejected
from app.locations import inputs_of

WORKFLOW_TYPE = "BVBRC"
SCHEME = "bvbrc:"
START_PARAMETERS = ("base_url", "container_id", "data_container_id", "reservation")
"""workflow_engine_parameters that go to start_app2's third argument."""
ROUTING = frozenset({"provider"})
_APP = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}", re.ASCII)


def mark_of(run_id: str) -> str:
    """What a run's task carries as user_metadata. It is the submit key, made of what later calls still know."""
    return f"wes-{run_id}"


def prepare(run: Submission, token: BvbrcToken, apps: Apps) -> dict[str, Any]:
    """The request as it is stored. Raises Rejected where it cannot run, and what BV-BRC raises."""
    _check_type(run)
    start = _start_parameters(run)
    app = apps.find(token, _app_id(run.workflow_url))
    params: dict[str, Any] = {
        OUTPUT_PATH: f"/{token.user}/home",
        OUTPUT_FILE: run.submit_key,
        **{name: value for name, value in workspace_paths(inputs_of(run.workflow_params)).items() if value is not None},
    }
    check_parameters(app, params)
    start["user_metadata"] = mark_of(run.run_id)
    return {"app": app.id, "params": needed_defaults(app) | params, "start": start}


def names_its_output(run: Submission) -> bool:
    """Did the user say what the result is called? Then two runs may carry the same name."""
    return bool(run.workflow_params.get(OUTPUT_FILE))


def _check_type(run: Submission) -> None:
    if run.workflow_type != WORKFLOW_TYPE:
        words = f"BV-BRC runs its own apps: workflow_type must be {WORKFLOW_TYPE}, not {run.workflow_type}."
        raise Rejected(words, "unsupported_workflow_type")
    if run.attachments:
        words = "BV-BRC takes no attachments: put the files into your Workspace and name their paths."
        raise Rejected(words, "attachments_unsupported")


def _app_id(workflow_url: str) -> str:
    name = workflow_url[len(SCHEME) :] if workflow_url.lower().startswith(SCHEME) else workflow_url
    if _APP.fullmatch(name) is None:
        raise Rejected(f"workflow_url {workflow_url[:200]!r} does not name a BV-BRC app: bvbrc:<app>.", "unknown_app")
    return name


def _start_parameters(run: Submission) -> dict[str, str]:
    given = {name: value for name, value in run.workflow_engine_parameters.items() if name not in ROUTING}
    if unknown := sorted(set(given) - set(START_PARAMETERS)):
        words = f"workflow_engine_parameters: {', '.join(unknown)} is not known. Known: {', '.join(START_PARAMETERS)}."
        raise Rejected(words[:1000], "invalid_engine_parameter")
    return {name: value for name, value in given.items() if value}
