"""The steps of a run and where they stand in its picture: what never changes, worked out once and kept in this process.

Knows database and storage; how the steps stand is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import networkx as nx
from sqlalchemy.orm import Session

from app.artifacts import ArtifactStorage
from app.attachment_names import attachment_of
from app.cwl_graph import CwlStep, read_steps
from app.dag.layout import Layout, Point, lay_out
from app.dag.planning import StepRun, count_elements
from app.dag.progress import PlannedStep, planned_steps
from app.database import Database
from app.errors import NotFound
from app.models import WorkflowRun
from app.pipeline_states import stored_pipeline
from app.runs import listing, pipelines
from app.states import State

KEPT = 128


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """`planned`: of a pipeline; `cwl`: of a CWL workflow. `layout` is None where there is nothing, or too much to draw;
    `curves` are its edges as SVG writes them."""

    planned: Sequence[PlannedStep] = ()
    cwl: Sequence[CwlStep] = ()
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scattered: frozenset[str] = frozenset()
    edges: int = 0
    layout: Layout | None = None
    curves: Sequence[str] = ()


@lru_cache(maxsize=KEPT)
def known_steps(database: Database, storage: ArtifactStorage, run_id: str, attempt: int) -> KnownSteps:
    """Empty where they are not known. `attempt`: with the first a pipeline's document has been checked and stored."""
    planned: Sequence[PlannedStep] = ()
    cwl: Sequence[CwlStep] = ()
    with database.reading() as session:
        run = listing.get_run(session, run_id, None)
        if run.provider_type == "dag" and attempt:
            planned = planned_steps(stored_pipeline(run.submit_request or {}))
        elif run.workflow_type == "CWL":
            cwl = _attached_steps(session, storage, run)
    needs = {step.name: step.needs for some in (planned, cwl) for step in some}
    graph = nx.DiGraph()
    graph.add_nodes_from(needs)
    graph.add_edges_from((need, name) for name in needs for need in needs[name])
    layout = lay_out(graph)
    curves = [_curve(points) for _, _, points in layout.edges] if layout else []
    scattered = frozenset(step.name for some in (planned, cwl) for step in some if step.is_scattered)
    return KnownSteps(planned, cwl, needs, scattered, graph.number_of_edges(), layout, curves)


@lru_cache(maxsize=KEPT)
def scatter_width(database: Database, run_id: str, attempt: int, step: str) -> int | None:
    """How many runs a step of a pipeline has, by what the steps before it put out; all that it needs has succeeded."""
    with database.reading() as session:
        pipeline = stored_pipeline(listing.get_run(session, run_id, None).submit_request or {})
        sources = pipeline.sources_of(step)
        rows = [row for row in pipelines.steps_of(session, run_id) if row.step in sources]
        values = pipelines.values_of(session, [row.run_id for row in rows if row.state == State.COMPLETE])
    runs = [
        StepRun(str(row.step), row.shard, row.try_number, State(row.state), *values.get(row.run_id, ({}, None)))
        for row in rows
    ]
    return count_elements(pipeline, runs, step)


def _curve(points: Sequence[Point]) -> str:
    """Down through the points: between layers a curve that begins and ends upright, across a layer a straight line."""
    said = [f"M{points[0][0]} {points[0][1]}"]
    for (x, y), (to_x, to_y) in zip(points[::2], points[1::2], strict=True):
        middle = (y + to_y) // 2
        said.append(f"L{x} {y}C{x} {middle} {to_x} {middle} {to_x} {to_y}")
    return "".join(said)


def _attached_steps(session: Session, storage: ArtifactStorage, run: WorkflowRun) -> Sequence[CwlStep]:
    """Nothing is fetched: a document that is not attached is not known."""
    files = {file.path: file for file in listing.get_attachments(session, run.run_id)}
    path = attachment_of(run.workflow_url, files)

    def read(name: str, most: int) -> bytes | None:
        if name not in files or files[name].size > most:
            return None
        try:
            with storage.blob(files[name].sha256).open() as file:
                return file.read(most)
        except NotFound:
            return None

    return read_steps(path, run.workflow_url.partition("#")[2], read) if path else ()
