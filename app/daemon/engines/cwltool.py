"""The cwltool adapter: which requests it takes, how it is started, and what it left behind.

Knows nothing of processes: the provider starts what `stage` returns. What is read back is `cwltool_record`'s.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any, ClassVar

from app.daemon.engines import cwltool_options, cwltool_record
from app.daemon.engines.cwl_staging import Staging
from app.daemon.engines.engine_interface import Launch, RunDir, WorkflowEngine
from app.daemon.engines.environments import EngineEnvironments, Environment
from app.daemon.engines.fetcher import Fetcher, FetchPolicy, Resolver, system_resolver
from app.daemon.providers.provider_interface import Submission, Task
from app.errors import Rejected
from app.locations import inputs_of

RUNNER = Path(__file__).with_name("cwltool_runner.py")

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
PROBE_SECONDS = 5
CONTAINER_ARGUMENTS = {
    "docker": [],
    "podman": ["--podman"],
    "singularity": ["--singularity"],
    "apptainer": ["--singularity"],
    "none": ["--no-container"],
}
PROBES = {"docker": ["docker", "info"], "podman": ["podman", "info"], "singularity": ["singularity", "--version"]}


class CwltoolEngine(WorkflowEngine):
    """cwltool in the environments below `root`.

    `container_runtime`: a key of CONTAINER_ARGUMENTS, or `auto`. `search_path`: where steps find their programs.
    """

    name: ClassVar[str] = "cwltool"
    workflow_types: ClassVar[dict[str, tuple[str, ...]]] = {"CWL": ("v1.0", "v1.1", "v1.2")}
    parameters: ClassVar[tuple[tuple[str, str, str], ...]] = tuple(
        (option.name, option.type, option.default) for option in cwltool_options.OPTIONS.values()
    )

    def __init__(
        self,
        root: Path,
        container_runtime: str = "auto",
        policy: FetchPolicy | None = None,
        resolver: Resolver = system_resolver,
        search_path: str = SYSTEM_PATH,
    ) -> None:
        self._environments = EngineEnvironments(root)
        self._container_runtime = container_runtime
        self._policy = policy or FetchPolicy()
        self._resolver = resolver
        self._search_path = search_path
        self._probing = threading.Lock()

    def versions(self) -> list[str]:
        return [environment.version for environment in self._environments.installed(self.name)]

    def check(self, run: Submission) -> None:
        self._environment(run)
        cwltool_options.arguments(run.workflow_engine_parameters)

    def stage(self, run: Submission, run_dir: RunDir) -> Launch:
        environment = self._environment(run)
        fetcher = Fetcher(self._policy, self._resolver)
        staging = Staging(run_dir.work, _free_name(run, ".wes"), self._policy, fetcher)
        process, inputs = staging.stage(run.workflow_url, inputs_of(run.workflow_params))
        job = run_dir.work / _free_name(run, "inputs", ".json")
        job.write_text(inputs, encoding="utf-8")
        options = [*self._container_arguments(), *cwltool_options.arguments(run.workflow_engine_parameters)]
        places = ["--outdir", str(run_dir.outputs), "--tmpdir-prefix", f"{run_dir.tmp}/"]
        own = [str(run_dir.record), str(run_dir.work)]
        return Launch(
            argv=(
                *(str(environment.python), "-I", str(RUNNER), *own, "--disable-color", "--relax-path-checks"),
                *(*options, *places, process, str(job)),
            ),
            environment={
                "PATH": self._search_path,
                "HOME": str(run_dir.tmp),
                "TMPDIR": str(run_dir.tmp),
                "LANG": "C.UTF-8",
            },
            shown_cmd=("cwltool", *options, run.workflow_url, job.name),
        )

    def outputs(self, run_dir: RunDir) -> dict[str, Any]:
        return cwltool_record.read_outputs(run_dir)

    def tasks(self, run_dir: RunDir) -> list[Task]:
        return cwltool_record.read_tasks(run_dir)

    def failure(self, run_dir: RunDir, exit_code: int) -> str:
        return cwltool_record.explain_failure(run_dir, exit_code)

    def found_disk_full(self, run_dir: RunDir) -> bool:
        return cwltool_record.found_disk_full(run_dir)

    def _environment(self, run: Submission) -> Environment:
        installed = {environment.version: environment for environment in self._environments.installed(self.name)}
        wanted = run.workflow_engine_version or next(iter(installed), "")
        if wanted not in installed:
            there = ", ".join(installed) or "none; `flask engines install cwltool` installs one"
            raise Rejected(f"cwltool {wanted} is not installed here. Installed: {there}.", "engine_not_installed")
        return installed[wanted]

    def _container_arguments(self) -> list[str]:
        """`auto` is settled once, by asking: it may take a few seconds."""
        with self._probing:
            if self._container_runtime == "auto":
                self._container_runtime = next(filter(self._works, PROBES), "none")
        return CONTAINER_ARGUMENTS[self._container_runtime]

    def _works(self, runtime: str) -> bool:
        """Asked as a run would: with the same PATH, and nothing else."""
        if runtime == "podman" and os.geteuid() == 0:
            return False  # cwltool maps users in a way that podman only knows without root
        environment = {"PATH": self._search_path}
        quiet = subprocess.DEVNULL
        try:
            done = subprocess.run(
                PROBES[runtime],
                env=environment,
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                timeout=PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def _free_name(run: Submission, stem: str, ending: str = "") -> str:
    """A name in `work/` that no attachment has."""
    taken = {attachment.path.split("/")[0].casefold() for attachment in run.attachments}
    return next(name for number in range(len(taken) + 1) if (name := f"{stem}{number or ''}{ending}") not in taken)
