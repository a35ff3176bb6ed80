"""CWL workflows as graphs: how documents are written, which tasks are whose, and what gives no graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cwl_documents import MAX_BYTES
from app.cwl_graph import (
    ENDED,
    MAX_SOURCES,
    MAX_STEPS,
    NOT_KNOWN,
    NOT_RUN,
    CwlStep,
    read_steps,
    state_of_tasks,
    states_of_steps,
)

TOOL = "cwlVersion: v1.2\nclass: CommandLineTool\ninputs: []\noutputs: []\n"
WORKFLOW = """
cwlVersion: v1.2
class: Workflow
s:dateCreated: 2026-01-01
inputs: {reads: 'File[]', size: {type: int, default: 3}}
steps:
  report:
    run: tool.cwl
    in: {all: {source: [align/bam, "#count/n"], linkMerge: merge_flattened}, size: size, title: {default: a/b}}
    out: []
  align: {run: tool.cwl, scatter: reads, in: {reads: reads}, out: [bam]}
  count: {run: tool.cwl, in: [{id: bam, source: align/bam}, {id: x, source: elsewhere/x}], out: [n]}
outputs: {}
"""


def files(**texts: str) -> Any:
    """The attachments of a run; a name's `__` is a dot, `_in_` a slash."""
    stored = {name.replace("_in_", "/").replace("__", "."): text.encode() for name, text in texts.items()}

    def read(path: str, most: int) -> bytes | None:
        data = stored.get(path)
        return data if data is not None and len(data) <= most else None

    return read


def steps_of(document: Any, fragment: str = "", **others: str) -> dict[str, CwlStep]:
    text = document if isinstance(document, str) else json.dumps(document)
    return {step.name: step for step in read_steps("wf.cwl", fragment, files(wf__cwl=text, **others))}


def needs(steps: Mapping[str, CwlStep]) -> dict[str, tuple[str, ...]]:
    return {name: step.needs for name, step in steps.items()}


def workflow(**steps: Any) -> dict[str, Any]:
    return {"cwlVersion": "v1.2", "class": "Workflow", "inputs": {}, "outputs": {}, "steps": steps}


def nested(*inner: str) -> dict[str, Any]:
    return workflow(**{name: {"run": "tool.cwl", "in": {}, "out": []} for name in inner})


def test_sources_make_edges_in_every_way_of_writing() -> None:
    found = steps_of(WORKFLOW)
    assert needs(found) == {"align": (), "count": ("align",), "report": ("align", "count")}
    assert [step.is_scattered for step in found.values()] == [True, False, False]


def test_a_packed_document_is_read_at_its_main_process_or_the_one_that_is_named() -> None:
    def step(name: str, *sources: str) -> dict[str, Any]:
        ports = [{"id": f"#main/{name}/{number}", "source": source} for number, source in enumerate(sources)]
        return {"id": f"#main/{name}", "run": "#tool", "in": ports, "out": [f"#main/{name}/out"]}

    main = {
        "id": "#main",
        "class": "Workflow",
        "inputs": [{"id": "#main/reads", "type": "File"}],
        "steps": [step("align", "#main/reads"), step("sort", "#main/align/out", "#main/reads")],
    }
    other = {"id": "#other", "class": "Workflow", "steps": [{"id": "#other/only", "run": "#tool", "in": []}]}
    packed = {"cwlVersion": "v1.2", "$graph": [other, main, {"id": "#tool", "class": "CommandLineTool"}]}
    assert needs(steps_of(packed)) == {"align": (), "sort": ("align",)}
    assert needs(steps_of(packed, "other")) == {"only": ()}
    assert steps_of(packed, "tool") == {}
    assert steps_of(packed, "none") == {}


def test_tasks_of_a_nested_workflow_are_those_of_its_steps() -> None:
    inner, deep = json.dumps(nested("trim", "filter")), json.dumps(workflow(deeper={"run": "in.cwl", "in": {}}))
    packed = {"class": "Workflow", "id": "sub", "steps": {"packed": {"run": "tool.cwl", "in": {}}}}
    main = workflow(
        attached={"run": "sub/qc.cwl", "in": {}},
        written={"run": nested("map"), "in": {}},
        twice={"run": "sub/deep.cwl", "in": {}},
        tool={"run": "tool.cwl", "in": {}},
        far={"run": "https://example.org/tool.cwl", "in": {}},
        outside={"run": "../../etc/passwd", "in": {}},
    )
    found = steps_of(
        {
            "cwlVersion": "v1.2",
            "$graph": [main | {"id": "main"} | _with(main, named={"run": "#sub", "in": {}}), packed],
        },
        sub_in_qc__cwl=inner,
        sub_in_deep__cwl=deep,
        sub_in_in__cwl=json.dumps(nested("deepest")),
        tool__cwl=TOOL,
    )
    assert {name: set(step.tasks) for name, step in found.items()} == {
        "attached": {"trim", "filter"},
        "written": {"map"},
        "twice": {"deepest"},
        "named": {"packed"},
        "tool": {"tool"},
        "far": {"far"},
        "outside": {"outside"},
    }


def _with(document: dict[str, Any], **steps: Any) -> dict[str, Any]:
    return {"steps": document["steps"] | steps}


def test_a_task_that_may_be_of_two_steps_is_of_neither() -> None:
    both = steps_of(workflow(raw={"run": nested("qc", "a"), "in": {}}, trimmed={"run": nested("qc"), "in": {}}))
    assert {name: set(step.tasks) for name, step in both.items()} == {"raw": {"a"}, "trimmed": set()}
    assert states_of_steps(list(both.values()), {"qc": {"failed"}, "a": {"succeeded"}}, True) == {
        "raw": "succeeded",
        "trimmed": NOT_KNOWN,
    }


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "just words",
        TOOL,
        '{"class": "Workflow"',
        "cwlVersion: v1.2\nclass: Workflow\nsteps: [a, 1, {run: x}]\n",
        "class: Workflow\nsteps: {a: {in: {x: b/o}}, b: {in: {x: a/o}}}\n",
        "class: Workflow\nsteps: {a: {in: {x: a/o}}}\n",
        "class: Workflow\nsteps: &s {a: {in: &i {}}, b: {in: *i}}\n",
        "class: Workflow\nsteps: {a: " + "[" * 1000 + "]" * 1000 + "}\n",
        "!!python/object/apply:os.system ['true']",
        "? [a, b]\n: 1\n",
        "class: Workflow\nsteps: {a: {run: \x00}}\n",
        "- " * 50_000,
        "class: Workflow\nsteps: {}\n" + "#" * MAX_BYTES,
        json.dumps(workflow(**{f"s{number}": {} for number in range(MAX_STEPS + 1)})),
        json.dumps(workflow(a={"in": {"x": ["b/o"] * (MAX_SOURCES + 1)}}, b={})),
        '{"class": "Workflow", "steps": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_what_is_no_workflow_that_is_understood_has_no_steps(document: str) -> None:
    assert steps_of(document) == {}


def test_documents_that_are_missing_or_no_text_have_no_steps() -> None:
    assert read_steps("wf.cwl", "", files()) == ()
    assert read_steps("wf.cwl", "", lambda path, most: b"\xff\xfeclass: Workflow") == ()


def test_nested_workflows_that_multiply_and_those_that_run_themselves_come_to_an_end() -> None:
    def process(name: str, runs: str) -> dict[str, Any]:
        steps = {f"{name}{number}": {"run": runs, "in": {}} for number in range(300)}
        return {"id": name, "class": "Workflow", "steps": steps}

    chain = [process(name, f"#{runs}") for name, runs in ("ab", "bc", "cd", "de", "ea")]
    main = {"id": "main", "class": "Workflow", "steps": {"s": {"run": "#a", "in": {}}, "t": {"run": "#main", "in": {}}}}
    found = steps_of({"cwlVersion": "v1.2", "$graph": [main, *chain]})
    assert list(found) == ["s", "t"]
    assert sum(len(step.tasks) for step in found.values()) <= MAX_STEPS


def test_all_documents_together_are_bounded_and_each_is_read_once() -> None:
    asked: list[str] = []
    read: list[int] = []

    def reading(path: str, most: int) -> bytes | None:
        asked.append(path)
        text = json.dumps(workflow(**{f"s{number}": {"run": f"{number % 9}.cwl"} for number in range(18)}))
        data = text.encode() if path == "wf.cwl" else TOOL.encode() + b"#" * (MAX_BYTES // 4)
        if len(data) > most:
            return None
        read.append(len(data))
        return data

    assert len(read_steps("wf.cwl", "", reading)) == 18
    assert sorted(asked) == [*(f"{number}.cwl" for number in range(9)), "wf.cwl"]
    assert len(read) == 4
    assert sum(read) <= MAX_BYTES


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "#main/c", "", "a/b"])
STEP = st.fixed_dictionaries(
    {},
    optional={
        "id": NAMES | ANY_JSON,
        "run": st.sampled_from(["#main", "wf.cwl", "wf.cwl#main", "%00", "//"]) | ANY_JSON,
        "in": st.dictionaries(NAMES, NAMES | ANY_JSON)
        | st.lists(st.dictionaries(st.just("source"), ANY_JSON))
        | ANY_JSON,
        "scatter": ANY_JSON,
    },
)


@given(st.dictionaries(NAMES, STEP, max_size=4) | st.lists(STEP, max_size=4) | ANY_JSON, st.booleans())
def test_nothing_that_users_write_makes_an_error(steps: Any, is_packed: bool) -> None:
    process = {"class": "Workflow", "id": "main", "steps": steps}
    found = steps_of({"$graph": [process]} if is_packed else process, "main" if is_packed else "")
    before: set[str] = set()
    for name, step in found.items():
        assert before.issuperset(step.needs)
        before.add(name)


def step(name: str, *needed: str, tasks: tuple[str, ...] = ()) -> CwlStep:
    return CwlStep(name, needed, False, frozenset(tasks or (name,)))


@pytest.mark.parametrize(
    ("begun", "ended", "failed", "while_it_runs", "after_it"),
    [
        (False, False, None, "queued", ENDED),
        (True, False, None, "running", ENDED),
        (True, True, None, ENDED, ENDED),
        (True, True, False, "succeeded", "succeeded"),
        (True, True, True, "failed", "failed"),
    ],
)
def test_how_a_task_stands(begun: bool, ended: bool, failed: bool | None, while_it_runs: str, after_it: str) -> None:
    facts: dict[str, Any] = {"begun": begun, "ended": ended, "failed": failed}
    assert state_of_tasks(**facts, run_is_over=False) == while_it_runs
    assert state_of_tasks(**facts, run_is_over=True) == after_it


def test_how_a_step_stands_follows_from_its_tasks() -> None:
    steps = [step("a"), step("sub", "a", tasks=("x", "y")), step("skipped", "a"), step("c", "sub", "skipped")]

    def states(found: dict[str, set[str]], run_is_over: bool = False) -> list[str]:
        return list(states_of_steps(steps, found, run_is_over).values())

    assert states({}) == ["pending"] * 4
    assert states({"a": {"succeeded", "running", "failed"}}) == ["running", "pending", "pending", "pending"]
    assert states({"a": {"succeeded"}, "x": {"succeeded"}}) == ["succeeded", "running", "pending", "pending"]
    whole = {"a": {"succeeded"}, "x": {"succeeded"}, "y": {"succeeded"}}
    assert states(whole) == ["succeeded", "succeeded", "pending", "pending"]
    assert states(whole | {"c": {"queued"}}) == ["succeeded", "succeeded", NOT_RUN, "queued"]
    assert states({"a": {"succeeded", "failed"}}, True) == ["failed", NOT_RUN, NOT_RUN, NOT_RUN]
    assert states({"a": {"succeeded", ENDED}, "x": {"succeeded"}}, True)[:2] == [ENDED, "succeeded"]
