"""What travels with a workflow: every file it needs, under names that stay inside, and nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.client.attachments import Bundle, collect
from app.client.documents import load, type_of
from app.client.errors import Invalid


def write(root: Path, files: dict[str, Any]) -> None:
    """Text as it is, everything else as JSON (which is YAML too)."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


def names(bundle: Bundle) -> set[str]:
    return set(bundle.files)


def file(location: str, **more: Any) -> dict[str, Any]:
    return {"class": "File", "location": location, **more}


def step(run: Any) -> dict[str, Any]:
    return {"run": run, "in": {}, "out": []}


def test_everything_that_documents_refer_to_is_found(tmp_path: Path) -> None:
    write(tmp_path, {
        "wf/main.cwl": {
            "class": "Workflow",
            "$schemas": ["onto.owl", "https://example.org/edam.owl", "gone.owl"],
            "requirements": [{"class": "SchemaDefRequirement", "types": [{"$import": "types.yml"}]}],
            "inputs": {"run": "string", "ref": {"type": "File", "default": file("../data/ref.fa"), "secondaryFiles": [".fai", "^.dict"]}},
            "steps": {"a": step("../tools/a%20b.cwl#main"), "b": step("https://example.org/x.cwl"), "c": step("#other")},
        },
        "tools/a b.cwl": {"steps": [step("deeper/c.cwl")], "expr": {"$include": "code.js"}},
        "tools/deeper/c.cwl": {"steps": [step("../../wf/main.cwl")], "default": {"class": "Directory", "path": "dir"}},
        "tools/deeper/dir/sub/x": "x",
        "tools/code.js": "1",
        "wf/types.yml": [],
        "wf/onto.owl": "",
        "wf/not_referred.txt": "",
        "data/ref.fa": "", "data/ref.fa.fai": "", "data/ref.dict": "",
    })  # fmt: skip
    bundle = collect(str(tmp_path / "wf/main.cwl#main"), True, None)
    assert bundle.workflow_url == "wf/main.cwl#main"
    assert names(bundle) == {
        "wf/main.cwl", "wf/types.yml", "wf/onto.owl", "tools/a b.cwl", "tools/code.js", "tools/deeper/c.cwl",
        "tools/deeper/dir/sub/x", "data/ref.fa", "data/ref.fa.fai", "data/ref.dict",
    }  # fmt: skip
    assert all(path.is_file() for path in bundle.files.values())


def test_parameters_are_rewritten_to_names(tmp_path: Path) -> None:
    write(tmp_path, {
        "wf/main.cwl": {"inputs": [{"id": "#main/bam", "secondaryFiles": {"pattern": ".bai?"}}]},
        "in/x.bam": "", "in/x.bam.bai": "", "in/list/a b#.txt": "", "in/deep.txt": "", "elsewhere/y.txt": "",
        "in/job.json": {
            "bam": file("x.bam"),
            "spaced": {"class": "File", "path": "list/a b#.txt"},
            "record": {"inner": [file((tmp_path / "elsewhere/y.txt").as_uri(), secondaryFiles=[file("deep.txt")])]},
            "folder": {"class": "Directory", "location": "list"},
            "remote": file("s3://bucket/x", path="ignored"),
            "literal": {"class": "File", "contents": "text", "basename": "t"},
            "number": 3,
            "text": "in/x.bam",
        },
    })  # fmt: skip
    bundle = collect(str(tmp_path / "wf/main.cwl"), True, tmp_path / "in/job.json")
    assert names(bundle) == {
        "wf/main.cwl", "in/x.bam", "in/x.bam.bai", "in/list/a b#.txt", "in/deep.txt", "elsewhere/y.txt",
    }  # fmt: skip
    assert bundle.workflow_params == {
        "bam": file("in/x.bam"),
        "spaced": file("in/list/a%20b%23.txt"),
        "record": {"inner": [file("elsewhere/y.txt", secondaryFiles=[file("in/deep.txt")])]},
        "folder": {"class": "Directory", "location": "in/list"},
        "remote": file("s3://bucket/x", path="ignored"),
        "literal": {"class": "File", "contents": "text", "basename": "t"},
        "number": 3,
        "text": "in/x.bam",
    }


def test_a_directory_above_its_only_file_is_still_named(tmp_path: Path) -> None:
    write(tmp_path, {"top/deep/main.cwl": {}, "job.yml": {"d": {"class": "Directory", "path": "top"}}})
    bundle = collect(str(tmp_path / "top/deep/main.cwl"), True, tmp_path / "job.yml")
    assert (names(bundle), bundle.workflow_url) == ({"deep/main.cwl"}, "deep/main.cwl")
    assert bundle.workflow_params == {"d": {"class": "Directory", "location": "."}}


def test_an_empty_directory_becomes_a_literal(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path, {"main.cwl": {}, "job.json": {"d": {"class": "Directory", "location": "empty"}}})
    bundle = collect(str(tmp_path / "main.cwl"), True, tmp_path / "job.json")
    assert bundle.workflow_params == {"d": {"class": "Directory", "basename": "empty", "listing": []}}


def test_a_workflow_on_the_web_takes_local_inputs_along(tmp_path: Path) -> None:
    write(tmp_path, {"x.txt": "", "job.json": {"x": file("x.txt")}})
    bundle = collect("https://example.org/w.cwl", True, tmp_path / "job.json")
    assert (bundle.workflow_url, names(bundle)) == ("https://example.org/w.cwl", {"x.txt"})
    assert collect("https://example.org/w.cwl", True, None).files == {}


def test_other_workflow_types_travel_with_what_is_given(tmp_path: Path) -> None:
    write(
        tmp_path, {"w/main.nf": "", "w/bin/tool": "", "w/conf/a": "", "w/conf/b/c": "", "p.json": {"x": file("gone")}}
    )
    bundle = collect(
        str(tmp_path / "w/main.nf"), False, tmp_path / "p.json", [tmp_path / "w/bin/tool", tmp_path / "w/conf"]
    )
    assert names(bundle) == {"main.nf", "bin/tool", "conf/a", "conf/b/c"}
    assert bundle.workflow_params == {"x": file("gone")}


def test_a_hash_in_a_file_name_is_no_fragment(tmp_path: Path) -> None:
    write(tmp_path, {"a#b.cwl": {}})
    assert collect(str(tmp_path / "a#b.cwl"), True, None).workflow_url == "a%23b.cwl"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"steps": [step("gone.cwl")]}, "refers to gone.cwl, which does not exist"),
        ({"steps": [step("/etc/x.cwl")]}, "refers to /etc/x.cwl: make that relative"),
        ({"steps": [step("file:///etc/x.cwl")]}, "make that relative"),
        ({"x": {"$import": "gone.yml"}}, "gone.yml, which does not exist"),
        ({"x": {"$include": "gone.js"}}, "gone.js, which does not exist"),
    ],
)
def test_references_that_cannot_travel_are_named(tmp_path: Path, document: Any, words: str) -> None:
    write(tmp_path, {"main.cwl": document})
    with pytest.raises(Invalid, match=words):
        collect(str(tmp_path / "main.cwl"), True, None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (file("gone.txt"), "Input 'x': there is no file .*gone.txt"),
        (file("folder"), "Input 'x': there is no file .*folder"),
        ({"class": "Directory", "path": "main.cwl"}, "Input 'x': there is no directory .*main.cwl"),
    ],
)
def test_inputs_that_are_not_there_are_named(tmp_path: Path, value: Any, words: str) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path, {"main.cwl": {}, "job.json": {"x": value}})
    with pytest.raises(Invalid, match=words):
        collect(str(tmp_path / "main.cwl"), True, tmp_path / "job.json")


def test_absolute_defaults_stay_on_the_server(tmp_path: Path) -> None:
    write(tmp_path, {"main.cwl": {"inputs": {"x": {"default": file("/etc/hostname")}}}})
    assert names(collect(str(tmp_path / "main.cwl"), True, None)) == {"main.cwl"}


def test_documents_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"main.cwl": "a: &a\n  b: *a\n"})
    with pytest.raises(Invalid, match="contain themselves"):
        collect(str(tmp_path / "main.cwl"), True, None)


PARTS = st.text(alphabet="ab #%ü.", min_size=1, max_size=6).filter(
    lambda part: part.strip(".") and part.strip() == part
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def relative(target: str, start: str) -> str:
    """A URI reference from the folder of `start` to `target`."""
    return "../" * start.count("/") + target.replace("%", "%25").replace("#", "%23")


@settings(max_examples=50)
@given(st.lists(PATHS, min_size=3, max_size=7, unique_by=str.lower))
def test_names_never_leave_and_every_location_is_a_name(paths: list[str]) -> None:
    folders = {path[:cut] for path in paths for cut in range(len(path)) if path[cut] == "/"}
    workflow, job, *others = [path for path in paths if path not in folders]
    if not others:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, dict.fromkeys(others, "data"))
        write(root, {workflow: {"steps": [step(relative(others[0], workflow))]}})
        write(root, {job: {str(number): file(relative(path, job)) for number, path in enumerate(others)}})
        write(root, {others[0]: {"x": {"$include": relative(others[-1], others[0])}}})
        bundle = collect(str(root / workflow), True, root / job)
        assert {bundle.files[name].relative_to(root).as_posix() for name in bundle.files} == {workflow, *others}
        for name in bundle.files:
            assert not name.startswith("/")
            assert {"", ".", ".."}.isdisjoint(name.split("/"))
        for number, path in enumerate(others):
            location = bundle.workflow_params[str(number)]["location"]
            assert bundle.files[unquote(location)] == root / path
        assert bundle.files[unquote(bundle.workflow_url)] == root / workflow


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None), ("12:30:45", "12:30:45"),
        ("1e-5", 1e-5), ("1E3", 1000.0), ("0123", 123), ("0o17", 15), ("0x1F", 31), ("-4", -4), (".5", 0.5), ("2026-11-20", "2026-11-20"),
        ("1_000", "1_000"), ("v1.2", "v1.2"),
    ],
)  # fmt: skip
def test_yaml_is_read_as_cwl_reads_it(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "job.yml").write_text(f"x: {text}\n")
    found = load(tmp_path / "job.yml")["x"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "{"), ("a.yml", "a: [1"), ("a.yml", "\x00"), ("a.json", "\ud800")]
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(Invalid, match=f"{name} cannot be read"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("w.cwl", "cwlVersion: v1.2\n", ("CWL", "v1.2")),
        ("w.cwl", "[]", ("CWL", None)),
        ("packed.json", '{"cwlVersion": "v1.0"}', ("CWL", "v1.0")),
        ("dag.json", '{"steps": []}', ("DAG", "1.0")),
        ("other.json", '{"a": 1}', (None, None)),
        ("w.wdl", "# comment\nversion 1.1\n", ("WDL", "1.1")),
        ("w.wdl", "task x {}\n", ("WDL", "draft-2")),
        ("main.nf", "", ("NFL", None)),
        ("Snakefile", "", ("SMK", None)),
        ("readme.txt", "", (None, None)),
    ],
)
def test_a_workflow_shows_its_type(
    tmp_path: Path, name: str, content: str, found: tuple[str | None, str | None]
) -> None:
    (tmp_path / name).write_text(content)
    assert type_of(tmp_path / name) == found
