"""Cancelling local runs: what has not begun never does, what runs is gone to the last process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.daemon.providers import shim
from app.daemon.providers.local_life import Running, kill_by_force
from app.states import State
from tests.fakes.local_machine import Machine, NoLauncher, Ticks
from tests.fakes.warm_machine import WarmMachine

STUBBORN = """
import os, signal, sys, time
for number in signal.SIGTERM, signal.SIGHUP, signal.SIGINT:
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "daemon" and os.fork():
    os._exit(0)
os.setsid() if sys.argv[1] != "plain" else None
print(os.getpid(), flush=True)
time.sleep(9999)
"""


@pytest.fixture(params=[Machine, WarmMachine], ids=["cold", "warm"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = request.param(tmp_path)
    yield machine
    machine.close()
    assert not isinstance(machine, WarmMachine) or machine.cold_starts == []


def test_an_engine_that_obeys_ends_at_once(machine: Machine) -> None:
    provider = machine.provider(cancel_grace_seconds=3600)
    provider.submit_workflow(machine.run("r1", "(root / 'tmp' / 'left').touch(); say('here'); signal.pause()"))
    machine.said()
    provider.cancel_workflow("r1")
    provider.cancel_workflow("r1")
    machine.ended("r1")
    status = provider.get_workflow_statuses(["r1"])["r1"]
    assert (status.state, status.exit_code, status.reason) == (State.CANCELED, 143, None)
    assert not (machine.runs / "r1" / "tmp").exists()
    provider.cancel_workflow("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"] == status


def test_an_engine_that_ends_well_when_told_is_canceled(machine: Machine) -> None:
    provider = machine.provider(cancel_grace_seconds=3600)
    provider.submit_workflow(
        machine.run("r1", "signal.signal(15, lambda *_: sys.exit(0)); say('here'); signal.pause()")
    )
    machine.said()
    provider.cancel_workflow("r1")
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED


def test_nothing_that_an_engine_started_survives(machine: Machine) -> None:
    """TERM ignored; children that left session and parent; an environment that says nothing; a flood on stdout."""
    (machine.runs.parent / "stubborn.py").write_text(STUBBORN)
    provider = machine.provider(cancel_grace_seconds=0.2)
    script = f"""
signal.signal(15, signal.SIG_IGN)
started = [
    subprocess.Popen([sys.executable, {str(machine.runs.parent / "stubborn.py")!r}, how], env={{}}, stdout=subprocess.PIPE, text=True)
    for how in ("plain", "session", "daemon")
]
print(*(process.stdout.readline().strip() for process in started), os.getpid(), flush=True)
say("here")
while True:
    sys.stderr.write("x" * 1000)
"""
    provider.submit_workflow(machine.run("r1", script))
    machine.said()
    pids = [int(pid) for pid in (machine.runs / "r1" / "stdout").read_text().split()]
    assert len(pids) == 4 and all(shim.read_process(pid) for pid in pids)
    provider.cancel_workflow("r1")
    machine.ended("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED
    assert [pid for pid in pids if shim.read_process(pid)] == []
    assert not (machine.runs / "r1" / "tmp").exists()


def test_a_late_shim_obeys_the_tombstone(machine: Machine) -> None:
    provider = machine.provider(launcher=NoLauncher())
    provider.submit_workflow(machine.run("r1", "count()"))
    provider.cancel_workflow("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED
    machine.run_shim("r1")
    provider.submit_workflow(machine.run("r1", "count()"))
    assert machine.started() == []
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED


def test_a_shim_that_comes_too_late_does_nothing(machine: Machine) -> None:
    provider = machine.provider(launcher=NoLauncher())
    provider.submit_workflow(machine.run("r1", "count()"))
    machine.run_shim("r1", start_by=shim.seconds_since_boot() - 1)
    assert machine.started() == []
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.INITIALIZING


def test_cancel_races_a_late_shim(machine: Machine) -> None:
    """Whoever gets the lock first decides; a run that was asked to end never goes on."""
    provider = machine.provider(launcher=NoLauncher(), cancel_grace_seconds=3600)
    dice = random.Random(7)
    for number in range(60):
        run_id = f"r{number}"
        provider.submit_workflow(machine.run(run_id, "count(); signal.pause()"))
        with machine.start_shim(run_id) as process:
            until = time.perf_counter() + dice.uniform(0.01, 0.06)
            while time.perf_counter() < until:
                pass  # a start takes about that long: every moment of it is hit
            provider.cancel_workflow(run_id)
            assert process.stdout is not None
            process.stdout.read()
        status = provider.get_workflow_statuses([run_id])[run_id]
        assert status.state == State.CANCELED
        assert status.start_time is not None or run_id not in machine.started()
    assert machine.alive() == []
    assert len(set(machine.started())) == len(machine.started())


def test_a_stopped_shim_is_not_waited_for_for_ever(machine: Machine) -> None:
    clock = Ticks()
    provider = machine.provider(monotonic=clock, cancel_grace_seconds=3600)
    child = "subprocess.Popen(['sleep', '9999'], start_new_session=True, env={}).pid"
    provider.submit_workflow(machine.run("r1", f"print({child}, flush=True); say('here'); signal.pause()"))
    machine.said()
    record = machine.started_record("r1")
    grandchild = int((machine.runs / "r1" / "stdout").read_text())
    os.kill(record["shim"][0], signal.SIGSTOP)
    while shim.read_process(record["shim"][0]).state != "T":
        os.sched_yield()
    provider.cancel_workflow("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].provider_status == "canceling"
    assert shim.read_process(grandchild) is not None
    clock.now += 3700
    provider.cancel_workflow("r1")
    for pid in record["shim"][0], record["engine"][0], grandchild:
        machine.gone(pid)
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.CANCELED


def test_a_shim_that_is_cleaning_up_is_let(machine: Machine) -> None:
    with subprocess.Popen(["sleep", "9999"]) as cleaning:
        process = shim.read_process(cleaning.pid)
        assert process is not None
        kill_by_force(Running(shim.boot_id(), (process.pid, process.start), (1, 1), None))
        cleaning.terminate()
        assert cleaning.wait() == -signal.SIGTERM


def test_a_shim_that_others_end_is_no_cancel(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", "say('here'); signal.pause()"))
    machine.said()
    os.kill(machine.started_record("r1")["shim"][0], signal.SIGTERM)
    machine.ended("r1")
    status = provider.get_workflow_statuses(["r1"])["r1"]
    assert (status.state, status.reason) == (State.SYSTEM_ERROR, "executor_terminated")
    assert machine.alive() == []


def test_a_cancel_after_the_end_changes_nothing(machine: Machine) -> None:
    provider = machine.provider()
    provider.submit_workflow(machine.run("r1", ""))
    machine.ended("r1")
    provider.cancel_workflow("r1")
    assert provider.get_workflow_statuses(["r1"])["r1"].state == State.COMPLETE
    provider.cancel_workflow("unknown")
    provider.cancel_workflow("../r1")
    assert not (machine.runs / "unknown").exists()
