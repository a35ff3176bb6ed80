"""The strict JSON loader and the text check at the edge."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.strict import MAX_DEPTH, MAX_DIGITS, check_text, load_json

STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(STORABLE, children, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_can_say_comes_back(value: object) -> None:
    assert load_json(json.dumps(value), "tags") == value
    assert load_json(json.dumps(value, ensure_ascii=False).encode(), "tags") == value


@given(st.binary(max_size=50))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = load_json(data, "tags")
    except InvalidRequest as error:
        assert str(error).startswith("tags")
    else:
        json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "1e999",
        '{"a": 1, "a": 2}',
        '{"x": [{"a": 1, "a": 1}]}',
        '"\\u0000"',
        '{"\\u0000": 1}',
        '"\\ud800"',
        '"\ud800"',
        '["\\udfff\\ud800"]',
        '{"\\ud800": 1}',
        "1" * (MAX_DIGITS + 1),
        "-" + "1" * 5000,
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        "{",
        "",
        "\ufeff{}",
        "'a'",
        "{} {}",
    ],
)
def test_what_databases_or_readers_take_differently_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^workflow_params"):
        load_json(text, "workflow_params")


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        load_json(b'"\xff"', "tags")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_allowed_to_a_depth_and_no_deeper(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    load_json(nested(MAX_DEPTH), "tags")
    with pytest.raises(InvalidRequest, match="deeper"):
        load_json(nested(MAX_DEPTH + 1), "tags")


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert load_json('"\\ud83e\\uddec"', "tags") == "\U0001f9ec"


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x7fb", "a\ud800b", "a\u0085b"])
def test_text_of_one_line_has_no_control_characters(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^workflow_url"):
        check_text(text, "workflow_url", 100)


def test_text_is_limited_in_bytes() -> None:
    assert check_text("ä" * 5, "name", 10) == "ä" * 5
    with pytest.raises(InvalidRequest, match="10 bytes"):
        check_text("ä" * 5 + "x", "name", 10)
