"""Real processes, killed: every accepted run ends right, exactly once, and a running engine is not disturbed.

A workflow appends a line to a ledger outside its run, so that the ledger counts executions.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from app.client.errors import WesClientError
from app.client.wes_client import WesClient
from tests.services import Services, free_ports, works_below

WORKFLOW = Path(__file__).parents[1] / "workflows" / "counted.cwl"
END_SECONDS = 900.0
LULL = 10.0
"""After some kills a daemon lives for so long: a run that was in hand at five deaths in a row is ended, and rightly."""
SEED = 20261120


@pytest.fixture
def sqlite_services(engine_environment: Path) -> Iterator[Services]:
    with Services({"DAEMON_POLL_INTERVAL": "1"}) as services:
        yield services


def submit(client: WesClient, ledger: Path, line: str, seconds: float = 0.2) -> str:
    accepted = client.run_workflow(
        workflow_params={"ledger": str(ledger), "line": line, "seconds": seconds},
        workflow_type="CWL",
        workflow_type_version="v1.2",
        workflow_url="counted.cwl",
        workflow_attachment=[("counted.cwl", WORKFLOW.read_text(), "text/plain")],
        tags={"line": line},
    )
    return str(accepted["run_id"])


def ends(client: WesClient, run_ids: list[str]) -> dict[str, str]:
    return {run_id: client.wait_for_run_completion(run_id, timeout=END_SECONDS)["state"] for run_id in run_ids}


def executions(ledger: Path) -> Counter[str]:
    return Counter(ledger.read_text().splitlines()) if ledger.exists() else Counter()


def wait_until_executed(ledger: Path, line: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while line not in executions(ledger):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_tree(pid: int) -> None:
    """The server and its worker processes, all at once."""
    server = psutil.Process(pid)
    for process in [server, *server.children(recursive=True)]:
        process.kill()


class Killer:
    """Kills and restarts daemons, one at a time, until told to stop."""

    def __init__(self, services: Services, daemons: dict[str, dict[str, str]], seed: int = SEED) -> None:
        self._services, self._daemons, self._random = services, daemons, random.Random(seed)
        self._stopping, self.kills = threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LULL if self.kills % 4 == 3 else self._random.uniform(0.1, 2.5)):
            name = self._random.choice(list(self._daemons))
            self._services.kill_daemon(name)
            self.kills += 1
            self._services.start_daemon(name, self._daemons[name])


def test_sixty_runs_under_twenty_kills_of_the_daemon_are_each_executed_once(
    sqlite_services: Services, tmp_path: Path
) -> None:
    client, ledger = sqlite_services.client(), tmp_path / "ledger"
    with Killer(sqlite_services, {"daemon": {}}) as killer:
        lines = {submit(client, ledger, f"run-{number}"): f"run-{number}" for number in range(60)}
        states = ends(client, list(lines))
        while killer.kills < 20:
            time.sleep(0.1)
    print(f"{len(lines)} runs, {killer.kills} kill -9")
    assert Counter(states.values()) == {"COMPLETE": 60}
    assert executions(ledger) == Counter(lines.values())
    for run_id, line in lines.items():
        assert client.get_run_log(run_id)["outputs"]["said"]["size"] == len(line) + 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_daemons_on_one_postgresql_execute_every_run_once_while_both_are_killed(
    engine_environment: Path, database_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    settings = {"DATABASE_URI": database_url, "ARTIFACTS_DIR": str(tmp_path / "artifacts"), "DAEMON_POLL_INTERVAL": "1"}
    with Services(settings, start=False) as services:
        second = services.directory / "second"
        second.mkdir()
        (second / "engines").symlink_to(engine_environment)
        daemons = {
            "daemon": {},
            "second": {"DATA_DIR": str(second), "DAEMON_NOTIFICATION_PORT": str(free_ports(1)[0])},
        }
        services.start_api()
        for name, own in daemons.items():
            services.start_daemon(name, own)
        client = services.client()
        with Killer(services, daemons) as killer:
            lines = {submit(client, ledger, f"run-{number}"): f"run-{number}" for number in range(24)}
            states = ends(client, list(lines))
        print(f"{len(lines)} runs, {killer.kills} kill -9 of two daemons")
        assert killer.kills > 0
        assert Counter(states.values()) == {"COMPLETE": 24}
        assert executions(ledger) == Counter(lines.values())


def test_what_was_accepted_before_the_api_was_killed_is_executed_once_and_nothing_else_is(
    sqlite_services: Services, tmp_path: Path
) -> None:
    client, ledger = sqlite_services.client(), tmp_path / "ledger"
    accepted: dict[str, str] = {}
    for number in range(12):
        if number % 4 == 3:
            kill_tree(sqlite_services.processes["api"].pid)
            sqlite_services.stop("api")
            sqlite_services.start_api()
        try:
            accepted[submit(client, ledger, f"run-{number}")] = f"run-{number}"
        except (WesClientError, requests.RequestException):
            continue
    assert len(accepted) >= 9
    assert set(ends(client, list(accepted)).values()) == {"COMPLETE"}
    listed = {run["run_id"] for run in client.iter_runs()}
    assert set(accepted) <= listed
    assert executions(ledger)[""] == 0
    assert all(count == 1 for count in executions(ledger).values())


def test_an_engine_that_runs_is_not_disturbed_by_its_daemons_death(sqlite_services: Services, tmp_path: Path) -> None:
    client, ledger = sqlite_services.client(), tmp_path / "ledger"
    run_id = submit(client, ledger, "patient", seconds=6)
    wait_until_executed(ledger, "patient")
    while not (sleepers := sleeping(sqlite_services, 6)):
        time.sleep(0.05)
    (sleeper,) = sleepers
    sqlite_services.kill_daemon()
    time.sleep(1)
    assert sleeper.is_running() and sleeper.status() != psutil.STATUS_ZOMBIE
    sqlite_services.start_daemon()
    assert ends(client, [run_id]) == {run_id: "COMPLETE"}
    assert executions(ledger) == {"patient": 1}


def sleeping(services: Services, seconds: int) -> list[psutil.Process]:
    """What the runs of `services` have started to sleep for so long."""
    commands = (["sleep", str(seconds)], ["sleep", f"{seconds}.0"])
    found = [process for process in psutil.process_iter() if _command(process) in commands]
    return [process for process in found if works_below(process, services.directory)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_run_whose_shim_is_killed_ends_with_the_reason(sqlite_services: Services, tmp_path: Path) -> None:
    client, ledger = sqlite_services.client(), tmp_path / "ledger"
    run_id = submit(client, ledger, "orphan", seconds=300)
    wait_until_executed(ledger, "orphan")
    shims = [process for process in psutil.process_iter() if _is_shim_of(process, run_id)]
    assert shims
    for process in shims:
        process.kill()
    assert ends(client, [run_id]) == {run_id: "SYSTEM_ERROR"}
    assert any("executor_lost" in line for line in client.get_run_log(run_id)["run_log"]["system_logs"])
    assert sleeping(sqlite_services, 300) == []


def _is_shim_of(process: psutil.Process, run_id: str) -> bool:
    words = _command(process)
    return any(word.endswith("shim.py") for word in words) and any(run_id in word for word in words)


def test_cancel_ends_the_whole_process_tree_and_leaves_no_temporary_files(
    sqlite_services: Services, tmp_path: Path
) -> None:
    client, ledger = sqlite_services.client(), tmp_path / "ledger"
    run_id = submit(client, ledger, "cancelled", seconds=400)
    wait_until_executed(ledger, "cancelled")
    client.cancel_run(run_id)
    assert ends(client, [run_id]) == {run_id: "CANCELED"}
    assert sleeping(sqlite_services, 400) == []
    assert not list((sqlite_services.data_dir / "runs" / run_id).glob("tmp/*"))


def test_term_ends_the_daemon_in_good_order_and_a_second_one_is_refused(sqlite_services: Services) -> None:
    with pytest.raises(Exception, match="Another daemon works on"):
        sqlite_services.start_daemon("rival", {"DAEMON_NOTIFICATION_PORT": str(free_ports(1)[0])})
    assert sqlite_services.processes.pop("rival").wait() == 4
    assert sqlite_services.stop("daemon") == 0
