"""Container runtimes: found by asking, used where a document wants them, ended with the run. Docker is a stand-in here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from app.daemon.engines.cwltool import SYSTEM_PATH
from tests.fakes import container_client
from tests.fakes.engine_runs import EngineRun

TOOL = """
cwlVersion: v1.2
class: CommandLineTool
requirements: {DockerRequirement: {dockerPull: "debian:12"}}
baseCommand: [sh, -c, "echo inside; pwd; exit $0"]
inputs: {code: {type: int, inputBinding: {}}}
outputs: {out: stdout}
stdout: out.txt
"""

WAITING = """
cwlVersion: v1.2
class: CommandLineTool
requirements: {DockerRequirement: {dockerPull: "debian:12"}}
baseCommand: [sh, -c, "echo $$ > $0/inside; echo go > $0/fifo; sleep 300; sleep 301"]
inputs: {where: {type: string, inputBinding: {}}}
outputs: {}
"""


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    return container_client.install(tmp_path / "bin")


@pytest.fixture
def search_path(docker: Path) -> str:
    return f"{docker}:{SYSTEM_PATH}"


@pytest.mark.parametrize("code", [0, 9])
def test_a_runtime_that_answers_is_used(tmp_path: Path, docker: Path, search_path: str, code: int) -> None:
    run = EngineRun(tmp_path / "run", {"tool.cwl": TOOL}, container_runtime="auto", search_path=search_path)
    assert run("tool.cwl", {"code": code}) == (1 if code else 0), run.words()
    assert run.exit_codes() == {"tool.cwl": code}
    [task] = run.engine.tasks(run.dir)
    assert task.cmd[:3] == ("docker", "run", "-i") and "debian:12" in task.cmd
    ledger = (docker / "ledger").read_text().splitlines()
    assert [line for line in ledger if not line.startswith("stats")] == [
        *("info", "inspect debian:12", "pull debian:12", "run"),
    ]


@pytest.mark.parametrize("runtime", ["auto", "none"])
def test_without_a_runtime_a_required_container_is_unsupported(tmp_path: Path, runtime: str) -> None:
    run = EngineRun(tmp_path / "run", {"tool.cwl": TOOL}, container_runtime=runtime, search_path="/usr/bin:/bin")
    assert run("tool.cwl", {"code": 0}) == 33


def test_a_runtime_that_does_not_work_is_not_used(tmp_path: Path) -> None:
    broken = tmp_path / "bin" / "docker"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    run = EngineRun(
        tmp_path / "run", {"tool.cwl": TOOL}, container_runtime="auto", search_path=f"{broken.parent}:/usr/bin:/bin"
    )
    assert run("tool.cwl", {"code": 0}) == 33


def test_term_ends_the_container_too(tmp_path: Path, docker: Path, search_path: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    run = EngineRun(tmp_path / "run", {"wait.cwl": WAITING}, container_runtime="docker", search_path=search_path)
    with run.started("wait.cwl", {"where": str(tmp_path)}) as process:
        tmp_path.joinpath("fifo").read_text()
        inside = psutil.Process(int(tmp_path.joinpath("inside").read_text()))
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert psutil.wait_procs([inside], timeout=60)[1] == []
    said = [line for line in (docker / "ledger").read_text().splitlines() if not line.startswith("stats")]
    assert said[-1].startswith("kill ")
