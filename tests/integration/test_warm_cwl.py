"""Warm and cold give identical verdicts: every CWL case, the examples and the engine's options, run both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.client.attachments import collect
from app.daemon.engines.cwltool import RUNNER, CwltoolEngine
from app.daemon.engines.engine_interface import RunDir
from app.daemon.engines.environments import EngineEnvironments
from app.daemon.providers.provider_interface import Submission
from app.daemon.providers.shim_launcher import ColdLauncher, ShimLauncher
from app.errors import Rejected
from tests.fakes.engine_runs import TextAttachment, installed_engine_root, submission
from tests.fakes.warm_machine import WarmMachine

ROOT = Path(__file__).parents[2]
DOCUMENTS = ROOT / "tests" / "workflows" / "cwl"
EXAMPLES = {"hello_world.cwl": None, "fails.cwl": "fails.yml", "reads/reads.cwl": "reads/reads.yml"}
QUESTIONABLE = """
cwlVersion: v1.2
class: ExpressionTool
requirements: {InlineJavascriptRequirement: {expressionLib: ["function triple(n) { return nowhere * n; }"]}}
inputs: {n: int}
outputs: {n: int}
expression: "${ const twice = inputs.n * 2; undeclared = 1; return {n: twice}; }"
"""
EXTENDED = """
cwlVersion: v1.2
$namespaces: {cwltool: "http://commonwl.org/cwltool#"}
class: CommandLineTool
requirements: {cwltool:LoadListingRequirement: {loadListing: deep_listing}, InlineJavascriptRequirement: {}}
hints: {cwltool:Secrets: {secrets: [word]}}
baseCommand: echo
inputs: {word: {type: string, inputBinding: {}}}
outputs: {said: stdout}
stdout: said.txt
"""
DEVELOPED = """
cwlVersion: v1.3.0-dev1
class: CommandLineTool
baseCommand: echo
inputs: {word: {type: string, inputBinding: {}}}
outputs: {said: stdout}
stdout: said.txt
"""


@dataclass(frozen=True)
class Case:
    name: str
    run: str
    inputs: Mapping[str, Any]
    files: Mapping[str, str]
    options: Mapping[str, str | None]


def from_cases() -> Iterator[Case]:
    paths = [path for path in DOCUMENTS.rglob("*") if path.is_file()]
    files = {path.relative_to(DOCUMENTS).as_posix(): path.read_text() for path in paths}
    cases = yaml.safe_load(files["cases.yml"])
    for case in cases:
        yield Case(case["name"], case["run"], case.get("inputs", {}), files, case.get("options", {}))
    lines = {"lines": {"class": "File", "location": "data/lines.txt"}}
    for name, run, inputs, options in (
        ("parallel", "chain.cwl", lines, {"parallel": None}),
        ("single-step", "chain.cwl", lines, {"single-step": "forward"}),
        ("target", "chain.cwl", lines, {"target": "first"}),
        ("strict", "echo.cwl", {"message": "m"}, {"strict": "true"}),
        ("non-strict", "echo.cwl", {"message": "m", "other": 1}, {"non-strict": "true"}),
        ("debug", "javascript.cwl", {"n": [1]}, {"debug": "true"}),
        ("js-console", "javascript.cwl", {"n": [1]}, {"js-console": "true"}),
        ("timestamps", "echo.cwl", {"message": "m"}, {"timestamps": "true"}),
        ("no-checksum", "echo.cwl", {"message": "m"}, {"no-compute-checksum": "true"}),
    ):
        yield Case(f"option-{name}", run, inputs, files, options)


def from_texts() -> Iterator[Case]:
    word = {"word": "w"}
    for name, text, inputs, options in (
        ("questionable-javascript", QUESTIONABLE, {"n": 2}, {}),
        ("questionable-javascript-again", QUESTIONABLE, {"n": 3}, {}),
        ("extended", EXTENDED, word, {"enable-ext": "true"}),
        ("extended-without-the-option", EXTENDED, word, {}),
        ("developed", DEVELOPED, word, {"enable-dev": "true"}),
        ("developed-without-the-option", DEVELOPED, word, {}),
        ("extended-and-developed", DEVELOPED, word, {"enable-dev": "true", "enable-ext": "true"}),
        ("no-yaml", "cwlVersion: [", {}, {}),
        ("no-version", "class: Workflow\ninputs: []\noutputs: []\nsteps: []\n", {}, {}),
    ):
        yield Case(name, "wf.cwl", inputs, {"wf.cwl": text}, options)


def from_examples() -> Iterator[Case]:
    for name, params in EXAMPLES.items():
        bundle = collect(str(ROOT / "examples" / name), True, ROOT / "examples" / params if params else None)
        files = {path: source.read_text() for path, source in bundle.files.items()}
        yield Case(f"example-{Path(name).stem}", str(bundle.workflow_url), bundle.workflow_params or {}, files, {})


CASES = [*from_cases(), *from_texts(), *from_examples()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmMachine]:
    environment = EngineEnvironments(installed_engine_root()).installed("cwltool")[0]
    machine = WarmMachine(tmp_path_factory.mktemp("machine"), RUNNER, str(environment.python))
    yield machine
    machine.close()


def run_with(machine: WarmMachine, launcher: ShimLauncher, run: Submission) -> dict[str, Any]:
    """All that can be known of a run, without what names it or its time."""
    engine = CwltoolEngine(installed_engine_root(), "none")
    provider = machine.provider(engines=[engine], launcher=launcher)
    try:
        provider.submit_workflow(run)
    except Rejected as error:
        return {"rejected": plain(str(error), run.run_id)}
    machine.ended(run.run_id)
    status = provider.get_workflow_statuses([run.run_id])[run.run_id]
    run_dir = RunDir(machine.runs / run.run_id)
    found: dict[str, Any] = {
        "state": status.state,
        "exit code": status.exit_code,
        "reason": status.reason,
        "message": status.message,
        "cmd": status.cmd,
        "stdout": run_dir.stdout.read_text(),
        "stderr": run_dir.stderr.read_text(),
        "tasks": {
            task.task_id: {**asdict(task), "start_time": None, "end_time": None}
            for task in provider.get_tasks(run.run_id)
        },
        "logs": contents(run_dir.record / "tasks"),
        "outputs": contents(run_dir.outputs),
    }
    if not status.exit_code:
        found["output object"] = engine.outputs(run_dir)
    return {name: plain(value, run.run_id) for name, value in found.items()}


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def plain(value: Any, run_id: str) -> Any:
    """What differs between any two runs is left out: run id, temporary names, addresses, times, what a step used, and
    the order of steps that do not wait for each other."""
    if isinstance(value, list | tuple):
        return [plain(item, run_id) for item in value]
    if isinstance(value, dict):
        return {name: plain(item, run_id) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    text = re.sub(r"(RUN/tmp/)[a-z0-9_]{8}", r"\1NAME", value.replace(run_id, "RUN"))
    text = re.sub(
        r"0x[0-9a-f]{8,}|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "N", text
    )
    return sorted(line for line in text.splitlines() if "Max memory used" not in line)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(machine: WarmMachine, case: Case) -> None:
    found = []
    launchers = {"cold": ColdLauncher(machine.python, machine.hint_file), "warm": machine.launcher}
    for number, (kind, launcher) in enumerate(launchers.items()):
        run = submission(
            case.run,
            case.inputs,
            run_id=f"{kind}-{CASES.index(case)}",
            attachments=tuple(TextAttachment(path, text) for path, text in case.files.items()),
            workflow_engine_parameters=case.options,
        )
        found.append(run_with(machine, launcher, run))
        assert number == 0 or machine.cold_starts == []
    assert found[1] == found[0]
