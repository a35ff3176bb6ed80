"""Output objects of local runs: what is kept, where, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from app.daemon.providers.local_outputs import keep_outputs
from app.errors import Rejected


class Kept:
    """An OutputSink that remembers what it was given."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}

    def put_path(self, path: str, source: Path) -> str:
        assert path not in self.paths
        self.paths[path] = source
        return f"kept:{path}"

    def put_stream(self, path: str, source: BinaryIO) -> str:
        raise AssertionError("local outputs are paths")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    outputs = tmp_path.resolve() / "r1" / "outputs"
    for name in "a.txt", "x/a.txt", "d/in/a b.txt", "d/2.txt":
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).write_text(name)
    (outputs.parent / "secret").write_text("not an output")
    return outputs


def file(where: Path, **more: Any) -> dict[str, Any]:
    return {"class": "File", "location": where.as_uri(), **more}


def test_files_however_deep_are_kept_once(outputs: Path) -> None:
    sink = Kept()
    output = {
        "one": file(outputs / "a.txt", path="/gone", dirname="/gone", basename="a.txt", checksum="sha1$1"),
        "again": [{"deep": file(outputs / "a.txt")}],
        "same name": file(outputs / "x" / "a.txt", secondaryFiles=[file(outputs / "d" / "2.txt")]),
        "plain": [1, None, "file:///etc/passwd", {"class": "other"}],
    }
    assert keep_outputs(output, outputs, sink) == {
        "one": {"class": "File", "location": "kept:a.txt", "basename": "a.txt", "checksum": "sha1$1"},
        "again": [{"deep": {"class": "File", "location": "kept:a.txt"}}],
        "same name": {
            "class": "File",
            "location": "kept:x/a.txt",
            "secondaryFiles": [{"class": "File", "location": "kept:d/2.txt"}],
        },
        "plain": [1, None, "file:///etc/passwd", {"class": "other"}],
    }
    assert sink.paths == {"a.txt": outputs / "a.txt", "x/a.txt": outputs / "x/a.txt", "d/2.txt": outputs / "d/2.txt"}


def test_a_directory_is_kept_whole(outputs: Path) -> None:
    sink = Kept()
    listing = [
        {"class": "Directory", "location": (outputs / "d/in").as_uri(), "listing": [file(outputs / "d/in/a b.txt")]}
    ]
    output = {
        "file": file(outputs / "d/in/a b.txt"),
        "folder": {"class": "Directory", "location": (outputs / "d").as_uri() + "/", "listing": listing},
    }
    kept = keep_outputs(output, outputs, sink)
    assert sink.paths == {"d": outputs / "d"}
    assert kept["file"]["location"] == "kept:d/in/a%20b.txt"
    assert kept["folder"]["location"] == "kept:d"
    assert kept["folder"]["listing"][0]["listing"][0]["location"] == "kept:d/in/a%20b.txt"


def test_what_lies_elsewhere_or_nowhere_is_left_alone(outputs: Path) -> None:
    output = {
        "web": {"class": "File", "location": "https://host.example/x"},
        "literal": {"class": "File", "contents": "text", "basename": "t"},
        "folder": {"class": "Directory", "location": "_:1", "listing": [file(outputs / "a.txt")]},
    }
    kept = keep_outputs(output, outputs, Kept())
    assert kept["web"] == {"class": "File", "location": "https://host.example/x"}
    assert kept["literal"] == {"class": "File", "contents": "text", "basename": "t"}
    assert kept["folder"]["listing"][0]["location"] == "kept:a.txt"


def test_a_link_inside_is_followed(outputs: Path) -> None:
    (outputs / "link").symlink_to("x/a.txt")
    sink = Kept()
    keep_outputs({"x": file(outputs / "link")}, outputs, sink)
    assert sink.paths == {"link": outputs / "x" / "a.txt"}


def test_names_are_bytes_of_utf_8(outputs: Path) -> None:
    (outputs / "ü #?%41.txt").write_text("")
    sink = Kept()
    keep_outputs({"x": file(outputs / "ü #?%41.txt")}, outputs, sink)
    assert list(sink.paths) == ["ü #?%41.txt"]


@pytest.mark.parametrize(
    "location",
    [
        "file://{outputs}/../secret",
        "file://{outputs}/%2e%2e/secret",
        "file://{outputs}",
        "file:///etc/passwd",
        "/etc/passwd",
        "a.txt",
        "../secret",
        "file://{outputs}/../in-link",
        "file://{outputs}/out-link",
        "file://{outputs}/out-folder/secret",
        "file://{outputs}/loop",
        "file://{outputs}/pipe",
        "file://{outputs}/d",
        "file://{outputs}/%00",
        "file://{outputs}/%ff",
        "file://[",
        7,
    ],
)
def test_what_is_not_an_output_is_refused(outputs: Path, location: Any) -> None:
    (outputs / "out-link").symlink_to("../secret")
    (outputs / "out-folder").symlink_to("..")
    (outputs.parent / "in-link").symlink_to("outputs/a.txt")
    (outputs / "loop").symlink_to("loop")
    os.mkfifo(outputs / "pipe")
    where = location.format(outputs=outputs) if isinstance(location, str) else location
    with pytest.raises(Rejected) as refused:
        keep_outputs({"x": {"class": "File", "location": where}}, outputs, sink := Kept())
    assert refused.value.reason == "output_refused"
    assert sink.paths == {}


@pytest.mark.parametrize("plant", ["link", "pipe", "file"])
def test_a_directory_with_something_else_in_it_is_refused(outputs: Path, plant: str) -> None:
    target = "a.txt" if plant == "file" else "d"
    if plant == "link":
        (outputs / "d" / "in" / "out").symlink_to("/etc")
    if plant == "pipe":
        os.mkfifo(outputs / "d" / "in" / "pipe")
    with pytest.raises(Rejected) as refused:
        keep_outputs({"x": {"class": "Directory", "location": (outputs / target).as_uri()}}, outputs, Kept())
    assert refused.value.reason == "output_refused"


def test_the_outputs_themselves_are_no_output(outputs: Path) -> None:
    with pytest.raises(Rejected) as refused:
        keep_outputs({"x": {"class": "Directory", "location": outputs.as_uri()}}, outputs, Kept())
    assert refused.value.reason == "output_refused"


@pytest.mark.parametrize("entry", [{"location": "file://{outputs}/none"}, {"location": "file://{outputs}/a.txt/x"}, {}])
def test_what_is_not_there_is_lost(outputs: Path, entry: dict[str, str]) -> None:
    entry = {"class": "File", **{key: value.format(outputs=outputs) for key, value in entry.items()}}
    with pytest.raises(Rejected) as refused:
        keep_outputs({"x": entry}, outputs, Kept())
    assert refused.value.reason == "outputs_lost"


def test_depth_is_no_danger(outputs: Path) -> None:
    output: Any = file(outputs / "a.txt")
    for _ in range(100_000):
        output = [output]
    sink = Kept()
    keep_outputs({"x": output}, outputs, sink)
    assert list(sink.paths) == ["a.txt"]
    while isinstance(output, list):  # taken apart by hand: the interpreter frees it recursively
        output = output.pop()
