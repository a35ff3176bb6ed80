"""What the local provider asks of a workflow engine: a command line before, outputs and tasks after.

An engine adapter knows its engine's options and records. Process life is `providers/local.py`'s.

    <data>/runs/<run_id>/        RunDir.root: above the engine's reach, owned by the provider and the shim
        request.json             what to run (RunDir.request), written whole before the shim starts
        lock started.json cancel exit.json
        stdout stderr            the engine's own streams
        work/                    attachments by their paths, fetched documents, inputs; the engine runs here
        outputs/                 final outputs only
        tmp/                     everything temporary; removed by the shim when the engine ends
        record/                  the engine's machine-readable record: events, task logs (tasks/<task_id>.stdout|stderr)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from app.daemon.providers.provider_interface import EngineOffer, Submission, Task


@dataclass(frozen=True, slots=True)
class RunDir:
    """The fixed places in a run's directory."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def record(self) -> Path:
        return self.root / "record"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr"

    def task_log(self, task_id: str, stream: str) -> Path:
        """`stream`: stdout or stderr."""
        return self.record / "tasks" / f"{task_id}.{stream}"


@dataclass(frozen=True, slots=True)
class Launch:
    """What the shim executes: argv (never a shell string), the whole environment, and what users are shown as `cmd`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    shown_cmd: tuple[str, ...]


class WorkflowEngine(ABC):
    """An engine installed on this machine, in an environment of its own."""

    name: ClassVar[str]
    workflow_types: ClassVar[Mapping[str, tuple[str, ...]]]  # type -> versions, as WES clients spell them
    parameters: ClassVar[
        tuple[tuple[str, str, str], ...]
    ]  # allow-listed workflow_engine_parameters: (name, type, default)

    @abstractmethod
    def versions(self) -> list[str]:
        """The installed versions, newest first; empty where none is installed."""

    def offers(self) -> list[EngineOffer]:
        """One offer an installed version."""
        return [EngineOffer(self.name, version, self.workflow_types, self.parameters) for version in self.versions()]

    @abstractmethod
    def check(self, run: Submission) -> None:
        """Raises Rejected with the reason where this request cannot be run here (option, version)."""

    @abstractmethod
    def stage(self, run: Submission, run_dir: RunDir) -> Launch:
        """Lay out documents and inputs so that the engine needs nothing else; may fetch, within time limits.

        The attachments lie in `work/` already. Returns the command that runs what was laid out. Raises Rejected
        (e.g. 404, forbidden address) or NotAccepted (try later).
        """

    @abstractmethod
    def outputs(self, run_dir: RunDir) -> dict[str, Any]:
        """The engine's output object. File and Directory entries have `location` as file:// URLs inside `outputs/`.

        Raises Rejected where the engine left none.
        """

    @abstractmethod
    def tasks(self, run_dir: RunDir) -> list[Task]:
        """The steps so far, from the engine's record. Their logs are `RunDir.task_log`s."""

    def failure(self, run_dir: RunDir, exit_code: int) -> str:
        """Why the engine failed, in words for the user: usually the last lines that matter of stderr."""
        return f"The engine ended with exit code {exit_code}."

    def found_disk_full(self, run_dir: RunDir) -> bool:
        """True where the engine failed because this machine's disk was full, and certainly no step had filled it."""
        return False
