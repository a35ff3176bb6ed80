"""Pipelines with real processes: a cohort over a real engine, and a cloud's apps while the daemon is killed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from app.client.wes_client import WesClient
from app.fake_service.cloud import Clock, FakeCloud
from app.fake_service.faults import Faults
from app.fake_service.ledger import Ledger
from app.fake_service.server import FakeService
from tests.fakes.bvbrc import APP_SERVICE, WORKSPACE, Bvbrc
from tests.fakes.server import InThread
from tests.services import Services

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SEED_DOCUMENT = Path(__file__).parents[2] / "examples" / "pipelines" / "assemble-annotate.json"
END_SECONDS = 900.0
ROWS = 96
COHORT = {
    "workflow_name": "cohort",
    "steps": [
        {
            "step_name": "measure",
            "workflow_url": "sample.cwl",
            "scatter": {"sheet": "samples.csv", "item": "sample"},
            "params": {"name": "${sample.name}", "ledger": "${ledger}", "cure": "${cure}"},
        },
        {
            "step_name": "gather",
            "workflow_url": "gathered.cwl",
            "params": {"files": "${steps.measure.outputs.said}", "ledger": "${ledger}"},
        },
    ],
    "workflow_outputs": {"all": "${steps.gather.outputs.all}"},
}


@pytest.fixture
def services(engine_environment: Path) -> Iterator[Services]:
    with Services({"DAEMON_POLL_INTERVAL": "2"}) as services:
        yield services


def submit_cohort(client: WesClient, names: list[str], ledger: Path, cure: Path) -> str:
    files = {
        "cohort.json": json.dumps(COHORT | {"base_context": {"ledger": "", "cure": ""}}),
        "samples.csv": "\n".join(["name", *names]) + "\n",
        "sample.cwl": (WORKFLOWS / "sample.cwl").read_text(),
        "gathered.cwl": (WORKFLOWS / "gathered.cwl").read_text(),
    }
    accepted = client.run_workflow(
        workflow_params={"ledger": str(ledger), "cure": str(cure)},
        workflow_type="DAG",
        workflow_type_version="1.0",
        workflow_url="cohort.json",
        workflow_attachment=[(name, text, "text/plain") for name, text in files.items()],
    )
    return str(accepted["run_id"])


def test_one_bad_sample_fails_alone_and_only_it_and_the_gather_run_again(services: Services, tmp_path: Path) -> None:
    client, ledger, cure = services.client(), tmp_path / "ledger", tmp_path / "cure"
    names = [f"s{number:02}" for number in range(ROWS - 1)]
    run_id = submit_cohort(client, [*names[:40], "bad", *names[40:]], ledger, cure)
    assert client.wait_for_run_completion(run_id, timeout=END_SECONDS)["state"] == "EXECUTOR_ERROR"
    assert Counter(ledger.read_text().split()) == Counter([*names, "bad"])
    states = Counter(task["system_logs"][0] for task in client.get_run_log(run_id)["task_logs"])
    assert states == {"COMPLETE": ROWS - 1, "EXECUTOR_ERROR": 1}

    cure.touch()
    ledger.unlink()
    again = requests.post(f"{services.url}/runs/{run_id}/rerun", params={"from": "failed"}, timeout=60).json()
    assert client.wait_for_run_completion(again["run_id"], timeout=END_SECONDS)["state"] == "COMPLETE"
    assert ledger.read_text().split() == ["bad", "gather"]
    gathered = requests.get(client.get_run_log(again["run_id"])["outputs"]["all"]["location"], timeout=60).text
    assert gathered.split() == sorted([*names, "bad"])
    failed = [task for task in client.get_run_log(run_id)["task_logs"] if task["exit_code"] != 0]
    assert [task["name"] for task in failed] == ["measure[40]"]
    assert "sample.cwl" in requests.get(failed[0]["stderr"], timeout=60).text


def on_the_fake(document: dict[str, Any]) -> dict[str, Any]:
    """The document's apps at the fake cloud."""
    steps = [{**step, "provider": "fake", "workflow_type": "CWL"} for step in document["steps"]]
    return {**document, "steps": steps, "workflow_outputs": []}


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_every_app_starts_once_whenever_the_daemon_is_killed(kill_after: int, tmp_path: Path) -> None:
    """`kill_after`: how many apps have started when the daemon dies."""
    cloud = FakeCloud(Ledger(tmp_path / "ledger.jsonl"), Clock(False), speed=5.0, visibility_seconds=0, max_ids=100)
    with FakeService(cloud, Faults(1), 0) as fake:
        settings = {"PROVIDERS": "fake,dag", "FAKE_PROVIDER_URL": fake.url, "DAEMON_POLL_INTERVAL": "1"}
        with Services(settings) as services:
            client = services.client()
            accepted = client.run_workflow(
                workflow_params=on_the_fake(json.loads(SEED_DOCUMENT.read_text())),
                workflow_type="BVBRC-DAG",
                workflow_type_version="1.0",
                workflow_url="inline:",
            )
            wait_for_apps(tmp_path / "ledger.jsonl", kill_after)
            services.kill_daemon()
            services.start_daemon()
            end = client.wait_for_run_completion(accepted["run_id"], timeout=END_SECONDS)
            names = [task["name"] for task in client.get_run_log(accepted["run_id"])["task_logs"]]
    assert (end["state"], names) == ("COMPLETE", ["assemble", "annotate"])
    assert started(tmp_path / "ledger.jsonl") == 2


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_the_example_runs_on_bvbrc_whenever_the_daemon_is_killed(kill_after: int) -> None:
    """The document and the calls as the pipeline engine's own page has them."""
    with InThread(Bvbrc(speed=30.0)) as bvbrc:
        settings = {
            "PROVIDERS": "bvbrc,dag",
            "BVBRC_SERVICE_URL": f"{bvbrc.url}{APP_SERVICE}",
            "BVBRC_WORKSPACE_URL": f"{bvbrc.url}{WORKSPACE}",
            "DAEMON_POLL_INTERVAL": "1",
            "DAEMON_STATUS_CHECK_INTERVAL": "1",
        }
        with Services(settings) as services:
            workflows = f"{services.origin}/api/v1/workflows"
            headers = {"Content-Type": "application/json", "Authorization": bvbrc.control.token(user="user")}
            submitted = requests.post(
                f"{workflows}/submit", data=SEED_DOCUMENT.read_bytes(), headers=headers, timeout=60
            ).json()
            assert submitted.get("status") == "pending", submitted
            deadline = time.monotonic() + END_SECONDS
            while len(bvbrc.control.tasks()) < kill_after and time.monotonic() < deadline:
                time.sleep(0.1)
            services.kill_daemon()
            services.start_daemon()
            end = services.client().wait_for_run_completion(submitted["run_id"], timeout=END_SECONDS)
            status = requests.get(f"{workflows}/{submitted['workflow_id']}/status", timeout=60).json()
            said = services.log("daemon") + json.dumps(status)
        tasks = bvbrc.control.tasks()
    assert (end["state"], status["status"]) == ("COMPLETE", "succeeded"), said[-3000:]
    assert [(step["step_name"], step["status"]) for step in status["steps"]] == [
        ("assemble", "succeeded"),
        ("annotate", "succeeded"),
    ]
    assert [(task["app"], task["starts"]) for task in tasks] == [("GenomeAssembly2", 1), ("GenomeAnnotation", 1)]
    assert "sig=" not in said


def started(ledger: Path) -> int:
    """How many executions the cloud has begun, by its own ledger."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return sum(json.loads(line).get("event") == "started" for line in lines)


def wait_for_apps(ledger: Path, count: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    while started(ledger) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
