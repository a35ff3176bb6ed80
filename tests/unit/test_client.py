"""WesClient over real HTTP against a plain WES server of another team, and what it sends."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client.connection import HeaderAuth, complete_base_url
from app.client.errors import Invalid, NotAuthenticated, RunNotFound, Unreachable, WesClientError
from app.client.multipart import CHUNK_BYTES, MultipartBody
from app.client.waiting import Watch
from app.client.wes_client import WesClient
from tests.fakes.wes_server import FakeRun, Fault, WesServer


@pytest.fixture
def server() -> Iterator[WesServer]:
    with WesServer() as running:
        yield running


@pytest.fixture
def client(server: WesServer) -> Iterator[WesClient]:
    with WesClient(server.url) as ready:
        yield ready


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        ("http://host:5000", "http://host:5000/ga4gh/wes/v1"),
        ("http://host:5000/", "http://host:5000/ga4gh/wes/v1"),
        ("https://host/api/ga4gh/wes/v1/", "https://host/api/ga4gh/wes/v1"),
        ("https://host/own/path", "https://host/own/path"),
    ],
)
def test_a_host_is_enough_as_address(given: str, complete: str) -> None:
    assert complete_base_url(given) == complete


@pytest.mark.parametrize(
    "address", ["", "localhost:5000", "ftp://host/x", "http://", "http://[::1", "http://host:99999"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(Invalid):
        WesClient(address)


def test_everything_of_a_request_arrives(server: WesServer, client: WesClient, tmp_path: Path) -> None:
    (tmp_path / "on_disk").write_bytes(b"\x00\xff" * 300_000)
    stream = io.BytesIO(b"skipped|taken")
    stream.seek(8)
    answer = client.run_workflow(
        workflow_params={"n": 1, "text": "ä"},
        workflow_type="CWL",
        workflow_type_version="v1.0",
        workflow_url="a/w.cwl",
        workflow_engine="cwltool",
        workflow_engine_version=None,
        workflow_engine_parameters={"--debug": None},
        tags={"project": "liver"},
        workflow_attachment=[
            ("a/w.cwl", "text ä", "text/plain"),
            ('odd "name" ü.txt', tmp_path / "on_disk", "application/x-thing"),
            ("stream", stream),
            ("empty", b""),
        ],
    )
    run = server.runs[answer["run_id"]]
    assert {
        name: json.loads(run.request.pop(name)) for name in ("workflow_params", "workflow_engine_parameters", "tags")
    } == {
        "workflow_params": {"n": 1, "text": "ä"},
        "workflow_engine_parameters": {"--debug": None},
        "tags": {"project": "liver"},
    }
    assert run.request == {
        "workflow_type": "CWL",
        "workflow_type_version": "v1.0",
        "workflow_url": "a/w.cwl",
        "workflow_engine": "cwltool",
    }
    assert run.attachments == {
        "a/w.cwl": "text ä".encode(),
        "odd %22name%22 ü.txt": b"\x00\xff" * 300_000,
        "stream": b"taken",
        "empty": b"",
    }


def test_parameters_may_be_json_text(server: WesServer, client: WesClient) -> None:
    run_id = client.run_workflow(workflow_params='{"a": 1}', workflow_url="https://example.org/w.cwl")["run_id"]
    assert server.runs[run_id].request["workflow_params"] == '{"a": 1}'


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_parameters_that_are_not_json_are_refused_before_sending(
    server: WesServer, client: WesClient, value: object
) -> None:
    with pytest.raises(Invalid, match="workflow_params is not JSON"):
        client.run_workflow(workflow_params={"a": value}, workflow_url="w.cwl")
    assert server.requests == []


def test_the_idempotency_key_is_a_header(server: WesServer, client: WesClient) -> None:
    client.run_workflow(workflow_url="w.cwl", idempotency_key="once")
    assert server.headers["Idempotency-Key"] == "once"


def test_a_key_that_is_no_header_is_invalid(server: WesServer, client: WesClient) -> None:
    for key in ("\N{SNOWMAN}", "a\nb: c"):
        with pytest.raises(Invalid):
            client.run_workflow(workflow_url="w.cwl", idempotency_key=key)
    assert server.runs == {}


def test_a_body_is_as_long_as_it_says_and_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(20 * CHUNK_BYTES + 7)
    body = MultipartBody()
    body.add_field("workflow_url", "w.cwl")
    body.add_file("workflow_attachment", "big", big, "application/octet-stream")
    body.add_file("workflow_attachment", "stream", io.BytesIO(b"x" * 100), "application/octet-stream")
    for _ in range(2):  # a body can be sent again
        lengths = [len(chunk) for chunk in body]
        assert sum(lengths) == len(body)
        assert max(lengths) <= CHUNK_BYTES


def test_a_file_that_shrinks_while_it_is_sent_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100)
    body = MultipartBody()
    body.add_file("workflow_attachment", "log", tmp_path / "log", "text/plain")
    (tmp_path / "log").write_bytes(b"x" * 10)
    with pytest.raises(OSError, match="90 bytes shorter"):
        list(body)


def test_all_pages_of_runs_and_tasks_are_read(server: WesServer, client: WesClient) -> None:
    tasks = [{"id": str(number), "name": f"t{number}"} for number in range(7)]
    for number in range(8):
        server.add(FakeRun(f"r{number}", tasks=tasks))
    assert [run["run_id"] for run in client.iter_runs(page_size=100)] == [f"r{number}" for number in range(8)]
    assert list(client.iter_tasks("r0")) == tasks
    assert client.get_task("r0", "3") == tasks[3]
    assert client.list_runs(page_size=2)["next_page_token"]


def test_filters_become_query_parameters(server: WesServer, client: WesClient) -> None:
    client.list_runs(page_size=2, state="RUNNING,QUEUED", **{"tag.project": "x y"})
    assert server.requests[-1][1].endswith("/runs?page_size=2&state=RUNNING%2CQUEUED&tag.project=x+y")


def test_a_server_that_hands_out_the_same_token_again_does_not_trap_the_client(
    server: WesServer, client: WesClient
) -> None:
    page = json.dumps({"runs": [{"run_id": "r"}], "next_page_token": "again"}).encode()
    server.faults = [Fault("/runs", 200, body=page) for _ in range(5)]
    assert len(list(client.iter_runs())) == 2


def test_tasks_come_from_the_run_log_of_a_server_without_a_task_list(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r", tasks=[{"name": "old"}]))
    server.faults = [Fault("/tasks", 404)]
    assert list(client.iter_tasks("r")) == [{"name": "old"}]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Invalid), (401, NotAuthenticated), (403, NotAuthenticated), (404, RunNotFound), (409, Invalid), (413, Invalid),
     (422, Invalid), (429, Unreachable), (500, WesClientError), (502, Unreachable), (503, Unreachable), (504, Unreachable)],
)  # fmt: skip
def test_a_status_is_an_error_of_its_kind_with_the_servers_words(
    server: WesServer, client: WesClient, status: int, kind: type[WesClientError]
) -> None:
    server.faults = [Fault("/service-info", status, body=b'{"msg": "the words", "status_code": 0}')]
    with pytest.raises(WesClientError) as raised:
        client.get_service_info()
    assert type(raised.value) is kind
    assert (raised.value.status_code, raised.value.msg) == (status, "the words")


def test_retry_after_reaches_the_caller(server: WesServer, client: WesClient) -> None:
    server.faults = [Fault("/service-info", 503, {"Retry-After": "12"})]
    with pytest.raises(Unreachable) as raised:
        client.get_service_info()
    assert raised.value.retry_after == 12


def test_an_error_that_is_no_json_names_status_and_address(server: WesServer, client: WesClient) -> None:
    server.faults = [Fault("/service-info", 404, {"Content-Type": "text/html"}, b"<html>" + b"x" * 1_000_000)]
    with pytest.raises(RunNotFound, match=r"^404 Not Found from http://127.0.0.1:\d+/ga4gh/wes/v1/service-info$"):
        client.get_service_info()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1, 2]", b""])
def test_an_answer_that_is_no_json_object_is_no_wes(server: WesServer, client: WesClient, body: bytes) -> None:
    server.faults = [Fault("/service-info", 200, {"Content-Type": "text/html"}, body)]
    with pytest.raises(WesClientError, match="is this a WES server"):
        client.get_service_info()


def test_nobody_there_is_unreachable() -> None:
    with (
        WesClient(f"http://127.0.0.1:{closed_port()}") as client,
        pytest.raises(Unreachable, match="Connection refused"),
    ):
        client.get_service_info()


@pytest.mark.parametrize("run_id", ["", ".", ".."])
def test_ids_that_urls_swallow_never_reach_the_server(server: WesServer, client: WesClient, run_id: str) -> None:
    with pytest.raises(RunNotFound):
        client.cancel_run(run_id)
    assert server.requests == []


def test_ids_stay_one_component_of_the_path(server: WesServer, client: WesClient) -> None:
    with pytest.raises(RunNotFound):
        client.get_run_log("a/../b?c#d")
    assert server.requests == [("GET", "/ga4gh/wes/v1/runs/a%2F..%2Fb%3Fc%23d")]


def test_a_redirected_post_is_not_turned_into_a_get(server: WesServer, client: WesClient) -> None:
    server.faults = [Fault("/runs", 302, {"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(WesClientError, match=r"points to .*/elsewhere"):
        client.run_workflow(workflow_url="w.cwl")
    assert [method for method, _ in server.requests] == ["POST"]


def test_the_token_is_sent_and_overrules_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with WesServer(token="right") as server:
        with WesClient(server.url, token="right") as client:
            assert client.get_service_info()
        with WesClient(server.url, token="wrong") as client, pytest.raises(NotAuthenticated, match="Who are you"):
            client.get_service_info()


@pytest.mark.parametrize(
    "auth", [HeaderAuth("X-Api-Key", "secret"), HeaderAuth.parse("Bearer secret"), ("me", "secret")]
)
def test_credentials_stay_on_the_servers_own_origin(server: WesServer, auth: HeaderAuth | tuple[str, str]) -> None:
    with WesServer() as other, WesClient(server.url, auth=auth) as client:
        other.add(FakeRun("r", files={"stdout": b"elsewhere"}))
        server.faults = [Fault("/service-info", 302, {"Location": f"{other.url}/service-info"})]
        client.get_service_info()
        assert not {"Authorization", "X-Api-Key"} & set(other.headers)
        assert b"".join(client.iter_log(f"{other.url}/runs/r/files/stdout")) == b"elsewhere"
        assert not {"Authorization", "X-Api-Key"} & set(other.headers)
        assert {"Authorization", "X-Api-Key"} & set(server.headers)


def test_waiting_survives_a_restart_of_the_server(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r", ["RUNNING", "RUNNING", "COMPLETE"]))
    moves = iter([server.stop, lambda: None, server.start])
    watch = Watch(client, "r", sleep=lambda _: next(moves, lambda: None)())
    assert [status["state"] for status in watch.statuses()] == ["RUNNING", "RUNNING", "COMPLETE"]


def test_waiting_returns_the_final_status(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r", ["QUEUED", "RUNNING", "EXECUTOR_ERROR"]))
    assert client.wait_for_run_completion("r", timeout=60) == {"run_id": "r", "state": "EXECUTOR_ERROR"}


def test_waiting_raises_timeout_error(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r", ["RUNNING"]))
    with pytest.raises(TimeoutError):
        client.wait_for_run_completion("r", timeout=0.2)
