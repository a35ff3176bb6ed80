"""A small real engine for tests of the local provider: it runs the Python text in workflow_params["script"].

The text finds `root` (the run directory), `outputs`, `record` and `ledger` (workflow_params["ledger"], a file to append to
where it wants to be counted), and `say(word)`, which wakes a test that waits in `Fifo.read`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from app.daemon.engines.engine_interface import Launch, RunDir, WorkflowEngine
from app.daemon.providers.provider_interface import Submission, Task
from app.errors import Rejected

PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, time
root, ledger, fifo = map(pathlib.Path, sys.argv[1:4])
outputs, record = root / "outputs", root / "record"
def say(word):
    with open(fifo, "w") as file:
        file.write(word + "\\n")
def count():
    with open(ledger, "a") as file:
        file.write(root.name + "\\n")
"""


class ScriptEngine(WorkflowEngine):
    """Workflows of type PY, version 3. The option `shout` is allowed, any other is refused."""

    name: ClassVar[str] = "script"
    workflow_types: ClassVar[Mapping[str, tuple[str, ...]]] = {"PY": ("3",)}
    parameters: ClassVar[tuple[tuple[str, str, str], ...]] = (("shout", "string", ""),)

    def __init__(self, python: str = sys.executable, runner: Path | None = None) -> None:
        """`runner`: a program that runs the script, see script_runner; else python itself does."""
        self._python, self._runner = python, runner

    def versions(self) -> list[str]:
        return ["3"]

    def check(self, run: Submission) -> None:
        if strange := set(run.workflow_engine_parameters) - {"shout"}:
            raise Rejected(f"The option {min(strange)!r} is not allowed.", "engine_option_refused")

    def stage(self, run: Submission, run_dir: RunDir) -> Launch:
        (run_dir.work / "script.py").write_text(PRELUDE + run.workflow_params["script"])
        places = [str(run_dir.root), run.workflow_params.get("ledger", os.devnull), run.workflow_params.get("fifo", "")]
        program = [str(path) for path in (self._runner, run_dir.work / "script.py") if path]
        return Launch(
            argv=(self._python, "-I", *program, *places),
            environment={"PATH": "/usr/bin:/bin", "HOME": str(run_dir.tmp), "TMPDIR": str(run_dir.tmp)},
            shown_cmd=("python", "script.py"),
        )

    def outputs(self, run_dir: RunDir) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((run_dir.record / "outputs.json").read_text())
        except FileNotFoundError as error:
            raise Rejected("The script left no outputs.json.", "outputs_lost") from error
        return found

    def tasks(self, run_dir: RunDir) -> list[Task]:
        path = run_dir.record / "tasks.json"
        rows = json.loads(path.read_text()) if path.exists() else []
        return [Task(**{**row, "cmd": tuple(row.get("cmd", ()))}) for row in rows]

    def failure(self, run_dir: RunDir, exit_code: int) -> str:
        lines = run_dir.stderr.read_text(errors="replace").splitlines() or ["nothing on stderr"]
        return f"exit code {exit_code}: {lines[-1]}"


@dataclass(frozen=True)
class Bytes:
    """An attachment held in memory."""

    path: str
    content: bytes
    missing: int = 0  # bytes that storage has lost

    sha256: str = ""

    @property
    def size(self) -> int:
        return len(self.content) + self.missing

    def open(self) -> BinaryIO:
        return BytesIO(self.content)


def submission(run_id: str, script: str, **changes: Any) -> Submission:
    """A run of `script`; `params` are further workflow_params, everything else a field of Submission."""
    params = {"script": script, **changes.pop("params", {})}
    fields: dict[str, Any] = {
        "run_id": run_id,
        "submit_key": run_id,
        "name": "",
        "workflow_type": "PY",
        "workflow_type_version": "3",
        "workflow_url": "script.py",
        "workflow_params": params,
        "workflow_engine": None,
        "workflow_engine_version": None,
        "workflow_engine_parameters": {},
        "tags": {},
        "attachments": (),
        "owner": "local",
    }
    return Submission(**(fields | changes))
