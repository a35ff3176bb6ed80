"""wesctl against a plain WES server over real HTTP: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.client.display import Display, duration, printable, size
from app.client.profile import Access, choose, read_profile
from app.client.progress import Follower, View
from app.client.waiting import Pace
from app.client.wes_client import WesClient
from app.client.wesctl import main
from tests.fakes.wes_server import FakeRun, Fault, WesServer

SCRIPT = Path(__file__).parents[2] / "scripts" / "wesctl"
Wesctl = Callable[..., Result]
FAILED = [
    {"id": "1", "name": "first", "exit_code": 0, "end_time": "2026-11-20T10:00:05Z"},
    {"id": "2", "name": "second", "exit_code": 7, "end_time": "2026-11-20T10:00:09Z"},
]


@pytest.fixture
def server() -> Iterator[WesServer]:
    with WesServer() as running:
        running.next_states = ["COMPLETE"]
        yield running


@pytest.fixture
def environment(server: WesServer, tmp_path: Path) -> dict[str, str | None]:
    others = dict.fromkeys(("WES_TOKEN", "WES_API_HOST", "WES_API_PROTO", "WES_API_AUTH", "WES_PROFILE"))
    return {**others, "WES_API_URL": server.url, "WESCTL_CONFIG": str(tmp_path / "none.toml")}


@pytest.fixture
def wesctl(environment: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wesctl:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.cwl").write_text("cwlVersion: v1.2\n")

    def run(*arguments: str, code: int = 0, **more: Any) -> Result:
        result = CliRunner().invoke(main, arguments, env={**environment, **more.pop("env", {})}, **more)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def test_submit_sends_the_workflow_with_its_files_and_prints_the_run_id(
    server: WesServer, wesctl: Wesctl, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("data")
    (tmp_path / "p.yml").write_text("x: {class: File, path: x.txt}\n")
    result = wesctl(
        "submit", "w.cwl", "p.yml", "--tag", "project=a=b", "--name", "mine", "--engine", "cwltool",
        "--engine-param", "--debug", "--engine-param", "cores=2",
    )  # fmt: skip
    assert result.stdout == "run-0001\n"
    run = server.runs["run-0001"]
    assert run.attachments == {"w.cwl": b"cwlVersion: v1.2\n", "x.txt": b"data"}
    sent = {name: json.loads(value) if value.startswith("{") else value for name, value in run.request.items()}
    assert sent == {
        "workflow_url": "w.cwl",
        "workflow_type": "CWL",
        "workflow_type_version": "v1.2",
        "workflow_params": {"x": {"class": "File", "location": "x.txt"}},
        "workflow_engine": "cwltool",
        "workflow_engine_parameters": {"--debug": None, "cores": "2"},
        "tags": {"project": "a=b", "name": "mine"},
    }
    assert server.headers["Idempotency-Key"]


def test_submit_passes_addresses_and_ids_on(server: WesServer, wesctl: Wesctl) -> None:
    for address in ("https://example.org/w.wdl", "healthomics:1234567", "1234567", "trs://host/tool/1"):
        run_id = json.loads(wesctl("submit", address, "--type-version", "1.0", "--json").stdout)["run_id"]
        assert server.runs[run_id].request["workflow_url"] == address
        assert server.runs[run_id].attachments == {}
    assert server.runs["run-0001"].request["workflow_type"] == "WDL"


def test_a_dry_run_sends_nothing(server: WesServer, wesctl: Wesctl) -> None:
    shown = json.loads(wesctl("submit", "w.cwl", "--dry-run", "--json").stdout)
    assert shown["workflow_attachment"] == [{"name": "w.cwl", "size": 17}]
    assert "w.cwl\t17 B" in wesctl("submit", "w.cwl", "--dry-run").stdout
    assert server.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",), ("submit", "gone.cwl"), ("submit", "w.cwl", "gone.yml"), ("submit", "w.cwl", "-a", "gone"),
        ("submit", "w.cwl", "--tag", "novalue"), ("submit", "w.cwl", "--timeout", "soon"), ("submit", "w.cwl", "--timeout", "-1"),
        ("nonsense",), ("list", "--limit", "0"), ("logs", "r", "-f", "--json"), ("cancel",),
    ],
)  # fmt: skip
def test_usage_errors_are_2_and_send_nothing(server: WesServer, wesctl: Wesctl, arguments: tuple[str, ...]) -> None:
    assert wesctl(*arguments, code=2).stdout == ""
    assert server.requests == []


@pytest.mark.parametrize(
    ("state", "code"),
    [("COMPLETE", 0), ("EXECUTOR_ERROR", 1), ("SYSTEM_ERROR", 3), ("CANCELED", 4), ("PREEMPTED", 3)],
)
def test_the_exit_code_is_the_runs_end(server: WesServer, wesctl: Wesctl, state: str, code: int) -> None:
    server.next_states = [state]
    result = wesctl("submit", "w.cwl", "--watch", "--json", code=code)
    assert json.loads(result.stdout)["state"] == state
    wesctl("watch", "run-0001", code=code)


def test_a_time_out_is_5_and_leaves_the_run(server: WesServer, wesctl: Wesctl) -> None:
    server.next_states = ["RUNNING"]
    result = wesctl("submit", "w.cwl", "--timeout", "0s", code=5)
    assert "still RUNNING" in result.stderr
    assert "wesctl watch run-0001" in result.stderr
    assert not any("cancel" in path for _, path in server.requests)


@pytest.mark.parametrize(("status", "code"), [(404, 6), (401, 7), (403, 7), (503, 8), (500, 8), (400, 9), (422, 9)])
def test_the_servers_refusals_have_codes(server: WesServer, wesctl: Wesctl, status: int, code: int) -> None:
    server.faults = [Fault("/service-info", status, body=b'{"msg": "the words"}')]
    result = wesctl("info", code=code)
    assert (result.stdout, result.stderr) == ("", "Error: the words\n")


def test_nobody_there_is_8_and_says_how_to_send_again(wesctl: Wesctl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    result = wesctl("submit", "w.cwl", "--idempotency-key", "k-1", env={"WES_API_URL": address}, code=8)
    assert "--idempotency-key k-1" in result.stderr


def test_a_reference_between_documents_that_is_missing_is_9(wesctl: Wesctl, tmp_path: Path) -> None:
    (tmp_path / "w.cwl").write_text("x: {$import: gone.yml}\n")
    assert "gone.yml, which does not exist" in wesctl("submit", "w.cwl", code=9).stderr


def test_a_failure_shows_the_failed_task_and_the_end_of_its_stderr_once(server: WesServer, wesctl: Wesctl) -> None:
    lines = [f"line {number}\n" for number in range(50)]
    tasks = [FAILED[0], {**FAILED[1], "stderr": f"{server.url}/runs/r/files/t2"}]
    server.add(
        FakeRun("r", ["EXECUTOR_ERROR"], tasks=tasks, files={"t2": "".join(lines).encode()}, system_logs=["it broke"])
    )
    result = wesctl("watch", "r", code=1)
    assert "Task second failed with exit code 7." in result.stderr
    assert "".join(lines[-20:]) in result.stderr
    assert lines[29] not in result.stderr
    assert result.stderr.count("line 49") == 1
    assert "it broke" not in result.stderr
    assert result.stdout == ""


def test_without_a_failed_task_the_runs_own_stderr_is_shown(server: WesServer, wesctl: Wesctl) -> None:
    server.add(FakeRun("r", ["SYSTEM_ERROR"], files={"stderr": b"no disk\x1b[2J left\n"}, system_logs=["it broke"]))
    told = wesctl("watch", "r", code=3).stderr
    assert "no disk\N{REPLACEMENT CHARACTER}[2J left" in told
    assert "it broke" in told


def test_progress_is_a_line_a_change(server: WesServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.add(FakeRun("r", ["QUEUED", "QUEUED", "RUNNING", "RUNNING", "COMPLETE"], tasks=FAILED[:1]))
    with WesClient(server.url) as client:
        assert Follower(client, Display(), View("r"), pace=Pace(0.001, 0.001)).follow() == "COMPLETE"
    told = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in capsys.readouterr().err.splitlines()]
    assert told[:4] == ["first: done", "r QUEUED", "r RUNNING", "r COMPLETE"]
    assert re.fullmatch(r"r  COMPLETE  \d+s, 1 of 1 tasks done", told[4])


def test_an_outage_while_following_is_told_once(server: WesServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.add(FakeRun("r", ["RUNNING", "COMPLETE"]))
    with WesClient(server.url) as client:
        follower = Follower(client, Display(), View("r"), pace=Pace(0.001, 0.001))
        client.get_run_status("r")
        server.runs["r"].states = ["RUNNING", "COMPLETE"]
        server.faults = [Fault("/status[?]wait", 503, body=b'{"msg": "restarting"}') for _ in range(3)]
        assert follower.follow() == "COMPLETE"
    assert capsys.readouterr().err.count("restarting (the run goes on, trying again)") == 1


def test_outdir_fetches_the_outputs(server: WesServer, wesctl: Wesctl, tmp_path: Path) -> None:
    location = f"{server.url}/runs/r/files/a.txt"
    server.add(FakeRun("r", files={"a.txt": b"A"}, outputs={"o": {"class": "File", "location": location, "size": 1}}))
    result = wesctl("watch", "r", "--outdir", "results")
    assert (tmp_path / "results" / "o" / "a.txt").read_bytes() == b"A"
    assert json.loads(result.stdout)["o"]["location"] == location
    assert wesctl("outputs", "r").stdout == "o/a.txt\t1 B\n"
    listed = json.loads(wesctl("outputs", "r", "--download", "again", "--json").stdout)
    assert listed == {"outputs": [{"path": "o/a.txt", "url": location, "size": 1}], "downloaded": ["again/o/a.txt"]}


def test_ctrl_c_while_watching_detaches_and_never_cancels(
    server: WesServer, environment: dict[str, str | None]
) -> None:
    server.add(FakeRun("r", ["RUNNING"]))
    given = {name: value for name, value in environment.items() if value is not None}
    process = subprocess.Popen(
        [SCRIPT, "watch", "r"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **given},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell's background job ignores
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().endswith("r RUNNING\n")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Watch it again: wesctl watch r" in stderr
    assert not any("cancel" in path for _, path in server.requests)


@pytest.mark.parametrize(
    ("reference", "run_id"),
    [("aaa-1", "aaa-1"), ("bb", "bbb-1"), ("@1", "aaa-1"), ("@5", "ccc-2"), ("unique", "ccc-1"), ("ccc-1", "ccc-1")],
)
def test_runs_are_found_by_id_beginning_name_and_place(
    server: WesServer, wesctl: Wesctl, reference: str, run_id: str
) -> None:
    for run in ("aaa-1", "aaa-2", "bbb-1", "ccc-1", "ccc-2"):
        name = {"ccc-1": "unique"}.get(run, "twice")
        server.add(FakeRun(run, request={"tags": json.dumps({"name": name})}))
    assert json.loads(wesctl("status", reference, "--json").stdout)["run_id"] == run_id


@pytest.mark.parametrize(("reference", "code"), [("aaa", 9), ("twice", 9), ("zzz", 6), ("@6", 6), ("@x", 9), ("@0", 9)])
def test_references_that_fit_none_or_several_are_refused(
    server: WesServer, wesctl: Wesctl, reference: str, code: int
) -> None:
    for run in ("aaa-1", "aaa-2", "bbb-1", "ccc-1", "ccc-2"):
        server.add(FakeRun(run, request={"tags": '{"name": "twice"}'}))
    assert wesctl("cancel", reference, code=code).stdout == ""
    assert not any(method == "POST" for method, _ in server.requests)


def test_list_filters_also_where_the_server_does_not(server: WesServer, wesctl: Wesctl) -> None:
    for number in range(9):
        tags = {"project": "ab"[number % 2], "name": f"n{number}"}
        server.add(FakeRun(f"r{number}", [["COMPLETE", "RUNNING"][number % 3 == 0]], {"tags": json.dumps(tags)}))
    assert len(wesctl("list").stdout.splitlines()) == 9
    assert wesctl("list", "--limit", "2").stdout.splitlines()[1].startswith("r1\tCOMPLETE\tn1\t")
    found = json.loads(wesctl("list", "--state", "running", "--tag", "project=a", "--json").stdout)
    assert [run["run_id"] for run in found["runs"]] == ["r0", "r6"]
    assert wesctl("list", "--name", "n4").stdout.startswith("r4\t")


def test_status_show_tasks_and_info_print_for_people_and_programs(server: WesServer, wesctl: Wesctl) -> None:
    server.add(FakeRun("r", ["EXECUTOR_ERROR"], tasks=FAILED, system_logs=["why"], outputs={"n": 1}))
    assert wesctl("status", "r").stdout == "EXECUTOR_ERROR\n"
    assert wesctl("tasks", "r").stdout == "1\tfirst\tdone\t\n2\tsecond\tfailed (7)\t\n"
    assert json.loads(wesctl("tasks", "r", "--json").stdout) == {"task_logs": FAILED}
    shown = wesctl("show", "r").stdout
    assert all(words in shown for words in ("EXECUTOR_ERROR", "w.cwl", '{"n": 1}', "  why", "second"))
    assert json.loads(wesctl("show", "r", "--json").stdout)["run_id"] == "r"
    assert "CWL v1.0" in wesctl("info").stdout
    assert "workflow_type_versions" in json.loads(wesctl("info", "--json").stdout)


def test_logs_of_runs_and_tasks(server: WesServer, wesctl: Wesctl) -> None:
    tasks = [
        {"id": "1", "name": "one", "stderr": f"{server.url}/runs/r/files/one"},
        {"id": "2", "name": "two"},
        {"id": "3", "name": "two"},
    ]
    files = {"stdout": b"\xffa\nb\nc\n", "stderr": b"oops\n", "one": b"task\n"}
    server.add(FakeRun("r", tasks=tasks, files=files))
    assert wesctl("logs", "r").stdout_bytes == b"\xffa\nb\nc\n"
    assert wesctl("logs", "r", "--tail", "2").stdout == "b\nc\n"
    assert wesctl("logs", "r", "-f", "--tail", "1").stdout == "c\n"
    assert wesctl("logs", "r", "-f").stdout_bytes == b"\xffa\nb\nc\n"
    assert wesctl("logs", "r", "--stderr").stdout == "oops\n"
    assert wesctl("logs", "r", "--stderr", "--task", "one").stdout == "task\n"
    assert json.loads(wesctl("logs", "r", "--stderr", "--task", "1", "--json").stdout)["text"] == "task\n"
    wesctl("logs", "r", "--task", "two", code=9)
    wesctl("logs", "r", "--task", "zero", code=6)


def test_a_reader_that_has_had_enough_is_no_error(server: WesServer, environment: dict[str, str | None]) -> None:
    server.add(FakeRun("r", files={"stdout": b"line\n" * 1_000_000}))
    given = {name: value for name, value in environment.items() if value is not None}
    with subprocess.Popen(
        [SCRIPT, "logs", "r"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **given}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"line\n"
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_cancel_and_delete_take_several_runs(server: WesServer, wesctl: Wesctl) -> None:
    server.add(FakeRun("a", ["RUNNING"]))
    server.add(FakeRun("b", ["RUNNING"]))
    assert json.loads(wesctl("cancel", "a", "b", "--json").stdout) == {"run_ids": ["a", "b"]}
    assert [run.states for run in server.runs.values()] == [["CANCELED"], ["CANCELED"]]
    for answer in ("n\n", ""):
        assert "nothing was deleted" in wesctl("delete", "a", input=answer, code=2).stderr
    assert not any(method == "DELETE" for method, _ in server.requests)
    server.faults = [Fault("/runs/a$", 200, body=b'{"run_id": "a"}')]
    assert wesctl("delete", "a", "--yes").stdout == "a\n"
    assert ("DELETE", "/ga4gh/wes/v1/runs/a") in server.requests


def test_rerun_prints_the_new_run(server: WesServer, wesctl: Wesctl) -> None:
    server.add(FakeRun("r"))
    server.faults = [Fault("/rerun", 200, body=b'{"run_id": "again"}')]
    assert wesctl("rerun", "r").stdout == "again\n"


def test_host_and_protocol_are_understood_as_wes_client_has_them(server: WesServer, wesctl: Wesctl) -> None:
    host = server.origin.removeprefix("http://")
    env = {"WES_API_URL": None, "WES_API_HOST": host, "WES_API_PROTO": "http", "WES_API_AUTH": "X-Key: secret"}
    wesctl("info", env=env)
    assert server.headers["X-Key"] == "secret"
    wesctl("--auth", "Bearer flag", "info", env=env)
    assert (server.headers.get("X-Key"), server.headers["Authorization"]) == (None, "Bearer flag")


def write_profile(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_profile_names_server_and_token(server: WesServer, wesctl: Wesctl, tmp_path: Path) -> None:
    config = write_profile(
        tmp_path / "c.toml", f'[default]\nurl = "{server.url}"\ntoken = "t"\n[other]\nurl = "http://x"\n'
    )
    wesctl("--config", str(config), "info", env={"WES_API_URL": None})
    assert server.headers["Authorization"] == "Bearer t"
    wesctl("--config", str(config), "--token", "flag", "info", env={"WES_API_URL": None, "WES_TOKEN": "environment"})
    assert server.headers["Authorization"] == "Bearer flag"


def test_a_profiles_credentials_go_to_its_own_server_only() -> None:
    profile = Access("http://mine:1/ga4gh/wes/v1", "t")
    assert choose(Access("http://mine:1"), profile).token == "t"
    assert choose(Access("http://other:1"), profile) == Access("http://other:1")
    assert choose(Access(None, "given"), profile) == Access("http://mine:1/ga4gh/wes/v1", "given")
    assert choose(Access("http://mine:1"), Access(None, "t")) == Access("http://mine:1")


@pytest.mark.parametrize(
    ("text", "name", "mode", "words"),
    [
        ('[default]\ntoken = "t"\n', "default", 0o644, "chmod 600"),
        ("[default]\n", "other", 0o600, r"no profile \[other\]"),
        ("[default\n", "default", 0o600, "cannot be read"),
        ("[default]\nurl = 3\n", "default", 0o600, "url must be text"),
        ("default = 3\n", "default", 0o600, "must be text"),
    ],
)
def test_profiles_that_cannot_be_used_are_invalid(
    wesctl: Wesctl, tmp_path: Path, text: str, name: str, mode: int, words: str
) -> None:
    config = write_profile(tmp_path / "c.toml", text, mode)
    assert re.search(words, wesctl("--config", str(config), "--profile", name, "info", code=9).stderr)


def test_a_profile_without_secrets_may_be_read_by_others(tmp_path: Path) -> None:
    config = write_profile(tmp_path / "c.toml", '[default]\nurl = "http://x"\n', 0o644)
    assert read_profile(config, "default") == Access("http://x")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (3780, "1h 03m"), (187_200, "2d 04h")],
)
def test_durations_are_short(seconds: int, shown: str) -> None:
    end = f"2026-11-{20 + seconds // 86400}T{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"
    assert duration("2026-11-20T00:00:00Z", end) == shown


def test_times_that_make_no_sense_are_left_out() -> None:
    assert duration("yesterday", None) == ""
    assert duration(None, "2026-11-20T00:00:00Z") == ""


def test_sizes_and_texts_are_shown_safely() -> None:
    assert [size(count) for count in (None, 0, 999, 1500, 20_300_000_000, 10**16)] == [
        "", "0 B", "999 B", "1.5 kB", "20.3 GB", "10000.0 TB",
    ]  # fmt: skip
    assert (
        printable("a\x1b]0;title\x07\tb\r\n\x9b1m")
        == "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}\tb\n\N{REPLACEMENT CHARACTER}1m"
    )
