"""The whole API against the official specification, by generated requests: no server error, every body as specified.

`pytest --long` sends many more of them. The examples are the same in every run (derandomized).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from app.artifacts import DirectoryStorage
from app.database import Database
from app.runs import transitions
from app.states import State
from tests.api_calls import ALIAS, BASE, sign_on
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec"
UNDECLARED = frozenset({400, 404, 405, 413, 415, 422, 429, 503})
"""What a correct server answers besides what the specification declares for an operation."""
DATE = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
WHOLE = ("ErrorResponse", "RunId", "RunStatus", "RunLog", "RunListResponse", "TaskListResponse")
"""Objects of which we always answer every property."""
OPERATIONS = [
    "GET /service-info",
    "GET /runs",
    "POST /runs",
    "GET /runs/{run_id}",
    "GET /runs/{run_id}/status",
    "GET /runs/{run_id}/tasks",
    "GET /runs/{run_id}/tasks/{task_id}",
    "POST /runs/{run_id}/cancel",
]
SENSIBLE = {
    "workflow_url": ["https://example.org/a.cwl", "s3://bucket/a.cwl"],
    "workflow_type": ["CWL"],
    "workflow_type_version": ["v1.0", "1.2"],
    "workflow_params": ["{}", '{"x": [1, {"y": null}]}'],
    "tags": ['{"a": "b"}', ""],
    "workflow_engine": ["", "cwltool"],
    "workflow_engine_version": [""],
    "workflow_engine_parameters": ['{"debug": null}', ""],
    "workflow_attachment": [[]],
}


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    if not SPEC.is_dir():
        words = f"the official specification is not at {SPEC}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(words)
    return tighten(yaml.safe_load((SPEC / "workflow_execution_service.openapi.yaml").read_text()))


def tighten(specification: dict[str, Any]) -> dict[str, Any]:
    """The specification with what WES.md asks beyond it: nothing left out of small objects, one form of dates."""
    other = yaml.safe_load((SPEC / "service-info.openapi.yaml").read_text())["components"]["schemas"]
    schemas = specification["components"]["schemas"]
    schemas |= other
    parts = schemas["ServiceInfo"]["allOf"]
    parts[:] = [{"$ref": "#/components/schemas/Service"} if "$ref" in part else part for part in parts]
    for name in WHOLE:
        schemas[name]["required"] = sorted(schemas[name]["properties"])
    for owner in (schemas["Log"], schemas["RunSummary"]["allOf"][1]):
        for name in ("start_time", "end_time"):
            owner["properties"][name]["pattern"] = DATE
    schemas["RunListResponse"]["properties"]["runs"]["items"] = {"$ref": "#/components/schemas/RunSummary"}
    schemas["RunSummary"]["allOf"][0] = {"$ref": "#/components/schemas/RunStatus"}
    for operation in (one for path in specification["paths"].values() for one in path.values()):
        error = operation["responses"][500]
        operation["responses"] |= {status: error for status in UNDECLARED if status not in operation["responses"]}
    return specification


@pytest.fixture
def seeded(database: Database, storage: DirectoryStorage, clock: Clock) -> list[str]:
    """Runs in several states, with tasks, logs and outputs, and a daemon that offers cwltool."""
    sign_on(database, clock())
    samples = SampleRuns(database, storage, clock)
    queued, running, complete, failed, canceled = (samples.accept(tags={"a": "b"}) for _ in range(5))
    for run_id in (running, complete, failed):
        samples.start(run_id, cmd=["cwltool", "x"])
        samples.set_tasks(run_id, [task("t1", cmd=["sort"], exit_code=1, has_stderr=True), task("t2", cmd=["x"])])
        samples.log(run_id, "stderr", "words")
    steps = [task("t1", start_time=clock(), end_time=clock())]
    samples.end(complete, State.COMPLETE, outputs={"a": samples.output(complete, "a", b"1")}, tasks=steps, exit_code=0)
    samples.end(failed, State.SYSTEM_ERROR, reason="broken")
    database.transact(lambda session: transitions.cancel(session, canceled, clock(), by="local"))
    return [queued, running, complete, failed, canceled]


@pytest.mark.parametrize(
    "examples",
    [pytest.param(50, id="short"), pytest.param(640, id="long", marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
@pytest.mark.parametrize("base", [BASE, ALIAS])
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_as_specified(
    app: Flask, specification: dict[str, Any], seeded: list[str], label: str, base: str, examples: int
) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    operation = operations(specification)[label]
    statuses: Counter[int] = Counter()

    def check(case: Case) -> None:
        response = case.call(base_url=f"http://localhost{base}", app=app)
        case.validate_response(
            response, checks=[not_a_server_error, response_schema_conformance, content_type_conformance]
        )
        declared = {int(status) for status in operation.definition.raw["responses"]}
        assert response.status_code in declared, response.content
        if response.status_code != 200:
            assert response.json()["status_code"] == response.status_code
        statuses[response.status_code] += 1

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        explore(check, operation, mode, seeded, examples)
    sensible = 1 if label == "GET /service-info" else examples // 10
    assert statuses[200] >= sensible, "the generated requests hardly ever say something sensible"


def explore(
    check: Callable[[Case], None], operation: Any, mode: GenerationMode, run_ids: list[str], examples: int
) -> None:
    """Hypothesis calls `check` with requests of this kind, about half of them for runs and values that exist."""
    if mode == GenerationMode.NEGATIVE and not (operation.query or operation.body):
        return  # any text is a run_id, so no request is malformed

    @hypothesis_settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if "run_id" in case.path_parameters and data.draw(st.booleans()):
            case.path_parameters |= {"run_id": data.draw(st.sampled_from(run_ids))}
            if "task_id" in case.path_parameters:
                case.path_parameters |= {"task_id": data.draw(st.sampled_from(["t1", "t2"]))}
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body = case.body | {name: data.draw(st.sampled_from(values)) for name, values in SENSIBLE.items()}
        check(case)

    run()


def operations(specification: dict[str, Any]) -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(specification)
    return {operation.label: operation for operation in (found.ok() for found in schema.get_all_operations())}


def test_every_operation_of_the_specification_is_explored(specification: dict[str, Any]) -> None:
    assert sorted(operations(specification)) == sorted(OPERATIONS)
