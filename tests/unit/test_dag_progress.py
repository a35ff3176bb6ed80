"""How steps stand by counts of their runs is how they stand by the runs themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dag.pipeline import Pipeline, parse
from app.dag.planning import StepRun, StepState, count_elements, look
from app.dag.progress import Progress, Tally, planned_steps
from app.states import State, is_terminal

ENDS = (State.COMPLETE, State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED)


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "tool.cwl", **fields}


def pipeline(*steps: dict[str, Any], sheets: Any = None) -> Pipeline:
    return parse({"workflow_name": "p", "steps": list(steps)}, sheets)


def tallies(runs: Sequence[StepRun]) -> list[Tally]:
    """As the database counts: of every step and shard only the latest try."""
    latest = {(run.step, run.shard): run for run in sorted(runs, key=lambda run: run.try_number)}
    counts = Counter((run.step, run.state, run.try_number) for run in latest.values())
    return [Tally(*alike, count, f"{alike[0]}-{alike[1]}") for alike, count in counts.items()]


def progress(pipeline: Pipeline, runs: Sequence[StepRun], state: State = State.RUNNING) -> Progress:
    def count(name: str) -> int | None:
        return count_elements(pipeline, runs, name)

    return Progress(planned_steps(pipeline), tallies(runs), state, count)


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """Steps that wait for earlier ones, are retried, and are scattered over lists, sheets, and what others put out."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 6))):
        earlier = [one["step_name"] for one in steps]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        over = st.one_of(st.integers(0, 3).map(lambda size: {"over": list(range(size))}), st.just({"sheet": "s.csv"}))
        if needs:
            over = st.one_of(over, st.just({"over": f"${{steps.{needs[0]}.outputs.list}}"}))
        scatter = draw(st.one_of(st.none(), over))
        retries = draw(st.integers(0, 2))
        steps.append(step(f"s{number}", depends_on=needs, retries=retries, **({"scatter": scatter} if scatter else {})))
    return pipeline(*steps, sheets={"s.csv": [{"name": "a"}, {"name": "b"}]})


@given(pipelines(), st.randoms(use_true_random=False), st.booleans())
def test_it_is_as_planning_has_it_from_the_beginning_to_the_end(
    pipeline: Pipeline, chance: Any, is_cancelled: bool
) -> None:
    runs: dict[tuple[str, int, int], StepRun] = {}
    canceling = False
    for _ in range(60):
        now = look(pipeline, runs.values(), 0, canceling=canceling)
        outlook = look(pipeline, runs.values(), 2, canceling=canceling)
        state = outlook.end or (State.CANCELING if canceling else State.RUNNING)
        assert progress(pipeline, list(runs.values()), state).states == now.steps
        for start in outlook.starts:
            key = (start.step.step_name, start.shard, start.try_number)
            runs[key] = StepRun(*key, State.QUEUED)
        living = [key for key, run in runs.items() if not is_terminal(run.state)]
        if outlook.end is not None or not living:
            return
        key = chance.choice(living)
        ended = State.RUNNING if runs[key].state == State.QUEUED and chance.random() < 0.5 else chance.choice(ENDS)
        runs[key] = replace(runs[key], state=ended, outputs={"list": [1, 2]} if ended == State.COMPLETE else None)
        canceling = canceling or (is_cancelled and chance.random() < 0.2)


def test_a_scatter_is_one_step_with_counts() -> None:
    wide = pipeline(step("wide", scatter={"over": list(range(5))}, retries=1), step("join", depends_on=["wide"]))
    runs = [
        StepRun("wide", 0, 1, State.COMPLETE),
        StepRun("wide", 1, 1, State.EXECUTOR_ERROR),
        StepRun("wide", 1, 2, State.COMPLETE),
        StepRun("wide", 2, 2, State.SYSTEM_ERROR),
        StepRun("wide", 3, 1, State.RUNNING),
    ]
    first, join = planned_steps(wide)
    shown = progress(wide, runs)
    assert {state: count for state, (count, _) in shown.counts("wide").items()} == {
        StepState.SUCCEEDED: 2,
        StepState.FAILED: 1,
        StepState.RUNNING: 1,
    }
    assert shown.counts("wide")[StepState.FAILED][1] == "wide-SYSTEM_ERROR"
    assert shown.totals == {"wide": 5, "join": 1}
    assert shown.states == {"wide": StepState.RUNNING, "join": StepState.PENDING}
    assert (first.is_scattered, join.is_scattered, join.needs) == (True, False, ("wide",))


def test_what_failed_and_is_tried_again_is_not_lost_yet() -> None:
    tried = pipeline(step("a", retries=1))
    first, second = StepRun("a", 0, 1, State.EXECUTOR_ERROR), StepRun("a", 0, 2, State.EXECUTOR_ERROR)
    assert progress(tried, [first]).states == {"a": StepState.READY}
    assert progress(tried, [first, second]).states == {"a": StepState.FAILED}
    assert progress(tried, [first], State.CANCELING).states == {"a": StepState.FAILED}


def test_what_a_step_is_scattered_over_is_counted_once_that_is_known() -> None:
    over = pipeline(step("list"), step("each", scatter={"over": "${steps.list.outputs.names}"}))
    asked: list[str] = []

    def count(name: str) -> int:
        asked.append(name)
        return 3

    def shown(*runs: StepRun) -> Progress:
        return Progress(planned_steps(over), tallies(runs), State.RUNNING, count)

    assert shown(StepRun("list", 0, 1, State.RUNNING)).totals == {"list": 1}
    assert asked == []
    done = StepRun("list", 0, 1, State.COMPLETE)
    assert shown(done).totals == {"list": 1, "each": 3}
    three = [StepRun("each", shard, 1, State.COMPLETE) for shard in range(3)]
    assert shown(done, *three[:2]).states["each"] == StepState.READY
    assert shown(done, *three).states["each"] == StepState.SUCCEEDED
    assert asked == ["each"] * 3


@pytest.mark.parametrize(("outputs", "count"), [({"names": [1, 2]}, 2), ({"names": "no list"}, None), ({}, None)])
def test_elements_are_counted_by_what_was_put_out(outputs: Any, count: int | None) -> None:
    over = pipeline(step("list"), step("each", scatter={"over": "${steps.list.outputs.names}"}))
    assert count_elements(over, [StepRun("list", 0, 1, State.COMPLETE, {}, outputs)], "each") == count


def test_only_steps_whose_values_matter_are_read_for_a_count() -> None:
    chain = pipeline(
        step("a"),
        step("b", outputs={"names": "${steps.a.outputs.names}", "x": "${run.outputs.x}"}, depends_on=["other"]),
        step("c", scatter={"over": "${steps.b.outputs.names}"}, outputs={"each": "${run.outputs.x}"}),
        step("d", scatter={"over": "${steps.c.outputs.each}"}, depends_on=["other"]),
        step("other"),
    )
    assert chain.sources_of("d") == {"a", "b", "c"}
    assert chain.sources_of("c") == {"a", "b"}
    assert chain.sources_of("other") == set()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.RUNNING, [StepState.READY, StepState.PENDING]),
        (State.SYSTEM_ERROR, [StepState.CANCELLED, StepState.UPSTREAM_FAILED]),
        (State.EXECUTOR_ERROR, [StepState.FAILED, StepState.UPSTREAM_FAILED]),
    ],
)
def test_nothing_waits_in_a_pipeline_that_is_over(state: State, expected: list[StepState]) -> None:
    """In one that failed, what could have begun and has no run could not be given its inputs."""
    two = pipeline(step("a"), step("b", depends_on=["a"]))
    assert list(progress(two, [], state).states.values()) == expected


def test_what_waits_for_a_run_that_outlives_its_pipeline_is_cancelled() -> None:
    two = pipeline(step("a"), step("b", depends_on=["a"]))
    left = progress(two, [StepRun("a", 0, 1, State.RUNNING)], State.SYSTEM_ERROR)
    assert left.states == {"a": StepState.RUNNING, "b": StepState.CANCELLED}
