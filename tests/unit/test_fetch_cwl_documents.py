"""References in CWL documents: found, rewritten in place, and documents that are meant to harm."""

from __future__ import annotations

import pytest

from app.daemon.engines.cwl_documents import MAX_NESTING, Excessive, Kind, Unreadable, parse

WORKFLOW = """\
# A comment with http://not.a/reference
cwlVersion: v1.2   # kept
class: Workflow
$namespaces: {edam: "http://edamontology.org/"}
$schemas: ["http://edamontology.org/EDAM.owl", local.ttl]
label: \u00e9t\u00e9 https://host/in-a-sentence
requirements:
  SchemaDefRequirement: {types: [{$import: types.yml}]}
  InlineJavascriptRequirement: {expressionLib: [{$include: lib.js}]}
inputs:
  run: string
  reference:
    type: File
    default: {class: File, location: 'ref.fa', secondaryFiles: [{class: File, path: ref.fa.fai}]}
  dir: {type: Directory, default: {class: Directory, location: "d/"}}
steps:
  one: {run: http://host/tools/one.cwl#main, in: {}, out: []}
  two: {run: &again "http://host/two.cwl", in: {}, out: []}
  three: {run: *again, in: {}, out: []}
  four: {run: {$import: four.cwl}, in: {}, out: []}
"""


def found(text: str) -> set[tuple[Kind, str]]:
    return {(reference.kind, reference.value) for reference in parse(text.encode()).references}


def test_references_are_found_by_what_they_are_for() -> None:
    assert found(WORKFLOW) == {
        (Kind.SCHEMA, "http://edamontology.org/EDAM.owl"),
        (Kind.SCHEMA, "local.ttl"),
        (Kind.DOCUMENT, "types.yml"),
        (Kind.TEXT, "lib.js"),
        (Kind.FILE, "ref.fa"),
        (Kind.FILE, "ref.fa.fai"),
        (Kind.DIRECTORY, "d/"),
        (Kind.DOCUMENT, "http://host/tools/one.cwl#main"),
        (Kind.DOCUMENT, "http://host/two.cwl"),
        (Kind.DOCUMENT, "four.cwl"),
        (Kind.MENTION, "http://edamontology.org/"),
    }


def test_only_the_references_are_rewritten() -> None:
    document = parse(WORKFLOW.encode())
    changes = [(one, "file:///new") for one in document.references if one.value.startswith("http://host")]
    expected = WORKFLOW.replace("http://host/tools/one.cwl#main", '"file:///new"')
    expected = expected.replace('"http://host/two.cwl"', '"file:///new"')
    assert document.replaced(changes) == expected
    assert "&again" in expected


def test_json_is_a_document_too() -> None:
    text = '{"cwlVersion": "v1.2", "steps": [{"in": [], "run": "http://host/a.cwl"}]}'
    document = parse(b"\xef\xbb\xbf" + text.encode())
    assert document.has_version
    [reference] = document.references
    assert document.replaced([(reference, "file:///a.cwl")]) == text.replace("http://host", "file://")


def test_run_is_only_a_reference_in_a_step() -> None:
    assert found("inputs: {x: {default: {run: elsewhere.cwl}}}") == set()
    assert found("{run: tool.cwl, out: []}") == {(Kind.DOCUMENT, "tool.cwl")}


@pytest.mark.parametrize(
    "source", [b"", b"# nothing", b"a: b: c", b"\xff\xfe\x00", b"--- a\n--- b", b"a: *unknown", b"a: \x00", b"%YAML 9"]
)
def test_what_is_not_one_yaml_document(source: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(source)


def test_tags_build_nothing() -> None:
    assert parse(b"!!python/object/apply:os.system ['exit 1']").is_collection


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "{a: " * (MAX_NESTING + 1)])
def test_deep_documents_are_refused(text: str) -> None:
    with pytest.raises((Excessive, Unreadable)):
        parse(text.encode())
    assert parse(("[" * MAX_NESTING + "]" * MAX_NESTING).encode()).is_collection


def test_aliases_that_multiply_are_refused() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    with pytest.raises(Excessive, match="nodes"):
        parse(bomb.encode())


def test_a_document_that_contains_itself_is_refused() -> None:
    with pytest.raises((Excessive, Unreadable)):
        parse(b"a: &a [*a]")
