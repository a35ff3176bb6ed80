"""The steps of a CWL workflow, as far as a picture shows them: names, what each waits for, whose tasks are whose. Pure.

It reads what users wrote, and it is no engine: what cannot be understood gives no steps, never an error.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote

import networkx as nx
import yaml

from app.cwl_documents import MAX_BYTES, chosen_process, entries
from app.dag.planning import StepState
from app.errors import InvalidRequest
from app.strict import check_yaml, load_json

MAX_STEPS = 2000
MAX_SOURCES = 20_000
MAX_NESTING = 5

Read = Callable[[str, int], bytes | None]
"""(path of an attachment, most bytes) -> its bytes; None where there is none, or a longer one."""
ENDED = "ended"
"""How is not known: the provider tells no exit codes, or the run ended first."""
NOT_RUN = "not run"
NOT_KNOWN = "not known"
"""No task can be told to be this step's."""
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True, slots=True)
class CwlStep:
    """`tasks`: the names that an engine gives its tasks, and to no other step's; of a nested workflow those of its
    steps."""

    name: str
    needs: tuple[str, ...]
    is_scattered: bool
    tasks: frozenset[str]


def read_steps(path: str, fragment: str, read: Read) -> tuple[CwlStep, ...]:
    """The steps of the workflow at `path`, each after all that it needs; none where that is not known.

    `fragment` chooses a process of a packed document. At most MAX_BYTES are read in all.
    """
    documents = _Documents(read)
    workflow = documents.process(path, fragment)
    if workflow is None or workflow.fields.get("class") != "Workflow":
        return ()
    written = dict(islice(_steps(workflow), MAX_STEPS + 1))
    sources = list(islice(_sources(written), MAX_SOURCES + 1))
    if len(written) > MAX_STEPS or len(sources) > MAX_SOURCES:
        return ()
    graph = nx.DiGraph()
    graph.add_nodes_from(written)
    graph.add_edges_from(_edges(sources, written, workflow.name))
    if not nx.is_directed_acyclic_graph(graph):
        return ()
    place = {name: number for number, name in enumerate(written)}
    tasks = {name: set(documents.tasks_of(name, step.get("run"), workflow)) for name, step in written.items()}
    owners = Counter(task for names in tasks.values() for task in names)
    return tuple(
        CwlStep(
            name,
            tuple(sorted(graph.predecessors(name), key=place.__getitem__)),
            bool(written[name].get("scatter")),
            frozenset(task for task in tasks[name] if owners[task] == 1),
        )
        for name in nx.lexicographical_topological_sort(graph, key=place.__getitem__)
    )


def state_of_tasks(*, begun: bool, ended: bool, failed: bool | None, run_is_over: bool) -> str:
    """How tasks stand; `failed` is None without an exit code."""
    if failed is not None:
        return StepState.FAILED if failed else StepState.SUCCEEDED
    if ended or run_is_over:
        return ENDED
    return StepState.RUNNING if begun else StepState.QUEUED


def states_of_steps(
    steps: Collection[CwlStep], found: Mapping[str, Collection[str]], run_is_over: bool
) -> dict[str, str]:
    """How each step stands. `found`: in which states there are tasks of each name."""
    passed = {need for step in steps if not step.tasks.isdisjoint(found) for need in step.needs}
    return {step.name: _state(step, found, run_is_over or step.name in passed) for step in steps}


def _state(step: CwlStep, found: Mapping[str, Collection[str]], is_over: bool) -> str:
    """`is_over`: what it has not begun it never will."""
    seen = {state for name in step.tasks for state in found.get(name, ())}
    if not step.tasks:
        return NOT_KNOWN
    if not seen:
        return NOT_RUN if is_over else StepState.PENDING
    if not is_over and not step.tasks <= found.keys():
        seen.add(StepState.RUNNING)
    return next(state for state in _ORDER if state in seen)


_ORDER = (StepState.RUNNING, StepState.QUEUED, StepState.FAILED, ENDED, StepState.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class _Process:
    """A process and where it stands. `name`: its id in a packed document."""

    fields: Mapping[str, Any]
    path: str

    @property
    def name(self) -> str:
        return str(self.fields.get("id", "")).rpartition("#")[2]


class _Documents:
    """The documents of one run, each read and parsed once."""

    def __init__(self, read: Read) -> None:
        self._read, self._bytes_left, self._steps_left = read, MAX_BYTES, MAX_STEPS
        self._parsed: dict[str, Any] = {}

    def process(self, path: str, fragment: str) -> _Process | None:
        if path not in self._parsed:
            data = self._read(path, self._bytes_left) or b""
            self._bytes_left -= len(data)
            self._parsed[path] = _parse(data)
        document = self._parsed[path]
        fields = chosen_process(document, fragment) if isinstance(document, dict) else None
        return _Process(fields, path) if fields else None

    def tasks_of(self, name: str, run: Any, within: _Process, depth: int = 0) -> Iterator[str]:
        """Names of the tasks of a step that runs this. Of very many nested steps not all are looked at."""
        process = self._run_by(run, within)
        if process is None or process.fields.get("class") != "Workflow" or depth == MAX_NESTING:
            yield name
            return
        for inner, step in _steps(process):
            if self._steps_left == 0:
                return
            self._steps_left -= 1
            yield from self.tasks_of(inner, step.get("run"), process, depth + 1)

    def _run_by(self, run: Any, within: _Process) -> _Process | None:
        if isinstance(run, dict):
            return _Process(run, within.path)
        if not isinstance(run, str):
            return None
        file, _, fragment = run.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(within.path), unquote(file)))
        return self.process(path if file else within.path, fragment)


def _parse(data: bytes) -> Any:
    """None for what is neither JSON nor YAML that is harmless. Scalars of YAML stay texts, dates too."""
    try:
        if data.lstrip()[:1] == b"{":
            return load_json(data, "")
        text = data.decode("utf-8-sig")
        check_yaml(text)
        return yaml.load(text, _LOADER)  # noqa: S506  it builds texts, lists and mappings
    except (InvalidRequest, yaml.YAMLError, ValueError, RecursionError):
        return None


def _steps(workflow: _Process) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, step) for name, step in entries(workflow.fields.get("steps")) if isinstance(step, dict))


def _sources(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(step, what one of its inputs comes from), one for each word."""
    for name, step in steps.items():
        ports = step.get("in")
        for port in ports.values() if isinstance(ports, dict) else ports if isinstance(ports, list) else ():
            given = port.get("source") if isinstance(port, dict) else port
            for source in given if isinstance(given, list) else [given]:
                yield name, source if isinstance(source, str) else ""


def _edges(sources: Collection[tuple[str, str]], steps: Collection[str], workflow: str) -> Iterator[tuple[str, str]]:
    """A source names an output of a step as `step/output`, after the workflow's own id in packed documents."""
    for name, source in sources:
        needed, slash, _ = source.rpartition("#")[2].removeprefix(f"{workflow}/").partition("/")
        if slash and needed in steps:
            yield needed, name
