"""Workflows and inputs from the web and from file roots, staged and then run by the real engine without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.daemon.engines.fetcher import FetchPolicy
from tests.fakes.engine_runs import EngineRun
from tests.fakes.web import Page, Web

DOCUMENTS = Path(__file__).parents[1] / "workflows" / "cwl"

COUNT = """
cwlVersion: v1.2
class: CommandLineTool
$namespaces: {edam: "http://edamontology.org/"}
$schemas: [http://127.0.0.1:1/away.owl]
requirements:
  InlineJavascriptRequirement: {expressionLib: [{$include: /lib/double.js}]}
  SchemaDefRequirement: {types: [{$import: "{web}/types.yml"}]}
baseCommand: [wc, -l]
stdin: $(inputs.data.path)
stdout: n.txt
inputs:
  data: {type: File, format: edam:format_2330}
  words: {type: File, default: {class: File, location: "extra%20words.txt"}}
  sample: {type: "{web}/types.yml#Sample"}
outputs:
  twice: {type: int, outputBinding: {glob: n.txt, loadContents: true, outputEval: "$(double(parseInt(self[0].contents)))"}}
  words: {type: string, outputBinding: {outputEval: $(inputs.words.basename)}}
"""

WORKFLOW = """
cwlVersion: v1.2
class: Workflow
inputs: {data: File, sample: Any}
outputs:
  twice: {type: int, outputSource: count/twice}
  words: {type: string, outputSource: count/words}
steps:
  count: {run: ../tools/count.cwl?raw=1, in: {data: data, sample: sample}, out: [twice, words]}
"""


def test_a_workflow_from_the_web_with_everything_that_it_imports(tmp_path: Path) -> None:
    with Web() as web:
        web.pages = {
            "/flows/wf.cwl": WORKFLOW,
            "/tools/count.cwl?raw=1": COUNT.replace("{web}", web.url),
            "/lib/double.js": "function double(n) { return 2 * n; }",
            "/types.yml": "[{name: Sample, type: record, fields: [{name: id, type: string}]}]",
            "/tools/extra%20words.txt": "extra",
            "/moved": Page(status=301, headers={"Location": "/data.txt"}),
            "/data.txt": "a\nb\nc\n",
        }
        run = EngineRun(tmp_path, policy=FetchPolicy(frozenset({web.host})))
        data = {"class": "File", "location": f"{web.url}/moved", "format": "http://edamontology.org/format_2330"}
        assert run(f"{web.url}/flows/wf.cwl", {"data": data, "sample": {"id": "s"}}) == 0, run.words()
        assert sorted(set(web.paths)) == sorted(web.pages)
    assert run.outputs() == {"twice": 6, "words": "extra words.txt"}


@pytest.mark.parametrize("spelling", ["{root}/chain.cwl", "file://{root}/chain.cwl"])
def test_a_workflow_and_inputs_below_a_file_root(tmp_path: Path, spelling: str) -> None:
    run = EngineRun(tmp_path, policy=FetchPolicy(file_roots=(DOCUMENTS,)))
    lines = {"class": "File", "location": f"{DOCUMENTS}/data/lines.txt"}
    assert run(spelling.format(root=DOCUMENTS), {"lines": lines}) == 0, run.words()
    assert (run.dir.outputs / "sorted.txt").read_text() == "pear\nfig\napple\n"
