"""CWL workflows of several documents become one."""

from __future__ import annotations

from typing import Any

import pytest

from app.daemon.providers.sevenbridges_cwl import MAX_BYTES, content_hash, packed
from app.errors import Rejected

TOOL = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: echo
doc: {$include: ../README.txt}
inputs: {message: string}
outputs: []
"""
WORKFLOW = """
cwlVersion: v1.2
class: Workflow
requirements:
  - $import: types.yml
inputs: {message: string, day: {type: string, default: 2026-11-20}}
outputs: []
steps:
  say:
    run: tools/echo.cwl
    in: {message: message}
    out: []
"""
DOCUMENTS = {
    "main.cwl": WORKFLOW,
    "tools/echo.cwl": TOOL,
    "types.yml": "class: InlineJavascriptRequirement",
    "README.txt": "says it: aloud\n",
}


def pack(place: str = "main.cwl", **changed: str) -> dict[str, object]:
    documents = DOCUMENTS | {name.replace("__", "/").replace("_", "."): text for name, text in changed.items()}

    def read(where: str) -> bytes:
        if where not in documents:
            raise Rejected(f"There is no {where}.", "workflow_not_found")
        return documents[where].encode()

    return packed(place, read)


def test_references_are_replaced_by_what_they_lead_to() -> None:
    document = pack()
    tool = document["steps"]["say"]["run"]  # type: ignore[index]
    assert (tool["class"], tool["doc"]) == ("CommandLineTool", "says it: aloud\n")
    assert document["requirements"] == [{"class": "InlineJavascriptRequirement"}]


def test_dates_stay_text() -> None:
    assert pack()["inputs"]["day"]["default"] == "2026-11-20"  # type: ignore[index]


def test_addresses_are_joined_as_addresses() -> None:
    read: list[str] = []

    def fetch(url: str) -> bytes:
        read.append(url)
        return DOCUMENTS[url.removeprefix("https://example.org/wf/")].encode()

    packed("https://example.org/wf/main.cwl", fetch)
    assert read == [
        f"https://example.org/wf/{name}" for name in ("main.cwl", "types.yml", "tools/echo.cwl", "README.txt")
    ]


def test_the_hash_is_of_the_content_not_of_its_spelling() -> None:
    spelled = '{"class": "CommandLineTool", "baseCommand": "echo", "cwlVersion": "v1.2", "inputs": {}, "outputs": []}'
    same = "cwlVersion: v1.2\nclass: CommandLineTool\n# aloud\nbaseCommand: echo\ninputs: {}\noutputs: []\n"
    other = same.replace("echo", "cat")
    first, second, third = (content_hash(pack("a.cwl", a_cwl=text)) for text in (spelled, same, other))
    assert first == second != third


@pytest.mark.parametrize(
    ("main", "words"),
    [
        ("just text", "not a CWL process"),
        ("class: Workflow", "cwlVersion"),
        ("cwlVersion: v1.2\nclass: File", "not a CWL process"),
        ("a: [b", "not a CWL document"),
        ("a: .nan", "not a CWL document"),
        ("a: !!binary aGk=", "not a CWL document"),
        ("a: &a [*a]", "not a CWL document"),
        ("\0", "not a CWL document"),
        ("[" * 10_000, "not a CWL document"),
        ("cwlVersion: v1.2\n$graph: []", "main.cwl: 'main' is none of its processes: it has none"),
        ("cwlVersion: v1.2\n$graph: [{id: a}, {id: '#b'}, 5]", "main.cwl: 'main' is none of its processes: a, b"),
        ("$graph: [{id: main, class: Workflow, steps: {a: {run: '#main', in: {}, out: []}}}]", "refers to itself"),
        ("$graph: [{id: main, class: Workflow, steps: {a: {run: '#b', in: {}, out: []}}}]", "main.cwl: 'b' is none of"),
        ("cwlVersion: v1.2\nclass: Workflow\nx: {$import: main.cwl}", "refers to itself"),
        ("x: {$import: missing.yml}", "There is no missing.yml"),
        ("x: {$import: ../../etc/passwd}", "There is no ../../etc/passwd"),
        (
            "steps: [{run: 'tools/echo.cwl#other', in: [], out: []}]",
            "tools/echo.cwl#other: the document is one process",
        ),
        ("x: {$import: 'types.yml#a'}", "where a whole one is needed"),
        ("x: " + "y" * MAX_BYTES, "more than"),
    ],
)
def test_what_cannot_be_an_app_is_refused_with_words(main: str, words: str) -> None:
    with pytest.raises(Rejected, match=words.replace(".", r"\.")) as error:
        pack(main_cwl=main)
    assert error.value.reason


GRAPH = """
cwlVersion: v1.2
$graph:
- {class: CommandLineTool, id: say, baseCommand: echo, inputs: {message: string}, outputs: {out: stdout}}
- class: Workflow
  id: main
  inputs: {message: string}
  outputs: {out: {type: File, outputSource: first/out}}
  steps: {first: {run: "#say", in: {message: message}, out: [out]}}
"""
PACKED = """
{"cwlVersion": "v1.2", "$graph": [
  {"class": "CommandLineTool", "id": "#say.cwl", "baseCommand": "echo",
   "inputs": [{"id": "#say.cwl/message", "type": {"type": "enum", "symbols": ["#say.cwl/message/hi"]}, "default": "#say.cwl/x"}],
   "outputs": [{"id": "#say.cwl/out", "type": "stdout"}]},
  {"class": "Workflow", "id": "#main",
   "inputs": [{"id": "#main/message", "type": "string"}],
   "outputs": [{"id": "#main/out", "type": "File", "outputSource": "#main/first/out"}],
   "steps": [{"id": "#main/first", "run": "#say.cwl", "scatter": "#main/first/message",
              "in": [{"id": "#main/first/message", "source": "#main/message"}], "out": ["#main/first/out"]}]}]}
"""


def test_a_graph_becomes_its_main_process_with_the_others_in_place() -> None:
    document: dict[str, Any] = pack(main_cwl=GRAPH)
    assert (document["class"], document["cwlVersion"]) == ("Workflow", "v1.2")
    assert document["steps"]["first"]["run"]["baseCommand"] == "echo"


def test_names_of_a_packed_document_are_those_within_each_process() -> None:
    document: dict[str, Any] = pack(main_cwl=PACKED)
    (step,) = document["steps"]
    tool = step.pop("run")
    assert step == {
        "id": "first",
        "scatter": "message",
        "in": [{"id": "message", "source": "message"}],
        "out": ["out"],
    }
    assert document["outputs"] == [{"id": "out", "type": "File", "outputSource": "first/out"}]
    kind = {"type": "enum", "symbols": ["hi"]}
    assert tool["inputs"] == [{"id": "message", "type": kind, "default": "#say.cwl/x"}]


def test_a_part_of_a_graph_by_its_name_from_anywhere() -> None:
    documents = {"main.cwl": WORKFLOW.replace("tools/echo.cwl", "'all.cwl#say'"), "all.cwl": GRAPH, "types.yml": "{}"}
    assert packed("all.cwl", lambda place: documents[place].encode(), "say")["class"] == "CommandLineTool"
    whole = packed("main.cwl", lambda place: documents[place].encode())
    assert whole["steps"]["say"]["run"]["baseCommand"] == "echo"


def test_graphs_that_multiply_or_nest_without_end_are_refused() -> None:
    def graph(name: str, run: str, times: int) -> str:
        steps = ", ".join(f"s{number}: {{run: '#{run}', in: {{}}, out: []}}" for number in range(times))
        return f"{{id: {name}, class: Workflow, inputs: {{}}, outputs: {{}}, steps: {{{steps}}}}}"

    for length, times, words in ((30, 2, "more than 500 documents"), (400, 1, "too deeply")):
        chain = [graph(f"p{number}", f"p{number + 1}", times) for number in range(length)]
        last = f"{{id: p{length}, class: CommandLineTool}}"
        text = "cwlVersion: v1.2\n$graph: [" + ", ".join([graph("main", "p0", 1), *chain, last]) + "]"
        with pytest.raises(Rejected, match=words):
            pack(main_cwl=text)


def test_documents_are_counted() -> None:
    with pytest.raises(Rejected, match="more than 500 documents"):
        pack(main_cwl="[" + "{$import: types.yml}, " * 500 + "]")
