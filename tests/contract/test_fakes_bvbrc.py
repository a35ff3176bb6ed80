"""The BV-BRC fake, as a client without our code meets it: envelopes, tokens, tasks, lists, kills and results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fakes.bvbrc import APP_SERVICE, WORKSPACE, Bvbrc
from tests.fakes.server import InProcess, InThread

ALICE = "alice@patricbrc.org"
NAMED = {"contigs": "/a/c.fa", "scientific_name": "E. coli", "domain": "Bacteria"}
PARAMS = {"output_path": f"/{ALICE}/home", "output_file": "x"}


@pytest.fixture
def fake() -> Iterator[InThread]:
    with InThread(Bvbrc(frozen=True)) as running:
        yield running
        assert running.control.problems() == []


def raw(fake: InThread, body: Any, token: str | None, path: str = APP_SERVICE) -> requests.Response:
    headers = {"Authorization": token} if token else {}
    return requests.post(f"{fake.url}{path}", json=body, headers=headers, timeout=10)


def call(fake: InThread, method: str, *arguments: Any, user: str = ALICE, path: str = APP_SERVICE) -> list[Any]:
    service = "AppService" if path == APP_SERVICE else "Workspace"
    body = {"version": "1.1", "id": "1", "method": f"{service}.{method}", "params": arguments}
    answer = raw(fake, body, fake.control.token(user=user), path).json()
    assert "error" not in answer, answer
    result: list[Any] = answer["result"]
    return result


def start(fake: InThread, user: str = ALICE, mark: str = "m", **params: Any) -> int:
    return int(call(fake, "start_app2", "Date", PARAMS | params, {"user_metadata": mark}, user=user)[0]["id"])


def status(fake: InThread, task: int) -> str:
    return str(call(fake, "query_tasks", [task])[0][str(task)]["status"])


@pytest.mark.parametrize("version", [{"version": "1.1"}, {"jsonrpc": "2.0"}])
def test_both_envelopes_are_taken(fake: InThread, version: dict[str, str]) -> None:
    body = {**version, "id": "1", "method": "AppService.service_status", "params": []}
    answer = raw(fake, body, fake.control.token())
    assert (answer.status_code, answer.json()["result"]) == (200, [[1, ""]])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"id": "1", "method": "AppService.service_status", "params": []}, -32600),
        ({"version": "1.1", "method": "AppService.query_app_log", "params": []}, -32601),
        ({"version": "1.1", "method": "Workspace.ls", "params": []}, -32601),
    ],
)
def test_wrong_calls_have_codes(fake: InThread, body: dict[str, Any], code: int) -> None:
    answer = raw(fake, body, fake.control.token())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, code)
    assert answer.json()["error"]["name"] == "JSONRPCError"


def test_tokens_are_believed_until_they_expire_or_are_revoked(fake: InThread) -> None:
    body = {"version": "1.1", "method": "AppService.enumerate_apps", "params": []}
    good, short = fake.control.token(), fake.control.token(seconds=60)
    forged = good.replace("alice", "mallory")
    assert raw(fake, body, short).status_code == raw(fake, body, good).status_code == 200
    fake.control.advance(seconds=60)
    said = [raw(fake, body, token).json()["error"]["message"] for token in (None, short, forged)]
    assert [words.partition(":")[0] for words in said[1:]] == ["Token validation failed"] * 2
    assert said[0].startswith("Authentication required")
    fake.control.revoke()
    assert raw(fake, body, good).status_code == 500


def test_a_task_lives(fake: InThread) -> None:
    task = start(fake)
    seen = [status(fake, task)]
    for seconds in (5, 5, 60):
        fake.control.advance(seconds=seconds)
        seen.append(status(fake, task))
    assert seen == ["queued", "pending", "in-progress", "completed"]
    assert [entry["starts"] for entry in fake.control.tasks()] == [1]


def test_plans_come_true(fake: InThread) -> None:
    fake.control.plan(match='"output_file": "y"', outcome="FAILED", reason="OUT_OF_MEMORY", message="no")
    good, bad = start(fake), start(fake, output_file="y")
    fake.control.advance(seconds=71)
    assert (status(fake, good), status(fake, bad)) == ("completed", "failed")
    assert call(fake, "query_task_details", good)[0]["exitcode"] == "0"
    assert "exitcode" not in call(fake, "query_task_details", bad)[0]
    report = call(fake, "get", {"objects": [f"/{ALICE}/home/.y/JobFailed.txt"]}, path=WORKSPACE)
    assert report[0][0][1] == "no"


def test_kills(fake: InThread) -> None:
    waiting, running, over = start(fake, output_file="a"), start(fake, output_file="b"), start(fake, output_file="c")
    assert call(fake, "kill_task", waiting) == [1, "Terminated"]
    assert status(fake, waiting) == "failed"
    fake.control.advance(seconds=11)
    assert call(fake, "kill_task", running)[0] == 1
    assert status(fake, running) == "in-progress"
    fake.control.advance(seconds=60)
    assert status(fake, running) == "failed"
    assert call(fake, "kill_task", over) == [0, "Task in non-running state C"]
    assert call(fake, "kill_task", 5) == [0, "Task not found"]
    assert call(fake, "kill_task", start(fake), user="bob@bvbrc") == [0, "Permission denied"]


def test_lists_show_the_callers_own_and_queries_anybodys(fake: InThread) -> None:
    mine, other = start(fake, mark="m1"), start(fake, user="bob@bvbrc", mark="m1")
    rows, total = call(fake, "enumerate_tasks_qstat", 0, 10, {"user_metadata": "m1"})
    assert ([row["id"] for row in rows], total) == ([str(mine)], 1)
    assert (rows[0]["status"], rows[0]["user_metadata"]) == ("Queued", "m1")
    rows, total = call(fake, "enumerate_tasks_filtered", 0, 10, {"app": "Date"})
    assert ([row["id"] for row in rows], total) == ([mine], 1)
    assert set(call(fake, "query_tasks", [str(mine), other, "x", 5])[0]) == {str(mine), str(other)}


def test_pages_and_times_limit_lists(fake: InThread) -> None:
    first = start(fake)
    fake.control.advance(seconds=100)
    since = f"{fake.service.timeline.now():%Y-%m-%dT%H:%M:%SZ}"
    fake.control.advance(seconds=1)
    second = start(fake)
    rows, total = call(fake, "enumerate_tasks_filtered", 1, 1, {"sort_order": "asc"})
    assert ([row["id"] for row in rows], total) == ([second], 2)
    rows, _ = call(fake, "enumerate_tasks_filtered", 0, 10, {"start_time": since})
    assert [row["id"] for row in rows] == [second]
    assert first < second


def test_qstat_may_be_missing(fake: InThread) -> None:
    fake.control.configure(qstat=False)
    body = {"version": "1.1", "method": "AppService.enumerate_tasks_qstat", "params": [0, 1, {}]}
    assert raw(fake, body, fake.control.token()).json()["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("app", "params", "words"),
    [
        ("Date", {"output_path": "/a"}, "Required parameter File Basename (output_file) missing"),
        ("GenomeAnnotation", PARAMS | NAMED, "Required parameter Genetic Code (code) missing\n"),
        ("Nothing", PARAMS, "Error submitting job: \n"),
        ("Date", PARAMS | {"fake-preflight-error": "no reads"}, "no reads"),
    ],
)
def test_preflights_refuse(fake: InThread, app: str, params: dict[str, Any], words: str) -> None:
    body = {"version": "1.1", "method": "AppService.start_app2", "params": [app, params, {}]}
    answer = raw(fake, body, fake.control.token())
    assert answer.status_code == 500
    assert words in answer.json()["error"]["message"]
    assert fake.control.tasks() == []


def test_results_lie_in_the_workspace_of_their_owner(fake: InThread) -> None:
    fake.control.plan(outputs={"answer": 42}, files={"a/b.txt": "x"})
    start(fake)
    fake.control.advance(seconds=71)
    listed = call(fake, "ls", {"paths": [f"/{ALICE}/home/.x"], "recursive": 1}, path=WORKSPACE)[0]
    assert [(entry[2] + entry[0], entry[1]) for entry in listed[f"/{ALICE}/home/.x"]] == [
        (f"/{ALICE}/home/.x/a", "folder"),
        (f"/{ALICE}/home/.x/a/b.txt", "txt"),
    ]
    ((metadata, data),) = call(fake, "get", {"objects": [f"/{ALICE}/home/x"]}, path=WORKSPACE)[0]
    assert metadata[1] == "job_result" and '"answer": 42' in data
    body = {"version": "1.1", "method": "Workspace.get", "params": [{"objects": [f"/{ALICE}/home/x"]}]}
    said = raw(fake, body, fake.control.token(user="bob@bvbrc"), WORKSPACE).json()["error"]["message"]
    assert "lacks permission" in said


def test_logs_need_a_token_and_show_no_signature(fake: InThread) -> None:
    token = fake.control.token()
    fake.control.plan(log=[f"env: {token}", "done"])
    task = start(fake)
    fake.control.advance(seconds=11)
    url = call(fake, "query_task_details", task)[0]["stdout_url"]
    assert requests.get(url, timeout=10).status_code == 401
    text = requests.get(url, headers={"Authorization": f"OAuth {token}"}, timeout=10).text
    assert text == f"env: {token.rpartition('sig=')[0]}sig=XXX\n"


def test_it_also_lives_in_a_process_of_its_own() -> None:
    with InProcess("tests.fakes.bvbrc", "--frozen") as fake:
        token = fake.control.token()
        body = {"version": "1.1", "method": "AppService.enumerate_apps", "params": []}
        answer = requests.post(f"{fake.url}{APP_SERVICE}", json=body, headers={"Authorization": token}, timeout=10)
        assert {app["id"] for app in answer.json()["result"][0]} == {"Date", "GenomeAssembly2", "GenomeAnnotation"}
