"""The listener for hints, over real sockets."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from app import hints
from app.daemon.notification_server import MAX_BODY_BYTES, MAX_CONNECTIONS, MetricsPage, NotificationServer
from app.daemon.providers import shim
from app.daemon.providers.shim_launcher import keep_hint_target

RUN_ID = "6a36a4a6-5c4e-4b0e-9a58-000000000001"


@contextmanager
def listener(secret: str = "", metrics: MetricsPage | None = None) -> Iterator[tuple[str, list[str]]]:
    heard: list[str] = []
    hear = lambda run_id: heard.append(run_id) or run_id == RUN_ID  # noqa: E731
    server = NotificationServer("127.0.0.1", 0, hear, secret, metrics)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}/", heard
    finally:
        server.stop()


def test_a_hint_reaches_the_callback() -> None:
    with listener() as (url, heard):
        hints.send(url, RUN_ID, "")
        assert requests.get(f"{url}healthz", timeout=5).status_code == 200
    assert heard == [RUN_ID]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", b"not json", 400),
        ("", b"[" * 4000, 400),
        ("", b'{"run_id": 7}', 400),
        ("", b'{"run_id": ""}', 400),
        ("", b"{}", 400),
        ("", json.dumps({"run_id": "a\nb"}).encode(), 400),
        ("", json.dumps({"run_id": "x" * 37}).encode(), 400),
        ("", json.dumps({"run_id": "unknown"}).encode(), 404),
        ("elsewhere", b"{}", 404),
        ("", b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_what_is_no_hint_is_refused_in_words(path: str, body: bytes, status: int) -> None:
    with listener() as (url, _):
        answer = requests.post(url + path, data=body, timeout=5)
    assert answer.status_code == status
    assert answer.json()["status_code"] == status
    assert answer.json()["msg"]


@pytest.mark.parametrize("length", ["", "Content-Length: many\r\n", "Content-Length: -1\r\n"])
def test_a_body_without_a_length_is_refused(length: str) -> None:
    with listener() as (url, _):
        assert b" 400 " in _say(url, f"POST / HTTP/1.0\r\n{length}\r\n".encode()).splitlines()[0]


def test_a_hint_that_breaks_off_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fail(run_id: str) -> bool:
        raise ValueError("no room\nand more about it")

    server = NotificationServer("127.0.0.1", 0, fail)
    server.start()
    try:
        with caplog.at_level(logging.INFO), pytest.raises(hints.NotTaken):
            hints.send(f"http://127.0.0.1:{server.port}/", RUN_ID, "")
    finally:
        server.stop()
    (line,) = [record for record in caplog.records if record.message == "a hint broke off"]
    assert (line.exc_info, vars(line)["error"]) == (None, "ValueError: no room")


def test_a_shim_hears_its_answer_out(tmp_path: Path) -> None:
    """Else the daemon's log tells of a hint that broke off for every run."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        keep_hint_target(tmp_path / "hint.json", f"http://127.0.0.1:{server.getsockname()[1]}/", "s3cret")
        said = pool.submit(shim.send_hint, RUN_ID, str(tmp_path / "hint.json"))
        connection, _ = server.accept()
        with connection:
            assert RUN_ID.encode() in connection.recv(4096)
            for part in (b"HTTP/1.0 200 OK\r\n\r\n", b"{", b"}"):
                connection.sendall(part)
                time.sleep(0.1)
            assert not said.done()
        said.result()


def _say(url: str, text: bytes) -> bytes:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text)
        return connection.recv(1000)


def test_with_a_secret_only_fresh_signed_hints_are_heard() -> None:
    body = json.dumps({"run_id": RUN_ID}).encode()
    now = time.time()
    with listener("s3cret") as (url, heard):
        for headers in (
            {},
            hints.signed_headers(body, "wrong", now),
            hints.signed_headers(body, "s3cret", now - 3600),
            hints.signed_headers(b"another body", "s3cret", now),
            {hints.TIMESTAMP: "²", hints.SIGNATURE: "sha256=é".encode("latin-1").decode("latin-1")},
        ):
            assert requests.post(url, data=body, headers=_latin(headers), timeout=5).status_code == 401
        assert heard == []
        hints.send(url, RUN_ID, "s3cret")
    assert heard == [RUN_ID]


def _latin(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in headers.items()}


def test_a_flood_of_silent_connections_does_not_stop_it_for_long() -> None:
    with listener() as (url, heard):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(MAX_CONNECTIONS + 10)]
        for connection in silent:
            connection.close()
        deadline = time.monotonic() + 30
        while not heard and time.monotonic() < deadline:
            try:
                hints.send(url, RUN_ID, "")
            except hints.NotTaken:
                continue
    assert heard


@pytest.mark.parametrize(
    ("page", "headers", "status"),
    [
        (MetricsPage(lambda: b"m 1\n"), {}, 200),
        (MetricsPage(lambda: b"m 1\n"), {"Host": "localhost:5001"}, 200),
        (MetricsPage(lambda: b"m 1\n"), {"Host": "evil.example"}, 400),
        (MetricsPage(lambda: b"m 1\n"), {"Host": "[::1"}, 400),
        (MetricsPage(lambda: b"m 1\n", is_on_loopback=False), {}, 403),
        (MetricsPage(lambda: b"m 1\n", token="t"), {}, 401),
        (MetricsPage(lambda: b"m 1\n", token="t"), {"Authorization": "Bearer u"}, 401),
        (MetricsPage(lambda: b"m 1\n", "t", False), {"Authorization": "Bearer t", "Host": "wes.example"}, 200),
    ],
)
def test_metrics_are_told_to_this_machine_or_for_the_token(
    page: MetricsPage, headers: dict[str, str], status: int
) -> None:
    with listener("hints' secret", page) as (url, _):
        answer = requests.get(f"{url}metrics", headers=headers, timeout=5)
    assert answer.status_code == status
    assert ("m 1" in answer.text) == (status == 200)
