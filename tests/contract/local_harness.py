"""The local provider with a small real engine: every run is a real shim and a real process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from app.daemon.providers.local import LocalProvider
from app.daemon.providers.provider_interface import Submission
from tests.contract.harness import Fate, Harness
from tests.fakes.local_machine import Machine

WORK = """
count()
print("work began", flush=True)
log = record / "tasks" / "1.stdout"
log.parent.mkdir()
log.write_text("half\\n")
task = {"task_id": "1", "name": "work", "has_stdout": True}
(record / "tasks.json").write_text(json.dumps([task]))
"""
WAIT_AT_THE_GATE = """
os.mkfifo(root / "work" / "gate")
say(root.name)
open(root / "work" / "gate").readline()
log.write_text("half\\ndone\\n")
print("work ended", flush=True)
"""
SUCCEED = """
(outputs / "reads.txt").write_text("ACGT\\n")
file = {"class": "File", "location": (outputs / "reads.txt").as_uri()}
(record / "outputs.json").write_text(json.dumps({"answer": 42, "reads.txt": file}))
"""
WAIT_FOR_EVER = """
say(root.name)
signal.pause()
"""
SCRIPTS = {
    Fate.SUCCEED: WORK + WAIT_AT_THE_GATE + SUCCEED,
    Fate.FAIL: WORK + WAIT_AT_THE_GATE + "sys.exit(3)",
    Fate.LONG: WORK + WAIT_FOR_EVER,
    Fate.REFUSED: "",
}


class LocalHarness(Harness):
    """A run waits at its gate, a FIFO, until a test lets it end."""

    provider_class = LocalProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {
        "drafts": "a submit starts the run at once",
        "patience": "whether a run was accepted is read from its directory, at once",
        "platform": "there is no platform and no network between the provider and its runs",
    }
    failure_exit_code = 3
    output_text = "ACGT\n"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._machine = Machine(folder)
        self._said: set[str] = set()
        self._gates: list[int] = []

    def __exit__(self, *_: object) -> None:
        for gate in self._gates:
            os.close(gate)
        self._machine.close()

    def new_provider(self) -> LocalProvider:
        return self._machine.provider(cancel_grace_seconds=1.0)

    def params(self, fate: Fate) -> dict[str, Any]:
        return dict(self._machine.run("any", SCRIPTS[fate]).workflow_params)

    def workflow(self) -> dict[str, str]:
        return {"workflow_type": "PY", "workflow_type_version": "3", "workflow_url": "script.py"}

    def submission(self, fate: Fate = Fate.SUCCEED) -> Submission:
        run = super().submission(fate)
        return replace(run, workflow_engine_parameters={"smuggled": "1"}) if fate == Fate.REFUSED else run

    def let_run(self, provider_id: str) -> None:
        while provider_id not in self._said:
            self._said |= set(self._machine.said().split())

    def let_end(self, provider_id: str) -> None:
        gate = self._machine.runs / provider_id / "work" / "gate"
        if gate.exists():
            self._gates.append(os.open(gate, os.O_RDWR))  # kept open: what is written waits for its reader
            os.write(self._gates[-1], b"go\n")
        self._machine.ended(provider_id)

    def starts(self, run: Submission) -> int:
        return self._machine.started().count(run.run_id)

    def lose(self, provider_id: str) -> None:
        shutil.rmtree(self._machine.runs / provider_id)
