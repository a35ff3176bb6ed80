"""Workflows and their versions in the HealthOmics fake: made asynchronously, looked into where they come as a zip."""

from __future__ import annotations

import base64
import binascii
import io
import uuid
import zipfile
from collections.abc import Iterable, Mapping

from tests.fakes.aws_model import Refused
from tests.fakes.omics_account import Account, Members, known_in, page, require

CREATING_SECONDS = 3
ENGINES = {".wdl": "WDL", ".cwl": "CWL", ".nf": "NEXTFLOW"}
SOURCES = ("definitionZip", "definitionUri", "definitionRepository")
KEPT = ("name", "description", "engine", "main", "parameterTemplate", "storageType", "storageCapacity", "accelerators")
CREATED = ("arn", "id", "workflowId", "versionName", "status", "uuid")
LISTED = ("arn", "id", "name", "status", "type", "digest", "creationTime", "metadata")


class Workflows:
    """The methods named as operations take checked members and return the answer's."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._workflows: dict[str, Members] = {}
        self._versions: dict[tuple[str, str], Members] = {}
        self._add({"name": "hello", "engine": "WDL"}, status="ACTIVE", type="PRIVATE")
        ready = {"name": "ready", "engine": "WDL", "storageType": "STATIC", "storageCapacity": 1200}  # AWS's to settle
        self._add(ready, status="ACTIVE", type="READY2RUN")

    def find(self, workflow_id: str, kind: str = "PRIVATE", version: str | None = None) -> Members:
        """A workflow, with what its version says where one is named."""
        workflow = known_in(self._workflows, workflow_id, "workflow")
        if workflow["type"] != kind:
            raise Refused("ResourceNotFoundException", f"workflow {workflow_id} does not exist among {kind} ones")
        return workflow | (known_in(self._versions, (workflow_id, version), "workflow version") if version else {})

    def create_workflow(self, asked: Members) -> Members:
        return self._account.once("workflow", asked, self._new_workflow)

    def create_workflow_version(self, asked: Members) -> Members:
        return self._account.once("version", asked, self._new_version)

    def get_workflow(self, asked: Members) -> Members:
        workflow = self.find(asked["id"], asked.get("type", "PRIVATE"))
        return {**workflow, "tags": self._account.tags[workflow["arn"]]}

    def get_workflow_version(self, asked: Members) -> Members:
        version = known_in(self._versions, (asked["workflowId"], asked["versionName"]), "workflow version")
        return {**version, "tags": self._account.tags[version["arn"]]}

    def list_workflows(self, asked: Members) -> Members:
        kind, name = asked.get("type", "PRIVATE"), asked.get("name")

        def fits(workflow: Members) -> bool:
            return workflow["type"] == kind and name in (None, workflow.get("name"))

        return page(self._workflows, asked, fits, lambda found: {key: found[key] for key in LISTED if key in found})

    def _new_workflow(self, given: Members) -> Members:
        _one_definition(given)
        return self._created(self._add(given, status="CREATING", type="PRIVATE"))

    def _new_version(self, given: Members) -> Members:
        _one_definition(given)
        workflow, key = self.find(given["workflowId"]), (given["workflowId"], given["versionName"])
        if key in self._versions:
            raise Refused("ConflictException", f"workflow {key[0]} has a version {key[1]}")
        names = {"workflowId": key[0], "versionName": key[1], "status": "CREATING", "type": workflow["type"]}
        self._versions[key] = self._defined(given, f"workflow/{key[0]}/version/{key[1]}", names)
        return self._created(self._versions[key])

    def _add(self, given: Members, **facts: str) -> Members:
        workflow_id = self._account.new_id()
        made = self._defined(given, f"workflow/{workflow_id}", {"id": workflow_id, **facts})
        self._workflows[workflow_id] = made
        return made

    def _defined(self, given: Members, path: str, facts: Mapping[str, str]) -> Members:
        """A workflow or version; one that is CREATING becomes ACTIVE or FAILED in a while."""
        made: Members = {name: given[name] for name in KEPT if name in given}
        made.update(arn=self._account.arn(path), uuid=str(uuid.uuid4()), digest="0" * 64, metadata={})
        made.update(facts, creationTime=self._account.now())
        self._account.tags[made["arn"]] = dict(given.get("tags", {}))
        if made["status"] == "CREATING":
            engine, problem = _inspected(given)
            end = {"status": "FAILED", "statusMessage": problem} if problem else {"status": "ACTIVE", "engine": engine}
            self._account.timeline.after(CREATING_SECONDS, lambda: made.update(end))
        return made

    def _created(self, made: Members) -> Members:
        return {name: made[name] for name in CREATED if name in made} | {"tags": self._account.tags[made["arn"]]}


def _one_definition(given: Members) -> None:
    require(sum(name in given for name in SOURCES) == 1, f"exactly one of {', '.join(SOURCES)} is required")


def _inspected(given: Members) -> tuple[str | None, str | None]:
    """The engine of a definition, and what is wrong with it. Only a zip can be looked into."""
    names: Iterable[str] = [given["main"]] if "main" in given else []
    if "definitionZip" in given:
        try:
            names = zipfile.ZipFile(io.BytesIO(base64.b64decode(given["definitionZip"]))).namelist()
        except (zipfile.BadZipFile, binascii.Error):
            return None, "The definition is not a zip archive"
        if "main" in given and given["main"] not in names:
            return None, f"The definition has no {given['main']}"
    engines = [ENGINES[suffix] for name in names for suffix in ENGINES if name.endswith(suffix)]
    engine = given.get("engine") or next(iter(engines), None)
    return engine, None if engine else "The engine cannot be told from the definition"
