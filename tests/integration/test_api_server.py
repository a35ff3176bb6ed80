"""The served application: `python application.py` as a process of its own, over real sockets."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, cast

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.api_calls import BASE, EDGE, HELLO, multipart

ROOT = Path(__file__).resolve().parents[2]
FORM = [("workflow_url", None, b"main.cwl"), ("workflow_type", None, b"CWL")]
ENDS_WITHIN = 30


@dataclass
class Served:
    """A running service. `session` retries until its workers listen."""

    process: subprocess.Popen[str]
    url: str
    data_dir: Path

    def __post_init__(self) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", HTTPAdapter(max_retries=Retry(connect=40, backoff_factor=0.05, backoff_max=0.5)))

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition("/")[0].partition(":")
        return host, int(port)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **more)

    def post(self, path: str, **more: Any) -> requests.Response:
        return self.session.post(self.url + path, timeout=30, **more)


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"DATA_DIR": str(tmp_path / "data"), "PORT": "0", "WORKERS": "2"} | settings


def start(env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "application.py"), *words]
    return subprocess.Popen(
        command, env=env, cwd=env["DATA_DIR"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def serving(env: dict[str, str]) -> Iterator[Served]:
    process = start(env)
    assert process.stdout
    assert process.stderr
    try:
        line = process.stdout.readline()
        assert line.startswith("WES is on "), line + process.stderr.read()
        served = Served(process, line.split()[3].removesuffix(BASE), Path(env["DATA_DIR"]))
        with served.session:
            yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=ENDS_WITHIN)


@pytest.fixture
def env(database_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "data").mkdir()
    return environment(tmp_path, DATABASE_URI=database_url)


def staged(served: Served) -> list[Path]:
    return list((served.data_dir / "artifacts" / "staging").glob("*"))


def test_it_serves_accepts_and_stops_on_term(env: dict[str, str]) -> None:
    with serving(env) as served:
        assert served.get("/readyz").json()["status"] == "ok"
        first = served.post(f"{BASE}/runs", json=HELLO)
        assert first.status_code == 200
        assert first.headers["Content-Type"] == "application/json"
        run_id = first.json()["run_id"]
        log = served.get(f"/api{BASE}/runs/{run_id}").json()
        assert log["task_logs_url"] == f"{served.url}/api{BASE}/runs/{run_id}/tasks"
        assert served.session.get(log["run_log"]["stdout"], timeout=30).content == b""
    assert served.process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(served.place, timeout=5)


@EDGE
def test_workers_share_one_signing_key(env: dict[str, str]) -> None:
    with serving(env) as served:
        for _ in range(3):
            served.post(f"{BASE}/runs", json=HELLO)
        token = served.get(f"{BASE}/runs?page_size=1").json()["next_page_token"]
        for _ in range(20):  # a new connection each time, so that every worker is asked
            answer = served.get(f"{BASE}/runs?page_size=1&page_token={token}", headers={"Connection": "close"})
            assert answer.status_code == 200
        key = served.data_dir / "secret_key"
        assert (key.stat().st_mode & 0o777, len(key.read_text())) == (0o600, 64)


@EDGE
def test_chunked_uploads_are_taken_and_limited(env: dict[str, str]) -> None:
    with serving(env | {"MAX_REQUEST_BYTES": "300000"}) as served:

        def send(size: int) -> requests.Response:
            body = multipart(*FORM, ("workflow_attachment", "main.cwl", b"x" * size))
            stream = io.BytesIO(body["data"])
            pieces = iter(lambda: stream.read(10_000), b"")  # an iterator has no length: it is sent chunked
            return served.post(f"{BASE}/runs", data=pieces, headers={"Content-Type": body["content_type"]})

        assert send(250_000).status_code == 200
        answer = send(310_000)
        assert (answer.status_code, answer.json()["status_code"]) == (413, 413)
        assert staged(served) == []


def test_an_upload_that_is_cut_off_leaves_no_run_and_no_file(env: dict[str, str]) -> None:
    with serving(env) as served:
        assert served.get("/healthz").status_code == 200
        body = multipart(*FORM, ("workflow_attachment", "main.cwl", b"x" * 500_000))
        head = (
            f"POST {BASE}/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: {body['content_type']}\r\n"
            f"Content-Length: {len(body['data'])}\r\n\r\n"
        ).encode()
        for _ in range(3):
            with socket.create_connection(served.place, timeout=30) as connection:
                connection.sendall(head + body["data"][:300_000])
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(30)
                while connection.recv(65536):  # until the service has given up on us
                    pass
        assert served.get(f"{BASE}/runs").json()["total_runs"] == 0
        assert staged(served) == []


STALLED, SEATS = 300, 8


@EDGE
def test_clients_that_stall_in_mid_body_hold_up_nobody_else(env: dict[str, str]) -> None:
    """Some of them hold threads for ever; the others are told to come again, and all that needs no body is served."""
    stalled = (
        f"POST {BASE}/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        'Content-Length: 1000\r\n\r\n{"workflow'
    ).encode()
    with serving(env | {"WORKERS": "1", "MAX_UPLOADS": str(SEATS)}) as served, ExitStack() as stack:
        run_id = served.post(f"{BASE}/runs", json=HELLO).json()["run_id"]
        clients = [stack.enter_context(socket.create_connection(served.place, timeout=30)) for _ in range(STALLED)]
        for client in clients:
            client.sendall(stalled)
        told = heard(clients, STALLED - SEATS)
        assert all(b" 503 " in answer and b"retry-after: 5" in answer.lower() for answer in told.values())
        assert b'"status_code": 503' in told.popitem()[1]
        for _ in range(20):
            answer = served.get(f"{BASE}/runs/{run_id}/status", headers={"Connection": "close"})
            assert answer.json()["state"] == "QUEUED"
        assert served.post(f"{BASE}/runs", json=HELLO).status_code == 503
        assert served.post(f"{BASE}/runs/{run_id}/cancel").status_code == 200
        for client in clients:
            client.close()
        served.session.mount("http://", HTTPAdapter(max_retries=Retry(5, allowed_methods=None, status_forcelist=[503])))
        assert served.post(f"{BASE}/runs", json=HELLO).status_code == 200
    assert served.process.returncode == 0


def heard(clients: list[socket.socket], count: int) -> dict[socket.socket, bytes]:
    """What so many of them are answered, each to the end of its connection."""
    answers: dict[socket.socket, bytes] = {}
    with DefaultSelector() as selector:
        for client in clients:
            selector.register(client, EVENT_READ)
        while len(answers) < count and (ready := selector.select(timeout=30)):
            for key, _ in ready:
                client = cast(socket.socket, key.fileobj)
                with client.makefile("rb") as answer:
                    answers[client] = answer.read()
                selector.unregister(client)
    assert len(answers) == count
    return answers


@EDGE
def test_a_long_status_call_is_held_while_others_are_served(env: dict[str, str]) -> None:
    with serving(env | {"WORKERS": "1", "MAX_WAITERS": "2"}) as served:
        run_id = served.post(f"{BASE}/runs", json=HELLO).json()["run_id"]
        with socket.create_connection(served.place, timeout=30) as waiter:
            asked = f"GET {BASE}/runs/{run_id}/status?wait=25 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            waiter.sendall(asked.encode())
            assert served.get(f"{BASE}/runs/{run_id}/status").json()["state"] == "QUEUED"
            served.post(f"{BASE}/runs/{run_id}/cancel")
            with waiter.makefile("rb") as answer:
                assert b'"state": "CANCELED"' in answer.read()


@EDGE
@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"PORT": "x", "WORKERS": "0"}, 2, ("PORT", "WORKERS")),
        ({"HOST": "0.0.0.0"}, 2, ("HOST=127.0.0.1",)),
        ({"DATABASE_URI": "sqlite:///empty.sqlite"}, 3, ("flask --app application db upgrade",)),
        ({"DATABASE_URI": "postgresql+psycopg://nobody@127.0.0.1:1/none"}, 3, ("does not answer",)),
    ],
)
def test_what_keeps_it_from_starting_is_said(
    env: dict[str, str], settings: dict[str, str], code: int, words: tuple[str, ...]
) -> None:
    process = start(env | settings)
    _, said = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == code
    assert all(word in said for word in words), said


@EDGE
def test_a_port_that_is_taken_is_said(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(env | {"PORT": str(taken.getsockname()[1])})
        _, said = process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 5
    assert "Set HOST or PORT" in said
