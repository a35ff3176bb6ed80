"""A full disk under the run directories: a small file system of its own, which only root may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.daemon.providers import shim
from app.daemon.providers.local_files import make_run_dir
from app.daemon.providers.local_life import Ended
from app.daemon.providers.local_status import DISK_FULL, end_status
from app.errors import NotAccepted
from app.states import State
from tests.fakes.engine import Bytes
from tests.fakes.engine_runs import EngineRun
from tests.fakes.local_machine import Machine

FILL = """
try:
    (root / where / "big").write_bytes(b"x" * 5_000_000)
except OSError:
    count()
"""


COPIED = """
cwlVersion: v1.2
class: CommandLineTool
requirements:
  InitialWorkDirRequirement:
    listing: [{entry: $(inputs.file), writable: true}]
baseCommand: "true"
inputs: {file: File}
outputs: []
"""
WRITTEN = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [sh, -c, "head -c 5000000 /dev/zero > big"]
inputs: []
outputs: []
"""


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """It holds one megabyte."""
    runs = tmp_path.resolve() / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(runs)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of one megabyte cannot be mounted here: that takes root")
    yield runs
    subprocess.run(["umount", str(runs)], check=True)


@pytest.fixture
def machine(tmp_path: Path, runs: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_a_run_that_does_not_fit_is_not_accepted(machine: Machine) -> None:
    provider = machine.provider()
    with pytest.raises(NotAccepted, match="No space left"):
        provider.submit_workflow(machine.run("r1", "", attachments=(Bytes("big", b"x" * 2_000_000),)))
    provider.submit_workflow(machine.run("r1", ""))
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE


def test_a_run_that_fills_the_disk_can_be_cancelled(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", f"where = 'tmp'; {FILL}say('here'); signal.pause()"))
    machine.said()
    assert machine.started() == ["r1"]
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.RUNNING
    provider.cancel_workflow("r1")
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED


def test_an_end_on_a_full_disk_is_told_once_there_is_room(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", f"where = 'outputs'; {FILL}say('here')"))
    machine.said()
    assert machine.started() == ["r1"]
    machine.gone(machine.started_record("r1")["engine"][0])
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.RUNNING
    (machine.runs / "r1" / "outputs" / "big").unlink()
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE


@pytest.mark.parametrize(
    ("document", "state", "reason"),
    [(COPIED, State.SYSTEM_ERROR, DISK_FULL), (WRITTEN, State.EXECUTOR_ERROR, None)],
    ids=["the engine's files", "a step's files"],
)
def test_a_disk_that_was_full_for_the_engine_is_no_failure_of_the_workflow(
    runs: Path, document: str, state: State, reason: str | None
) -> None:
    """But a step that fills it has failed."""
    root = runs / "r1"
    root.mkdir()
    make_run_dir(root)
    shim.write_record(str(root), shim.REQUEST, {"engine": "cwltool"})
    run = EngineRun(root, {"wf.cwl": document, "file": "x" * 600_000})
    exit_code = run("wf.cwl", {"file": {"class": "File", "location": "file"}} if document == COPIED else {})
    status = end_status(root, Ended(shim.EXITED, exit_code), {"cwltool": run.engine})
    assert (status.state, status.reason) == (state, reason)
