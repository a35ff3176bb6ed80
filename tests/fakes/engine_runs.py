"""The real cwltool for tests: installed once below `var/`, and one run of it without a provider around."""

from __future__ import annotations

import functools
import io
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from app.daemon.engines.cwltool import SYSTEM_PATH, CwltoolEngine
from app.daemon.engines.engine_interface import RunDir
from app.daemon.engines.environments import EngineEnvironments
from app.daemon.engines.fetcher import FetchPolicy
from app.daemon.providers.provider_interface import Submission

ENGINE_ROOT = Path(__file__).parents[2] / "var" / "test-engines"


@functools.cache
def installed_engine_root() -> Path:
    EngineEnvironments(ENGINE_ROOT).install("cwltool")
    return ENGINE_ROOT


@dataclass(frozen=True)
class TextAttachment:
    path: str
    text: str = ""
    sha256: str = ""

    @property
    def size(self) -> int:
        return len(self.text.encode())

    def open(self) -> BinaryIO:
        return io.BytesIO(self.text.encode())


def submission(workflow_url: str = "wf.cwl", params: Mapping[str, Any] | None = None, **fields: Any) -> Submission:
    blank = Submission(
        run_id="r1",
        submit_key="k1",
        name="",
        workflow_type="CWL",
        workflow_type_version="v1.2",
        workflow_url=workflow_url,
        workflow_params=params or {},
        workflow_engine=None,
        workflow_engine_version=None,
        workflow_engine_parameters={},
        tags={},
        attachments=(),
        owner="local",
    )
    return replace(blank, **fields)


@dataclass
class EngineRun:
    """One run in its own directory. Documents and inputs are written by their path in `work/`."""

    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    policy: FetchPolicy = field(default_factory=FetchPolicy)
    search_path: str = SYSTEM_PATH
    container_runtime: str = "none"

    def __post_init__(self) -> None:
        self.dir = RunDir(self.root)
        for folder in self.dir.work, self.dir.outputs, self.dir.tmp, self.dir.record:
            folder.mkdir(parents=True, exist_ok=True)
        root = installed_engine_root()
        self.engine = CwltoolEngine(root, self.container_runtime, self.policy, search_path=self.search_path)
        for name, text in self.files.items():
            file = self.dir.work / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def __call__(self, workflow_url: str, params: Mapping[str, Any] | None = None, **options: str | None) -> int:
        """Run to the end; returns the exit code."""
        with self.started(workflow_url, params, **options) as process:
            return process.wait()

    @contextmanager
    def started(
        self, workflow_url: str, params: Mapping[str, Any] | None = None, **options: str | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        attachments = tuple(TextAttachment(name, text) for name, text in self.files.items())
        run = submission(workflow_url, params, attachments=attachments, workflow_engine_parameters=options)
        self.engine.check(run)
        launch = self.engine.stage(run, self.dir)
        with self.dir.stdout.open("wb") as stdout, self.dir.stderr.open("wb") as stderr:
            with subprocess.Popen(
                launch.argv,
                cwd=self.dir.work,
                env=dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            ) as process:
                try:
                    yield process
                finally:
                    process.kill()

    def outputs(self) -> dict[str, Any]:
        return self.engine.outputs(self.dir)

    def exit_codes(self) -> dict[str, int | None]:
        return {task.task_id: task.exit_code for task in self.engine.tasks(self.dir)}

    def words(self) -> str:
        return self.dir.stderr.read_text() + json.dumps(self.exit_codes())
