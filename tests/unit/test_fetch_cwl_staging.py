"""What a CWL run needs is laid out in `work/`: from the web, from file roots, from attachments. No engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from app.daemon.engines.cwl_staging import Staging
from app.daemon.engines.fetcher import Fetcher, FetchPolicy
from app.errors import NotAccepted, Rejected
from tests.fakes.web import Page, Web

TOOL = "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: 'true'\ninputs: {}\noutputs: {}\n"


def workflow(*runs: str) -> str:
    steps = "".join(f"  s{n}: {{run: {run}, in: {{}}, out: []}}\n" for n, run in enumerate(runs))
    return f"cwlVersion: v1.2\nclass: Workflow\ninputs: {{}}\noutputs: {{}}\nsteps:\n{steps}"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


class Run:
    """One staging in a fresh `work/`."""

    def __init__(self, folder: Path, web: Web | None = None, **policy: Any) -> None:
        hosts = frozenset({web.host, "other.test"} if web else ())
        self.policy = FetchPolicy(hosts, **policy)
        self.work = folder / "work"
        self.work.mkdir()

    def attach(self, path: str, text: str = TOOL) -> str:
        (self.work / path).parent.mkdir(parents=True, exist_ok=True)
        (self.work / path).write_text(text)
        return text

    def stage(self, workflow_url: str, params: dict[str, Any] | None = None) -> str:
        """The process URI; `inputs` holds what the engine will get."""
        fetcher = Fetcher(self.policy, lambda host, port: ["127.0.0.1"])
        process, self.text = Staging(self.work, ".wes", self.policy, fetcher).stage(workflow_url, params or {})
        self.inputs = json.loads(self.text)
        return process

    def staged(self) -> dict[str, str]:
        return {str(file.relative_to(self.work)): file.read_text() for file in self.work.rglob("*") if file.is_file()}


def local(uri: str) -> Path:
    parts = urlsplit(uri)
    assert parts.scheme == "file"
    return Path(unquote(parts.path))


def runs_in(text: str) -> list[str]:
    return [line.split("run: ")[1].split(", in")[0].strip('"') for line in text.splitlines() if "run: " in line]


def test_attached_documents_stay_as_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path)
    text = run.attach("wf.cwl", workflow("sub/tool.cwl", "'#inner'", "missing.cwl"))
    run.attach("sub/tool.cwl")
    assert run.stage("wf.cwl#main") == (run.work / "wf.cwl").as_uri() + "#main"
    assert run.staged() == {"wf.cwl": text, "sub/tool.cwl": TOOL}


def test_a_web_workflow_with_relative_imports_keeps_its_layout(tmp_path: Path, web: Web) -> None:
    web.pages = {
        "/repo/wf/main.cwl": workflow("../tools/one.cwl", "../tools/one.cwl#x", "my%20tool.cwl"),
        "/repo/tools/one.cwl": TOOL.replace("inputs: {}", "inputs: {$import: ../types.yml}"),
        "/repo/wf/my%20tool.cwl": TOOL + "requirements: [{$include: note.txt}]",
        "/repo/types.yml": "[]",
        "/repo/wf/note.txt": "{not: [yaml",
    }
    run = Run(tmp_path, web)
    process = run.stage(f"{web.url}/repo/wf/main.cwl#step")
    assert process.endswith("/repo/wf/main.cwl#step")
    assert sorted(web.paths) == sorted(web.pages)
    root = local(process.partition("#")[0]).parents[1]
    for path, text in web.pages.items():
        assert (root.parent / unquote(path[1:])).read_text() == text


def test_absolute_and_root_relative_references_are_rewritten(tmp_path: Path, web: Web) -> None:
    other = f"http://other.test:{web.port}"
    web.pages = {
        "/a/main.cwl": workflow(f"{other}/tool.cwl#t", "/lib/tool.cwl", "sub.cwl?raw=1", f"{web.url}/a/near.cwl"),
        "/tool.cwl": TOOL,
        "/lib/tool.cwl": TOOL + "# lib",
        "/a/sub.cwl?raw=1": TOOL + "# sub",
        "/a/near.cwl": TOOL + "# near",
    }
    run = Run(tmp_path, web)
    main = local(run.stage(f"{web.url}/a/main.cwl"))
    ends = [local(uri.partition("#")[0]).read_text().removeprefix(TOOL) for uri in runs_in(main.read_text())]
    assert ends == ["", "# lib", "# sub", "# near"]
    assert runs_in(main.read_text())[0].endswith("/tool.cwl#t")


def test_an_attached_workflow_may_import_from_the_web(tmp_path: Path, web: Web) -> None:
    web.pages = {"/tool.cwl": workflow("deeper/tool.cwl"), "/deeper/tool.cwl": TOOL}
    run = Run(tmp_path, web)
    run.attach("wf.cwl", workflow(f"{web.url}/tool.cwl") + f"doc: {web.url}/tool.cwl#a\nlabel: {web.url}/else\n")
    run.stage("wf.cwl")
    [uri] = runs_in(run.staged()["wf.cwl"])
    assert local(uri).read_text() == web.pages["/tool.cwl"]
    assert f'doc: "{uri}#a"\nlabel: {web.url}/else' in run.staged()["wf.cwl"]
    assert web.paths == ["/tool.cwl", "/deeper/tool.cwl"]


def test_documents_that_import_each_other_end(tmp_path: Path, web: Web) -> None:
    web.pages = {"/a.cwl": workflow("b.cwl", "a.cwl"), "/b.cwl": workflow("a.cwl")}
    Run(tmp_path, web).stage(f"{web.url}/a.cwl")
    assert web.paths == ["/a.cwl", "/b.cwl"]


def test_a_document_beside_a_folder_of_its_name(tmp_path: Path, web: Web) -> None:
    web.pages = {"/wf": workflow("wf/tool", "wf/%2e%2e/x", "/"), "/wf/tool": TOOL, "/wf/%2e%2e/x": TOOL, "/": TOOL}
    run = Run(tmp_path, web)
    main = local(run.stage(f"{web.url}/wf"))
    assert [local(uri).read_text() for uri in runs_in(main.read_text())] == [TOOL] * 3
    assert all(file.startswith(".wes/") for file in run.staged())


def test_schemas_are_fetched_where_they_can_be(tmp_path: Path, web: Web) -> None:
    web.pages = {
        "/wf.cwl": TOOL + "$schemas: [edam.owl, missing.owl, 'http://10.0.0.1/x.owl']\n",
        "/edam.owl": "<owl/>",
    }
    run = Run(tmp_path, web)
    main = local(run.stage(f"{web.url}/wf.cwl"))
    assert (main.parent / "edam.owl").read_text() == "<owl/>"
    assert not (main.parent / "missing.owl").exists()


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(status=404), "workflow_unreachable"),
        ("<html><body>Sign in: please</body></html>", "workflow_not_cwl"),
        ("just text", "workflow_not_cwl"),
        ("class: Workflow", "workflow_not_cwl"),
        ("a: [unclosed", "workflow_not_cwl"),
        ("[" * 200 + "]" * 200, "workflow_too_large"),
        (TOOL + "#" * 6_000_000, "workflow_too_large"),
        (TOOL + "x: {class: Directory, location: dir}", "input_unsupported"),
        (workflow("file:///etc/passwd"), "workflow_forbidden_path"),
        (workflow("'http://[::1'"), "workflow_unreachable"),
        (workflow("http://private.test/"), "workflow_forbidden_address"),
        (workflow("gone.cwl"), "workflow_unreachable"),
    ],
)
def test_web_workflows_that_are_refused(tmp_path: Path, web: Web, page: Page | str, reason: str) -> None:
    web.pages = {"/wf.cwl": page}
    with pytest.raises(Rejected) as refusal:
        Run(tmp_path, web).stage(f"{web.url}/wf.cwl")
    assert refusal.value.reason == reason


def test_a_web_server_in_trouble_is_tried_again(tmp_path: Path, web: Web) -> None:
    web.pages = {"/wf.cwl": workflow("tool.cwl"), "/tool.cwl": Page(status=503, headers={"Retry-After": "9"})}
    with pytest.raises(NotAccepted) as trouble:
        Run(tmp_path, web).stage(f"{web.url}/wf.cwl")
    assert trouble.value.retry_after == 9


def test_the_number_of_files_and_the_depth_are_limited(tmp_path: Path, web: Web) -> None:
    web.pages = {f"/{n}.cwl": workflow(f"{n + 1}.cwl") for n in range(10)}
    (tmp_path / "files").mkdir()
    with pytest.raises(Rejected, match="more than 3 files"):
        Run(tmp_path / "files", web, max_files=3).stage(f"{web.url}/0.cwl")
    (tmp_path / "depth").mkdir()
    with pytest.raises(Rejected, match="deeper than 3"):
        Run(tmp_path / "depth", web, max_depth=3).stage(f"{web.url}/0.cwl")


def test_an_attached_alias_bomb_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attach("wf.cwl", "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)))
    with pytest.raises(Rejected) as refusal:
        run.stage("wf.cwl")
    assert refusal.value.reason == "workflow_too_large"


def test_attached_mistakes_are_left_to_the_engine(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attach("wf.cwl", "steps: {unclosed")
    assert run.stage("wf.cwl") == (run.work / "wf.cwl").as_uri()


@pytest.mark.parametrize(
    ("workflow_url", "reason"),
    [
        ("missing.cwl", "workflow_not_found"),
        ("folder", "workflow_not_found"),
        ("../outside.cwl", "workflow_forbidden_path"),
        ("%2e%2e/outside.cwl", "workflow_not_found"),
        ("a\x00b", "workflow_forbidden_path"),
        ("x" * 5000, "workflow_unreachable"),
        ("/etc/passwd", "workflow_forbidden_path"),
        ("file:///etc/passwd", "workflow_forbidden_path"),
        ("s3://bucket/wf.cwl", "workflow_unreachable"),
        ("http://127.0.0.1:1/wf.cwl", "workflow_forbidden_address"),
    ],
)
def test_workflow_urls_that_are_refused(tmp_path: Path, workflow_url: str, reason: str) -> None:
    (tmp_path / "outside.cwl").write_text(TOOL)
    run = Run(tmp_path)
    run.attach("folder/wf.cwl")
    with pytest.raises(Rejected) as refusal:
        run.stage(workflow_url)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    ("workflow_url", "path", "fragment"),
    [
        ("a:b.cwl", "a:b.cwl", ""),
        ("a#b.cwl#m", "a#b.cwl", "#m"),
        ("a%23b.cwl#m", "a#b.cwl", "#m"),
        ("a#b.cwl", "a#b.cwl", ""),
    ],
)
def test_odd_names_are_found(tmp_path: Path, workflow_url: str, path: str, fragment: str) -> None:
    run = Run(tmp_path)
    run.attach("a:b.cwl")
    run.attach("a#b.cwl")
    assert run.stage(workflow_url) == (run.work / path).as_uri() + fragment


def test_a_missing_document_is_refused_with_the_names_that_are_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attach("flow/main.cwl")
    with pytest.raises(Rejected, match=r"no 'main\.cwl'. Attached: flow/main\.cwl"):
        run.stage("main.cwl")


# Files of the machine


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "wf 1.cwl").write_text(workflow("../tool.cwl", "'sub/none.cwl'"))
    (root / "tool.cwl").write_text(TOOL + "x: {class: File, location: data.txt}\n")
    (root / "data.txt").write_text("data")
    (root / "way-out.cwl").symlink_to("/etc/passwd")
    (tmp_path / "secret.cwl").write_text(TOOL)
    return root


@pytest.mark.parametrize("spelling", ["{root}/lib/wf 1.cwl#m", "file://{root}/lib/wf%201.cwl#m"])
def test_a_workflow_below_a_file_root_is_copied_with_its_imports(tmp_path: Path, roots: Path, spelling: str) -> None:
    run = Run(tmp_path, file_roots=(roots,))
    process = run.stage(spelling.format(root=roots))
    main = local(process.removesuffix("#m"))
    assert main.is_relative_to(run.work)
    tool = (main.parent / ".." / "tool.cwl").resolve()
    assert tool.is_relative_to(run.work)
    assert f'location: "{(roots / "data.txt").as_uri()}"' in tool.read_text()


@pytest.mark.parametrize("path", ["way-out.cwl", "../secret.cwl", "lib/../../secret.cwl"])
def test_a_file_root_cannot_be_left(tmp_path: Path, roots: Path, path: str) -> None:
    run = Run(tmp_path, file_roots=(roots,))
    with pytest.raises(Rejected, match="FILE_ROOTS"):
        run.stage(f"{roots}/{path}")


def test_a_web_document_may_not_name_files_of_the_machine(tmp_path: Path, roots: Path, web: Web) -> None:
    web.pages = {"/wf.cwl": workflow(f"file://{roots}/tool.cwl")}
    with pytest.raises(Rejected) as refusal:
        Run(tmp_path, web, file_roots=(roots,)).stage(f"{web.url}/wf.cwl")
    assert refusal.value.reason == "workflow_forbidden_path"


# Inputs


def test_inputs_are_found_as_clients_spell_them(tmp_path: Path, roots: Path) -> None:
    run = Run(tmp_path, file_roots=(roots,))
    run.attach("wf.cwl")
    for name in ("plain.txt", "d/my file#1.txt", "odd:name.txt", "100%25.txt"):
        run.attach(name)
    spelled = {
        "plain.txt": "plain.txt",
        "./d/../plain.txt": "plain.txt",
        "d/my file#1.txt": "d/my file#1.txt",
        "d/my%20file%231.txt": "d/my file#1.txt",
        "odd:name.txt": "odd:name.txt",
        "100%25.txt": "100%25.txt",
        "d": "d",
    }
    params = {f"i{n}": {"class": "File", "location": name} for n, name in enumerate(spelled)}
    run.stage("wf.cwl", params)
    assert [local(entry["location"]) for entry in run.inputs.values()] == [run.work / name for name in spelled.values()]
    run.stage("wf.cwl", {"x": {"class": "File", "path": f"{roots}/data.txt", "basename": "b"}})
    assert run.inputs == {"x": {"class": "File", "location": (roots / "data.txt").as_uri(), "basename": "b"}}


def test_inputs_deep_inside_are_found_and_everything_else_is_left(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attach("wf.cwl")
    run.attach("a.txt")
    entry = {"class": "File", "path": "a.txt"}
    run.stage(
        "wf.cwl", {"list": [{"record": entry | {"secondaryFiles": [entry]}}], "run": "a.txt", "n": 1e22, "z": None}
    )
    uri = (run.work / "a.txt").as_uri()
    file = {"class": "File", "location": uri}
    assert run.inputs == {"list": [{"record": file | {"secondaryFiles": [file]}}], "run": "a.txt", "n": 1e22, "z": None}
    literal = {"class": "File", "basename": "l", "contents": "text"}
    folder = {"class": "Directory", "basename": "f", "listing": [literal]}
    run.stage("wf.cwl", {"l": literal, "f": folder, "b": {"class": "File", "location": "_:1"}})
    assert run.inputs == {"l": literal, "f": folder, "b": {"class": "File", "location": "_:1"}}


def test_web_inputs_are_fetched_and_keep_their_name(tmp_path: Path, web: Web) -> None:
    web.pages = {"/d/my%20reads.fq": "reads", "/get?id=1": "one"}
    run = Run(tmp_path, web)
    run.attach("wf.cwl")
    run.stage("wf.cwl", {name: {"class": "File", "location": web.url + name} for name in web.pages})
    places = [local(entry["location"]) for entry in run.inputs.values()]
    assert [(place.name, place.read_text()) for place in places] == [("my reads.fq", "reads"), ("get", "one")]


def test_web_inputs_share_one_size_limit(tmp_path: Path, web: Web) -> None:
    web.pages = {"/a": "x" * 60, "/b": "x" * 60}
    run = Run(tmp_path, web, max_data_bytes=100)
    run.attach("wf.cwl")
    with pytest.raises(Rejected) as refusal:
        run.stage("wf.cwl", {"files": [{"class": "File", "location": web.url + path} for path in web.pages]})
    assert refusal.value.reason == "workflow_too_large"


def test_directives_in_inputs_are_staged(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("wf.cwl", "values.yml", "note.txt"):
        run.attach(name)
    run.stage("wf.cwl", {"a": {"$import": "values.yml"}, "b": {"$include": "note.txt"}})
    assert run.inputs == {
        "a": {"$import": (run.work / "values.yml").as_uri()},
        "b": {"$include": (run.work / "note.txt").as_uri()},
    }
    with pytest.raises(Rejected):
        run.stage("wf.cwl", {"a": {"$include": "/etc/passwd"}})


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "file:///etc/passwd", "../up", "d/../../up", "s3://b/k", "http://10.0.0.1/", "http://[", "\x00"],
)
def test_inputs_that_are_refused(tmp_path: Path, location: str) -> None:
    run = Run(tmp_path)
    run.attach("wf.cwl")
    for entry in ({"class": "File", "location": location}, {"class": "File", "path": location}):
        with pytest.raises(Rejected):
            run.stage("wf.cwl", {"x": entry})


def test_inputs_are_yaml_whatever_is_in_them(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.attach("wf.cwl")
    text = '\U0001f600 \x7f \x85 \u2028 \ufeff \ud7ff \\ " \n é'
    run.stage("wf.cwl", {"x": text})
    assert run.inputs == {"x": text}
    assert "\U0001f600" in run.text and not set(run.text) & set("\x7f\x85\u2028\ufeff")
