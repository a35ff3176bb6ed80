"""Local runs with real processes: from submit to the end, and what can be read of them."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from app import hints
from app.artifacts import DirectoryStorage
from app.daemon.providers import shim
from app.daemon.providers.provider_interface import Status
from app.daemon.providers.shim_launcher import ColdLauncher, keep_hint_target
from app.errors import NotAccepted, Rejected
from app.states import State
from tests.fakes.engine import Bytes, ScriptEngine
from tests.fakes.local_machine import SECRET, Machine, NoLauncher, Ticks
from tests.fakes.warm_machine import WarmMachine


@pytest.fixture(params=[Machine, WarmMachine], ids=["cold", "warm"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = request.param(tmp_path)
    yield machine
    machine.close()
    assert not isinstance(machine, WarmMachine) or machine.cold_starts == []


def run_to_end(machine: Machine, script: str, **changes: Any) -> Status:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", script, **changes))
    machine.ended("r1")
    return provider.get_workflow_statuses(["r1"])["r1"]


def test_a_run_completes(machine: Machine) -> None:
    provider = machine.provider()
    accepted = provider.submit_workflow(machine.run("r1", "count(); (root / 'tmp' / 'x').mkdir(mode=0)"))
    headers = machine.ended("r1")
    status = provider.get_workflow_statuses(["r1", "r2"])["r1"]
    assert (accepted.provider_id, accepted.started) == ("r1", True)
    assert (status.state, status.exit_code, status.cmd) == (State.COMPLETE, 0, ("python", "script.py"))
    assert status.start_time is not None and status.end_time is not None
    assert status.start_time.tzinfo is not None and status.start_time <= status.end_time
    assert hints.is_genuine(b'{"run_id": "r1"}', headers, SECRET, time.time())
    assert machine.started() == ["r1"]
    assert not (machine.runs / "r1" / "tmp").exists()
    assert {path.name for path in (machine.runs / "r1").iterdir()} == {
        *("request.json", "lock", "started.json", "exit.json", "stdout", "stderr", "work", "outputs", "record")
    }


def test_unknown_runs_are_missing(machine: Machine) -> None:
    provider = machine.provider()
    assert provider.get_workflow_statuses(["r1", "..", "../r1", ""]) == {}
    assert provider.get_workflow_status("r1") is None
    assert provider.get_tasks("r1") == []


@pytest.mark.parametrize(("how", "exit_code"), [("sys.exit(33)", 33), ("sys.exit('no')", 1)])
def test_a_failing_engine_keeps_its_exit_code(machine: Machine, how: str, exit_code: int) -> None:
    status = run_to_end(machine, f"print('line', file=sys.stderr); {how}")
    assert (status.state, status.exit_code, status.reason) == (State.EXECUTOR_ERROR, exit_code, None)
    assert status.message == f"exit code {exit_code}: {'line' if exit_code == 33 else 'no'}"


@pytest.mark.parametrize("signum", [9, 11, 15])
def test_an_engine_that_a_signal_ends_is_no_cancel(machine: Machine, signum: int) -> None:
    status = run_to_end(machine, f"os.kill(os.getpid(), {signum})")
    assert (status.state, status.exit_code) == (State.EXECUTOR_ERROR, 128 + signum)


def test_an_engine_that_is_not_there(machine: Machine) -> None:
    provider = machine.provider(engines=[ScriptEngine(python="/nowhere/python")])
    provider.submit_workflow(machine.run("r1", ""))
    machine.ended("r1")
    status = provider.get_workflow_status("r1")
    assert status is not None
    assert (status.state, status.reason) == (State.SYSTEM_ERROR, "engine_not_started")
    assert status.message == "The engine could not be started. [Errno 2] No such file or directory: '/nowhere/python'"


def test_the_engine_inherits_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "for nobody")
    run_to_end(
        machine,
        """
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
parent = pathlib.Path(f"/proc/{os.getppid()}")
json.dump({
    "environment": dict(os.environ), "umask": os.umask(0), "cwd": os.getcwd(), "own session": os.getsid(0) == os.getpid(),
    "descriptors": [number for number in range(256) if is_open(number)], "stdin": sys.stdin.read(),
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "shim": (parent / "environ").read_text() + (parent / "cmdline").read_text(),
}, open(record / "facts.json", "w"))
""",
    )
    root = machine.runs / "r1"
    facts = json.loads((root / "record" / "facts.json").read_text())
    assert "for nobody" not in facts["shim"] and SECRET not in facts.pop("shim")
    assert facts.pop("environment").items() >= {
        ("WES_RUN_DIR", str(root)),
        ("PATH", "/usr/bin:/bin"),
        ("TMPDIR", str(root / "tmp")),
    }
    assert facts == {
        "umask": 0o077,
        "cwd": str(root / "work"),
        "own session": True,
        "descriptors": [0, 1, 2],
        "stdin": "",
        "blocked": [],
    }
    assert machine.hint_file.stat().st_mode & 0o777 == 0o600


def test_the_environment_is_the_adapters_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "for nobody")
    run_to_end(machine, "print(*sorted(os.environ))")
    names = (machine.runs / "r1" / "stdout").read_text().split()
    assert set(names) - {"LC_CTYPE"} == {"HOME", "PATH", "TMPDIR", "WES_RUN_DIR"}  # LC_CTYPE: Python's own coercion


def test_attachments_are_laid_out_as_copies(machine: Machine, tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "artifacts")
    upload = storage.new_upload()
    upload.write(b"stored")
    sha256, _ = upload.keep()
    stored = replace(storage.blob(sha256), path="data/reads.txt")
    files = (stored, Bytes("data/deep/er.txt", b"deep"))
    script = "p = pathlib.Path('data/reads.txt'); p.write_text(p.read_text() + open('data/deep/er.txt').read())"
    assert run_to_end(machine, script, attachments=files).state == State.COMPLETE
    assert (machine.runs / "r1" / "work" / "data" / "reads.txt").read_text() == "storeddeep"
    with storage.blob(sha256).open() as file:
        assert file.read() == b"stored"


def test_what_a_normal_end_leaves_behind_is_ended(machine: Machine) -> None:
    status = run_to_end(
        machine,
        """
for wait in False, True:
    child = subprocess.Popen(
        [sys.executable, "-c", "import os,signal,time; signal.signal(15, 1); os.fork(); print(os.getpid(), flush=True); time.sleep(999)"],
        start_new_session=wait, env={}, stdout=subprocess.PIPE, text=True)
    print(child.stdout.readline() + child.stdout.readline())
""",
    )
    assert status.state == State.COMPLETE
    pids = [int(pid) for pid in (machine.runs / "r1" / "stdout").read_text().split()]
    assert [shim.read_process(pid) for pid in pids] == [None] * 4


def test_a_chain_of_forks_is_caught(machine: Machine) -> None:
    """Each process forks one and exits, as fast as it can."""
    status = run_to_end(machine, "if os.fork() == 0:\n while True:\n  if os.fork(): os._exit(0)")
    assert status.state == State.COMPLETE
    assert machine.alive() == []


def test_logs_are_appended_as_they_grow(machine: Machine, tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "artifacts")
    sink = storage.log_sink("r1", 1 << 30)
    provider = machine.provider()
    (machine.runs / "r2").mkdir()
    (machine.runs / "r2" / "stdout").write_text("another's")
    script = f"""
logs = record / "tasks"
logs.mkdir()
(logs / "step-1.stdout").write_text("task says")
(record / "tasks.json").write_text(json.dumps([
    {{"task_id": "step-1", "name": "Step", "cmd": ["x"], "has_stdout": True, "has_stderr": True}},
    {{"task_id": "../../../r2", "name": "Out", "has_stdout": True}},
]))
print("first", flush=True)
say("here")
signal.sigwait([signal.SIGUSR1])
(logs / "step-1.stderr").symlink_to({str(tmp_path / "ledger")!r})
print("second")
"""
    provider.submit_workflow(machine.run("r1", f"signal.pthread_sigmask(0, [signal.SIGUSR1])\n{script}"))
    assert machine.said() == "here"
    for _ in range(2):
        provider.get_logs("r1", sink)
        assert read(storage, "stdout") == b"first\n"
        assert read(storage, "tasks/step-1/stdout") == b"task says"
    assert [task.task_id for task in provider.get_tasks("r1")] == ["step-1", "../../../r2"]
    assert provider.get_tasks("r1")[0].cmd == ("x",)
    os.kill(machine.started_record("r1")["engine"][0], signal.SIGUSR1)
    machine.ended("r1")
    provider.get_logs("r1", sink)
    assert read(storage, "stdout") == b"first\nsecond\n"
    assert storage.log("r1", "stderr") is None
    assert storage.log("r1", "tasks/step-1/stderr") is None


def read(storage: DirectoryStorage, name: str) -> bytes:
    log = storage.log("r1", name)
    assert log is not None
    with log.open() as file:
        return file.read()


def test_a_flood_on_stdout_blocks_nobody(machine: Machine) -> None:
    assert run_to_end(machine, "for _ in range(2000): sys.stdout.write('x' * 10000)").state == State.COMPLETE
    assert (machine.runs / "r1" / "stdout").stat().st_size == 20_000_000


def test_outputs_are_kept(machine: Machine, tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "artifacts")
    status = run_to_end(
        machine,
        """
(outputs / "hello.txt").write_text("Hello")
(record / "outputs.json").write_text(json.dumps(
    {"greeting": {"class": "File", "location": (outputs / "hello.txt").as_uri(), "path": "/x", "basename": "hello.txt"}}))
""",
    )
    assert status.state == State.COMPLETE
    output = machine.provider().get_outputs("r1", storage.output_sink("r1"))
    assert output == {"greeting": {"class": "File", "location": "wes-output:hello.txt", "basename": "hello.txt"}}
    with storage.output("r1", "hello.txt").open() as file:
        assert file.read() == b"Hello"


def test_an_end_without_outputs_is_refused(machine: Machine, tmp_path: Path) -> None:
    assert run_to_end(machine, "").state == State.COMPLETE
    with pytest.raises(Rejected) as refused:
        machine.provider().get_outputs("r1", DirectoryStorage(tmp_path).output_sink("r1"))
    assert refused.value.reason == "outputs_lost"
    with pytest.raises(Rejected) as refused:
        machine.provider().get_outputs("r2", DirectoryStorage(tmp_path).output_sink("r2"))
    assert refused.value.reason == "outputs_lost"


def test_a_hint_that_nobody_takes_harms_nothing(machine: Machine) -> None:
    keep_hint_target(machine.hint_file, "http://127.0.0.1:1/", "")
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", ""))
    assert machine.look_until(provider, "r1").state == State.COMPLETE


def test_an_accepted_run_is_initializing_until_a_shim_begins(machine: Machine) -> None:
    provider = machine.provider(launcher=NoLauncher())
    provider.submit_workflow(machine.run("r1", "count()"))
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.INITIALIZING
    machine.run_shim("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE


def test_a_running_run_says_so(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", "say('here'); signal.pause()"))
    machine.said()
    status = provider.get_workflow_statuses(["r1"])["r1"]
    assert (status.state, status.provider_status, status.cmd) == (State.RUNNING, "running", ("python", "script.py"))
    assert status.start_time is not None


def test_offers_and_refusals(machine: Machine) -> None:
    provider = machine.provider()
    assert [(offer.engine, offer.engine_version) for offer in provider.offers()] == [("script", "3")]
    assert provider.prepare_request(machine.run("r1", "")) == {"engine": "script"}
    refusals = {
        "engine_option_refused": {"workflow_engine_parameters": {"--rm": "/"}},
        "engine_unavailable": {"workflow_type": "WDL"},
        "attachment_refused": {"attachments": (Bytes("../escape", b""),)},
        "attachment_lost": {"attachments": (Bytes("short", b"12", missing=1),)},
        "run_id_refused": {"run_id": "../r1"},
    }
    for reason, changes in refusals.items():
        run = replace(machine.run("r1", ""), **changes)
        with pytest.raises(Rejected) as refused:
            provider.submit_workflow(run)
        assert refused.value.reason == reason
        assert list(machine.runs.iterdir()) == []
    with pytest.raises(Rejected, match="runs 'PY' other"):
        provider.prepare_request(machine.run("r1", "", workflow_engine="other"))


class FullDisk(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


class OnFullDisk(Bytes):
    def open(self) -> BinaryIO:
        return FullDisk()


def test_a_machine_that_cannot_take_the_run_says_try_later(machine: Machine) -> None:
    with pytest.raises(NotAccepted, match="No space left"):
        machine.provider().submit_workflow(machine.run("r1", "", attachments=(OnFullDisk("x", b"1"),)))
    with pytest.raises(NotAccepted, match="No such file"):
        launcher = ColdLauncher("/nowhere/python", machine.hint_file)
        machine.provider(launcher=launcher).submit_workflow(machine.run("r1", ""))
    with pytest.raises(NotAccepted, match="ended with 1"):
        machine.provider(launcher=ColdLauncher("/bin/false", machine.hint_file)).submit_workflow(machine.run("r1", ""))
    assert list(machine.runs.iterdir()) == []
    machine.provider().submit_workflow(machine.run("r1", "count()"))
    machine.ended("r1")
    assert machine.started() == ["r1"]


def test_a_sweep_ends_engines_whose_runs_have_ended_without_them(machine: Machine) -> None:
    """As after HOST_LOST_AFTER; a run that nobody knows may be another database's, and is left alone."""
    provider = machine.provider()
    for name in ("lost", "unknown", "live"):
        provider.submit_workflow(machine.run(name, "say('here'); signal.pause()"))
        machine.said()
    stored = frozenset({"lost", "live"})
    provider.sweep(lambda names: (frozenset({"live"}), stored))
    machine.ended("lost")
    statuses = provider.get_workflow_statuses(["lost", "unknown", "live"])
    assert [statuses[name].state for name in ("lost", "unknown", "live")] == [
        State.CANCELED, State.RUNNING, State.RUNNING,
    ]  # fmt: skip


def test_a_sweep_removes_what_nobody_needs(machine: Machine) -> None:
    clock = Ticks()
    provider = machine.provider(keep_seconds=100, now=clock)
    clock.now = time.time()
    for name in ("ended", "deleted", "fresh"):
        provider.submit_workflow(machine.run(name, ""))
        machine.ended(name)
    provider.submit_workflow(machine.run("alive", "say('here'); signal.pause()"))
    machine.said()
    (machine.runs / ".trash-old" / "work").mkdir(parents=True)
    (machine.runs / "half").mkdir()
    stored = frozenset({"ended", "fresh", "half"})
    os.utime(machine.runs / "ended", (0, 0))
    provider.sweep(lambda names: (frozenset(), stored & frozenset(names)))
    assert {path.name for path in machine.runs.iterdir()} == {"fresh", "alive", "half"}
    clock.now += 1000
    provider.sweep(lambda names: (frozenset({"fresh"}), stored & frozenset(names)))
    assert {path.name for path in machine.runs.iterdir()} == {"fresh", "alive"}
    assert machine.alive() != []
