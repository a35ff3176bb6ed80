"""How the steps of a pipeline stand, from counts of their runs: what whoever shows many pipelines can afford. Pure.

`app.dag.planning` says the same from the runs themselves, with their values, which is what beginning a step takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.dag.pipeline import Pipeline
from app.dag.planning import ENDED_BADLY, ENDED_WELL, StepState, fold, state_of_run
from app.states import State, is_terminal


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What never changes of a step. `runs`: how many there will be; None where only the steps before it tell."""

    name: str
    needs: tuple[str, ...]
    retries: int
    is_scattered: bool
    runs: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Runs of a step that are alike: `count` of them are in this state at this try, and none has a later one."""

    step: str
    state: State
    try_number: int
    count: int
    run_id: str  # of one of them


def planned_steps(pipeline: Pipeline) -> tuple[PlannedStep, ...]:
    """Each after all that it needs."""
    place = {name: number for number, name in enumerate(pipeline.order)}
    return tuple(
        PlannedStep(
            name,
            tuple(sorted(pipeline.graph.predecessors(name), key=place.__getitem__)),
            pipeline.steps[name].retries,
            pipeline.steps[name].scatter is not None,
            _written_runs(pipeline, name),
        )
        for name in pipeline.order
    )


def _written_runs(pipeline: Pipeline, name: str) -> int | None:
    scatter = pipeline.steps[name].scatter
    if scatter is None:
        return 1
    if scatter.sheet is not None:
        return len(pipeline.sheets[scatter.sheet])
    return len(scatter.over) if isinstance(scatter.over, list) else None


class Progress:
    """How a pipeline in `state` stands. `count_elements`: how many runs a step has of which `runs` does not tell, asked
    only once all that it needs has succeeded; None where that cannot be known."""

    def __init__(
        self,
        steps: Sequence[PlannedStep],
        tallies: Iterable[Tally],
        state: State,
        count_elements: Callable[[str], int | None],
    ) -> None:
        self._state, self._count_elements = state, count_elements
        self._tallies: dict[str, list[Tally]] = defaultdict(list)
        for tally in tallies:
            self._tallies[tally.step].append(tally)
        self._retries = {step.name: step.retries for step in steps}
        self.totals: dict[str, int] = {}  # of the steps whose number of runs is known
        self.states: dict[str, StepState] = {}
        for step in steps:
            self.states[step.name] = self._state_of(step)

    def counts(self, name: str) -> Mapping[StepState, tuple[int, str]]:
        """How many runs of a step stand how, and one of them."""
        counts: dict[StepState, tuple[int, str]] = {}
        for tally in self._tallies.get(name, ()):
            state = self._state_of_runs(tally)
            counted, run_id = counts.get(state, (0, tally.run_id))
            counts[state] = (counted + tally.count, run_id)
        return counts

    def _state_of(self, step: PlannedStep) -> StepState:
        needed = {self.states[name] for name in step.needs}
        if step.runs is not None:
            self.totals[step.name] = step.runs
        if needed & ENDED_BADLY:
            return StepState.UPSTREAM_FAILED
        if needed - {ENDED_WELL}:
            return StepState.CANCELLED if is_terminal(self._state) else StepState.PENDING
        total = step.runs if step.runs is not None else self._count_elements(step.name)
        if total is None:
            return StepState.FAILED
        self.totals[step.name] = total
        counts = self.counts(step.name)
        is_short = sum(count for count, _ in counts.values()) < total
        return fold({*counts, *({self._state_of_missing()} if is_short else ())})

    def _state_of_runs(self, tally: Tally) -> StepState:
        state = state_of_run(tally.state)
        will_retry = tally.try_number <= self._retries[tally.step] and self._state_of_missing() == StepState.READY
        return StepState.READY if state == StepState.FAILED and will_retry else state

    def _state_of_missing(self) -> StepState:
        """Of a run that might begin, but for what became of the pipeline."""
        if self._state == State.EXECUTOR_ERROR:
            return StepState.FAILED
        return StepState.CANCELLED if self._state in _STOPPING else StepState.READY


_STOPPING = frozenset({State.CANCELING, State.CANCELED, State.SYSTEM_ERROR})
