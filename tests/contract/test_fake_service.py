"""The fake cloud over HTTP and as a process: what a person or another program meets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from app.fake_service.cloud import Clock, FakeCloud
from app.fake_service.ledger import Ledger, read_ledger
from app.fake_service.server import ROUTES, VERBS, FakeService

ROOT = Path(__file__).parents[2]
JOB = {"name": "one", "params": {"seconds": 10, "queue_seconds": 0}}


@contextmanager
def served(ledger: Path, **options: Any) -> Iterator[FakeService]:
    with FakeService(FakeCloud(Ledger(ledger), Clock(stepped=True), **options)) as service:
        yield service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with served(tmp_path / "ledger.jsonl", visibility_seconds=5) as service:
        yield service


def ask(service: FakeService, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    answer = requests.request(method, service.url + path, json=body, headers=headers, timeout=30)
    return answer.status_code, answer.json() if answer.content else None


def control(service: FakeService, verb: str, **arguments: Any) -> Any:
    status, answer = ask(service, "POST", f"/_control/{verb}", arguments)
    assert status == 200, answer
    return answer


def submit(service: FakeService, key: str, **params: Any) -> tuple[int, Any]:
    job = {"name": key, "params": {**JOB["params"], **params}}
    return ask(service, "POST", "/v1/jobs", job, **{"Idempotency-Key": key})


def events(path: Path) -> list[tuple[str, str]]:
    return [(event["event"], event["name"]) for event in read_ledger(path)]


def test_the_same_key_is_the_same_job(service: FakeService) -> None:
    first, second = submit(service, "k"), submit(service, "k")
    assert (first[0], second[0]) == (201, 200)
    assert first[1]["id"] == second[1]["id"]
    assert submit(service, "k", seconds=5)[0] == 422
    assert submit(service, "other")[1]["id"] != first[1]["id"]


def test_a_draft_is_found_late_and_started_once(service: FakeService) -> None:
    _, job = ask(service, "POST", "/v1/drafts", JOB)
    assert ask(service, "GET", "/v1/jobs?name=one") == (200, {"jobs": []})
    control(service, "advance", seconds=5)
    assert ask(service, "GET", "/v1/jobs?name=one")[1]["jobs"] == [job]
    assert [ask(service, "POST", f"/v1/jobs/{job['id']}/start")[0] for _ in range(2)] == [200, 409]
    assert ask(service, "DELETE", f"/v1/jobs/{job['id']}")[0] == 409


def test_a_deleted_draft_is_gone(service: FakeService) -> None:
    _, job = ask(service, "POST", "/v1/drafts", JOB)
    assert ask(service, "POST", f"/v1/jobs/{job['id']}/cancel")[0] == 409
    assert ask(service, "DELETE", f"/v1/jobs/{job['id']}") == (204, None)
    assert ask(service, "POST", f"/v1/jobs/{job['id']}/start")[0] == 404


def test_at_most_so_many_ids_at_once(service: FakeService) -> None:
    assert ask(service, "POST", "/v1/jobs/statuses", {"ids": ["x"] * 100}) == (200, {"jobs": []})
    assert ask(service, "POST", "/v1/jobs/statuses", {"ids": ["x"] * 101})[1]["code"] == "too_many_ids"


@pytest.mark.parametrize("operation", ROUTES)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"ids": 5}', b'{"name": 1}', b'{"name": "x"}', b"\xff", b"[" * 100_000]
)
def test_no_request_is_the_services_fault(service: FakeService, operation: str, body: bytes) -> None:
    method, pattern, _ = ROUTES[operation]
    path = pattern.replace("(?P<id>[^/]+)", "%00").replace("(?P<name>[^/]+)", "%2e%2e") + "?offset=x&name=%ff"
    answer = requests.request(method, service.url + path, data=body, headers={"Idempotency-Key": "k"}, timeout=30)
    assert answer.status_code < 500


@pytest.mark.parametrize(
    "params", [{"seconds": -1}, {"seconds": True}, {"outcome": "well"}, {"steps": "x"}, {"files": {"a": 1}}]
)
def test_params_that_make_no_sense_are_refused_with_words(service: FakeService, params: dict[str, Any]) -> None:
    status, answer = submit(service, "k", **params)
    assert (status, answer["code"]) == (400, "invalid_params")
    assert next(iter(params)) in answer["message"]


def test_a_body_that_is_too_large_is_refused(service: FakeService) -> None:
    headers = {"Content-Length": str(10**12)}
    with requests.post(f"{service.url}/v1/drafts", headers=headers, timeout=30) as answer:
        assert answer.status_code == 413


def test_the_ledger_tells_everything(service: FakeService, tmp_path: Path) -> None:
    _, job = submit(service, "k")
    submit(service, "k")
    ask(service, "POST", f"/v1/jobs/{job['id']}/cancel")
    ask(service, "POST", f"/v1/jobs/{job['id']}/cancel")
    control(service, "advance", seconds=100)
    assert events(tmp_path / "ledger.jsonl") == [
        (event, "k") for event in ("submitted", "started", "repeated", "cancel_asked", "ended")
    ]


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with served(ledger) as service:
        _, running = submit(service, "running")
        _, cancelled = submit(service, "cancelled")
        _, draft = ask(service, "POST", "/v1/drafts", {**JOB, "name": "draft"})
        _, deleted = ask(service, "POST", "/v1/drafts", JOB)
        ask(service, "DELETE", f"/v1/jobs/{deleted['id']}")
        control(service, "advance", seconds=3)
        ask(service, "POST", f"/v1/jobs/{cancelled['id']}/cancel")
        ids = [job["id"] for job in (running, cancelled, draft, deleted)]
        before = ask(service, "POST", "/v1/jobs/statuses", {"ids": ids})
    with served(ledger) as service:
        assert ask(service, "POST", "/v1/jobs/statuses", {"ids": ids}) == before
        assert submit(service, "running")[1]["id"] == running["id"]
        control(service, "advance", seconds=100)
        assert control(service, "jobs") == {"CANCELLED": 1, "DRAFT": 1, "SUCCEEDED": 1}
    ends = [event for event in read_ledger(ledger) if event["event"] == "ended"]
    assert sorted((event["name"], event["word"]) for event in ends) == [
        ("cancelled", "CANCELLED"),
        ("running", "SUCCEEDED"),
    ]


def test_a_line_that_was_being_written_when_it_was_killed_is_dropped(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with served(ledger) as service:
        submit(service, "k")
    with ledger.open("ab") as file:
        file.write(b'{"at": "2026-')
    with served(ledger) as service:
        assert sum(control(service, "jobs").values()) == 1
    assert ledger.read_bytes().endswith(b"\n")


def test_faults_hit_what_they_are_meant_for(service: FakeService) -> None:
    control(service, "fail", kind="throttle", operation="submit", match='"b"', skip=1, times=1, seconds=9)
    assert [submit(service, key)[0] for key in "abbb"] == [201, 201, 429, 200]
    with pytest.raises(requests.ConnectionError):
        control(service, "fail", kind="drop", commit=True)
        submit(service, "c")
    assert submit(service, "c")[0] == 200


def test_what_hangs_can_be_let_go(service: FakeService) -> None:
    control(service, "fail", kind="hang")
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{service.url}/v1/jobs", timeout=0.2)
    while not control(service, "hanging"):
        continue
    assert control(service, "hanging") == 1
    control(service, "clear")
    assert ask(service, "GET", "/v1/jobs")[0] == 200


def test_seeded_faults_repeat(tmp_path: Path) -> None:
    def statuses(folder: str) -> list[int]:
        with process(tmp_path / folder, "--seed", "7", "--fault", "error=0.2", "--fault", "throttle=0.2") as (url, _):
            return [requests.get(f"{url}/v1/jobs", timeout=30).status_code for _ in range(40)]

    first = statuses("a")
    assert first == statuses("b")
    assert set(first) == {200, 429, 500}


def test_a_wrong_command_says_what_there_is(service: FakeService) -> None:
    for verb, arguments in [
        ("fly", {}),
        ("fail", {"kind": "fire"}),
        ("advance", {}),
        ("finish", {"job_id": "x", "word": "y"}),
    ]:
        status, answer = ask(service, "POST", f"/_control/{verb}", arguments)
        assert status == 400 and all(name in answer["message"] for name in VERBS)


@contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [
        str(ROOT / "scripts" / "fake_provider"),
        "--port",
        "0",
        "--ledger",
        str(folder / "ledger.jsonl"),
        *options,
    ]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd="/") as started:
        assert started.stdout is not None
        try:
            yield started.stdout.readline().split()[-1], started
        finally:
            started.terminate()
            started.wait()


def test_the_script_serves_until_it_is_terminated(tmp_path: Path) -> None:
    with process(tmp_path, "--stepped") as (url, started):
        answer = requests.post(f"{url}/v1/drafts", json=JOB, timeout=30)
        started.terminate()
        assert (answer.status_code, started.wait()) == (201, 0)
    assert events(tmp_path / "ledger.jsonl") == [("drafted", "one")]


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    with process(tmp_path) as (url, started):
        answers = [requests.post(f"{url}/v1/drafts", json=JOB, timeout=30).json()["id"] for _ in range(5)]
        os.kill(started.pid, signal.SIGKILL)
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["job"] for line in lines] == answers
