"""The steps of a run as a graph: what its picture and its table show. Knows database and storage, not HTML."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.cwl_graph import ENDED, NOT_KNOWN, NOT_RUN, state_of_tasks, states_of_steps
from app.dag.layout import Layout, Point
from app.dag.planning import StepState
from app.dag.progress import Progress, Tally
from app.database import Database
from app.models import WorkflowRun
from app.runs.step_tallies import tally_runs, tally_tasks
from app.states import State, is_terminal
from app.web.formatting import plain_text, shorten
from app.web.known_steps import KnownSteps, known_steps, scatter_width

ROWS_SHOWN = 50
"""Of the table where there is no picture."""
NEEDS_SHOWN = 8
LABEL_COLUMNS = 19
BY_URGENCY: tuple[str, ...] = (
    *(StepState.FAILED, StepState.CANCELLED, ENDED, StepState.RUNNING, StepState.QUEUED, StepState.READY),
    *(StepState.UPSTREAM_FAILED, StepState.PENDING, NOT_RUN, NOT_KNOWN, StepState.SUCCEEDED),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Runs or tasks of a step that stand alike, and where one of them is shown: a run's page, or a log of this run."""

    state: str
    count: int
    run_id: str | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A step. `total`: how many runs it will have in the end, where that is known."""

    name: str
    state: str
    is_scattered: bool
    parts: Sequence[Part]
    total: int | None = None
    needs: Sequence[str] = ()
    place: Point | None = None

    @property
    def label(self) -> str:
        """The name as far as it fits into a box."""
        return shorten(plain_text(self.name), LABEL_COLUMNS)

    @property
    def shown(self) -> Part | None:
        """The part that says most about how the step stands."""
        return next((part for part in self.parts if part.state == self.state), next(iter(self.parts), None))

    @property
    def progress(self) -> str:
        """Of a scattered step: `12/96`, or `12 done` while nobody knows of how many, and what else has failed."""
        counts = {part.state: part.count for part in self.parts}
        done, failed = counts.get(StepState.SUCCEEDED, 0), counts.get(StepState.FAILED, 0)
        total = sum(counts.values()) if self.total is None else self.total
        if not self.is_scattered or not total:
            return ""
        may_grow = self.total is None and self.state in (StepState.RUNNING, StepState.QUEUED)
        said = f"{done} done" if may_grow else f"{done}/{total}"
        return said + (f", {failed} failed" if failed and self.state != StepState.FAILED else "")


@dataclass(frozen=True, slots=True)
class StepGraph:
    """`nodes`: each after what it needs; where there is no `layout` only some, those that ask for attention first."""

    nodes: Sequence[Node]
    counts: Sequence[tuple[str, int]]  # steps by state, of all
    steps: int
    edges: int
    layout: Layout | None
    curves: Sequence[str]


def read_step_graph(database: Database, storage: ArtifactStorage, run: WorkflowRun) -> StepGraph | None:
    """None where the graph is not known."""
    known = known_steps(database, storage, run.run_id, run.attempt)
    if not known.needs:
        return None
    with database.reading() as session:
        standing = _pipeline_standing(session, database, run, known) or _cwl_standing(session, run, known)
    counts = Counter(standing.states.values())
    by_state = [(state, counts[state]) for state in BY_URGENCY if counts[state]]
    names: Sequence[str] = list(known.needs)
    if known.layout is None:
        names = sorted(names, key=lambda name: BY_URGENCY.index(standing.states[name]))[:ROWS_SHOWN]
    nodes = [_node(name, known, standing) for name in names]
    return StepGraph(nodes, by_state, len(known.needs), known.edges, known.layout, known.curves)


@dataclass(frozen=True, slots=True)
class _Standing:
    """How all steps stand, by name. `parts`: of one of them."""

    states: Mapping[str, str]
    parts: Callable[[str], Iterable[Part]]
    totals: Mapping[str, int] = field(default_factory=dict)


def _node(name: str, known: KnownSteps, standing: _Standing) -> Node:
    parts = sorted(standing.parts(name), key=lambda part: BY_URGENCY.index(part.state))
    place = known.layout.nodes[name] if known.layout else None
    is_scattered = name in known.scattered
    return Node(name, standing.states[name], is_scattered, parts, standing.totals.get(name), known.needs[name], place)


def _pipeline_standing(session: Session, database: Database, run: WorkflowRun, known: KnownSteps) -> _Standing | None:
    """None for other runs."""
    if not known.planned:
        return None
    rows = tally_runs(session, run.run_id)
    tallies = [Tally(str(row.step), State(row.state), row.try_number, row.tally, row.run_id) for row in rows]

    def width(step: str) -> int | None:
        return scatter_width(database, run.run_id, run.attempt, step)

    progress = Progress(known.planned, tallies, State(run.state), width)

    def parts(name: str) -> Iterator[Part]:
        for state, (count, run_id) in progress.counts(name).items():
            yield Part(state, count, run_id=run_id)

    return _Standing(progress.states, parts, progress.totals)


def _cwl_standing(session: Session, run: WorkflowRun, known: KnownSteps) -> _Standing:
    owners = {task: step.name for step in known.cwl for task in step.tasks}
    is_over = is_terminal(run.state)
    found: dict[str, set[str]] = defaultdict(set)
    parts: dict[str, dict[str, Part]] = defaultdict(dict)
    for row in tally_tasks(session, run.run_id, list(owners)):
        if row.name not in owners:
            continue
        failed = None if row.failed is None else bool(row.failed)
        state = state_of_tasks(begun=bool(row.begun), ended=bool(row.ended), failed=failed, run_is_over=is_over)
        found[row.name].add(state)
        log = f"tasks/{row.task_id}/{'stderr' if row.has_stderr else 'stdout'}"
        alike = parts[owners[row.name]]
        alike[state] = Part(state, row.tally + (alike[state].count if state in alike else 0), log=log)
    return _Standing(states_of_steps(known.cwl, found, is_over), lambda name: parts[name].values())
