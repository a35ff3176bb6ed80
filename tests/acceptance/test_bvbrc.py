"""API and daemon as real processes, with BV-BRC played on loopback: the token is in nothing that they write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes.bvbrc import addresses
from tests.fakes.server import InProcess
from tests.services import Services

USER = "alice@patricbrc.org"
SECONDS = 120
PIPELINE = {
    "workflow_name": "my-pipeline",
    "version": "1.0",
    "base_context": {"base_url": "https://www.bv-brc.org", "workspace_output_folder": f"/{USER}/home/output"},
    "steps": [
        {
            "step_name": "assemble",
            "app": "GenomeAssembly2",
            "params": {"output_path": "${workspace_output_folder}/Assembly", "output_file": "assembly_output"},
            "outputs": {"contigs": "${params.output_path}/.${params.output_file}/contigs.fa"},
        },
        {
            "step_name": "annotate",
            "app": "GenomeAnnotation",
            "params": {
                "contigs": "${steps.assemble.outputs.contigs}",
                "scientific_name": "Mycobacterium tuberculosis",
                "output_path": "${workspace_output_folder}/Annotation",
            },
            "depends_on": ["assemble"],
        },
    ],
}


@pytest.fixture
def fake() -> Iterator[InProcess]:
    with InProcess("tests.fakes.bvbrc", "--speed", "60") as fake:
        yield fake
        assert fake.control.problems() == []


@pytest.fixture
def services(fake: InProcess) -> Iterator[Services]:
    settings = {
        "PROVIDERS": "bvbrc,dag",
        "DEFAULT_WES_PROVIDER": "bvbrc",
        **addresses(fake.url),
        "DAEMON_STATUS_CHECK_INTERVAL": "0.5",
        "DAEMON_POLL_INTERVAL": "0.5",
        "LOG_LEVEL": "DEBUG",
    }
    with Services(settings) as services:
        yield services


def submit(services: Services, token: str) -> str:
    request = {"workflow_url": "bvbrc:Date", "workflow_type": "BVBRC"}
    answer = requests.post(f"{services.url}/runs", json=request, headers={"X-BVBRC-Token": token}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run_id"])


def end_of(services: Services, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + SECONDS
    while True:
        run: dict[str, Any] = requests.get(f"{services.url}/runs/{run_id}", timeout=30).json()
        if run["state"] in ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"):
            return run
        assert time.monotonic() < deadline, run
        time.sleep(0.2)


def written(directory: Path) -> bytes:
    """Every byte of every file that the processes left: database, artifacts, logs."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_token_is_in_nothing_that_is_written(services: Services, fake: InProcess) -> None:
    token, other = fake.control.token(user=USER), fake.control.token(user="bob@bvbrc", seconds=0)
    waiting, run_id = submit(services, other), submit(services, token)
    end = end_of(services, run_id)
    assert end["state"] == "COMPLETE", end
    shown = end | requests.get(f"{services.url}/runs/{waiting}", timeout=30).json()
    everything = written(services.directory) + repr(shown).encode()
    assert services.log("daemon") and b"Waiting for a fresh BV-BRC token" in everything
    for secret in (token, other):
        assert secret.encode() not in everything
        assert secret.rpartition("sig=")[2].encode() not in everything


def test_a_daemon_killed_during_a_preflight_starts_nothing_twice(services: Services, fake: InProcess) -> None:
    fake.control.fail(kind="hang", operation="start_app2")
    run_id = submit(services, fake.control.token(user=USER))
    deadline = time.monotonic() + SECONDS
    while not fake.control.hanging():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    services.kill_daemon()
    services.start_daemon()
    fake.control.release()
    assert end_of(services, run_id)["state"] == "COMPLETE"
    assert [task["starts"] for task in fake.control.tasks()] == [1]


def test_a_pipeline_of_apps_runs_under_the_token_of_its_request(services: Services, fake: InProcess) -> None:
    """The engine's own address, with the token in Authorization, as its users send it."""
    address, headers = f"{services.origin}/api/v1/workflows/submit", {"Authorization": fake.control.token(user=USER)}
    answer = requests.post(address, json=PIPELINE, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    end = end_of(services, answer.json()["run_id"])
    assert end["state"] == "COMPLETE", end
    assembled, annotated = fake.control.tasks()
    assert (assembled["owner"], annotated["owner"]) == (USER, USER)
    assert annotated["params"]["contigs"] == f"/{USER}/home/output/Assembly/.assembly_output/contigs.fa"
    assert annotated["params"]["output_file"].startswith("wes-")
