"""Local runs when something dies: I3 one start, I4 true state, I5 no orphan. kill -9 everywhere, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.daemon.providers import shim
from app.daemon.providers.local_files import hold_directory
from app.daemon.providers.provider_interface import Absent, Found, Unsure
from app.daemon.providers.shim_launcher import ShimLauncher
from app.states import State
from tests.fakes import local_daemon
from tests.fakes.dying_shim import POINTS
from tests.fakes.local_machine import DyingLauncher, Machine, NoLauncher, Ticks
from tests.fakes.warm_machine import WarmMachine

UNSTARTED = ["shim.before_lock", "shim.locked", "shim.forked"]
LOST = ["shim.started", "shim.running", "shim.engine_ended", "shim.before_exit"]


@pytest.fixture(params=[Machine, WarmMachine], ids=["cold", "warm"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = request.param(tmp_path)
    yield machine
    machine.close()
    assert not isinstance(machine, WarmMachine) or machine.cold_starts == []


class InTurn:
    """Starts the first shim with the first launcher, the next with the next."""

    def __init__(self, *launchers: ShimLauncher) -> None:
        self._launchers = iter(launchers)

    def start(self, root: Path, start_by: float) -> None:
        next(self._launchers).start(root, start_by)


def test_every_point_of_the_shim_is_tested() -> None:
    assert {*UNSTARTED, *LOST, "shim.exit_written"} == set(POINTS)


@pytest.mark.parametrize("point", UNSTARTED)
def test_a_shim_that_died_before_the_start_is_started_again(machine: Machine, point: str) -> None:
    clock = Ticks()
    launcher = InTurn(DyingLauncher(point, machine.hint_file), machine.launcher)
    provider = machine.provider(launcher=launcher, monotonic=clock)
    provider.submit_workflow(machine.run("r1", "count()"))
    assert machine.started() == []
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.INITIALIZING
    assert machine.hints.empty()  # its shim may only be slow
    clock.now += 11
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.INITIALIZING
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE
    assert machine.started() == ["r1"]


def test_shims_that_never_begin_are_given_up(machine: Machine) -> None:
    clock = Ticks()
    provider = machine.provider(launcher=DyingLauncher("shim.before_lock", machine.hint_file), monotonic=clock)
    provider.submit_workflow(machine.run("r1", "count()"))
    for _ in range(6):
        clock.now += 11
        provider.get_workflow_statuses(["r1"])
    status = provider.get_workflow_statuses(["r1"])["r1"]
    assert (status.state, status.reason) == (State.SYSTEM_ERROR, "engine_not_started")
    machine.run_shim("r1")
    assert machine.started() == []


@pytest.mark.parametrize("point", LOST)
def test_a_shim_that_died_after_the_start_is_a_lost_run(machine: Machine, point: str) -> None:
    provider = machine.provider(launcher=DyingLauncher(point, machine.hint_file))
    provider.submit_workflow(machine.run("r1", "count()"))
    status = machine.look_until(provider, "r1")
    assert (status.state, status.reason) == (State.SYSTEM_ERROR, "executor_lost")
    machine.provider().submit_workflow(machine.run("r1", "count()"))
    machine.run_shim("r1")
    assert machine.started() in ([], ["r1"])
    assert machine.alive() == []
    assert machine.look_until(provider, "r1") == status


def test_a_shim_that_died_after_the_end_loses_nothing(machine: Machine) -> None:
    provider = machine.provider(launcher=DyingLauncher("shim.exit_written", machine.hint_file))
    provider.submit_workflow(machine.run("r1", "count()"))
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE


SPREAD = """
print(*(subprocess.Popen(["sleep", "9999"], start_new_session=new, **more).pid
        for new, more in ((False, {}), (True, {}), (False, {"env": {}, "cwd": root / "tmp"}))), flush=True)
say("here")
signal.pause()
"""


def test_what_a_killed_shim_leaves_is_ended_before_the_run_is(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", SPREAD))
    machine.said()
    record = machine.started_record("r1")
    left = [int(pid) for pid in (machine.runs / "r1" / "stdout").read_text().split()]
    os.kill(record["shim"][0], signal.SIGKILL)
    machine.gone(record["shim"][0])
    machine.gone(record["engine"][0])  # it dies with its shim
    assert all(shim.read_process(pid) for pid in left)
    status = machine.look_until(provider, "r1")
    assert (status.state, status.reason) == (State.SYSTEM_ERROR, "executor_lost")
    for pid in left:
        machine.gone(pid)


def test_a_killed_shim_of_a_canceled_run_is_a_cancel(machine: Machine) -> None:
    provider = machine.provider(cancel_grace_seconds=3600)
    provider.submit_workflow(machine.run("r1", "signal.signal(15, signal.SIG_IGN); say('here'); signal.pause()"))
    machine.said()
    record = machine.started_record("r1")
    provider.cancel_workflow("r1")
    os.kill(record["shim"][0], signal.SIGKILL)
    machine.gone(record["shim"][0])
    assert machine.look_until(provider, "r1").state == State.CANCELED
    machine.gone(record["engine"][0])


def test_a_killed_engine_is_an_executor_error(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", SPREAD))
    machine.said()
    os.kill(machine.started_record("r1")["engine"][0], signal.SIGKILL)
    machine.ended("r1")
    status = provider.get_workflow_statuses(["r1"])["r1"]
    assert (status.state, status.exit_code) == (State.EXECUTOR_ERROR, 137)
    assert machine.alive() == []


def test_a_restarted_daemon_finds_its_runs_untouched(machine: Machine) -> None:
    first = machine.provider()
    script = "signal.pthread_sigmask(signal.SIG_BLOCK, [10]); count(); say('here'); signal.sigwait([10])"
    first.submit_workflow(machine.run("r1", script))
    machine.said()
    second = machine.provider()
    assert second.find_workflow(machine.run("r1", "")) == Found(second.submit_workflow(machine.run("r1", "")))
    machine.run_shim("r1")  # it does not wait for the engine to end
    assert second.get_workflow_statuses(["r1"])["r1"].state == State.RUNNING
    os.kill(machine.started_record("r1")["engine"][0], signal.SIGUSR1)
    machine.ended("r1")
    assert second.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE
    assert machine.started() == ["r1"]


def submit_elsewhere(machine: Machine, point: str = "") -> tuple[int, str]:
    """Exit code and answer of a daemon of its own; -9 where it died at `point`."""
    program = [sys.executable, "-m", "tests.fakes.local_daemon", str(machine.runs.parent), point]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("point", local_daemon.POINTS)
def test_a_daemon_that_dies_in_submit_starts_the_run_once(machine: Machine, point: str) -> None:
    """What the daemon does after its restart: look, submit again where nothing arrived, look at its status."""
    assert submit_elsewhere(machine, point) == (-signal.SIGKILL, "")
    provider = machine.provider()
    run = machine.run("r1", "count()")
    found = provider.find_workflow(run)
    assert found == Absent() or isinstance(found, Found)
    assert isinstance(found, Found) == (point in ("submit.accepted", "shim.sent", "submit.responded"))
    if found == Absent():
        provider.submit_workflow(run)
    assert machine.look_until(provider, "r1").state == State.COMPLETE
    machine.run_shim("r1")
    assert machine.started() == ["r1"]


def test_many_submits_at_once_start_the_run_once(machine: Machine) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: submit_elsewhere(machine), range(6)))
    assert answers == [(0, "accepted")] * 6
    assert machine.look_until(machine.provider(), "r1").state == State.COMPLETE
    machine.run_shim("r1")
    assert machine.started() == ["r1"]


def test_many_shims_at_once_run_the_engine_once(machine: Machine) -> None:
    machine.provider(launcher=NoLauncher()).submit_workflow(machine.run("r1", "count()"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: machine.run_shim("r1"), range(16)))
    assert machine.started() == ["r1"]


def test_a_run_that_is_being_laid_out_is_unsure(machine: Machine) -> None:
    provider = machine.provider()
    run = machine.run("r1", "")
    assert provider.find_workflow(run) == Absent()
    with hold_directory(machine.runs / "r1"):
        assert isinstance(provider.find_workflow(run), Unsure)
    assert provider.find_workflow(run) == Absent()


def facts(pid: int) -> tuple[int, bool]:
    """When it started, and whether it lives and goes on."""
    process = shim.read_process(pid)
    assert process is not None
    return process.start, process.state not in "ZXTt"


def test_after_a_reboot_nothing_is_signalled(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", SPREAD))
    machine.said()
    record = machine.started_record("r1")
    left = {int(pid): facts(int(pid)) for pid in (machine.runs / "r1" / "stdout").read_text().split()}
    os.kill(record["shim"][0], signal.SIGKILL)
    machine.gone(record["shim"][0])
    machine.provider(launcher=NoLauncher()).submit_workflow(machine.run("r2", "count()"))
    monkeypatch.setattr(shim, "boot_id", lambda: "another boot")
    for run_id in "r1", "r2":
        status = machine.look_until(provider, run_id)
        assert (status.state, status.reason) == (State.SYSTEM_ERROR, "executor_lost")
    assert len(left) == 3 and {pid: facts(pid) for pid in left} == left
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    machine.run_shim("r2")
    assert machine.started() == []


@pytest.mark.parametrize("canceled", [False, True])
def test_an_unrelated_process_is_never_signalled(machine: Machine, canceled: bool) -> None:
    """PID reuse: started.json names pids that others have by now, for a shim, an engine, or a session without leader."""
    provider = machine.provider(launcher=NoLauncher())
    with bystander(machine.runs) as (leader, follower):
        strangers = (leader[0], leader[1] - 1), (leader[0], leader[1] + 1), (leader[0], "x"), (follower[2], leader[1])
        for number, pair in enumerate(strangers):
            provider.submit_workflow(machine.run(f"r{number}", "count()"))
            root = str(machine.runs / f"r{number}")
            record = {"boot_id": shim.boot_id(), "shim": pair, "engine": pair, "at": 1.0}
            shim.write_record(root, shim.STARTED, record)
            if canceled:
                provider.cancel_workflow(f"r{number}")
            state = provider.get_workflow_statuses([f"r{number}"])[f"r{number}"].state
            assert state == (State.CANCELED if canceled else State.SYSTEM_ERROR)
        assert [is_same(process) for process in (leader, follower)] == [True, True]
    assert machine.started() == []


def test_a_session_without_its_leader_is_known_by_where_it_works(machine: Machine) -> None:
    provider = machine.provider(launcher=NoLauncher())
    provider.submit_workflow(machine.run("r1", ""))
    with bystander(machine.runs / "r1" / "work") as (leader, follower):
        engine = [follower[2], leader[1]]
        record = {"boot_id": shim.boot_id(), "shim": [1, 1], "engine": engine, "at": 1.0}
        shim.write_record(str(machine.runs / "r1"), shim.STARTED, record)
        assert machine.look_until(provider, "r1").reason == "executor_lost"
        assert [is_same(process) for process in (leader, follower)] == [True, False]


@contextmanager
def bystander(folder: Path) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Two of (pid, start, session): one leads its session, the leader of the other's is dead. Both work in `folder`."""
    program = (
        "import os; print(os.getpid(), flush=True) if os.fork() == 0 else os._exit(0); import time; time.sleep(9999)"
    )
    with subprocess.Popen(["sleep", "9999"], start_new_session=True, cwd=folder) as alone:
        with subprocess.Popen(
            [sys.executable, "-c", program], start_new_session=True, cwd=folder, stdout=subprocess.PIPE
        ) as dead:
            assert dead.stdout is not None
            processes = [shim.read_process(alone.pid), shim.read_process(int(dead.stdout.readline()))]
            dead.wait()
            yield tuple((process.pid, process.start, process.session) for process in processes if process)
            for process in processes:
                shim.send_signal(process, signal.SIGKILL)


def is_same(known: tuple[int, int, int]) -> bool:
    process = shim.read_process(known[0])
    return process is not None and process.start == known[1] and process.state != "Z"


def test_a_visitor_in_the_run_directory_is_not_signalled(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", "say('here'); signal.pause()"))
    machine.said()
    shim_pid = machine.started_record("r1")["shim"][0]
    with subprocess.Popen(["sleep", "9999"], cwd=machine.runs / "r1" / "work") as visitor:
        os.kill(shim_pid, signal.SIGKILL)
        machine.gone(shim_pid)
        assert machine.look_until(provider, "r1").reason == "executor_lost"
        assert visitor.poll() is None
        visitor.kill()
