"""Pipelines at the edge: what is refused and how, the pipeline engine's own API, states in its words."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.database import Database
from tests.conftest import Clock
from tests.rows import row

API = "/api/v1/workflows"
WES = "/ga4gh/wes/v1/runs"
VERBS = ("get", "post", "put", "delete")


def document(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"workflow_name": "p", "steps": list(steps), **fields}


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "https://example.org/tool.cwl", **fields}


TWO = document(step("a"), step("b", params={"x": "${steps.a.outputs.o}"}))


def inline(client: FlaskClient, body: dict[str, Any]) -> Any:
    return client.post(WES, json={"workflow_type": "DAG", "workflow_url": "inline:", "workflow_params": body})


def attached(client: FlaskClient, text: str, name: str = "p.yaml", **fields: Any) -> Any:
    form = {"workflow_type": "DAG", "workflow_url": name, **fields}
    return client.post(WES, data={**form, "workflow_attachment": (io.BytesIO(text.encode()), name)})


def test_the_same_document_comes_inline_as_json_and_as_yaml(client: FlaskClient, database: Database) -> None:
    yaml = "workflow_name: p\nsteps:\n  - {step_name: a, workflow_url: 'https://example.org/tool.cwl'}\n"
    answers = [
        inline(client, document(step("a"))),
        attached(client, json.dumps(document(step("a"))), "p.json"),
        attached(client, yaml),
        client.post(f"{API}/submit", data=yaml, content_type="application/yaml"),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.get_json()
        run = row(database, answer.get_json()["run_id"])
        assert (run.provider_type, run.workflow_type) == ("dag", "DAG")


HOSTILE = document(
    step("a", params={"secret": "${AWS_SECRET_ACCESS_KEY}", "self": "${steps.a.outputs.o}"}),
    step("b", depends_on=["c"], outputs={"known": "x"}),
    step("c", params={"x": "${steps.b.outputs.unknown}"}),
    step("d", task_id="7"),
)


@pytest.mark.parametrize("way", [inline, lambda client, body: client.post(f"{API}/submit", json=body)])
def test_a_hostile_document_gets_one_answer_with_every_reason(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, way: Any
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    answer = way(client, HOSTILE)
    words = answer.get_json()["msg"]
    assert answer.status_code == 400
    assert "hunter2" not in words
    for part in (
        "/steps/0/params/secret: ${AWS_SECRET_ACCESS_KEY}",
        "cannot refer to itself",
        "no output 'unknown'",
        "wait for each other",
        "/steps/3/task_id: ",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(document(*(step(f"s{number}") for number in range(100_000)))), "at most 5000 steps"),
        ('{"workflow_name": "p", "steps": ' + "[" * 100_000 + "]" * 100_000 + "}", "deep"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nsteps: [*b, *b]\n", "alias"),
        ("workflow_name: " + "[" * 5000 + "]" * 5000, "deep"),
        ("steps: [2026-01-01]", "JSON"),
        ("[1, 2", "neither JSON nor YAML"),
        ("", "object"),
    ],
)
def test_what_is_too_much_is_refused_at_once(client: FlaskClient, text: str, reason: str) -> None:
    started = time.process_time()
    answer = client.post(f"{API}/submit", data=text)
    assert answer.status_code == 400, answer.get_json()
    assert reason.lower() in answer.get_json()["msg"].lower()
    assert time.process_time() - started < 5


def test_steps_are_routed_like_any_request_and_refused_together(client: FlaskClient) -> None:
    steps = [
        step("a", workflow_url="gone.cwl"),
        step("b", workflow_type="COBOL"),
        step("c", workflow_type="DAG"),
        step("d", workflow_url="healthomics:123", provider="local", workflow_type="WDL"),
    ]
    words = inline(client, document(*steps)).get_json()["msg"]
    for number in range(4):
        assert f"/steps/{number}: " in words


def test_steps_with_secrets_in_their_addresses_are_refused(client: FlaskClient) -> None:
    urls = ("https://ann:hunter2@example.org/main.cwl", "https://ann:hunter2@example.org/${steps.s0.outputs.o}.cwl")
    steps = [step(f"s{number}", workflow_url=url) for number, url in enumerate(urls)]
    words = inline(client, document(*steps)).get_json()["msg"]
    assert words.count("workflow_url: an address with a user name") == 2
    assert "hunter2" not in words


def test_validation_says_the_same_without_running(client: FlaskClient) -> None:
    assert client.post(f"{API}/validate", json=TWO).get_json() == {"valid": True, "problems": []}
    answer = client.post(f"{API}/validate", json=HOSTILE).get_json()
    assert not answer["valid"]
    assert len(answer["problems"]) >= 5
    wes = {"workflow_type": "DAG", "workflow_url": "inline:", "workflow_params": HOSTILE}
    assert not client.post(f"{WES}/validate", json=wes).get_json()["valid"]


def test_the_session_of_the_pipeline_engine(client: FlaskClient, clock: Clock) -> None:
    submitted = client.post(f"{API}/submit", json=TWO, headers={"Authorization": "your_auth_token"}).get_json()
    workflow_id = submitted["workflow_id"]
    assert submitted["status"] == "pending"
    assert workflow_id == f"wf_{submitted['run_id']}"
    status = client.get(f"{API}/{workflow_id}/status").get_json()
    assert (status["workflow_name"], status["status"]) == ("p", "pending")
    assert [(one["step_name"], one["status"]) for one in status["steps"]] == [("a", "pending"), ("b", "pending")]
    assert client.get(f"{API}/{workflow_id}").get_json()["document"] == TWO
    assert client.post(f"{API}/{workflow_id}/cancel").get_json()["status"] == "cancelled"
    assert client.post(f"{API}/{workflow_id}/cancel").get_json()["status"] == "cancelled"
    assert client.get("/api/v1/health").get_json()["status"] == "healthy"


@pytest.mark.parametrize("workflow_id", ["wf_nobody", "nobody", "wf_"])
def test_unknown_workflows_are_404(client: FlaskClient, workflow_id: str) -> None:
    for answer in (
        client.get(f"{API}/{workflow_id}"),
        client.get(f"{API}/{workflow_id}/status"),
        client.post(f"{API}/{workflow_id}/cancel"),
    ):
        assert (answer.status_code, answer.get_json()["status_code"]) == (404, 404)


CWL = {
    "class": "Workflow",
    "cwlVersion": "v1.2",
    "inputs": {"names": "string[]"},
    "outputs": {"all": {"type": "File", "outputSource": "gather/all"}},
    "steps": {
        "say": {
            "run": {"class": "CommandLineTool", "inputs": {"name": "string"}, "outputs": {"said": "stdout"}},
            "scatter": "name",
            "in": {"name": "names"},
            "out": ["said"],
        },
        "gather": {"run": "https://example.org/gather.cwl", "in": {"files": "say/said"}, "out": ["all"]},
    },
}


def test_a_cwl_workflow_becomes_a_pipeline_of_its_steps(client: FlaskClient) -> None:
    answer = client.post(f"{API}/submit-cwl", json={"cwl": CWL, "inputs": {"names": ["a", "b"]}}).get_json()
    assert answer["mode"] == "dag", answer
    made = client.get(f"{API}/{answer['workflow_id']}").get_json()["document"]
    steps = {step["step_name"]: step for step in made["steps"]}
    assert steps["say"]["scatter"] == {"item": "item", "over": "${names}"}
    assert steps["say"]["params"] == {"name": "${item}"}
    assert steps["gather"]["params"] == {"files": "${steps.say.outputs.said}"}
    assert made["workflow_outputs"] == {"all": "${steps.gather.outputs.all}"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"requirements": {"InlineJavascriptRequirement": {}}}, "InlineJavascriptRequirement"),
        ({"steps": {"say": {**CWL["steps"]["say"], "when": "$(true)"}}}, "when"),  # type: ignore[index]
        ({"class": "CommandLineTool"}, "no Workflow"),
    ],
)
def test_another_cwl_document_is_one_run_and_the_answer_says_why(
    client: FlaskClient, database: Database, change: dict[str, Any], why: str
) -> None:
    answer = client.post(f"{API}/submit-cwl", json={"cwl": CWL | change, "inputs": {"names": ["a"]}}).get_json()
    assert answer["mode"] == "cwl"
    assert why in answer["message"]
    assert row(database, answer["run_id"]).workflow_type == "CWL"


def test_only_a_pipeline_that_has_ended_is_run_again_from_what_failed(client: FlaskClient) -> None:
    run_id = inline(client, TWO).get_json()["run_id"]
    assert client.post(f"{WES}/{run_id}/rerun?from=failed").status_code == 409
    assert client.post(f"{WES}/{run_id}/rerun?from=start").status_code == 400


def test_the_schema_is_served_and_published(client: FlaskClient) -> None:
    served = client.get(f"{API}/schema").get_json()
    assert served == json.loads((Path(__file__).parents[2] / "docs" / "pipeline.schema.json").read_text())
    assert served["properties"]["steps"]["maxItems"] == 5000


@pytest.mark.parametrize(("base", "page"), [("/api/v1", "/api/v1/docs"), ("/ga4gh/wes/v1", "/docs")])
def test_every_endpoint_is_on_a_swagger_page(app: Flask, client: FlaskClient, base: str, page: str) -> None:
    described = json.loads(client.get(f"{base}/swagger.json").data)
    assert f'url: "{base}/swagger.json"' in client.get(page).text
    assert described["basePath"].rstrip("/") == base
    told = {(verb, path) for path, verbs in described["paths"].items() for verb in verbs if verb != "parameters"}
    assert told == endpoints(app, base)
    assert all(
        entry["summary"] for verbs in described["paths"].values() for verb, entry in verbs.items() if verb in VERBS
    )


def test_every_endpoint_of_the_engine_is_in_its_document(app: Flask) -> None:
    """And the other way round."""
    text = (Path(__file__).parents[2] / "docs" / "dag.md").read_text()
    told = set(re.findall(r"^\| `(GET|POST) /api/v1(/[^`]*)`", text, flags=re.M))
    assert {(verb.lower(), path) for verb, path in told} == {
        (verb, path.replace("{workflow_id}", "{id}")) for verb, path in endpoints(app, "/api/v1")
    }


def endpoints(app: Flask, base: str) -> set[tuple[str, str]]:
    """(verb, path below `base`) of all that is no page."""
    return {
        (verb.lower(), re.sub(r"<(?:[^:>]+:)?(\w+)>", r"{\1}", rule.rule.removeprefix(base)))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(f"{base}/") and rule.rule.removeprefix(base) not in ("/", "/docs", "/swagger.json")
        for verb in rule.methods or ()
        if verb.lower() in VERBS
    }


def test_the_log_of_a_workflow_that_waits_is_empty(client: FlaskClient) -> None:
    workflow_id = client.post(f"{API}/submit", json=TWO).get_json()["workflow_id"]
    answer = client.get(f"{API}/{workflow_id}/log")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "text/plain", b"")
