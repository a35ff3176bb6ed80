"""The examples through the whole service, as the README has them: wesctl, API, daemon and cwltool as real processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.client.wes_client import RunRequest
from tests.fakes.engine_runs import installed_engine_root
from tests.services import ROOT, Services

Wesctl = Callable[..., subprocess.CompletedProcess[str]]
UNTIL_THERE = {
    "cwlVersion": "v1.2",
    "class": "CommandLineTool",
    "baseCommand": ["sh", "-c", 'until [ -e "$0" ]; do sleep 0.1; done; echo there; echo seen >&2'],
    "inputs": {"marker": {"type": "string", "inputBinding": {}}},
    "outputs": {"said": "stdout"},
    "stdout": "said.txt",
}


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    installed_engine_root()
    with Services({"DAEMON_POLL_INTERVAL": "1"}) as running:
        yield running


@pytest.fixture
def wesctl(services: Services, tmp_path: Path) -> Wesctl:
    environment = {**os.environ, "WES_API_URL": services.url, "WESCTL_CONFIG": str(tmp_path / "none.toml")}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / "wesctl"), *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run


def test_reads_is_submitted_watched_and_fetched(services: Services, wesctl: Wesctl, tmp_path: Path) -> None:
    done = wesctl(
        "submit", "examples/reads/reads.cwl", "examples/reads/reads.yml", "--timeout", "120", "--name", "the reads", "--tag", "project=demo",
        "--outdir", tmp_path / "results", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = json.loads(done.stdout)
    assert len(log["task_logs"]) == 10
    assert len(json.loads((tmp_path / "results" / "summary.json").read_text())["samples"]) == 4
    assert len(list((tmp_path / "results").iterdir())) == 7
    assert json.loads(wesctl("status", "the reads", "--json").stdout) == {"run_id": log["run_id"], "state": "COMPLETE"}
    assert wesctl("list", "--tag", "project=demo", "--state", "COMPLETE").stdout.startswith(log["run_id"])


def test_fails_ends_with_1_and_shows_why_once(wesctl: Wesctl) -> None:
    done = wesctl("submit", "examples/fails.cwl", "examples/fails.yml", "--timeout", "120")
    assert done.returncode == 1
    assert "Task check failed with exit code 3." in done.stderr
    assert done.stderr.count("ERROR: sample liver_2") == 1
    assert "has no reads" in wesctl("logs", "@1", "--task", "check", "--stderr").stdout


def test_hello_world_is_run_again_and_deleted(services: Services, wesctl: Wesctl) -> None:
    first = wesctl("submit", "examples/hello_world.cwl", "--timeout", "120", "--json")
    assert first.returncode == 0, first.stderr
    again = wesctl("rerun", json.loads(first.stdout)["run_id"], "--timeout", "120")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["greeting"]["size"] == 12
    assert wesctl("delete", "@1", "--yes").returncode == 0
    assert wesctl("status", json.loads(first.stdout)["run_id"]).stdout == "COMPLETE\n"


def test_waiting_survives_a_restart_of_the_api(services: Services, tmp_path: Path) -> None:
    (tmp_path / "until.json").write_text(json.dumps(UNTIL_THERE))
    client = services.client()
    run_id = client.run_workflow(
        workflow_url="until.json",
        workflow_type="CWL",
        workflow_type_version="v1.2",
        workflow_params={"marker": str(tmp_path / "now")},
        workflow_attachment=[("until.json", tmp_path / "until.json", "application/json")],
    )["run_id"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(services.client().wait_for_run_completion, run_id, 120)
        services.restart_api()
        assert not waiting.done()
        (tmp_path / "now").touch()
        assert waiting.result() == {"run_id": run_id, "state": "COMPLETE"}
    [output] = client.list_outputs(run_id)
    assert client.download_output(run_id, output, tmp_path / "said").read_text() == "there\n"


def test_a_request_is_checked_without_a_run(services: Services) -> None:
    client, file = services.client(), ROOT / "examples" / "hello_world.cwl"
    before = client.get_service_info()["system_state_counts"]
    request = RunRequest(workflow_url="hello_world.cwl", workflow_attachment=[("hello_world.cwl", file)])
    assert client.validate_run(**request) == {"valid": True, "problems": []}
    refused = client.validate_run(**request, workflow_engine="nothing")
    assert not refused["valid"]
    assert "'nothing' is not supported" in refused["problems"][0]
    assert client.get_service_info()["system_state_counts"] == before


def test_a_request_is_refused_with_the_servers_words(wesctl: Wesctl) -> None:
    done = wesctl("submit", "examples/hello_world.cwl", "--engine", "nothing")
    assert (done.returncode, done.stdout) == (9, "")
    assert "'nothing' is not supported" in done.stderr
