"""Attachment names: which are paths, which meet, and which one a workflow_url means."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.attachment_names import attachment_of, check_name, check_together
from app.errors import InvalidRequest


@pytest.mark.parametrize(
    "name",
    [
        "main.cwl",
        "tools/sort.cwl",
        "a b/ä.txt",
        "...",
        "-rf",
        "ab:c",
        "%2e%2e/x",
        "~",
        ".hidden/x",
        "x" * 255,
        "数据/样本.fq",
    ],
)
def test_safe_names_are_kept_as_they_are(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "//x",
        "..",
        "../x",
        "a/../b",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\..\\x",
        "C:x",
        "c:/x",
        "a\0b",
        "a\nb",
        "a\x7f",
        "a\u202egnp.exe",
        "a\u2066b",
        "a\ud800",
        "a\ufffdb",
        "x" * 256,
        "ä" * 128,
        "/".join(["x" * 200] * 6),
    ],
)
def test_names_that_are_no_safe_path_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^workflow_attachment"):
        check_name(name)


@given(st.text(max_size=30))
@example("a/../../b")
def test_an_accepted_name_stays_inside_every_directory(name: str) -> None:
    try:
        check_name(name)
    except InvalidRequest:
        return
    base = Path("/base")
    assert (base / name).resolve() == base / name
    assert (base / name).is_relative_to(base)
    assert str(PurePosixPath(name)) == name


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["A.cwl", "a.cwl"],
        ["Straße", "STRASSE"],
        ["\u00e9", "e\u0301"],
        ["a", "a/b"],
        ["a/b/c", "A"],
        ["x/\u00e9", "X/E\u0301/y"],
    ],
)
def test_names_that_meet_somewhere_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=r"same file|file and a folder"):
        check_together(names)
    with pytest.raises(InvalidRequest):
        check_together(reversed(names))


def test_names_that_only_look_alike_are_kept_apart() -> None:
    check_together(["a/b", "a/c", "a.b", "b/a", "ab"])


@pytest.mark.parametrize(
    ("workflow_url", "expected"),
    [
        ("main.cwl", "main.cwl"),
        ("./main.cwl", "main.cwl"),
        ("main.cwl#step", "main.cwl"),
        ("tools/my%20tool.cwl", "tools/my tool.cwl"),
        ("tools/../main.cwl", "main.cwl"),
        ("100%.cwl", "100%.cwl"),
        (unicodedata.normalize("NFD", "é.cwl"), "é.cwl"),
        ("other.cwl", None),
        ("../main.cwl", None),
        ("", None),
    ],
)
def test_a_relative_workflow_url_means_one_attachment(workflow_url: str, expected: str | None) -> None:
    assert attachment_of(workflow_url, ["main.cwl", "tools/my tool.cwl", "100%.cwl", "é.cwl"]) == expected
