"""A CWL document, looked at before it runs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cwl_documents import cwl_problems

TOOL = """
cwlVersion: v1.2
class: CommandLineTool
inputs:
  needed: string
  typed: {type: File}
  optional: string?
  nullable: {type: ["null", int]}
  with_default: {type: int, default: 3}
outputs: []
"""
GIVEN = {"needed": "x", "typed": {"class": "File", "location": "a"}}


def test_a_sound_document_has_no_problems() -> None:
    assert cwl_problems(TOOL, "", "v1.2", GIVEN) == []
    assert cwl_problems(TOOL, "", "1.2", GIVEN) == []
    assert cwl_problems(TOOL, "", None, GIVEN) == []


@pytest.mark.parametrize("missing", ["needed", "typed"])
def test_required_inputs_must_be_there(missing: str) -> None:
    params = {name: value for name, value in GIVEN.items() if name != missing}
    assert [missing in problem for problem in cwl_problems(TOOL, "", None, params)] == [True]
    assert len(cwl_problems(TOOL, "", None, {**GIVEN, missing: None})) == 1


def test_inputs_may_be_a_list() -> None:
    document = {
        "cwlVersion": "v1.0",
        "class": "Workflow",
        "inputs": [{"id": "#main/a", "type": "int"}, {"id": "b", "type": ["null", "int"]}],
    }
    assert cwl_problems(json.dumps(document), "", None, {}) == ["The required input 'a' is missing in workflow_params."]


def test_a_packed_document_is_looked_at_by_its_fragment() -> None:
    graph = [
        {"id": "#main", "class": "Workflow", "inputs": []},
        {"id": "#tool", "class": "CommandLineTool", "inputs": {"x": "int"}},
    ]
    packed = json.dumps({"cwlVersion": "v1.2", "$graph": graph})
    assert cwl_problems(packed, "", None, {}) == []
    assert cwl_problems(packed, "main", None, {}) == []
    assert len(cwl_problems(packed, "tool", None, {})) == 1
    assert cwl_problems(packed, "other", None, {}) == ["The document has no process 'other'."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("a: &x [*x", "not YAML"),
        ("[" * 50_000, "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("just text", "not a mapping"),
        ("class: Workflow", "no cwlVersion"),
        ("cwlVersion: v1.0\nclass: Workflow", "workflow_type_version is v1.2"),
        ("cwlVersion: v1.2\nclass: Tool", "class is 'Tool'"),
    ],
)
def test_documents_that_are_not_what_was_said(text: str, words: str) -> None:
    assert any(words in problem for problem in cwl_problems(text, "", "v1.2", {}))


@given(st.text(max_size=200))
def test_any_text_gets_an_answer(text: str) -> None:
    assert cwl_problems(text, "", "v1.2", {})
