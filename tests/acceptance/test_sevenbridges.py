"""Seven Bridges with real processes: API and daemon here, the platform's fake there, `curl` in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.curl import curl, wait_for, wait_for_state
from tests.fakes.server import InProcess
from tests.services import ROOT, Services

PROJECT = "fake-user/wes"
TOKEN = "fake-token-not-to-be-seen"

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def fake() -> Iterator[InProcess]:
    with InProcess("tests.fakes.sevenbridges", "--speed", "20", "--token", TOKEN) as running:
        yield running
        assert running.control.problems() == []


def settings(fake: InProcess, **more: str) -> dict[str, str]:
    """As docs/providers/sevenbridges.md has them for the fake."""
    return {
        "PROVIDERS": "local,sevenbridges",
        "SEVENBRIDGES_API_ENDPOINT": f"{fake.url}/v2",
        "SEVENBRIDGES_API_TOKEN": TOKEN,
        "SEVENBRIDGES_PROJECT": PROJECT,
        "SEVENBRIDGES_TIMEOUT_SECONDS": "5",
        "DAEMON_POLL_INTERVAL": "1",
        "DAEMON_STATUS_CHECK_INTERVAL": "1",
        "LOG_LEVEL": "DEBUG",
        **more,
    }


def submit(services: Services, params: dict[str, Any] | None = None, **fields: str) -> str:
    usual = {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": f"sevenbridges:{PROJECT}/hello"}
    form = usual | {"workflow_params": json.dumps(params or {})} | fields
    words = [word for name, value in form.items() for word in ("-F", f"{name}={value}")]
    return str(curl("-X", "POST", f"{services.url}/runs", *words)["run_id"])


def test_from_post_to_complete(fake: InProcess) -> None:
    with Services(settings(fake)) as services:
        fake.control.plan(
            outputs={"result": {"class": "File", "path": "result.txt"}, "lines": 2},
            files={"result.txt": "Hello, world\n"},
            tasks=[{"name": "say hello", "command_line": "echo hello", "log": ["saying hello"]}],
        )
        reads = fake.control.add_file(name="reads.fastq", text="ACGT\n")
        run_id = submit(services, {"message": "hello", "reads": "reads.fastq"}, tags='{"project": "demo"}')
        wait_for_state(services, run_id, "COMPLETE")
        run = curl(f"{services.url}/runs/{run_id}")

        (created,) = fake.control.requests(operation="tasks.create")
        asked = json.loads(created["body"])
        assert (asked["name"], asked["app"]) == (f"wes-{run_id}", f"{PROJECT}/hello/0")
        assert asked["inputs"] == {"message": "hello", "reads": {"class": "File", "path": reads}}
        result = run["outputs"]["result"]
        assert (result["class"], result["size"], run["outputs"]["lines"]) == ("File", 13, 2)
        assert result["location"].startswith(services.url)
        assert curl(result["location"]) == "Hello, world\n"
        assert [one["path"] for one in curl(f"{services.url}/runs/{run_id}/outputs")["outputs"]] == ["result.txt"]
        (task,) = curl(f"{services.url}/runs/{run_id}/tasks")["task_logs"]
        assert (task["id"], task["name"], task["cmd"]) == ("say-hello", "say hello", ["echo hello"])
        assert curl(task["stderr"]) == "saying hello\n"
        assert any("price" in line and "USD" in line for line in run["run_log"]["system_logs"])
        assert [row["starts"] for row in fake.control.tasks()] == [1]
        told = services.log("daemon") + services.log("api") + json.dumps(run)
        assert TOKEN not in told and "/content/" not in told


def test_a_cwl_document_that_is_sent_along_is_installed_once(fake: InProcess, tmp_path: Path) -> None:
    tool = {"class": "CommandLineTool", "cwlVersion": "v1.2", "baseCommand": "echo", "inputs": {}, "outputs": {}}
    step = {"run": "tools/echo.cwl", "in": {}, "out": []}
    main = {"class": "Workflow", "cwlVersion": "v1.2", "inputs": {}, "outputs": {}, "steps": {"say": step}}
    for name, document in ("main.cwl", main), ("echo.cwl", tool):
        (tmp_path / name).write_text(json.dumps(document))
    names = {"main.cwl": "main.cwl", "echo.cwl": "tools/echo.cwl"}
    files = [f"workflow_attachment=@{tmp_path / name};filename={path}" for name, path in names.items()]
    with Services(settings(fake, DEFAULT_WES_PROVIDER="sevenbridges")) as services:
        fields = ["workflow_type=CWL", "workflow_url=main.cwl", "workflow_params={}", *files]
        form = [word for field in fields for word in ("-F", field)]
        run_ids = [curl("-X", "POST", f"{services.url}/runs", *form)["run_id"] for _ in range(3)]
        for run_id in run_ids:
            wait_for_state(services, run_id, "COMPLETE")
        (installed,) = fake.control.requests(operation="apps.install")
        assert json.loads(installed["body"])["steps"]["say"]["run"] == tool


def test_a_run_that_cannot_be_says_why(fake: InProcess) -> None:
    with Services(settings(fake)) as services:
        fake.control.plan(outcome="FAILED", message="Job count failed with exit code 1")
        failed = submit(services)
        wait_for_state(services, failed, "EXECUTOR_ERROR")
        logs = curl(f"{services.url}/runs/{failed}")["run_log"]["system_logs"]
        assert any("Job count failed with exit code 1" in line for line in logs)
        refused = submit(services, {"reads": "https://example.org/reads.fastq"})
        wait_for_state(services, refused, "SYSTEM_ERROR")
        logs = curl(f"{services.url}/runs/{refused}")["run_log"]["system_logs"]
        assert any("Upload or import it into the project" in line for line in logs)


def test_a_daemon_killed_between_call_and_commit_starts_nothing_twice(fake: InProcess) -> None:
    """SIGKILL while a draft is made, and again while it is started: one task runs, and the run is it."""
    with Services(settings(fake)) as services:
        fake.control.plan(seconds={"RUNNING": None})
        run_id = submit_into(services, fake, "tasks.create")
        fake.control.fail(kind="hang", operation="tasks.run", commit=True)
        services.start_daemon()
        wait_for("nothing is started", lambda: fake.control.hanging() == 1)
        services.kill_daemon()
        fake.control.clear()
        services.start_daemon()
        wait_for_state(services, run_id, "RUNNING")
        curl("-X", "POST", f"{services.url}/runs/{run_id}/cancel")
        wait_for_state(services, run_id, "CANCELED")
        tasks = fake.control.tasks()
        assert [(row["name"], row["status"], row["starts"]) for row in tasks] == [(f"wes-{run_id}", "ABORTED", 1)]


def submit_into(services: Services, fake: InProcess, operation: str) -> str:
    """A run whose daemon is killed within that call, which goes through."""
    fake.control.fail(kind="hang", operation=operation, commit=True)
    run_id = submit(services)
    wait_for(f"{operation} does not hang", lambda: fake.control.hanging() == 1)
    services.kill_daemon()
    fake.control.clear()
    wait_for("no draft was made", lambda: len(fake.control.tasks()) == 1)
    return run_id


@pytest.mark.long
def test_the_benchmark_of_sweeps_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.provider_sweeps", "--provider", "sevenbridges", "--json"]
    done = subprocess.run(
        [*command, "--runs", "300", "--queued", "50", "--seconds", "5"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(done.stdout.splitlines()[-1])
    assert any(line["what"].startswith("a sweep: calls for 300 runs") and line["value"] <= 6 for line in lines)
