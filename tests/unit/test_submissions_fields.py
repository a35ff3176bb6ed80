"""The fields of a run request, from forms and from JSON."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidRequest, TooLarge
from app.run_requests import MAX_TAGS, read_fields

URL = {"workflow_url": "https://example.org/main.cwl"}


def test_texts_and_json_of_a_form() -> None:
    request = read_fields(
        {
            "workflow_url": " main.cwl#main ",
            "workflow_type": "CWL",
            "workflow_type_version": "v1.2",
            "workflow_params": '{"who": "world", "deep": {"list": [1, 2.5, null]}}',
            "tags": '{"project": "X", "n": 3, "flag": false, "none": null, "half": 0.5}',
            "workflow_engine_parameters": '{"outdir": "/x", "debug": null, "retries": 2, "empty": ""}',
        },
        ("main.cwl",),
    )
    assert request.workflow_url == "main.cwl#main"
    assert request.workflow_params == {"who": "world", "deep": {"list": [1, 2.5, None]}}
    assert request.tags == {"project": "X", "n": "3", "flag": "false", "none": "", "half": "0.5"}
    assert request.workflow_engine_parameters == {"outdir": "/x", "debug": None, "retries": "2", "empty": None}
    assert request.attachments == ("main.cwl",)


@pytest.mark.parametrize("nothing", ["", None, "  "])
@pytest.mark.parametrize(
    "field",
    ["workflow_type", "workflow_type_version", "workflow_engine", "workflow_engine_version", "name"],
)
def test_empty_null_and_absent_texts_mean_the_same(field: str, nothing: str | None) -> None:
    assert read_fields({**URL, field: nothing}) == read_fields(URL)


@pytest.mark.parametrize("nothing", ["", None, " ", {}, "{}", "null"])
@pytest.mark.parametrize("field", ["workflow_params", "tags", "workflow_engine_parameters"])
def test_empty_null_and_absent_objects_mean_the_same(field: str, nothing: Any) -> None:
    assert read_fields({**URL, field: nothing}) == read_fields(URL)


@pytest.mark.parametrize("nothing", [{}, {"workflow_url": ""}, {"workflow_url": None}, {"workflow_url": " "}])
def test_a_workflow_url_is_needed(nothing: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^workflow_url is missing"):
        read_fields(nothing)


@pytest.mark.parametrize("field", ["workflow_params", "tags", "workflow_engine_parameters"])
@pytest.mark.parametrize("bad", ["{", "[]", "1", '"text"', [], 1, True, '{"a": NaN}'])
def test_what_is_no_object_is_refused_by_its_name(field: str, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}"):
        read_fields({**URL, field: bad})


@pytest.mark.parametrize("field", ["tags", "workflow_engine_parameters"])
@pytest.mark.parametrize("nested", [{"a": {}}, {"a": []}, {"a": [1]}])
def test_nested_values_are_refused(field: str, nested: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}.*'a'"):
        read_fields({**URL, field: nested})


@pytest.mark.parametrize("field", ["workflow_url", "workflow_type", "workflow_engine", "name"])
@pytest.mark.parametrize("bad", [1, 1.5, True, [], {"a": 1}])
def test_texts_must_be_strings(field: str, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}"):
        read_fields({**URL, field: bad})


@pytest.mark.parametrize(
    "tags", [{"k" * 256: ""}, {"ä" * 128: ""}, {"k": "v" * 1025}, {"k": "ä" * 513}, {"k\n": "v"}, {"k": "1" * 1025}]
)
def test_tags_fit_their_index(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"^tags"):
        read_fields({**URL, "tags": tags})


def test_tags_of_the_largest_size_are_taken() -> None:
    tags = {"ä" * 127: "v" * 1024}
    assert read_fields({**URL, "tags": tags}).tags == tags


def test_too_many_tags_are_over_a_limit() -> None:
    with pytest.raises(TooLarge, match=str(MAX_TAGS)):
        read_fields({**URL, "tags": {str(number): "" for number in range(MAX_TAGS + 1)}})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "mine"}, "mine"),
        ({"tags": {"name": "tagged"}}, "tagged"),
        ({"name": "mine", "tags": {"name": "tagged"}}, "mine"),
        ({"workflow_url": "dir/main.cwl#step"}, "main.cwl"),
        ({"workflow_url": "https://example.org/"}, "example.org"),
        ({"workflow_url": "healthomics:123"}, "healthomics:123"),
        ({"workflow_url": "/"}, "/"),
        ({"tags": {"name": "x" * 300}}, "x" * 255),
        ({"tags": {"name": "two\nlines"}}, "twolines"),
    ],
)
def test_a_run_has_a_name(fields: dict[str, Any], expected: str) -> None:
    assert read_fields({**URL, **fields}).name == expected
