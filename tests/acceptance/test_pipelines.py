"""Pipelines with real processes: a cohort over a real engine, and a cloud's apps while the daemon is killed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
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
from tests.curl import curl
from tests.fakes.bvbrc import IMPATIENT, Bvbrc, addresses
from tests.fakes.server import InThread
from tests.services import Services
from tests.unit.test_dag import SEED

WORKFLOWS = Path(__file__).parents[1] / "workflows"
SEED_DOCUMENT = Path(__file__).parents[2] / "examples" / "pipelines" / "assemble-annotate.json"
SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
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


@pytest.fixture
def bvbrc() -> Iterator[InThread]:
    with InThread(Bvbrc(speed=30.0)) as bvbrc:
        yield bvbrc


@pytest.fixture
def engine(bvbrc: InThread) -> Iterator[Services]:
    """The service as the earlier pipeline engine's users have it: BV-BRC, and nothing else."""
    settings = {
        "PROVIDERS": "bvbrc,dag",
        **addresses(bvbrc.url),
        **IMPATIENT,
        "DAEMON_POLL_INTERVAL": "1",
        "DAEMON_STATUS_CHECK_INTERVAL": "1",
    }
    with Services(settings) as services:
        yield services


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_the_example_runs_on_bvbrc_whenever_the_daemon_is_killed(
    engine: Services, bvbrc: InThread, kill_after: int
) -> None:
    """The document and the calls as the pipeline engine's own page has them."""
    workflows = f"{engine.origin}/api/v1/workflows"
    headers = {"Content-Type": "application/json", "Authorization": bvbrc.control.token(user="user")}
    submitted = requests.post(
        f"{workflows}/submit", data=SEED_DOCUMENT.read_bytes(), headers=headers, timeout=60
    ).json()
    assert submitted.get("status") == "pending", submitted
    deadline = time.monotonic() + END_SECONDS
    while len(bvbrc.control.tasks()) < kill_after and time.monotonic() < deadline:
        time.sleep(0.1)
    engine.kill_daemon()
    engine.start_daemon()
    end = engine.client().wait_for_run_completion(submitted["run_id"], timeout=END_SECONDS)
    status = requests.get(f"{workflows}/{submitted['workflow_id']}/status", timeout=60).json()
    said = engine.log("daemon") + json.dumps(status)
    assert (end["state"], status["status"]) == ("COMPLETE", "succeeded"), said[-3000:]
    assert [(step["step_name"], step["status"]) for step in status["steps"]] == [
        ("assemble", "succeeded"),
        ("annotate", "succeeded"),
    ]
    assert [(task["app"], task["starts"]) for task in bvbrc.control.tasks()] == [
        ("GenomeAssembly2", 1),
        ("GenomeAnnotation", 1),
    ]
    assert "sig=" not in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH")
def test_the_curl_session_of_the_earlier_engine(engine: Services, bvbrc: InThread, tmp_path: Path) -> None:
    """Its page's document to the letter lacks what GenomeAnnotation requires: BV-BRC refuses that, and we before it."""
    named = copy.deepcopy(SEED)
    named["steps"][1]["params"]["scientific_name"] = "Escherichia coli"
    ids = []
    for number, document in enumerate((SEED, named)):
        (tmp_path / f"{number}.json").write_text(json.dumps(document))
        submitted = curl(
            *("-X", "POST", f"{engine.origin}/api/v1/workflows/submit", "-H", "Content-Type: application/json"),
            *("-H", f"Authorization: {bvbrc.control.token(user='user')}", "-d", f"@{tmp_path / f'{number}.json'}"),
        )
        assert (submitted["status"], submitted["message"]) == ("pending", "Workflow submitted successfully")
        ids.append(submitted["workflow_id"])
    refused, succeeded = (ended(engine, workflow_id) for workflow_id in ids)
    assert [step["status"] for step in succeeded["steps"]] == ["succeeded", "succeeded"], succeeded
    assert [step["status"] for step in refused["steps"]] == ["succeeded", "failed"]
    assert "GenomeAnnotation: scientific_name is missing." in refused["steps"][1]["error_message"]
    assert Counter(task["app"] for task in bvbrc.control.tasks()) == {"GenomeAssembly2": 2, "GenomeAnnotation": 1}
    whole = curl(f"{engine.origin}/api/v1/workflows/{ids[1]}")
    assert (whole["document"], whole["status"]) == (named, "succeeded")
    cancelled = curl("-X", "POST", f"{engine.origin}/api/v1/workflows/{ids[1]}/cancel")
    assert cancelled["message"] == "Workflow is succeeded"
    assert curl(f"{engine.origin}/api/v1/health")["status"] == "healthy"
    assert "/swagger.json" in curl(f"{engine.origin}/docs")


def ended(engine: Services, workflow_id: str) -> dict[str, Any]:
    """Its status, once it is over."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        status: dict[str, Any] = curl(f"{engine.origin}/api/v1/workflows/{workflow_id}/status")
        if status["status"] in ("succeeded", "failed", "cancelled"):
            return status
        assert time.monotonic() < deadline, (status, engine.log("daemon")[-3000:])
        time.sleep(0.2)


def test_the_example_is_the_documents_of_the_earlier_engines_page() -> None:
    """With the names of its status answer, and with what GenomeAnnotation requires."""
    text = SEED_DOCUMENT.read_text().replace('"assemble"', '"step1"').replace('"annotate"', '"step2"')
    example = json.loads(text.replace("steps.assemble", "steps.step1").replace("steps.annotate", "steps.step2"))
    assert example["workflow_name"] == "assembly-to-annotation-pipeline"
    added = example["steps"][1]["params"]
    assert {added.pop("scientific_name"), added.pop("output_file")} == {"Escherichia coli", "annotation_output"}
    assert example | {"workflow_name": "my-pipeline"} == SEED


@pytest.mark.skipif(not SEEDS.exists() and not os.environ.get("CI"), reason="the seeds are not beside this checkout")
def test_the_page_says_what_is_tested_here() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (SEEDS / "3-dag-workflow-engine.md").read_text(), flags=re.S)
    assert SEED in [json.loads(block) for block in blocks]


def started(ledger: Path) -> int:
    """How many executions the cloud has begun, by its own ledger."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return sum(json.loads(line).get("event") == "started" for line in lines)


def wait_for_apps(ledger: Path, count: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    while started(ledger) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
