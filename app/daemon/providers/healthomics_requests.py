"""From a run to the exact StartRun request, with all that the request needs made ready before. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.attachment_names import attachment_of
from app.daemon.providers.healthomics_definitions import Definitions
from app.daemon.providers.healthomics_files import Files, Inputs, check_base
from app.daemon.providers.healthomics_options import (
    MAX_TAGS,
    RunOptions,
    check_parameters,
    check_storage,
    fitting_tags,
)
from app.daemon.providers.healthomics_workflows import (
    AGAIN_SECONDS,
    PRIVATE,
    READY2RUN,
    Target,
    Workflow,
    Workflows,
    target_of,
)
from app.daemon.providers.provider_interface import Attachment, Submission
from app.errors import NotReady, Rejected
from app.locations import inputs_of

RUN_TAG = "WESRunId"


@dataclass(frozen=True, slots=True)
class Home:
    """Where this service is at home. `output_base`: an S3 URI, "" where every run has to bring its own."""

    region: str
    account: str
    output_base: str

    @staticmethod
    def of(region: str, role_arn: str, output_uri: str) -> Home:
        """Raises Rejected for an output_uri that is none."""
        account = (role_arn.split(":") + [""] * 5)[4]
        return Home(region, account, check_base(output_uri, "HEALTHOMICS_OUTPUT_BUCKET") if output_uri else "")


class RunRequests:
    """Thread-safe."""

    def __init__(
        self, home: Home, options: RunOptions, workflows: Workflows, definitions: Definitions, files: Files
    ) -> None:
        self._home, self._options = home, options
        self._workflows, self._definitions, self._files = workflows, definitions, files

    def prepare(self, run: Submission) -> dict[str, Any]:
        """StartRun's members. Checks all that can be checked here, registers a definition, puts inputs into S3.

        As often as it is called, it is done once. Raises NotReady while a definition is being registered.
        """
        options = self._options.read(run.workflow_engine_parameters)
        target = target_of(run.workflow_url, run.workflow_params, self._home.region, self._home.account)
        output_uri, input_base = self._places(run, options)
        main = None if target else attachment_of(run.workflow_url, [one.path for one in run.attachments])
        inputs = Inputs(inputs_of(run.workflow_params), run.attachments, input_base, main)
        workflow = self._workflow(run, target, options, inputs.documents)
        check_parameters(inputs.parameters, workflow)
        members = self._members(run, options, target, workflow)
        for attachment in inputs.files:
            self._files.put(attachment, inputs.uri(attachment.path))
        return {**members, "outputUri": output_uri, "parameters": inputs.parameters}

    def _places(self, run: Submission, options: Mapping[str, Any]) -> tuple[str, str]:
        """Where this run's outputs and its attachments go."""
        asked, base = options.get("outputUri", run.workflow_params.get("outputUri")), self._home.output_base
        if asked is None and not base:
            words = "No place for outputs: set HEALTHOMICS_OUTPUT_BUCKET, or give workflow_params.outputUri."
            raise Rejected(words, "no_output_place")
        own = f"runs/{run.run_id}"
        output_uri = f"{base}/{own}/outputs" if asked is None else check_base(str(asked), "workflow_params.outputUri")
        self._options.check("outputUri", output_uri)
        return output_uri, f"{base or output_uri}/{own}/inputs"

    def _workflow(
        self, run: Submission, target: Target | None, options: Mapping[str, Any], documents: Sequence[Attachment]
    ) -> Workflow:
        if target is None:
            return self._registered(run, documents)
        return self._workflows.look_up(
            Target(
                target.workflow_id,
                options.get("workflowVersionName", target.version),
                options.get("workflowOwnerId", target.owner),
                options.get("workflowType", target.kind),
            )
        )

    def _registered(self, run: Submission, documents: Sequence[Attachment]) -> Workflow:
        workflow_id = self._definitions.workflow_id(run, documents)
        try:
            return self._workflows.look_up(Target(workflow_id, kind=PRIVATE))
        except Rejected as error:
            if error.reason != "workflow_not_found":
                raise
            self._definitions.forget(workflow_id)
            raise NotReady("The workflow definition is being registered at HealthOmics anew.", AGAIN_SECONDS) from error

    def _members(
        self, run: Submission, options: Mapping[str, Any], target: Target | None, workflow: Workflow
    ) -> dict[str, Any]:
        members = {**self._options.defaults, **_of_target(target), **options}
        members |= _storage(members, options, workflow)
        if workflow.type == READY2RUN:  # AWS has settled their storage
            members = {name: value for name, value in members.items() if not name.startswith("storage")}
        check_storage(members)
        tags = {**members.get("tags", {}), RUN_TAG: run.run_id}
        return {
            **members,
            "workflowId": workflow.id,
            "workflowType": workflow.type,
            "requestId": run.submit_key,
            "name": run.submit_key,
            "tags": {**fitting_tags(run.tags, MAX_TAGS - len(tags)), **tags},
        }


def _of_target(target: Target | None) -> dict[str, str]:
    """What the workflow_url says beyond the workflow's id."""
    said = {"workflowVersionName": target.version, "workflowOwnerId": target.owner} if target else {}
    return {name: value for name, value in said.items() if value}


def _storage(members: Mapping[str, Any], options: Mapping[str, Any], workflow: Workflow) -> dict[str, Any]:
    """The run's own word on storage, else the workflow's, else the settings'. A size alone asks for fixed storage."""
    kind = options.get("storageType")
    kind = kind or ("STATIC" if "storageCapacity" in options else workflow.storageType or members.get("storageType"))
    capacity = members.get("storageCapacity", workflow.storageCapacity if kind == "STATIC" else None)
    storage = {"storageType": kind, "storageCapacity": capacity}
    return {name: value for name, value in storage.items() if value is not None}
