"""The cwltool adapter and its runner with the real engine: staged, launched, read back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from app.errors import Rejected
from tests.fakes.engine_runs import EngineRun

HELLO = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: echo
inputs:
  message: {type: string, inputBinding: {}}
outputs:
  out: {type: stdout}
stdout: hello.txt
"""

SCATTER = """
cwlVersion: v1.2
class: Workflow
requirements: {ScatterFeatureRequirement: {}, InlineJavascriptRequirement: {}}
inputs: {names: "string[]"}
outputs:
  all: {type: File, outputSource: gather/all}
  count: {type: int, outputSource: count/n}
steps:
  greet:
    scatter: name
    in: {name: names}
    out: [greeting]
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'echo "Hello $0"; echo "to $0" >&2']
      inputs: {name: {type: string, inputBinding: {valueFrom: $(self.toUpperCase())}}}
      outputs: {greeting: {type: stdout}}
      stdout: greeting.txt
  gather:
    in: {files: greet/greeting}
    out: [all]
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs: {files: {type: "File[]", inputBinding: {}}}
      outputs: {all: {type: stdout}}
      stdout: all.txt
  count:
    in: {names: names}
    out: [n]
    run:
      class: ExpressionTool
      inputs: {names: "string[]"}
      outputs: {n: int}
      expression: '${ return {"n": inputs.names.length}; }'
"""


def test_hello(tmp_path: Path) -> None:
    run = EngineRun(tmp_path, {"hello.cwl": HELLO})
    assert run("hello.cwl", {"message": "Hello Wörld", "outputUri": "s3://not-for-us/"}) == 0, run.words()
    outputs = run.outputs()
    assert outputs["out"]["location"] == (tmp_path / "outputs" / "hello.txt").as_uri()
    assert "path" not in outputs["out"]
    assert (tmp_path / "outputs" / "hello.txt").read_text() == "Hello Wörld\n"
    [task] = run.engine.tasks(run.dir)
    assert task.cmd == ("echo", "Hello Wörld")
    assert task.exit_code == 0
    assert task.start_time and task.end_time and task.start_time <= task.end_time


def test_attachments_may_have_the_names_that_we_would_take(tmp_path: Path) -> None:
    files = {"hello.cwl": HELLO, "inputs.json": "mine", "INPUTS1.json": "mine", ".wes/x": "mine too"}
    run = EngineRun(tmp_path, files)
    assert run("hello.cwl", {"message": "Hello"}) == 0, run.words()
    assert (tmp_path / "outputs" / "hello.txt").read_text() == "Hello\n"
    assert {name: (run.dir.work / name).read_text() for name in files} == files


def test_scatter_and_javascript_without_node_on_the_path(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "echo", "cat"):
        tools.joinpath(name).symlink_to(str(shutil.which(name)))
    run = EngineRun(tmp_path / "run", {"wf.cwl": SCATTER}, search_path=str(tools))
    assert run("wf.cwl", {"names": ["ada", "bob", "eve"]}) == 0, run.words()
    assert run.outputs()["count"] == 3
    assert (run.dir.outputs / "all.txt").read_text() == "Hello ADA\nHello BOB\nHello EVE\n"
    assert run.exit_codes() == {"greet": 0, "greet_2": 0, "greet_3": 0, "gather": 0, "count": None}
    tasks = {task.task_id: task for task in run.engine.tasks(run.dir)}
    assert (tasks["greet_2"].has_stdout, tasks["greet_2"].has_stderr) == (False, True)
    assert run.dir.task_log("greet_2", "stderr").read_text() == "to BOB\n"
    assert tasks["count"].end_time is not None


def test_steps_in_parallel(tmp_path: Path) -> None:
    run = EngineRun(tmp_path, {"wf.cwl": SCATTER})
    assert run("wf.cwl", {"names": list("abcdefgh")}, parallel=None) == 0, run.words()
    assert run.exit_codes() | {"count": 0} == dict.fromkeys(["count", "gather", *run.exit_codes()], 0)
    assert len(run.exit_codes()) == 10


def test_a_steps_own_streams_are_kept_when_it_redirects_nothing(tmp_path: Path) -> None:
    tool = """
cwlVersion: v1.0
class: CommandLineTool
baseCommand: [sh, -c, "echo out; echo err >&2; touch done"]
inputs: {}
outputs: {done: {type: File, outputBinding: {glob: done}}}
"""
    run = EngineRun(tmp_path, {"talk.cwl": tool})
    assert run("talk.cwl") == 0, run.words()
    [task] = run.engine.tasks(run.dir)
    assert task.has_stdout and task.has_stderr
    assert [run.dir.task_log(task.task_id, stream).read_text() for stream in ("stdout", "stderr")] == ["out\n", "err\n"]
    assert json.loads(run.dir.stdout.read_text()).keys() == {"done"}


def test_directories_in_and_out(tmp_path: Path) -> None:
    tool = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [cp, -r]
inputs:
  source: {type: Directory, inputBinding: {position: 1}}
arguments: [{position: 2, valueFrom: copy}]
outputs: {copy: {type: Directory, outputBinding: {glob: copy}}}
"""
    run = EngineRun(tmp_path, {"copy.cwl": tool, "data/a.txt": "A", "data/deep/b.txt": "B"})
    assert run("copy.cwl", {"source": {"class": "Directory", "location": "data"}}) == 0, run.words()
    assert run.outputs()["copy"]["class"] == "Directory"
    assert (run.dir.outputs / "copy" / "deep" / "b.txt").read_text() == "B"
    assert all("path" not in entry for entry in run.outputs()["copy"]["listing"])


def test_secondary_files(tmp_path: Path) -> None:
    tool = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [sh, -c, 'cat "$0" "$0.idx" > both; cp both both.idx']
inputs:
  data: {type: File, secondaryFiles: [.idx], inputBinding: {}}
outputs:
  both: {type: File, secondaryFiles: [.idx], outputBinding: {glob: both}}
"""
    run = EngineRun(tmp_path, {"both.cwl": tool, "d/reads.txt": "reads\n", "d/reads.txt.idx": "index\n"})
    assert run("both.cwl", {"data": {"class": "File", "path": "d/reads.txt"}}) == 0, run.words()
    [index] = run.outputs()["both"]["secondaryFiles"]
    assert index["location"] == (run.dir.outputs / "both.idx").as_uri()
    assert (run.dir.outputs / "both.idx").read_text() == "reads\nindex\n"


@pytest.mark.parametrize("spelling", ["my data#1.txt", "my%20data%231.txt"])
def test_spaces_and_hash_marks_in_names(tmp_path: Path, spelling: str) -> None:
    tool = """
cwlVersion: v1.2
$graph:
- id: other
  class: CommandLineTool
  baseCommand: "false"
  inputs: []
  outputs: []
- id: main
  class: CommandLineTool
  baseCommand: cp
  inputs: {data: {type: File, inputBinding: {}}}
  arguments: [{position: 1, valueFrom: "my copy#2.txt"}]
  outputs: {copy: {type: File, outputBinding: {glob: "my copy#2.txt"}}}
"""
    run = EngineRun(tmp_path, {"my tools#1.cwl": tool, "my data#1.txt": "data"})
    workflow_url = spelling.replace("data", "tools").replace(".txt", ".cwl") + "#main"
    assert run(workflow_url, {"data": {"class": "File", "location": spelling}}) == 0, run.words()
    assert run.outputs()["copy"]["basename"] == "my copy#2.txt"
    assert (run.dir.outputs / "my copy#2.txt").read_text() == "data"


def test_a_failing_step_is_named_with_its_exit_code_and_last_words(tmp_path: Path) -> None:
    workflow = """
cwlVersion: v1.2
class: Workflow
inputs: {}
outputs: {x: {type: File, outputSource: second/x}}
steps:
  first:
    in: {}
    out: []
    run: {class: CommandLineTool, baseCommand: "true", inputs: {}, outputs: {}}
  second:
    in: {}
    out: [x]
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, "echo 'no such gene: BRCA3' >&2; exit 7"]
      inputs: {}
      outputs: {x: {type: stdout}}
      stdout: x.txt
"""
    run = EngineRun(tmp_path, {"wf.cwl": workflow})
    assert run("wf.cwl", **{"on-error": "continue"}) == 1
    assert run.exit_codes() == {"first": 0, "second": 7}
    words = run.engine.failure(run.dir, 1)
    assert words.startswith("Step second ended with exit code 7:\n  no such gene: BRCA3")


def test_a_missing_program(tmp_path: Path) -> None:
    tool = "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: no-such-program\ninputs: {}\noutputs: {}\n"
    run = EngineRun(tmp_path, {"tool.cwl": tool})
    assert run("tool.cwl") == 1
    words = run.engine.failure(run.dir, 1)
    assert "Step tool.cwl failed." in words and "'no-such-program' not found" in words


def test_wrong_inputs_and_wrong_documents_are_explained_by_the_engine(tmp_path: Path) -> None:
    run = EngineRun(tmp_path / "inputs", {"hello.cwl": HELLO})
    assert run("hello.cwl", {"message": 5}) == 1
    assert "message" in run.engine.failure(run.dir, 1)
    run = EngineRun(tmp_path / "document", {"hello.cwl": HELLO.replace("baseCommand", "baseComand")})
    assert run("hello.cwl", {"message": "x"}) == 1
    assert "baseComand" in run.engine.failure(run.dir, 1)
    with pytest.raises(Rejected):
        run.outputs()


def test_an_unsupported_requirement_is_33(tmp_path: Path) -> None:
    tool = HELLO.replace("inputs:", "requirements: {DockerRequirement: {dockerPull: 'debian:12'}}\ninputs:")
    run = EngineRun(tmp_path, {"hello.cwl": tool})
    assert run("hello.cwl", {"message": "x"}) == 33
    words = run.engine.failure(run.dir, 33)
    assert words.startswith("The workflow needs something that this engine") and "DockerRequirement" in words


def test_term_in_the_middle_of_a_step_leaves_no_process_and_no_temporary_file(tmp_path: Path) -> None:
    tool = """
cwlVersion: v1.2
class: CommandLineTool
requirements: {InlineJavascriptRequirement: {}}
baseCommand:
- sh
- -c
- "trap '' TERM; echo $$ > $0/leader; setsid sleep 300 & echo $! > $0/own_session; echo go > $0/fifo; sleep 301; sleep 302"
inputs: {where: {type: string, inputBinding: {valueFrom: "${ return self; }"}}}
outputs: {}
"""
    os.mkfifo(tmp_path / "fifo")
    run = EngineRun(tmp_path / "run", {"wait.cwl": tool})
    with run.started("wait.cwl", {"where": str(tmp_path)}) as process:
        tmp_path.joinpath("fifo").read_text()  # returns once the step is in its middle
        step = [psutil.Process(int(tmp_path.joinpath(name).read_text())) for name in ("leader", "own_session")]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert psutil.wait_procs(step, timeout=60)[1] == []
    assert list(run.dir.tmp.iterdir()) == []
    [task] = run.engine.tasks(run.dir)
    assert task.end_time is not None
    assert task.exit_code is None
    assert task.system_logs[-1] == "cwltool calls this canceled"


def test_a_step_sees_only_the_allowed_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("CWLTOOL_OPTIONS", "--no-such-option")
    tool = "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: env\ninputs: {}\noutputs: {e: stdout}\nstdout: env.txt\n"
    run = EngineRun(tmp_path, {"env.cwl": tool})
    assert run("env.cwl") == 0, run.words()
    names = {line.partition("=")[0] for line in (run.dir.outputs / "env.txt").read_text().splitlines()}
    assert names <= {"HOME", "PATH", "TMPDIR", "LC_CTYPE"}


def test_documents_outside_the_run_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("do-not-tell")
    tool = HELLO.replace("baseCommand: echo", "baseCommand: echo\ndoc:\n  $include: " + secret.as_uri())
    run = EngineRun(tmp_path / "run", {"hello.cwl": tool})
    with pytest.raises(Rejected, match="secret"):
        run("hello.cwl", {"message": "x"})


def test_packed_documents_run_their_main(tmp_path: Path) -> None:
    packed = {
        "cwlVersion": "v1.2",
        "$graph": [
            {"id": "#main", "class": "Workflow", "inputs": [{"id": "#main/m", "type": "string"}],
             "outputs": [{"id": "#main/o", "type": "File", "outputSource": "#main/say/out"}],
             "steps": [{"id": "#main/say", "run": "#say.cwl", "in": [{"id": "#main/say/message", "source": "#main/m"}],
                        "out": ["#main/say/out"]}]},
            {"id": "#say.cwl", "class": "CommandLineTool", "baseCommand": "echo", "stdout": "said.txt",
             "inputs": [{"id": "#say.cwl/message", "type": "string", "inputBinding": {}}],
             "outputs": [{"id": "#say.cwl/out", "type": "stdout"}]},
        ],
    }  # fmt: skip
    run = EngineRun(tmp_path, {"packed.json": json.dumps(packed)})
    assert run("packed.json#main", {"m": "packed"}) == 0, run.words()
    assert (run.dir.outputs / "said.txt").read_text() == "packed\n"
    assert list(run.exit_codes()) == ["say"]
