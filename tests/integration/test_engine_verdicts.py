"""jshint's verdicts are kept, with the real node: each expression is checked once, and only an answer is a verdict."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.daemon.engines.cwltool import RUNNER
from app.daemon.engines.environments import EngineEnvironments
from tests.fakes.engine_runs import installed_engine_root

PROGRAM = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[1])  # behind the real cwltool
import cwltool_runner as runner

runner.MAX_VERDICTS = 3
runner.use_bundled_node()
engine = runner.sandboxjs.get_js_engine()
engine.verdicts = runner.Verdicts(Path(sys.argv[2]))
started = []
start = engine.new_js_proc
engine.new_js_proc = lambda *words, **options: started.append(words) or start(*words, **options)
answers = []
for context, expression in json.loads(sys.argv[3]):
    runner.sandboxjs.NodeJSEngine.localdata.procs = {}
    before = len(started)
    code, answer, _ = engine.exec_js_process(expression, 20, False, context)
    answers.append([code, answer, len(started) - before])
print(json.dumps(answers))
"""


def ask(directory: Path, *questions: tuple[str | None, str]) -> list[tuple[int, Any, int]]:
    """(return code, answer, how many times node was started) of each (context, expression)."""
    python = EngineEnvironments(installed_engine_root()).installed("cwltool")[0].python
    program = [python, "-I", "-c", PROGRAM, RUNNER.parent, directory, json.dumps(questions)]
    answers = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    return [(code, json.loads(answer) if answer else None, starts) for code, answer, starts in answers]


def test_an_expression_is_checked_once(tmp_path: Path) -> None:
    twice = ("var ob = {f: (n) => 2 * n}; ob", "f(21)")
    assert ask(tmp_path / "kept", twice, twice) == [(0, 42, 1), (0, 42, 0)]
    assert ask(tmp_path / "kept", twice) == [(0, 42, 0)]


def test_a_verdict_is_for_one_expression_in_one_context(tmp_path: Path) -> None:
    found = ask(
        tmp_path / "kept", ("var ob = {a: 1}; ob", "a"), ("var ob = {a: 2}; ob", "a"), ("var ob = {a: 1}; ob", "a + 1")
    )
    assert found == [(0, 1, 1), (0, 2, 1), (0, 2, 1)]


def test_an_expression_of_a_run_is_evaluated_each_time(tmp_path: Path) -> None:
    assert ask(tmp_path / "kept", (None, "1 + 1"), (None, "1 + 1")) == [(0, 2, 1), (0, 2, 1)]
    assert not (tmp_path / "kept").exists()


def test_a_failure_is_no_verdict(tmp_path: Path) -> None:
    wrong = ("var ob = {a: 1}; ob", "nowhere.b")
    first, second = ask(tmp_path / "kept", wrong, wrong)
    assert first == second == (0, None, 1)


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    questions = [("var ob = {a: 1}; ob", f"a + {number}") for number in range(9)]
    assert [answer for _, answer, _ in ask(tmp_path / "kept", *questions)] == list(range(1, 10))
    assert 1 <= len(list((tmp_path / "kept").iterdir())) <= 3


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null"])
def test_nothing_depends_on_the_directory(place: str) -> None:
    question = ("var ob = {a: 1}; ob", "a")
    assert ask(Path(place), question, question) == [(0, 1, 1), (0, 1, 1)]
