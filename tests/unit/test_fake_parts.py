"""The parts of the fakes that need no server: the clock, the plans, the faults, and the check against an AWS model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.aws_model import AwsModel, ModelViolated, Refused, problems
from tests.fakes.faults import REFUSALS, Fault, Faults, Reply, Request
from tests.fakes.omics_exports import filled, output_document
from tests.fakes.sb_apps import input_errors, ports
from tests.fakes.sb_library import OPERATIONS, find
from tests.fakes.timeline import Plans, Timeline

REQUEST = Request("GET", "/run/12", "", {}, b"")


@pytest.fixture(scope="module")
def omics() -> AwsModel:
    return AwsModel("omics")


def shape(model: AwsModel, operation: str, *path: str) -> Any:
    found = model._service.operation_model(operation).input_shape
    for name in path:
        found = found.members[name]
    return found


# The clock


def test_calls_happen_in_order_each_at_its_own_time() -> None:
    timeline, seen = Timeline(frozen=True), []
    start = timeline.now()

    def note(name: str) -> None:
        seen.append((name, (timeline.now() - start).total_seconds()))

    timeline.after(5, lambda: (note("b"), timeline.after(1, lambda: note("c"))))
    timeline.after(2, lambda: note("a"))
    timeline.after(None, lambda: note("never"))
    timeline.advance(100)
    timeline.catch_up()
    assert seen == [("a", 2), ("b", 5), ("c", 6)]
    assert (timeline.now() - start).total_seconds() == 100


def test_speed_shortens_waits_and_leaves_the_clock_alone() -> None:
    timeline, seen = Timeline(frozen=True, speed=10), []
    timeline.after(50, lambda: seen.append(1))
    timeline.advance(4.9)
    timeline.catch_up()
    assert seen == []
    timeline.advance(0.1)
    timeline.catch_up()
    assert seen == [1]


def test_the_newest_plan_that_fits_is_taken() -> None:
    plans = Plans()
    plans.add({"outcome": "FAILED"})
    plans.add({"outcome": "CANCELLED"}, match="wes-1", times=1)
    assert plans.choose({"name": "wes-2"}).outcome == "FAILED"
    assert plans.choose({"name": "wes-1"}).outcome == "CANCELLED"
    assert plans.choose({"name": "wes-1"}).outcome == "FAILED"
    assert plans.choose({"name": "wes-1"}, '{"outcome": "COMPLETED"}').outcome == "COMPLETED"


# Faults


def hits(fault: Fault, calls: int = 6) -> list[bool]:
    faults = Faults(seed=1)
    faults.add(fault)
    return [faults.take("GetRun", REQUEST) is not None for _ in range(calls)]


def test_faults_hit_as_often_as_they_should() -> None:
    assert hits(Fault("error")) == [True] + [False] * 5
    assert hits(Fault("error", skip=2, times=2)) == [False, False, True, True, False, False]
    assert all(hits(Fault("error", times=None)))
    assert not any(hits(Fault("error", "StartRun", times=None)))
    assert not any(hits(Fault("error", match="/run/13", times=None)))
    assert all(hits(Fault("error", match="/run/12", times=None)))
    assert 200 < sum(hits(Fault("error", rate=0.3, times=None), 1000)) < 400


def test_a_fault_lets_older_ones_end_first() -> None:
    faults = Faults()
    faults.add(Fault("throttle"))
    faults.add(Fault("missing"))
    taken = [faults.take("GetRun", REQUEST) for _ in range(3)]
    assert [fault and fault.kind for fault in taken] == ["throttle", "missing", None]


def test_only_faults_on_the_answer_do_the_work_unasked() -> None:
    commits = {
        kind for kind in (*REFUSALS, "drop", "hang", "drip", "garbage", "html", "alter", "reply") if Fault(kind).commits
    }
    assert commits == {"hang", "drip", "garbage", "html", "alter"}
    assert Fault("drop", commit=True).commits
    assert Fault("hang", commit=False).spoil(Reply(200)) is None


def test_an_answer_is_altered_by_a_merge_patch() -> None:
    answer = Reply.of_json(200, {"items": [{"a": 1, "b": 2}, {"a": 3}], "next": "n", "deep": {"x": 1, "y": 2}})
    altered = Fault("alter", alter={"items": {"a": 9, "b": None}, "next": None, "deep": {"y": 5}, "new": [1]}).spoil(
        answer
    )
    assert altered is not None
    assert json.loads(altered.body) == {"items": [{"a": 9}, {"a": 9}], "deep": {"x": 1, "y": 5}, "new": [1]}


# The model


def test_every_operation_has_a_path_of_its_own(omics: AwsModel) -> None:
    for name in omics._service.operation_names:
        operation = omics._service.operation_model(name)
        path = operation.http["requestUri"].replace("{", "").replace("}", "")
        found = omics.find(Request(operation.http["method"], path, "", {}, b""))
        assert found is not None
        assert found[0].name == name


def test_labels_are_decoded_after_the_path_is_matched(omics: AwsModel) -> None:
    found = omics.find(Request("GET", "/tags/arn%3Aaws%3Aomics%3A%3A%3Arun%2F12", "", {}, b""))
    assert found is not None
    assert found[1] == {"resourceArn": "arn:aws:omics:::run/12"}


@pytest.mark.parametrize("good", ["a|b", "é 1 +", "名前", "n" * 128])
def test_names_that_the_pattern_takes(omics: AwsModel, good: str) -> None:
    assert list(problems(shape(omics, "StartRun", "name"), good, "")) == []


@pytest.mark.parametrize("bad", ["", "a\nb", "a\n", "\x00", "n" * 129, 5, None, ["a"]])
def test_names_that_it_does_not_take(omics: AwsModel, bad: Any) -> None:
    assert list(problems(shape(omics, "StartRun", "name"), bad, ""))


def test_patterns_are_outermost_anchored(omics: AwsModel) -> None:
    # The model has `$|^arn:.+` for what the service matches as `^$|^arn:.+$`.
    role = shape(omics, "StartRun", "roleArn")
    assert list(problems(role, "arn:x", "")) == []
    assert list(problems(role, "x arn:x", ""))
    location = shape(omics, "CreateSequenceStore", "fallbackLocation")
    assert list(problems(location, "", "")) == []
    assert list(problems(location, "x s3://bucket", ""))


def test_unions_take_one_member(omics: AwsModel) -> None:
    settings = shape(omics, "StartRunBatch", "batchRunSettings")
    assert list(problems(settings, {"s3UriSettings": "s3://bucket/key", "inlineSettings": []}, ""))
    assert list(problems(settings, {}, ""))


def test_an_error_that_an_operation_does_not_have_is_a_violation(omics: AwsModel) -> None:
    operation = omics._service.operation_model("ListBatch")
    with pytest.raises(ModelViolated):
        omics.error(operation, Refused("ConflictException", "no"))
    assert omics.error(operation, Refused("ValidationException", "no")).status == 400


def test_nothing_is_answered_where_nothing_is_due(omics: AwsModel) -> None:
    cancel = omics._service.operation_model("CancelRun")
    assert omics.write(cancel, None) == Reply(202)
    with pytest.raises(ModelViolated):
        omics.write(cancel, {"id": "1"})


@pytest.mark.parametrize("engine", ["CWL", "WDL", "NEXTFLOW"])
def test_output_documents_are_the_engines_own(engine: str) -> None:
    document, files = output_document(engine, "hello", "s3://bucket/out/1")
    assert list(files) == ["out/result.txt"]
    text = filled(document, "")
    assert (text is None) == (engine == "NEXTFLOW")
    assert text is None or "s3://bucket/out/1/out/result.txt" in text


# What the Seven Bridges library declares


def test_every_call_of_the_library_has_a_path_of_its_own() -> None:
    samples = {"id": {"apps": "a/b/c", "projects": "a/b", "volumes": "a/b"}, "revision": "3", "owner": "me"}
    for operation in OPERATIONS:
        group = operation.name.partition(".")[0]
        path = operation.path.pattern
        for name in operation.path.groupindex:
            sample = samples[name]
            start = path.index(f"(?P<{name}>")
            value = sample if isinstance(sample, str) else sample.get(group, "x1")
            path = path[:start] + value + path[path.index(")", start) + 1 :]
        found = find(operation.method, path)
        assert found is not None
        assert found[0] is operation


def test_cwl_ports_in_all_their_spellings() -> None:
    declared = {
        "a": "File",
        "b": "string[]",
        "c": ["null", "int"],
        "d": {"type": "File?"},
        "e": {"type": "int", "default": 1},
    }
    assert ports(declared) == {
        "a": ("File", False),
        "b": ({"type": "array", "items": "string"}, False),
        "c": ("int", True),
        "d": ("File", True),
        "e": ("int", True),
    }
    assert ports([{"id": "#main/x", "type": "float"}]) == {"x": ("float", False)}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "a", 1),
        ("int", 1, "1"),
        ("int", 0, True),
        ("double", 1, "1.0"),
        ("boolean", False, 0),
        ("string[]", [], "a"),
        ("File", {"class": "File", "path": "f"}, {"class": "File", "path": "g"}),
        ("File[]", [{"class": "File", "path": "f"}], [{"class": "File"}]),
        ("Directory", {"class": "Directory", "path": "f"}, {"class": "File", "path": "f"}),
    ],
)
def test_inputs_are_held_against_their_ports(kind: str, good: Any, bad: Any) -> None:
    raw = {"inputs": {"x": kind}}
    assert list(input_errors(raw, {"x": good}, lambda path: path == "f")) == []
    assert len(list(input_errors(raw, {"x": bad}, lambda path: path == "f"))) == 1
    assert len(list(input_errors(raw, {}, lambda path: True))) == 1
