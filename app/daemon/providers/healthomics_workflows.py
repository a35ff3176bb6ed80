"""Which workflow of HealthOmics a request means, and what the service knows of it. Knows no runs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, Field

from app.daemon.providers.healthomics_aws import AwsApi, Missing
from app.errors import NotReady, OutcomeUnknown, Rejected

PRIVATE, READY2RUN = "PRIVATE", "READY2RUN"
ACTIVE = "ACTIVE"
UNUSABLE = frozenset({"FAILED", "INACTIVE", "DELETED"})
KEPT_SECONDS = 300.0
MOST_KEPT = 1000
AGAIN_SECONDS = 5.0
_ID = r"(?P<id>[0-9]{1,18})(?:/version/(?P<version>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?"
_BARE = re.compile(rf"(?:healthomics:)?{_ID}", re.IGNORECASE)
_ARN = re.compile(rf"arn:aws[a-z-]*:omics:(?P<region>[a-z0-9-]*):(?P<account>[0-9]{{12}})?:workflow/{_ID}")


@dataclass(frozen=True, slots=True)
class Target:
    """A workflow by its id. `kind` None: whichever has that id, private ones first. `owner`: another AWS account."""

    workflow_id: str
    version: str | None = None
    owner: str | None = None
    kind: str | None = None


class Parameter(BaseModel):
    optional: bool = False


class Workflow(BaseModel):
    """What GetWorkflow or GetWorkflowVersion says."""

    id: str = Field(pattern=r"^[0-9]{1,18}$")
    status: str
    type: str = PRIVATE
    statusMessage: str | None = None
    parameterTemplate: dict[str, Parameter] | None = None
    storageType: str | None = None
    storageCapacity: int | None = None


class _Version(Workflow):
    id: str = Field(alias="workflowId", pattern=r"^[0-9]{1,18}$")


def target_of(workflow_url: str, workflow_params: Mapping[str, Any], region: str, account: str) -> Target | None:
    """The workflow that is meant; None where workflow_url is a definition that has to be registered first.

    `account`: of this service. Raises Rejected for an id that cannot be one, or is in another region.
    """
    if workflow_url.startswith("arn:"):
        return _target_of_arn(workflow_url, region, account)
    if workflow_url.lower().startswith("healthomics:"):
        return _target_of_id(workflow_url)
    if (named := workflow_params.get("workflow_id")) is not None:
        return _target_of_id(str(named))
    if re.fullmatch(r"\d+|wf-[\w-]+", workflow_url):
        return _target_of_id(workflow_url)
    return None


def _target_of_id(text: str) -> Target:
    if found := _BARE.fullmatch(text):
        return Target(found["id"], found["version"])
    words = f"{text!r} names no HealthOmics workflow: ids are digits, as in healthomics:1234567/version/name."
    raise Rejected(words, "workflow_not_found")


def _target_of_arn(arn: str, region: str, account: str) -> Target:
    found = _ARN.fullmatch(arn)
    if not found:
        words = (
            f"{arn!r} is not the ARN of a HealthOmics workflow: arn:aws:omics:REGION:ACCOUNT:workflow/ID/version/NAME."
        )
        raise Rejected(words, "workflow_not_found")
    if found["region"] not in ("", region):
        words = f"The workflow is in {found['region']}, but this service runs workflows in {region}."
        raise Rejected(words, "workflow_not_found")
    owner = found["account"]
    kind = PRIVATE if owner else READY2RUN  # AWS's own workflows belong to no account
    return Target(found["id"], found["version"], owner if owner != account else None, kind)


class Workflows:
    """Looks workflows up, and remembers for a while what cannot change soon. Thread-safe."""

    def __init__(self, api: AwsApi, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._api, self._monotonic = api, monotonic
        self._lock = threading.Lock()
        self._kept: dict[Target, tuple[float, Workflow]] = {}

    def look_up(self, target: Target) -> Workflow:
        """A workflow that can run. Raises NotReady while it is being made, Rejected where it cannot be used."""
        with self._lock:
            at, kept = self._kept.get(target, (0.0, None))
        if kept and self._monotonic() - at < KEPT_SECONDS:
            return kept
        workflow = self._found(target)
        if workflow.status in UNUSABLE:
            said = f": {workflow.statusMessage}" if workflow.statusMessage else "."
            raise Rejected(f"Workflow {workflow.id} is {workflow.status} at HealthOmics{said}", "workflow_unusable")
        if workflow.status != ACTIVE:
            words = f"The workflow definition is being registered at HealthOmics as {workflow.id} ({workflow.status})."
            raise NotReady(words, AGAIN_SECONDS)
        self._keep(target, workflow)
        return workflow

    def _keep(self, target: Target, workflow: Workflow) -> None:
        with self._lock:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[target] = self._monotonic(), workflow

    def _found(self, target: Target) -> Workflow:
        for kind in [target.kind] if target.kind else [PRIVATE, READY2RUN]:
            try:
                workflow = self._get(replace(target, kind=kind))
            except Missing:
                continue
            if workflow.id != target.workflow_id:
                raise OutcomeUnknown(f"Asked for workflow {target.workflow_id}, HealthOmics told of {workflow.id}.")
            return workflow
        version = f" with a version {target.version!r}" if target.version else ""
        words = f"HealthOmics has no workflow {target.workflow_id}{version} that this service may use."
        raise Rejected(words, "workflow_not_found")

    def _get(self, target: Target) -> Workflow:
        whose = {"workflowOwnerId": target.owner} if target.owner else {}
        if target.version is None:
            return self._api.read(Workflow, "GetWorkflow", id=target.workflow_id, type=target.kind, **whose)
        named = {"workflowId": target.workflow_id, "versionName": target.version}
        return self._api.read(_Version, "GetWorkflowVersion", **named, type=target.kind, **whose)
