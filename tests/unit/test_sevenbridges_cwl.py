"""CWL workflows of several documents become one."""

from __future__ import annotations

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
        ("cwlVersion: v1.2\n$graph: []", "packed document"),
        ("cwlVersion: v1.2\nclass: Workflow\nx: {$import: main.cwl}", "refers to itself"),
        ("x: {$import: missing.yml}", "There is no missing.yml"),
        ("x: {$import: ../../etc/passwd}", "There is no ../../etc/passwd"),
        ("steps: [{run: 'tools/echo.cwl#main', in: [], out: []}]", "packed document"),
        ("x: " + "y" * MAX_BYTES, "more than"),
    ],
)
def test_what_cannot_be_an_app_is_refused_with_words(main: str, words: str) -> None:
    with pytest.raises(Rejected, match=words.replace(".", r"\.")) as error:
        pack(main_cwl=main)
    assert error.value.reason


def test_documents_are_counted() -> None:
    with pytest.raises(Rejected, match="more than 500 documents"):
        pack(main_cwl="[" + "{$import: types.yml}, " * 500 + "]")
