"""Fork servers: what they give to runs is what a new process would have, and their death costs nothing but speed."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.daemon.engines import fork_server
from app.daemon.engines.engine_interface import Launch, RunDir
from app.daemon.providers import shim, warm_launcher
from app.daemon.providers.provider_interface import Status, Submission
from app.daemon.providers.warm_launcher import NoServer
from app.states import State
from tests.fakes import hasty_server
from tests.fakes.engine import ScriptEngine
from tests.fakes.local_machine import Machine, NoLauncher, Ticks
from tests.fakes.warm_machine import RUNNER, WarmMachine

FACTS = """
import locale, resource, tempfile, threading
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
json.dump({
    "environment": dict(os.environ), "shown": open("/proc/self/environ").read().split("\\0"),
    "steps": subprocess.run(["/usr/bin/env"], capture_output=True, text=True).stdout.splitlines(),
    "argv": sys.argv, "flags": list(sys.flags), "path": sys.path, "cwd": os.getcwd(), "executable": sys.executable,
    "streams": [[s.encoding, s.errors, s.line_buffering, s.fileno()] for s in (sys.stdin, sys.stdout, sys.stderr)],
    "files": [number for number in range(256) if is_open(number)], "umask": os.umask(0),
    "session": os.getsid(0) == os.getpgid(0) == os.getpid(), "threads": threading.active_count(),
    "signals": {name: status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")},
    "ids": [status["Uid"], status["Gid"], status["Groups"]], "seccomp": status["Seccomp"],
    "out of memory": open("/proc/self/oom_score_adj").read(), "nice": os.nice(0),
    "limits": [resource.getrlimit(n) for n in range(16)], "temporary": tempfile.gettempdir(),
    "locale": locale.setlocale(locale.LC_ALL), "recursion": sys.getrecursionlimit(),
}, open(record / "facts.json", "w"))
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[WarmMachine]:
    machine = WarmMachine(tmp_path)
    yield machine
    machine.close()


class LocalEngine(ScriptEngine):
    """Says which locale, as engines do."""

    def stage(self, run: Submission, run_dir: RunDir) -> Launch:
        launch = super().stage(run, run_dir)
        return replace(launch, environment={**launch.environment, "LANG": "C.UTF-8"})


def run_to_end(machine: Machine, script: str, run_id: str = "r1") -> Status:
    provider = machine.provider(engines=[LocalEngine(sys.executable, RUNNER)])
    provider.submit_workflow(machine.run(run_id, script))
    machine.ended(run_id)
    return provider.get_workflow_statuses([run_id])[run_id]


def facts_of(folder: Path, kind: type[Machine]) -> dict[str, Any]:
    """What a run finds, its own directory left out."""
    folder.mkdir()
    machine = kind(folder)
    try:
        assert run_to_end(machine, FACTS).state == State.COMPLETE
        text = (machine.runs / "r1" / "record" / "facts.json").read_text()
    finally:
        machine.close()
    facts: dict[str, Any] = json.loads(text.replace(str(folder), ""))
    return facts


def test_a_warm_engine_finds_what_a_cold_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "for nobody")
    cold, warm = facts_of(tmp_path / "a", Machine), facts_of(tmp_path / "b", WarmMachine)
    for facts in cold, warm:
        facts["shown"], facts["steps"] = sorted(filter(None, facts["shown"])), sorted(facts["steps"])
    assert warm == cold
    assert warm["files"] == [0, 1, 2]
    assert "for nobody" not in json.dumps(warm)


def test_a_secret_of_the_daemon_reaches_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "for nobody")
    machine = WarmMachine(tmp_path)
    try:
        machine.provider().submit_workflow(machine.run("r1", "say('here'); signal.pause()"))
        machine.said()
        record = machine.started_record("r1")
        for pid in machine.server(), record["shim"][0], record["engine"][0]:
            assert b"for nobody" not in memory_of(pid)
    finally:
        machine.close()


def memory_of(pid: int) -> bytes:
    """All that the process can read of itself."""
    content = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    regions = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in regions:
            place, rights, *_ = line.split()
            start, end = (int(number, 16) for number in place.split("-"))
            if rights.startswith("rw") and not line.endswith("[vvar]"):
                memory.seek(start)
                content += memory.read(end - start)
    assert len(content) > 1_000_000
    return content


def test_ps_shows_what_each_process_is(machine: WarmMachine) -> None:
    machine.provider().submit_workflow(machine.run("r1", "say('here'); signal.pause()"))
    machine.said()
    record, root = machine.started_record("r1"), machine.runs / "r1"
    titles = {name: Path(f"/proc/{record[name][0]}/cmdline").read_bytes().decode() for name in ("shim", "engine")}
    assert titles["shim"].startswith(f"{shim.__file__} {root} {machine.hint_file} ")
    assert titles["engine"].startswith(f"{sys.executable} -I {RUNNER} {root}/work/script.py ")


CHANCE = """
import random, tempfile, uuid
print(random.random(), uuid.uuid4(), uuid.uuid1(), tempfile.mktemp(dir="/"), os.urandom(8).hex(), sep="\\n")
"""


def test_chance_differs_from_run_to_run(machine: WarmMachine) -> None:
    said = []
    for run_id in "r1", "r2":
        run_to_end(machine, CHANCE, run_id)
        said += (machine.runs / run_id / "stdout").read_text().split()
    assert len(said) == len(set(said)) == 10


ENDINGS = {
    "None": "sys.exit()",
    "code": "sys.exit(33)",
    "large": "sys.exit(300)",
    "negative": "sys.exit(-1)",
    "words": "sys.exit('words')",
    "error": "raise ValueError('a value')",
    "interrupt": "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "pipe": "r, w = os.pipe(); os.close(r); os.write(w, b'x')",
    "thread": "import threading; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "unflushed": "print('x' * 100); sys.exit(5)",
    "at once": "os._exit(7)",
    "killed": "os.kill(os.getpid(), 9)",
    "deep": "f = lambda: f()\nf()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_warm_engine_ends_as_a_cold_one_does(tmp_path: Path, ending: str) -> None:
    found = []
    for kind in Machine, WarmMachine:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        machine = kind(folder)
        try:
            status = run_to_end(machine, ENDINGS[ending])
            stdout, stderr = ((machine.runs / "r1" / name).read_text().splitlines() for name in ("stdout", "stderr"))
        finally:
            machine.close()
        found.append((status.state, status.exit_code, stdout, stderr[-1:] if ending != "full" else []))
    assert found[1] == found[0]


def test_a_program_that_is_not_the_runner_is_executed(machine: WarmMachine) -> None:
    provider = machine.provider(engines=[ScriptEngine()], launcher=NoLauncher())
    provider.submit_workflow(machine.run("r1", "count()"))
    request = {"root": str(machine.runs / "r1"), "hint_file": str(machine.hint_file), "start_by": float("inf")}
    assert shim.read_process(machine.connection().ask(request)) is not None
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE
    assert machine.started() == ["r1"]


def test_a_killed_server_disturbs_no_run(machine: WarmMachine) -> None:
    provider = machine.provider()
    script = "signal.pthread_sigmask(signal.SIG_BLOCK, [10]); count(); say('here'); signal.sigwait([10])"
    provider.submit_workflow(machine.run("r1", script))
    machine.said()
    server = machine.server()
    os.kill(server, signal.SIGKILL)
    machine.gone(server)
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.RUNNING
    os.kill(machine.started_record("r1")["engine"][0], signal.SIGUSR1)
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE
    assert machine.started() == ["r1"]


def test_without_a_server_runs_start_cold_until_it_is_back(machine: WarmMachine) -> None:
    server = machine.server()
    os.kill(server, signal.SIGKILL)
    machine.gone(server)
    assert run_to_end(machine, "count()", "r1").state == State.COMPLETE
    assert machine.cold_starts == ["r1"]
    assert machine.server() != server
    assert run_to_end(machine, "count()", "r2").state == State.COMPLETE
    assert machine.cold_starts == ["r1"]
    assert machine.started() == ["r1", "r2"]


def test_a_server_that_is_stopped_is_replaced(machine: WarmMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    server = machine.server()
    os.kill(server, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(warm_launcher, "ANSWER_SECONDS", 0.2)
        assert run_to_end(machine, "count()").state == State.COMPLETE
    machine.gone(server)
    assert machine.server() != server
    assert (machine.started(), machine.cold_starts) == (["r1"], ["r1"])


def test_servers_that_are_killed_at_any_moment_cost_no_run_and_start_none_twice(machine: WarmMachine) -> None:
    dice, hours, kills = random.Random(7), itertools.count(step=3600), 0
    provider = machine.provider(launcher=machine.new_launcher(monotonic=lambda: float(next(hours))))
    run_ids = [f"r{number}" for number in range(30)]
    with ThreadPoolExecutor(4) as pool:
        submitted = [pool.submit(provider.submit_workflow, machine.run(run_id, "count()")) for run_id in run_ids]
        while not all(future.done() for future in submitted):
            for pid in machine.servers():
                for _ in range(dice.randrange(2000)):
                    os.sched_yield()
                os.kill(pid, signal.SIGKILL)
                machine.gone(pid)
                kills += 1
    for run_id in run_ids:
        assert machine.look_until(provider, run_id).state == State.COMPLETE
    assert sorted(machine.started()) == sorted(run_ids)
    assert kills > 0


def test_servers_that_are_started_at_once_are_one(machine: WarmMachine) -> None:
    os.kill(machine.server(), signal.SIGKILL)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: machine.connection().bring_back(), range(6)))
    server = machine.server()
    while len(machine.servers()) > 1:
        os.sched_yield()
    assert machine.servers() == [server] == [machine.server()]


def test_a_later_daemon_finds_the_server(machine: WarmMachine) -> None:
    server = machine.server()
    later = machine.new_launcher()
    later.prepare(Path(machine.python))
    assert machine.servers() == [server]
    provider = machine.provider(launcher=later)
    provider.submit_workflow(machine.run("r1", "print(open(f'/proc/{os.getppid()}/stat').read())"))
    machine.ended("r1")
    assert machine.cold_starts == []


def test_fifty_at_once(machine: WarmMachine) -> None:
    provider = machine.provider()
    run_ids = [f"r{number}" for number in range(50)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda run_id: provider.submit_workflow(machine.run(run_id, "count()")), run_ids))
    for run_id in run_ids:
        assert machine.look_until(provider, run_id).state == State.COMPLETE
    assert sorted(machine.started()) == sorted(run_ids)
    assert machine.cold_starts == []


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[WarmMachine]:
    """Its runner may be changed."""
    runner = tmp_path / "runner.py"
    shutil.copyfile(RUNNER, runner)
    machine = WarmMachine(tmp_path, runner)
    yield machine
    machine.close()


def test_a_changed_runner_has_a_new_server(copied: WarmMachine) -> None:
    server, provider = copied.server(), copied.provider()
    copied.runner.write_text(RUNNER.read_text().replace("return 0", "return 9"))
    provider.submit_workflow(copied.run("r1", ""))
    copied.ended("r1")
    copied.gone(server)
    assert "have changed" in copied.log() or copied.server() != server
    copied.server()
    provider.submit_workflow(copied.run("r2", ""))
    copied.ended("r2")
    statuses = provider.get_workflow_statuses(["r1", "r2"])
    assert [statuses[run_id].exit_code for run_id in ("r1", "r2")] == [9, 9]
    assert copied.cold_starts == ["r1"]


def test_a_package_that_is_upgraded_changes_the_identity(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    packages = environment / "lib" / "python3.11" / "site-packages"
    (packages / "cwltool-1.dist-info").mkdir(parents=True)
    (environment / "bin").mkdir()
    python = environment / "bin" / "python"
    python.symlink_to(sys.executable)
    before = fork_server.identity(str(python), (str(RUNNER),))
    assert before == fork_server.identity(str(python), (str(RUNNER),))
    (packages / "cwltool-1.dist-info").rename(packages / "cwltool-2.dist-info")
    assert fork_server.identity(str(python), (str(RUNNER),)) != before
    python.unlink()
    with pytest.raises(OSError, match="python"):
        fork_server.identity(str(python), (str(RUNNER),))


def hasty(machine: WarmMachine, idle_seconds: float) -> int:
    """The pid of a server in place of the machine's own."""
    for pid in machine.servers():
        os.kill(pid, signal.SIGKILL)
        machine.gone(pid)
    program = [sys.executable, "-I", hasty_server.__file__, str(idle_seconds), str(machine.server_directory)]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PADDING": "." * fork_server.ENVIRONMENT_BYTES}
    padding = "." * fork_server.TITLE_BYTES
    subprocess.run([*program, str(machine.runner), shim.__file__, padding], env=environment, check=True)
    return machine.server()


def test_a_server_leaves_when_its_programs_change(copied: WarmMachine) -> None:
    server = hasty(copied, 3600)
    copied.runner.write_text("# nothing")
    copied.gone(server)
    assert copied.log().endswith("leaving: packages or programs have changed\n")
    assert not (copied.server_directory / fork_server.SOCKET).exists()


def test_a_server_leaves_when_its_environment_is_removed(copied: WarmMachine) -> None:
    server = hasty(copied, 3600)
    copied.runner.unlink()
    copied.gone(server)
    assert "leaving: something is gone: " in copied.log()


def test_a_server_leaves_when_another_has_its_place(machine: WarmMachine) -> None:
    server = hasty(machine, 3600)
    place = machine.server_directory / fork_server.SOCKET
    place.rename(place.with_name("moved"))
    place.touch()
    machine.gone(server)
    assert machine.log().endswith("leaving: another one has its place\n")
    assert place.exists()


def test_a_server_leaves_when_nobody_needs_it(machine: WarmMachine) -> None:
    machine.gone(hasty(machine, 1))
    assert machine.log().endswith("leaving: nobody has asked for long\n")


LEFTOVERS = {
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "an open file": "import os; os.open(os.devnull, os.O_RDONLY)",
}


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_warm_up_must_leave_nothing(machine: WarmMachine, tmp_path: Path, leftover: str) -> None:
    runner = tmp_path / "untidy.py"
    runner.write_text(f"def warm_up(scratch):\n    {LEFTOVERS[leftover]}\n")
    machine.runner = runner
    server = machine.servers()[0]
    machine.connection().bring_back()
    with pytest.raises(NoServer, match="stale"):
        machine.connection().ask({})
    machine.gone(server)
    while leftover not in machine.log():
        os.sched_yield()
    assert list(machine.server_directory.glob("tmp*")) == []


def test_what_makes_no_sense_is_not_answered(machine: WarmMachine) -> None:
    server = machine.server()
    identity = fork_server.identity(machine.python, (str(RUNNER), shim.__file__, fork_server.__file__))
    for nonsense in b"", b"{", b"[]", b"{}", b"\xff", json.dumps({"identity": identity, "root": "x"}).encode():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            directory = os.open(machine.server_directory, os.O_RDONLY)
            connection.connect(fork_server.address_in(directory))
            os.close(directory)
            connection.send(nonsense)
            assert connection.recv(100) == b""
    assert machine.server() == server


def test_a_directory_that_others_could_write_to_is_not_used(machine: WarmMachine) -> None:
    machine.server_directory.chmod(0o755)
    with pytest.raises(NoServer, match="not for this user alone"):
        machine.connection().ask({})
    assert run_to_end(machine, "count()").state == State.COMPLETE
    assert machine.cold_starts == ["r1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_are_not_served(machine: WarmMachine) -> None:
    machine.server_directory.chmod(0o777)
    (machine.server_directory / fork_server.SOCKET).chmod(0o777)
    directory = os.open(machine.server_directory, os.O_RDONLY)
    program = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(sys.argv[1])
    try:
        connection.send(b"{}")
        print("answered", connection.recv(100))
    except (ConnectionResetError, BrokenPipeError):
        print("answered", b"")
"""
    asked = [sys.executable, "-c", program, fork_server.address_in(directory)]
    done = subprocess.run(asked, pass_fds=[directory], capture_output=True, text=True, check=True)
    os.close(directory)
    assert done.stdout == "answered b''\n"
    assert "request" not in machine.log()  # it was not even read


def test_a_server_that_cannot_start_is_tried_less_and_less_often(tmp_path: Path) -> None:
    clock, tries = Ticks(), tmp_path / "tries"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho try >> {tries}\nexit 1\n")
    python.chmod(0o700)
    launcher = warm_launcher.WarmLauncher(NoLauncher(), tmp_path / "warm", tmp_path / "hint.json", RUNNER, clock)
    counts = []
    for _ in range(100):
        launcher.prepare(python)
        counts.append(len(tries.read_text().split()))
        clock.now += 10
    pauses = [counts.count(number) for number in sorted(set(counts))]
    assert pauses == [1, 2, 4, 8, 16, 32, 37]


def test_a_long_way_to_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    machine = WarmMachine(folder)
    try:
        assert run_to_end(machine, "count()").state == State.COMPLETE
        assert machine.cold_starts == []
    finally:
        machine.close()


def test_many_forks_leave_nothing_in_the_server(machine: WarmMachine) -> None:
    server, connection = machine.server(), machine.connection()
    nowhere = {"root": str(machine.runs / "r1"), "hint_file": "", "start_by": 0.0}
    before = Path(f"/proc/{server}/statm").read_text().split()[1]
    for _ in range(300):
        connection.ask(nowhere)
    after = Path(f"/proc/{server}/statm").read_text().split()[1]
    assert (int(after) - int(before)) * resource.getpagesize() < 2**20
    assert len(list(Path(f"/proc/{server}/fd").iterdir())) < 10
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    assert all(process.state != "Z" for pid in children if (process := shim.read_process(int(pid))))
