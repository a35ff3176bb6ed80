"""A pipeline document, checked as a whole: names, references, the graph that they make, with every problem at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx as nx
from pydantic import ValidationError

from app.dag import references
from app.dag.document import MAX_SHARDS, MAX_STEPS, Document, Step
from app.dag.references import CONTEXT, PARAMS, RUN, STEP_OUTPUTS, STEP_PARAMS, Reference, Unresolved, escape

MAX_PROBLEMS = 50

Rows = Sequence[Mapping[str, str]]
"""A sample sheet: one mapping of column to text for each row."""


class DocumentRefused(Exception):
    """Everything that is wrong with a document: `problems` are (JSON pointer, words)."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        more = len(problems) - len(self.problems)
        lines = [f"{pointer or '/'}: {words}" for pointer, words in self.problems]
        super().__init__("\n".join(lines + ([f"… and {more} more problems"] if more else [])))


def parse(document: Any, sheets: Mapping[str, Rows] | None = None) -> Pipeline:
    """Check a document as it came from JSON or YAML. `sheets`: the attached sample sheets, by path.

    Raises DocumentRefused with every problem, each with its place.
    """
    steps = document.get("steps") if isinstance(document, dict) else None
    if isinstance(steps, list) and len(steps) > MAX_STEPS:
        raise DocumentRefused([("/steps", f"A pipeline has at most {MAX_STEPS} steps, this one {len(steps)}.")])
    problems: list[tuple[str, str]] = []
    model: Document | None
    try:
        model = Document.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems, model = [_problem(one) for one in errors], _mended(document, errors)
    pipeline = Pipeline(model, dict(sheets or {})) if model else None
    if problems := problems + (pipeline.find_problems() if pipeline else []):
        raise DocumentRefused(problems)
    assert pipeline is not None  # noqa: S101  without a model there are problems
    return pipeline


@dataclass(frozen=True)
class Pipeline:
    """A document that `parse` has checked."""

    document: Document
    sheets: Mapping[str, Rows]

    @cached_property
    def steps(self) -> dict[str, Step]:
        return {step.step_name: step for step in self.document.steps}

    @cached_property
    def graph(self) -> nx.DiGraph:
        """An edge from each step to those that need it; a reference makes one as `depends_on` does."""
        graph = nx.DiGraph()
        graph.add_nodes_from(step.step_name for step in self.document.steps)
        for step in self.document.steps:
            graph.add_edges_from((needed, step.step_name) for needed in self._needs(step) if needed in graph)
        return graph

    @cached_property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """What each step waits for."""
        return {name: tuple(self.graph.predecessors(name)) for name in self.steps}

    @cached_property
    def order(self) -> list[str]:
        """Step names, each after all that it needs; among equals as the document has them."""
        place = {name: number for number, name in enumerate(self.steps)}
        return list(nx.lexicographical_topological_sort(self.graph, key=place.__getitem__))

    @cached_property
    def context(self) -> dict[str, Any]:
        """base_context; its texts may refer to names that stand before them. Raises Unresolved."""
        context: dict[str, Any] = {}

        def look_up(one: Reference) -> Any:
            if one.name not in context:
                raise Unresolved(f"${{{one.text}}}: in base_context a name must stand before its use.")
            return references.follow(one, context[one.name])

        for name, value in self.document.base_context.items():
            context[name] = references.substitute(value, look_up)
        return context

    def sources_of(self, name: str) -> set[str]:
        """The steps whose values tell what a step is scattered over."""
        sources: set[str] = set()
        waiting: list[Any] = [_over(self.steps[name])]
        while waiting:
            named = {one.step for _, _, one in references.find(waiting.pop()) if one is not None and one.step}
            for source in named - sources:
                waiting += [self.steps[source].outputs, _over(self.steps[source])]
            sources |= named
        return sources

    # Checking

    def find_problems(self) -> list[tuple[str, str]]:
        """What the model cannot see: names used twice, references and dependencies that lead nowhere, circles."""
        problems = []
        for name, count in Counter(step.step_name for step in self.document.steps).items():
            if count > 1:
                problems.append(("/steps", f"{count} steps are called {name!r}."))
        for number, step in enumerate(self.document.steps):
            problems += self._problems_of_step(f"/steps/{number}", step)
        outputs = self.document.workflow_outputs
        problems += self._problems_of_references(
            "/workflow_outputs", outputs, frozenset({STEP_OUTPUTS, STEP_PARAMS, CONTEXT})
        )
        problems += self._problems_of_references("/base_context", self.document.base_context, frozenset({CONTEXT}))
        return problems + self._circles() + self._problems_of_context(problems)

    def _problems_of_context(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if any(place.startswith("/base_context") for place, _ in found):
            return []
        try:
            _ = self.context
        except Unresolved as error:
            return [("/base_context", str(error))]
        return []

    def _problems_of_step(self, place: str, step: Step) -> list[tuple[str, str]]:
        unknown = [needed for needed in step.depends_on or [] if needed not in self.steps]
        problems = [(f"{place}/depends_on", f"There is no step {needed!r}.") for needed in unknown]
        item = step.scatter.item if step.scatter else None
        before = frozenset({CONTEXT, STEP_OUTPUTS, STEP_PARAMS})
        for name in BOUND_BEFORE:
            problems += self._problems_of_references(f"{place}/{name}", getattr(step, name), before, step, item)
        if step.scatter:
            problems += self._problems_of_references(f"{place}/scatter/over", step.scatter.over, before, step)
            problems += self._problems_of_sheet(f"{place}/scatter/sheet", step.scatter.sheet)
        allowed = before | {PARAMS} | (frozenset({RUN}) if step.app is None else frozenset())
        return problems + self._problems_of_references(f"{place}/outputs", step.outputs, allowed, step, item)

    def _problems_of_sheet(self, place: str, sheet: str | None) -> list[tuple[str, str]]:
        if sheet is None:
            return []
        if sheet not in self.sheets:
            return [(place, f"There is no attachment {sheet!r}, or it is neither .csv nor .tsv.")]
        if len(self.sheets[sheet]) > MAX_SHARDS:
            return [(place, f"A sheet has at most {MAX_SHARDS} rows.")]
        return []

    def _problems_of_references(
        self, place: str, value: Any, allowed: frozenset[str], step: Step | None = None, item: str | None = None
    ) -> list[tuple[str, str]]:
        problems = []
        for pointer, inner, reference in references.find(value, place):
            if words := self._problem_of_reference(reference, allowed, step, item):
                problems.append((pointer, f"${{{inner}}}: {words}"))
        return problems

    def _problem_of_reference(
        self, reference: Reference | None, allowed: frozenset[str], step: Step | None, item: str | None
    ) -> str | None:
        if reference is None:
            return "this is no reference; write ${name}, ${params.x}, ${steps.s.outputs.o} or ${steps.s.params.x}."
        if reference.kind not in allowed:
            return "this cannot be known here."
        if reference.kind == CONTEXT:
            known = set(self.document.base_context) | ({item} if item else set())
            return None if reference.name in known else f"base_context has no {reference.name!r}."
        if reference.kind == PARAMS and step is not None:
            return None if reference.name in step.params else f"this step has no parameter {reference.name!r}."
        if reference.step is not None:
            return self._problem_of_step_reference(reference, step)
        return None

    def _problem_of_step_reference(self, reference: Reference, step: Step | None) -> str | None:
        other = self.steps.get(reference.step or "")
        if other is None:
            return f"there is no step {reference.step!r}."
        if step is not None and other.step_name == step.step_name:
            return "a step cannot refer to itself."
        if reference.kind == STEP_PARAMS:
            return (
                None if reference.name in other.params else f"{other.step_name!r} has no parameter {reference.name!r}."
            )
        if other.names_its_outputs and reference.name not in (other.outputs or {}):
            return f"{other.step_name!r} has no output {reference.name!r}."
        return None

    def _circles(self) -> list[tuple[str, str]]:
        """One for each group of steps that wait for each other; a reference to itself has been told of already."""
        problems = []
        for number, step in enumerate(self.document.steps):
            if step.step_name in (step.depends_on or []):
                problems.append((f"/steps/{number}/depends_on", "A step cannot wait for itself."))
        for group in nx.strongly_connected_components(self.graph):
            if len(group) > 1:
                names = [start for start, end in nx.find_cycle(_without_loops(self.graph.subgraph(group)))]
                shown = " -> ".join([*names[:20], *(["…"] if len(names) > 20 else []), names[0]])
                problems.append(("/steps", f"These steps wait for each other: {shown}."))
        return problems

    def _needs(self, step: Step) -> set[str]:
        used = [getattr(step, name) for name in (*BOUND_BEFORE, "outputs")]
        used.append(_over(step))
        found = (reference for value in used for _, _, reference in references.find(value))
        return {*(step.depends_on or []), *(one.step for one in found if one is not None and one.step is not None)}


BOUND_BEFORE = ("params", "workflow_url", "workflow_engine_parameters", "tags")
"""Fields of a step whose references are replaced before its run is made."""


def _over(step: Step) -> Any:
    return step.scatter.over if step.scatter else None


_REFERRED_TO = frozenset({"step_name", "params", "outputs", "scatter", "app", "workflow_url", "depends_on"})
_LOOKED_INTO = frozenset({"steps", "base_context", "workflow_outputs"})


def _mended(document: Any, errors: Sequence[Mapping[str, Any]]) -> Document | None:
    """The document without the fields that are wrong, so that its references can be checked all the same.

    None where something is wrong that references are about: what they lead to would then be guessed.
    """
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        return None
    steps = [dict(step) if isinstance(step, dict) else step for step in document["steps"]]
    copy = {"workflow_name": "", **document, "steps": steps}
    for error in errors:
        match error["loc"]:
            case ("steps", int(number), str(field), *_) if field not in _REFERRED_TO:
                steps[number].pop(field, None)
            case (str(field), *_) if field not in _LOOKED_INTO:
                copy.pop(field)
                copy.setdefault("workflow_name", "")
            case _:
                return None
    try:
        return Document.model_validate(copy)
    except ValidationError:
        return None


def _without_loops(graph: nx.DiGraph) -> nx.DiGraph:
    plain = nx.DiGraph(graph)
    plain.remove_edges_from(list(nx.selfloop_edges(plain)))
    return plain


def _problem(error: Mapping[str, Any]) -> tuple[str, str]:
    """A pydantic error as a place in the document and words."""
    place = "".join(f"/{escape(str(part))}" for part in error["loc"] if not str(part).startswith(_UNION_MEMBERS))
    return place, _WORDS.get(str(error["type"]), str(error["msg"]).removeprefix("Value error, "))


_UNION_MEMBERS = ("list[", "dict[", "constrained-str", "str", "function-")
_WORDS = {
    "extra_forbidden": "This field is not known here, or only the server sets it.",
    "missing": "This field is required.",
    "string_pattern_mismatch": "A name has letters, digits, '_' and '-' only.",
}
