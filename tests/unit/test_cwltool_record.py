"""Steps, outputs and reasons read back from what a run left, also where steps tampered with it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.daemon.engines.cwltool_record import explain_failure, read_outputs, read_tasks
from app.daemon.engines.engine_interface import RunDir
from app.errors import Rejected

STARTED = (
    '{"event": "started", "task": "a", "time": "2026-01-02T03:04:05+00:00", "name": "step a", "argv": ["x", "y"], '
    '"cores": 2, "ram_mib": 256}\n'
)
ENDED = (
    '{"event": "ended", "task": "a", "time": "2026-01-02T03:04:09+00:00", "status": "permanentFail", "exit_code": 3}\n'
)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    for directory in (run_dir.record, run_dir.outputs):
        directory.mkdir()
    run_dir.stderr.write_text("")
    return run_dir


def note(run_dir: RunDir, *lines: str) -> None:
    run_dir.record.joinpath("events.jsonl").write_text("".join(lines))


def keep_log(run_dir: RunDir, text: str) -> None:
    """What step `a` wrote to stderr."""
    log = run_dir.task_log("a", "stderr")
    log.parent.mkdir()
    log.write_text(text)


def test_a_step_from_its_events(run_dir: RunDir) -> None:
    keep_log(run_dir, "oh no")
    note(run_dir, STARTED, ENDED)
    [task] = read_tasks(run_dir)
    assert (task.task_id, task.name, task.cmd, task.exit_code) == ("a", "step a", ("x", "y"), 3)
    assert task.start_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert task.end_time == datetime(2026, 1, 2, 3, 4, 9, tzinfo=UTC)
    assert task.system_logs == ("Requested: 2 cores, 256 MiB", "cwltool calls this permanentFail")
    assert (task.has_stdout, task.has_stderr) == (False, True)


def test_a_signal_is_128_plus_n(run_dir: RunDir) -> None:
    note(run_dir, STARTED, ENDED.replace("3}", "-9}"))
    assert read_tasks(run_dir)[0].exit_code == 137


def test_no_record_is_no_steps(run_dir: RunDir) -> None:
    assert read_tasks(run_dir) == []


@pytest.mark.parametrize("length", range(1, len(ENDED) - 1))
def test_a_torn_last_line_is_not_there_yet(run_dir: RunDir, length: int) -> None:
    note(run_dir, STARTED, ENDED[:length])
    assert read_tasks(run_dir)[0].end_time is None


@pytest.mark.parametrize(
    "line",
    [
        *("\n", "[]\n", "null\n", "{}\n", "{\n", "\x00\xff\n", "[" * 100_000 + "\n"),
        '{"event": "started", "task": "../../etc"}\n',
        '{"event": "started", "task": ".hidden"}\n',
        '{"event": "started", "task": 5.5e999}\n',
        '{"task": "b"}\n',
        '{"event": "ended", "task": "unknown"}\n',
        '{"event": "dance", "task": "a"}\n',
        '{"event": "started", "task": "a", "argv": ["again"]}\n',
    ],
)
def test_lines_that_are_not_ours_are_left_out(run_dir: RunDir, line: str) -> None:
    note(run_dir, STARTED, line, ENDED)
    [task] = read_tasks(run_dir)
    assert (task.cmd, task.exit_code) == (("x", "y"), 3)


def test_facts_of_the_wrong_kind_are_left_out(run_dir: RunDir) -> None:
    note(
        run_dir,
        '{"event": "started", "task": "a", "time": 5, "name": null, "argv": "x", "cores": "many", "ram_mib": 1e999}\n',
        '{"event": "ended", "task": "a", "time": "2026-01-02T03:04:05", "exit_code": "3", "status": "success"}\n',
    )
    [task] = read_tasks(run_dir)
    assert (task.name, task.cmd, task.start_time, task.end_time, task.exit_code) == ("a", (), None, None, None)
    assert task.system_logs == ()


@pytest.mark.timeout(10)
def test_links_and_pipes_in_the_record_are_not_opened(run_dir: RunDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(STARTED)
    run_dir.record.joinpath("events.jsonl").symlink_to(elsewhere)
    assert read_tasks(run_dir) == []
    run_dir.stderr.unlink()
    os.mkfifo(run_dir.stderr)
    assert explain_failure(run_dir, 1) == "The engine ended with exit code 1 and said nothing."


def test_outputs_name_files_below_the_outputs(run_dir: RunDir) -> None:
    inner = {"class": "File", "location": (run_dir.outputs / "d" / "a b.txt").as_uri(), "path": "/x", "size": 3}
    folder = {"class": "Directory", "location": (run_dir.outputs / "d").as_uri(), "path": "/x", "listing": [inner]}
    run_dir.stdout.write_text(json.dumps({"d": folder, "n": 1, "list": [None, "x"]}))
    outputs = read_outputs(run_dir)
    assert outputs["n"] == 1
    assert "path" not in outputs["d"] and "path" not in outputs["d"]["listing"][0]
    assert outputs["d"]["listing"][0]["location"].endswith("/outputs/d/a%20b.txt")


def test_numbers_that_json_does_not_know_become_null(run_dir: RunDir) -> None:
    run_dir.stdout.write_text('{"a": NaN, "b": -Infinity}')
    assert read_outputs(run_dir) == {"a": None, "b": None}


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "/etc/passwd", "http://example.org/x", "../x", None, 5, "file:///{root}/outputs/../x"],
)
def test_outputs_elsewhere_are_refused(run_dir: RunDir, location: object) -> None:
    location = location.format(root=run_dir.root) if isinstance(location, str) else location
    run_dir.stdout.write_text(json.dumps({"x": [{"class": "File", "location": location}]}))
    with pytest.raises(Rejected) as refusal:
        read_outputs(run_dir)
    assert refusal.value.reason == "outputs_unreadable"


def test_an_output_that_links_elsewhere_is_refused(run_dir: RunDir) -> None:
    (run_dir.outputs / "link").symlink_to("/etc/passwd")
    run_dir.stdout.write_text(json.dumps({"x": {"class": "File", "location": (run_dir.outputs / "link").as_uri()}}))
    with pytest.raises(Rejected):
        read_outputs(run_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "Hello", '{"a": 1} {"b": 2}', "[" * 100_000, "\udcff"])
def test_no_output_object_is_refused(run_dir: RunDir, text: str) -> None:
    run_dir.stdout.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Rejected) as refusal:
        read_outputs(run_dir)
    assert refusal.value.reason == "outputs_unreadable"


def test_a_failure_says_which_step_and_its_last_words(run_dir: RunDir) -> None:
    keep_log(run_dir, "\n".join(f"line {n}" for n in range(20)) + "\n\n")
    note(run_dir, STARTED, ENDED)
    run_dir.stderr.write_text(
        "INFO cwltool 3\nINFO [job a] running\nWARNING [job a] exited with status: 3\n"
        "\x1b[31mERROR\x1b[0m Workflow error:\n  because of that\nWARNING Final process status is permanentFail\n"
    )
    assert explain_failure(run_dir, 1).splitlines() == [
        "Step step a ended with exit code 3:",
        *(f"  line {n}" for n in range(15, 20)),
        "  because of that",
    ]


def test_what_only_cwltools_own_users_can_do_is_not_said(run_dir: RunDir) -> None:
    run_dir.stderr.write_text(
        "ERROR Workflow error, try again with --debug for more information:\n"
        "Invalid job input record:\nw.cwl:4:10: Missing required input parameter 'n'\n"
        "ERROR I'm sorry, I couldn't load this CWL file, try again with --debug for more information.\n"
    )
    assert explain_failure(run_dir, 1).splitlines() == [
        "Invalid job input record:",
        "w.cwl:4:10: Missing required input parameter 'n'",
        "I'm sorry, I couldn't load this CWL file.",
    ]


def test_many_failures_are_counted(run_dir: RunDir) -> None:
    note(run_dir, *(line.replace('"a"', f'"a{n}"') for n in range(5) for line in (STARTED, ENDED)))
    assert explain_failure(run_dir, 1).splitlines()[-1] == "2 more steps failed."


def test_an_unsupported_feature_is_said_first(run_dir: RunDir) -> None:
    run_dir.stderr.write_text(
        "ERROR Workflow or tool uses unsupported feature:\n--no-container, but DockerRequirement\n"
    )
    words = explain_failure(run_dir, 33)
    assert words.startswith("The workflow needs something that this engine, as it is set up here, cannot do.")
    assert words.endswith("DockerRequirement")


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("usage: cwltool\ncwltool: error: not allowed with argument --x\n", "error: not allowed with argument --x"),
        ("[2026-01-01 00:00:00] ERROR broken\n", "broken"),
        ("INFO fine\nWARNING odd\n", "odd"),
        ("Traceback (most recent call last):\n  ...\nMemoryError\n", "MemoryError"),
        ("\xff" * 100_000 + "\nERROR at the end\n", "at the end"),
    ],
)
def test_whatever_the_engine_said_is_shown(run_dir: RunDir, stderr: str, words: str) -> None:
    run_dir.stderr.write_text(stderr)
    assert words in explain_failure(run_dir, 1)


def test_the_command_of_a_step_is_no_reason(run_dir: RunDir) -> None:
    note(run_dir, STARTED, ENDED)
    run_dir.stderr.write_text(
        "INFO [job a] /tmp/x$ sh \\\n    check.sh \\\n    sheet.tsv\nWARNING [job a] exited with status: 3\n"
    )
    assert explain_failure(run_dir, 1) == "Step step a ended with exit code 3."


def test_a_crash_after_the_engines_last_line_is_a_reason(run_dir: RunDir) -> None:
    run_dir.stderr.write_text(
        "INFO Resolved 'a.cwl'\n    by name\nTraceback (most recent call last):\n  File x\nKeyError: 'y'\n"
    )
    assert explain_failure(run_dir, 1).splitlines() == [
        "Traceback (most recent call last):",
        "  File x",
        "KeyError: 'y'",
    ]
