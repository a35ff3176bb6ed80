"""Whatever JSON comes as a pipeline or as CWL, the answer is one of ours and never a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = (
    *("workflow_name", "steps", "base_context", "workflow_outputs", "step_name", "app", "workflow_url", "params"),
    *("outputs", "scatter", "over", "sheet", "item", "class", "cwlVersion", "inputs", "run", "in", "out", "id", "type"),
    *("source", "outputSource", "requirements", "default", "cwl", "label", "max_parallel_steps", "depends_on"),
)
WORDS = (
    "Workflow",
    "CommandLineTool",
    "v1.2",
    "a",
    "${a}",
    "${steps.a.outputs.b}",
    "a/b",
    "string?",
    "",
    "https://h/x",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=25,
)
STEP = st.fixed_dictionaries(
    {"step_name": st.sampled_from(["a", "b"])}, optional={key: VALUES for key in KEYS if key != "step_name"}
)
PIPELINES = st.fixed_dictionaries(
    {"workflow_name": VALUES, "steps": st.lists(STEP, max_size=3)},
    optional={"base_context": VALUES, "workflow_outputs": VALUES, "max_parallel_steps": VALUES},
)
CWL = st.fixed_dictionaries(
    {"class": st.just("Workflow")},
    optional=dict.fromkeys(("inputs", "outputs", "steps", "requirements", "label", "id", "cwlVersion"), VALUES),
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["submit", "validate", "submit-cwl"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=VALUES | PIPELINES | CWL | st.fixed_dictionaries({"cwl": CWL, "inputs": VALUES}))
def test_no_body_is_a_5xx(client: FlaskClient, path: str, body: Any) -> None:
    answer = client.post(f"/api/v1/workflows/{path}", json=body)
    assert answer.status_code in (200, 400, 413), answer.get_json()
    if answer.status_code == 200 and path != "validate":
        workflow_id = answer.get_json()["workflow_id"]
        for part in ("", "/status", "/log"):
            assert client.get(f"/api/v1/workflows/{workflow_id}{part}").status_code == 200
