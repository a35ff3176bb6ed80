"""Warm starts in the whole service: over restarts, and when what makes them warm is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_survival import END_SECONDS, executions, submit, wait_until_executed
from tests.fakes.warm_machine import fork_servers
from tests.services import Services

STARTS_COLD = "a run starts cold"


@pytest.fixture
def services(engine_environment: Path) -> Iterator[Services]:
    with Services({"DAEMON_POLL_INTERVAL": "1"}) as services:
        yield services


def ready_server(services: Services) -> int:
    deadline = time.monotonic() + END_SECONDS
    while not list(services.data_dir.glob("warm/*/socket")):
        assert time.monotonic() < deadline, services.log("daemon")
        time.sleep(0.05)
    (server,) = fork_servers(services.data_dir / "warm")
    return server


def end(services: Services, run_id: str) -> str:
    return str(services.client().wait_for_run_completion(run_id, timeout=END_SECONDS)["state"])


def test_the_server_outlives_the_daemon_and_serves_the_next(services: Services, tmp_path: Path) -> None:
    server, ledger = ready_server(services), tmp_path / "ledger"
    assert end(services, submit(services.client(), ledger, "one")) == "COMPLETE"
    services.kill_daemon()
    services.start_daemon()
    assert end(services, submit(services.client(), ledger, "two")) == "COMPLETE"
    assert ready_server(services) == server
    assert STARTS_COLD not in services.log("daemon")
    assert executions(ledger) == {"one": 1, "two": 1}


def test_a_run_goes_on_without_server_and_daemon(services: Services, tmp_path: Path) -> None:
    server, ledger, client = ready_server(services), tmp_path / "ledger", services.client()
    run_id = submit(client, ledger, "one", seconds=3)
    wait_until_executed(ledger, "one")
    os.kill(server, signal.SIGKILL)
    services.kill_daemon()
    services.start_daemon()
    assert end(services, run_id) == "COMPLETE"
    assert end(services, submit(client, ledger, "two")) == "COMPLETE"
    assert ready_server(services) != server
    assert executions(ledger) == {"one": 1, "two": 1}


def test_without_warm_start_there_is_no_server(engine_environment: Path, tmp_path: Path) -> None:
    with Services({"LOCAL_WARM_START": "false"}) as services:
        assert end(services, submit(services.client(), tmp_path / "ledger", "one")) == "COMPLETE"
        assert fork_servers(services.data_dir) == []
        assert not (services.data_dir / "warm").exists()
