"""workflow_params against the inputs that a CWL app declares."""

from __future__ import annotations

from typing import Any

import pytest

from app.daemon.providers.sevenbridges_inputs import Port, named_files, ports_of, typed_inputs, with_ids
from app.errors import Rejected

ID = "5d0b4f1ee4b0ab12cd34ef56"


def typed(declared: Any, value: Any) -> Any:
    return typed_inputs(ports_of({"inputs": {"x": {"type": declared}}}), {"x": value})["x"]


def refused(declared: Any, params: dict[str, Any]) -> str:
    with pytest.raises(Rejected) as error:
        typed_inputs(ports_of({"inputs": {"x": {"type": declared}}}), params)
    assert error.value.reason == "inputs_refused"
    return str(error.value)


@pytest.mark.parametrize(
    "raw",
    [
        {"reads": "File", "depth": "int?", "kind": {"type": "string", "default": "a"}},
        [
            {"id": "reads", "type": "File"},
            {"id": "#depth", "type": ["null", "int"]},
            {"id": "#main/kind", "type": "string", "default": "a"},
        ],
    ],
)
def test_both_notations_declare_the_same(raw: Any) -> None:
    ports = ports_of({"inputs": raw})
    assert ports == {"reads": Port("File", False), "depth": Port(["null", "int"], True), "kind": Port("string", True)}


@pytest.mark.parametrize("inputs", [None, [], {}, "x", [1, {"type": "int"}, {"id": 5}], {"x": {"a": 1}}])
def test_a_document_of_any_shape_can_be_looked_at(inputs: Any) -> None:
    typed_inputs(ports_of({"inputs": inputs}), {"x": 1})


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("string", "a"),
        ("boolean", False),
        ("int", 3),
        ("long", -3),
        ("float", 3),
        ("double", 0.5),
        ("int?", 3),
        ("string[]", ["a", "b"]),
        ("string[]?", []),
        (["null", {"type": "array", "items": "int"}], [1, 2]),
        ({"type": "array", "items": {"type": "array", "items": "int"}}, [[1], []]),
        ({"type": "enum", "symbols": ["#e/fast", "slow"]}, "fast"),
        ({"type": "record", "fields": {"a": "int", "b": "string?"}}, {"a": 1}),
        ({"type": "record", "name": "r", "fields": [{"name": "#r/a", "type": "int"}]}, {"a": 1}),
        (["int", "string"], "a"),
        ("Any", {"a": [1, {"b": None}]}),
        ("#a-type-of-a-schema", {"a": 1}),
    ],
)
def test_what_fits_goes_through_as_it_is(declared: Any, value: Any) -> None:
    assert typed(declared, value) == value


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        ("string", 3, "Input x is not of type string: 3"),
        ("boolean", "true", "Input x is not of type boolean: 'true'"),
        ("int", True, "Input x is not of type int: True"),
        ("int", 3.0, "Input x is not of type int: 3.0"),
        ("float", "3", "Input x is not of type float: '3'"),
        ("int[]", 3, "Input x is not a list: 3"),
        ("int[]", [1, "b"], "Input x[1] is not of type int: 'b'"),
        ({"type": "enum", "symbols": ["fast", "slow"]}, "quick", "Input x is none of fast, slow: 'quick'"),
        ({"type": "enum", "symbols": ["fast"]}, ["fast"], "Input x is none of fast"),
        ({"type": "record", "fields": {"a": "int"}}, 3, "Input x is not a record: 3"),
        ({"type": "record", "fields": {"a": "int"}}, {}, "Required input is missing: x.a"),
        ({"type": "record", "fields": {"a": "int"}}, {"a": "b"}, "Input x.a is not of type int: 'b'"),
        (["null", "int", "boolean"], "a", "Input x is not of type boolean: 'a'"),
        ("null", 3, "Input x must be left out"),
        ("File", 3, "Input x is not a File of the platform: 3"),
        ("File", {"class": "Directory", "path": ID}, "Input x is not a File"),
        ("File", {"class": "File", "contents": "text"}, "Input x is not a File"),
        ("Directory", {"class": "File", "path": ID}, "Input x is not a Directory"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(declared: Any, value: Any, words: str) -> None:
    assert words in refused(declared, {"x": value})


def test_missing_inputs_are_named_together() -> None:
    ports = ports_of({"inputs": {"a": "File", "b": "int", "c": "int?", "d": {"type": "int", "default": 1}}})
    with pytest.raises(Rejected, match=r"is missing: a; Required input is missing: b$"):
        typed_inputs(ports, {"b": None, "d": None})
    assert typed_inputs(ports, {"a": ID, "b": 1, "c": None}) == {"a": {"class": "File", "path": ID}, "b": 1}


def test_what_the_app_does_not_declare_goes_along() -> None:
    assert typed_inputs({}, {"new": {"class": "File", "location": ID}}) == {"new": {"class": "File", "path": ID}}


@pytest.mark.parametrize(
    "value",
    [
        ID,
        f"sevenbridges://{ID}",
        {"class": "File", "path": ID},
        {"class": "File", "location": f"sevenbridges://{ID}", "basename": "a.bam", "size": 3},
        {"class": "File", "location": "inputs-of-steps/a/0/a.bam", "sbg:file": f"sevenbridges://{ID}"},
    ],
)
def test_a_file_is_named_in_several_ways(value: Any) -> None:
    assert typed("File", value) == {"class": "File", "path": ID}


def test_files_are_found_wherever_they_are() -> None:
    declared = {
        "type": "array",
        "items": {"type": "record", "fields": {"bam": "File", "refs": "Directory", "n": "int"}},
    }
    indexed = {"class": "File", "path": "a.bam", "secondaryFiles": [{"class": "File", "location": "a.bam.bai"}]}
    inputs = typed(declared, [{"bam": indexed, "refs": "refs/hg38", "n": 1}])
    assert list(named_files(inputs)) == [("File", "a.bam"), ("File", "a.bam.bai"), ("Directory", "refs/hg38")]
    assert with_ids(inputs, {"a.bam": "1", "a.bam.bai": "2", "refs/hg38": "3"}) == [
        {
            "bam": {"class": "File", "path": "1", "secondaryFiles": [{"class": "File", "path": "2"}]},
            "refs": {"class": "Directory", "path": "3"},
            "n": 1,
        }
    ]


def test_words_about_hostile_inputs_are_short_and_plain() -> None:
    words = refused("int", {"x": "\n\0" + "y" * 10_000})
    assert len(words) < 260 and words.isprintable()
