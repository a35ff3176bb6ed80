"""Pipelines without I/O: documents that are refused, what begins when, what it is given, how it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dag.document import MAX_STEPS, json_schema
from app.dag.pipeline import DocumentRefused, Pipeline, parse
from app.dag.planning import Outlook, StepRun, StepState, look
from app.states import State

SEED = {
    "workflow_name": "my-pipeline",
    "version": "1.0",
    "base_context": {"base_url": "https://www.bv-brc.org", "workspace_output_folder": "/user/home/output"},
    "steps": [
        {
            "step_name": "step1",
            "app": "GenomeAssembly2",
            "params": {"output_path": "${workspace_output_folder}/Assembly", "output_file": "assembly_output"},
            "outputs": {"contigs": "${params.output_path}/.${params.output_file}/contigs.fa"},
            "depends_on": [],
        },
        {
            "step_name": "step2",
            "app": "GenomeAnnotation",
            "params": {
                "contigs": "${steps.step1.outputs.contigs}",
                "output_path": "${workspace_output_folder}/Annotation",
            },
            "outputs": {},
            "depends_on": ["step1"],
        },
    ],
    "workflow_outputs": ["${steps.step2.outputs.genome}"],
}


def pipeline(*steps: Mapping[str, Any], sheets: Any = None, **fields: Any) -> Pipeline:
    return parse({"workflow_name": "p", "steps": list(steps), **fields}, sheets)


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "tool.cwl", **fields}


def refused(document: Any, sheets: Any = None) -> dict[str, str]:
    with pytest.raises(DocumentRefused) as caught:
        parse(document, sheets)
    return dict(caught.value.problems)


class Pretence:
    """Runs a pipeline's steps as told; every run completes with the outputs of `give` unless `ends` says otherwise."""

    def __init__(self, pipeline: Pipeline, parallel: int = 2) -> None:
        self.pipeline, self.parallel, self.canceling = pipeline, parallel, False
        self.runs: dict[tuple[str, int, int], StepRun] = {}
        self.stood: Mapping[str, StepState] = {}
        self.ends: dict[tuple[str, int], list[State]] = {}
        self.give: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []

    def look(self) -> Outlook:
        """What was known before spares work, and changes nothing."""
        now = self.pipeline, self.runs.values(), self.parallel
        outlook = look(*now, canceling=self.canceling)
        assert look(*now, canceling=self.canceling, before=self.stood) == outlook
        self.stood = outlook.steps
        return outlook

    def begin(self) -> Outlook:
        outlook = self.look()
        for start in outlook.starts:
            name = start.step.step_name
            key = (name, start.shard, start.try_number)
            assert key not in self.runs
            self.runs[key] = StepRun(*key, State.RUNNING, start.params)
            self.order.append(name)
        return outlook

    def end_all(self) -> None:
        for key, run in self.runs.items():
            if run.state == State.RUNNING:
                planned = self.ends.get(key[:2], [])
                state = planned.pop(0) if planned else State.COMPLETE
                outputs = self.give.get(key[0], {}) if state == State.COMPLETE else None
                self.runs[key] = StepRun(*key, state, run.params, outputs)

    def run(self) -> Outlook:
        while (outlook := self.begin()).end is None:
            self.end_all()
        return outlook


# Documents


def test_the_first_documents_example_is_taken_as_it_stands() -> None:
    pretence = Pretence(parse(SEED))
    first, second = pretence.begin().starts[0], None
    assert first.params == {"output_path": "/user/home/output/Assembly", "output_file": "assembly_output"}
    pretence.end_all()
    (second,) = pretence.begin().starts
    assert second.params["contigs"] == "/user/home/output/Assembly/.assembly_output/contigs.fa"
    pretence.give["step2"] = {"genome": "83332.12"}
    pretence.end_all()
    assert pretence.look().outputs == {"step2.genome": "83332.12"}


def test_every_problem_of_a_model_is_named_with_its_place() -> None:
    problems = refused(
        {
            "workflow_name": 7,
            "status": "succeeded",
            "steps": [
                {"step_name": "a b", "app": "X"},
                {"step_name": "c", "app": "X", "workflow_url": "y", "task_id": 3},
                {"step_name": "d", "workflow_url": "x", "retries": 11},
            ],
        }
    )
    assert set(problems) == {"/workflow_name", "/status", "/steps/0/step_name", "/steps/1/task_id", "/steps/2/retries"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${AWS_SECRET_ACCESS_KEY}", "base_context has no 'AWS_SECRET_ACCESS_KEY'"),
        ("${steps.b.outputs.x}", "a step cannot refer to itself"),
        ("${steps.z.outputs.x}", "there is no step 'z'"),
        ("${steps.a.outputs.nope}", "'a' has no output 'nope'"),
        ("${steps.a.params.nope}", "'a' has no parameter 'nope'"),
        ("${steps.a}", "this is no reference"),
        ("${}", "this is no reference"),
        ("${params.x}", "this cannot be known here"),
        ("${run.outputs.x}", "this cannot be known here"),
        ("${a b}", "this is no reference"),
    ],
)
def test_references_that_lead_nowhere_are_refused(text: str, words: str) -> None:
    document = {
        "workflow_name": "p",
        "steps": [step("a", params={"q": 1}, outputs={"o": "x"}), step("b", params={"deep": [{"x/y": text}]})],
    }
    problems = refused(document)
    assert words in problems["/steps/1/params/deep/0/x~1y"]


def test_circles_are_refused_also_where_references_make_them() -> None:
    document = {
        "workflow_name": "p",
        "steps": [step("a", depends_on=["b"]), step("b", params={"x": "${steps.a.outputs.o}"})],
    }
    assert "wait for each other" in refused(document)["/steps"]


def test_names_used_twice_and_unknown_dependencies_are_refused() -> None:
    problems = refused({"workflow_name": "p", "steps": [step("a"), step("a", depends_on=["z"])]})
    assert "2 steps are called 'a'" in problems["/steps"]
    assert problems["/steps/1/depends_on"] == "There is no step 'z'."


@pytest.mark.parametrize(
    "document", [None, [], "x", 7, {}, {"workflow_name": "p"}, {"workflow_name": "p", "steps": []}]
)
def test_what_is_no_pipeline_is_refused(document: Any) -> None:
    assert refused(document)


def test_too_many_steps_are_refused_before_they_are_read() -> None:
    problems = refused({"workflow_name": "p", "steps": [None] * (MAX_STEPS + 1)})
    assert str(MAX_STEPS) in problems["/steps"]


def test_a_name_in_the_context_is_used_after_it_was_given() -> None:
    given_first = {"root": "/data", "out": "${root}/out"}
    assert pipeline(step("a"), base_context=given_first).context["out"] == "/data/out"
    problems = refused({"workflow_name": "p", "steps": [step("a")], "base_context": {"out": "${root}", "root": "/"}})
    assert "must stand before" in problems["/base_context"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_is_a_pipeline_or_refused(value: Any) -> None:
    for document in (
        value,
        {"workflow_name": "p", "steps": value},
        {"workflow_name": "p", "steps": [step("a", params=value)]},
    ):
        try:
            parse(document)
        except DocumentRefused as refusal:
            assert str(refusal)


def test_the_published_schema_is_json() -> None:
    assert json.loads(json.dumps(json_schema()))["properties"]["steps"]["maxItems"] == MAX_STEPS


# What it is given


def test_a_text_that_is_one_reference_becomes_the_value_itself() -> None:
    pretence = Pretence(
        pipeline(
            step("a"),
            step("b", params={"file": "${steps.a.outputs.o}", "deep": "${steps.a.outputs.o.list.1}", "in": "n=${n}!"}),
            base_context={"n": 3},
        )
    )
    pretence.give["a"] = {"o": {"class": "File", "list": [1, {"x": None}]}}
    pretence.begin()
    pretence.end_all()
    (start,) = pretence.begin().starts
    assert start.params == {"file": pretence.give["a"]["o"], "deep": {"x": None}, "in": "n=3!"}


def test_what_was_put_in_is_not_looked_at_again() -> None:
    pretence = Pretence(
        pipeline(step("a"), step("b", params={"x": "${steps.a.outputs.o}"}), base_context={"s": "secret"})
    )
    pretence.give["a"] = {"o": "${s}"}
    pretence.begin()
    pretence.end_all()
    assert pretence.begin().starts[0].params == {"x": "${s}"}


def test_declared_outputs_name_what_the_run_put_out() -> None:
    pretence = Pretence(
        pipeline(step("a", params={"x": "p"}, outputs={"o": "${run.outputs.real.location}", "p": "${params.x}/q"}))
    )
    pretence.give["a"] = {"real": {"location": "s3://b/k"}}
    assert pretence.run().outputs == {"a": {"real": {"location": "s3://b/k"}, "o": "s3://b/k", "p": "p/q"}}


def test_an_output_that_did_not_come_fails_the_step_that_needs_it_with_the_reason() -> None:
    pretence = Pretence(
        pipeline(step("a"), step("b", params={"x": "${steps.a.outputs.o}"}), step("c", depends_on=["b"]))
    )
    outlook = pretence.run()
    assert outlook.end == State.EXECUTOR_ERROR
    assert outlook.steps == {"a": "succeeded", "b": "failed", "c": "upstream_failed"}
    assert "has no 'o'" in outlook.message


# What begins when


def test_no_more_than_the_limit_begin_and_the_next_follow() -> None:
    pretence = Pretence(pipeline(*(step(f"s{n}") for n in range(5))), parallel=2)
    assert [start.step.step_name for start in pretence.begin().starts] == ["s0", "s1"]
    assert pretence.look().steps["s2"] == StepState.READY
    assert pretence.begin().starts == ()
    pretence.end_all()
    assert [start.step.step_name for start in pretence.begin().starts] == ["s2", "s3"]


def test_independent_branches_go_on_when_one_fails() -> None:
    pretence = Pretence(
        pipeline(step("bad"), step("after", depends_on=["bad"]), step("good"), step("later", depends_on=["good"]))
    )
    pretence.ends["bad", 0] = [State.EXECUTOR_ERROR]
    outlook = pretence.run()
    assert outlook.end == State.EXECUTOR_ERROR
    assert outlook.steps == {"bad": "failed", "after": "upstream_failed", "good": "succeeded", "later": "succeeded"}
    assert outlook.message == "Failed: bad. 1 more did not run for that."


def test_a_step_is_tried_again_as_often_as_it_says() -> None:
    pretence = Pretence(pipeline(step("a", retries=2)))
    pretence.ends["a", 0] = [State.EXECUTOR_ERROR, State.SYSTEM_ERROR]
    assert pretence.run().end == State.COMPLETE
    assert sorted(key[2] for key in pretence.runs) == [1, 2, 3]
    again = Pretence(pipeline(step("a", retries=1)))
    again.ends["a", 0] = [State.EXECUTOR_ERROR] * 5
    assert again.run().end == State.EXECUTOR_ERROR
    assert len(again.runs) == 2


def test_a_cancelled_pipeline_starts_nothing_and_ends_when_its_runs_have_ended() -> None:
    pretence = Pretence(pipeline(step("a"), step("b", depends_on=["a"]), step("c")), parallel=1)
    pretence.begin()
    pretence.canceling = True
    assert (pretence.look().starts, pretence.look().end) == ((), None)
    pretence.end_all()
    outlook = pretence.look()
    assert (outlook.starts, outlook.end) == ((), State.CANCELED)


def test_a_pipeline_that_was_cancelled_after_its_last_step_is_complete() -> None:
    pretence = Pretence(pipeline(step("a")))
    pretence.begin()
    pretence.end_all()
    pretence.canceling = True
    assert pretence.look().end == State.COMPLETE


# Scatter


def test_a_scatter_over_a_sheet_runs_a_row_each_and_gathers_in_order() -> None:
    rows = [{"sample": f"s{n}", "reads": f"{n}.fq"} for n in range(5)]
    pretence = Pretence(
        pipeline(
            step("count", params={"in": "${row.reads}", "all": "${row}"}, scatter={"item": "row", "sheet": "s.csv"}),
            step("gather", params={"counts": "${steps.count.outputs.n}", "names": "${steps.count.params.in}"}),
            sheets={"s.csv": rows},
        ),
        parallel=3,
    )
    pretence.give["count"] = {"n": 7}
    outlook = pretence.run()
    assert outlook.end == State.COMPLETE
    gather = pretence.runs["gather", 0, 1]
    assert gather.params == {"counts": [7] * 5, "names": [row["reads"] for row in rows]}
    assert pretence.runs["count", 2, 1].params["all"] == rows[2]


def test_one_bad_row_fails_alone() -> None:
    pretence = Pretence(pipeline(step("count", scatter={"over": list(range(6))}), step("gather", depends_on=["count"])))
    pretence.ends["count", 4] = [State.EXECUTOR_ERROR]
    outlook = pretence.run()
    assert outlook.steps == {"count": "failed", "gather": "upstream_failed"}
    assert sum(run.state == State.COMPLETE for run in pretence.runs.values()) == 5


def test_a_scatter_over_what_a_step_puts_out_and_over_nothing() -> None:
    pretence = Pretence(
        pipeline(
            step("list"),
            step("each", params={"x": "${item}"}, scatter={"over": "${steps.list.outputs.o}"}),
            step("end", params={"xs": "${steps.each.params.x}"}),
        )
    )
    pretence.give["list"] = {"o": ["a", "b"]}
    pretence.run()
    assert pretence.runs["end", 0, 1].params == {"xs": ["a", "b"]}
    empty = Pretence(pretence.pipeline)
    empty.give["list"] = {"o": []}
    assert empty.run().end == State.COMPLETE
    assert empty.runs["end", 0, 1].params == {"xs": []}


def test_a_scatter_over_what_is_no_list_fails_with_the_reason() -> None:
    pretence = Pretence(pipeline(step("a"), step("b", scatter={"over": "${steps.a.outputs.o}"})))
    pretence.give["a"] = {"o": "text"}
    assert "is no list" in pretence.run().message


def test_a_sheet_that_is_not_attached_is_refused() -> None:
    assert refused({"workflow_name": "p", "steps": [step("a", scatter={"sheet": "no.csv"})]})


# Any pipeline


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    count = draw(st.integers(1, 12))
    return [
        step(f"s{n}", depends_on=draw(st.lists(st.sampled_from([f"s{m}" for m in range(n)]), unique=True)) if n else [])
        for n in range(count)
    ]


@given(graphs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_step_runs_once_after_what_it_needs_whatever_fails(
    steps: list[dict[str, Any]], parallel: int, random: Any
) -> None:
    shuffled = random.sample(steps, len(steps))
    pretence = Pretence(pipeline(*shuffled), parallel)
    bad = {one["step_name"] for one in steps if random.random() < 0.2}
    for name in bad:
        pretence.ends[name, 0] = [State.EXECUTOR_ERROR]
    while (outlook := pretence.begin()).end is None:
        running = [run for run in pretence.runs.values() if run.state == State.RUNNING]
        assert 0 < len(running) <= parallel
        pretence.end_all()
    needs = {one["step_name"]: set(one["depends_on"]) for one in steps}
    assert len(pretence.order) == len(set(pretence.order))
    for place, name in enumerate(pretence.order):
        assert needs[name] <= set(pretence.order[:place])
    held_up = {name for name, state in outlook.steps.items() if state == StepState.UPSTREAM_FAILED}
    assert set(pretence.order) | held_up == set(needs)
    assert all(needs[name] & (bad | held_up) for name in held_up)
    assert outlook.end == (State.EXECUTOR_ERROR if bad & set(pretence.order) else State.COMPLETE)


@pytest.mark.parametrize("count", [1000])
def test_a_thousand_steps_in_a_row_and_side_by_side(count: int) -> None:
    deep = Pretence(
        pipeline(*(step(f"s{n}", params={"x": f"${{steps.s{n - 1}.params.x}}" if n else 1}) for n in range(count)))
    )
    assert deep.run().end == State.COMPLETE
    assert deep.runs[f"s{count - 1}", 0, 1].params == {"x": 1}
    wide = Pretence(pipeline(*(step(f"s{n}") for n in range(count))), parallel=100)
    assert wide.run().end == State.COMPLETE
