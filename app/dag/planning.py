"""What a pipeline does next, worked out anew from the document and the runs there are, so that nothing can be lost.

A step's runs are told apart by shard (the element of a scatter, 0 without one) and try (1 for the first).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from app.dag import references
from app.dag.document import MAX_SHARDS, Step
from app.dag.pipeline import BOUND_BEFORE, Pipeline
from app.dag.references import CONTEXT, PARAMS, RUN, STEP_OUTPUTS, Reference, Unresolved
from app.states import State, is_terminal


class StepState(StrEnum):
    """How a step stands, in the words of the pipeline engine's own API."""

    PENDING = "pending"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UPSTREAM_FAILED = "upstream_failed"


ENDED_WELL = StepState.SUCCEEDED
ENDED_BADLY = frozenset({StepState.FAILED, StepState.CANCELLED, StepState.UPSTREAM_FAILED})


@dataclass(frozen=True, slots=True)
class StepRun:
    """A run of a step as it is stored. `params` are what it was given, `outputs` its output object once COMPLETE."""

    step: str
    shard: int
    try_number: int
    state: State
    params: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A run to be made: the step with every reference replaced."""

    step: Step
    shard: int
    try_number: int
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What to do now, and how each step stands. `end` is None while anything runs or may begin."""

    starts: tuple[Start, ...]
    steps: Mapping[str, StepState]
    end: State | None = None
    message: str = ""
    outputs: dict[str, Any] | None = None


def look(
    pipeline: Pipeline,
    runs: Iterable[StepRun],
    max_parallel: int,
    *,
    canceling: bool = False,
    before: Mapping[str, StepState] = MappingProxyType({}),
) -> Outlook:
    """What may begin now, given the runs there are. `canceling`: nothing begins any more.

    `before`: how the steps stood at an earlier look, which spares work: what had succeeded has.
    """
    return _Look(pipeline, runs, max_parallel, canceling).outlook(before)


def count_elements(pipeline: Pipeline, runs: Iterable[StepRun], step: str) -> int | None:
    """How many runs a step has, by what the steps before it put out; None where that is no list of a fit length.

    `runs`: those of `pipeline.sources_of(step)`, which have succeeded.
    """
    try:
        return len(_Look(pipeline, runs, 0, False).elements(pipeline.steps[step]))
    except Unresolved:
        return None


def state_of_run(state: State) -> StepState:
    """How a step with one run in this state stands, retries aside."""
    if is_terminal(state):
        return _ENDS.get(state, StepState.FAILED)
    return StepState.RUNNING if state in _RUNNING else StepState.QUEUED


_RUNNING = frozenset({State.RUNNING, State.PAUSED, State.CANCELING})
_ENDS = {State.COMPLETE: StepState.SUCCEEDED, State.CANCELED: StepState.CANCELLED}


@dataclass(frozen=True, slots=True)
class _Values:
    """What later steps may refer to; lists over the shards where the step is scattered."""

    params: Mapping[str, Any]
    outputs: Mapping[str, Any]


class _Look:
    """One look at a pipeline. Values are bound when somebody needs them: it costs what is about to begin."""

    def __init__(self, pipeline: Pipeline, runs: Iterable[StepRun], max_parallel: int, canceling: bool) -> None:
        self._pipeline, self._canceling = pipeline, canceling
        self._latest: dict[str, dict[int, StepRun]] = defaultdict(dict)
        for run in sorted(runs, key=lambda run: run.try_number):
            self._latest[run.step][run.shard] = run
        self._active = sum(not is_terminal(run.state) for shards in self._latest.values() for run in shards.values())
        self._room = 0 if canceling else max(0, max_parallel - self._active)
        self._starts: list[Start] = []
        self._states: dict[str, StepState] = {}
        self._why: dict[str, str] = {}
        self._values: dict[str, _Values] = {}

    def outlook(self, before: Mapping[str, StepState]) -> Outlook:
        for name in self._pipeline.order:
            has_succeeded = before.get(name) == ENDED_WELL
            self._states[name] = ENDED_WELL if has_succeeded else self._state_of(self._pipeline.steps[name])
        states = set(self._states.values())
        if self._starts or states - ENDED_BADLY - {ENDED_WELL}:
            return Outlook(tuple(self._starts), self._states)
        if self._canceling and states != {ENDED_WELL}:
            return Outlook((), self._states, State.CANCELED, "Cancelled.")
        if states & ENDED_BADLY:
            return Outlook((), self._states, State.EXECUTOR_ERROR, self._failure())
        outputs, missing = self._outputs()
        message = "Every step succeeded." + (f" Not put out: {', '.join(missing)}." if missing else "")
        return Outlook((), self._states, State.COMPLETE, message, outputs)

    def _state_of(self, step: Step) -> StepState:
        needed = {self._states[name] for name in self._pipeline.needs[step.step_name]}
        if needed & ENDED_BADLY:
            return StepState.UPSTREAM_FAILED
        if needed - {ENDED_WELL}:
            return StepState.CANCELLED if self._canceling and not self._active else StepState.PENDING
        try:
            elements = self.elements(step)
            shards = [self._state_of_shard(step, shard, element) for shard, element in enumerate(elements)]
        except Unresolved as error:
            self._why[step.step_name] = str(error)
            return StepState.FAILED
        return fold(shards)

    def _state_of_shard(self, step: Step, shard: int, element: Any) -> StepState:
        run = self._latest[step.step_name].get(shard)
        if run is None:
            return self._begin(step, shard, 1, element)
        state = state_of_run(run.state)
        if state == StepState.FAILED and run.try_number <= step.retries and not self._canceling:
            return self._begin(step, shard, run.try_number + 1, element)
        return state

    def _begin(self, step: Step, shard: int, try_number: int, element: Any) -> StepState:
        if self._canceling:
            return StepState.CANCELLED
        if len(self._starts) >= self._room:
            return StepState.READY
        bound = {name: self._bind(getattr(step, name), step, element) for name in BOUND_BEFORE}
        params = bound.pop("params")
        self._starts.append(Start(step.model_copy(update=bound), shard, try_number, params))
        return StepState.QUEUED

    def elements(self, step: Step) -> list[Any]:
        """The elements of a scatter, [None] without one. Raises Unresolved."""
        if step.scatter is None:
            return [None]
        if step.scatter.sheet is not None:
            return [dict(row) for row in self._pipeline.sheets[step.scatter.sheet]]
        over = self._bind(step.scatter.over, None, None)
        if not isinstance(over, list):
            raise Unresolved("What it is scattered over is no list.")
        if len(over) > MAX_SHARDS:
            raise Unresolved(f"It would be scattered over {len(over)} elements; the limit is {MAX_SHARDS}.")
        return over

    def _bind(self, value: Any, step: Step | None, element: Any, own: StepRun | None = None) -> Any:
        """`value` with every reference replaced. `own`: the run whose outputs are being named. Raises Unresolved."""

        def look_up(one: Reference) -> Any:
            if one.kind == CONTEXT and step and step.scatter and one.name == step.scatter.item:
                return references.follow(one, element)
            if one.kind == CONTEXT:
                return references.follow(one, self._pipeline.context[one.name])
            named = self._named(one, own)
            if one.name not in named:
                whose = f"step {one.step!r}" if one.step else "this step"
                raise Unresolved(f"${{{one.text}}}: the run of {whose} has no {one.name!r}.")
            return references.follow(one, named[one.name])

        return references.substitute(value, look_up)

    def _named(self, one: Reference, own: StepRun | None) -> Mapping[str, Any]:
        if one.kind == PARAMS:
            return own.params if own else {}
        if one.kind == RUN:
            return (own.outputs or {}) if own else {}
        values = self._values_of(one.step or "")
        return values.outputs if one.kind == STEP_OUTPUTS else values.params

    def _values_of(self, name: str) -> _Values:
        if name not in self._values:
            step = self._pipeline.steps[name]
            shards = [self._values_of_shard(step, shard, element) for shard, element in enumerate(self.elements(step))]
            self._values[name] = shards[0] if step.scatter is None else _gathered(shards, step)
        return self._values[name]

    def _values_of_shard(self, step: Step, shard: int, element: Any) -> _Values:
        run = self._latest[step.step_name][shard]
        declared = self._bind(step.outputs or {}, step, element, run)
        return _Values(run.params, {**(run.outputs or {}), **declared})

    def _failure(self) -> str:
        """Which steps failed, and what did not run for that."""
        failed = [name for name, state in self._states.items() if state in (StepState.FAILED, StepState.CANCELLED)]
        reasons = [f"{name} ({self._why[name]})" if name in self._why else name for name in failed]
        held_up = sum(state == StepState.UPSTREAM_FAILED for state in self._states.values())
        words = f"Failed: {', '.join(reasons[:20])}{' …' if len(reasons) > 20 else ''}."
        return words + (f" {held_up} more did not run for that." if held_up else "")

    def _outputs(self) -> tuple[dict[str, Any], list[str]]:
        """What the pipeline puts out, by name, and the names of what was promised and is not there."""
        wanted = self._pipeline.document.workflow_outputs
        if not wanted:
            last = [name for name in self._pipeline.order if not any(self._pipeline.graph.successors(name))]
            return {name: dict(self._values_of(name).outputs) for name in last}, []
        named = wanted if isinstance(wanted, dict) else {_short(text): text for text in wanted}
        outputs, missing = {}, []
        for name, text in named.items():
            try:
                outputs[name] = self._bind(text, None, None)
            except Unresolved:
                missing.append(name)
        return outputs, missing


def fold(shards: Iterable[StepState]) -> StepState:
    """How a step stands, given its shards. While one of them runs or may begin, it is not over."""
    found = set(shards)
    for state in (StepState.RUNNING, StepState.QUEUED, StepState.READY, StepState.CANCELLED, StepState.FAILED):
        if state in found:
            return state
    return StepState.SUCCEEDED


def _gathered(shards: list[_Values], step: Step) -> _Values:
    """Lists in the order of the elements; what one shard lacks is null there."""
    params = {name for shard in shards for name in shard.params} | set(step.params)
    outputs = {name for shard in shards for name in shard.outputs} | set(step.outputs or {})
    return _Values(
        {name: [shard.params.get(name) for shard in shards] for name in params},
        {name: [shard.outputs.get(name) for shard in shards] for name in outputs},
    )


def _short(text: str) -> str:
    """How an output that has only a reference is called: `${steps.s.outputs.o}` becomes `s.o`."""
    return text.strip().removeprefix("${steps.").removesuffix("}").replace(".outputs.", ".").replace(".params.", ".")
