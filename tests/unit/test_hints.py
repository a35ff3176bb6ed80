"""Hints: signed so that nobody else can send them, sent off the caller's thread, and harmless when they fail."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.hints import MAX_AGE_SECONDS, SIGNATURE, TIMESTAMP, Hinter, NotTaken, Refused, is_genuine, send, signed_headers

NOW = 1_795_000_000.7
BODY = b'{"run_id": "r-1"}'


# Signatures


def test_own_hint_is_genuine() -> None:
    assert is_genuine(BODY, signed_headers(BODY, "secret", NOW), "secret", NOW)


def test_without_a_secret_nothing_is_signed_and_everything_is_taken() -> None:
    assert signed_headers(BODY, "", NOW) == {}
    assert is_genuine(BODY, {}, "", NOW)
    assert is_genuine(BODY, {TIMESTAMP: "x", SIGNATURE: "y"}, "", NOW)


def test_documented_signature() -> None:
    """HMAC-SHA256 of `<time>.<body>`, so that other programs can sign too; worked out with openssl."""
    headers = signed_headers(b"{}", "key", 1700000000)
    assert headers == {
        "X-WES-Timestamp": "1700000000",
        "X-WES-Signature": "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda body, headers: (body + b" ", headers),
        lambda body, headers: (b"", headers),
        lambda body, headers: (body, {}),
        lambda body, headers: (body, headers | {TIMESTAMP: str(int(NOW) + 1)}),
        lambda body, headers: (body, {SIGNATURE: headers[SIGNATURE]}),
        lambda body, headers: (body, {TIMESTAMP: headers[TIMESTAMP]}),
        lambda body, headers: (body, headers | {SIGNATURE: headers[SIGNATURE].removeprefix("sha256=")}),
        lambda body, headers: (body, headers | {SIGNATURE: headers[SIGNATURE].upper()}),
        lambda body, headers: (body, headers | {SIGNATURE: ""}),
        lambda body, headers: (body, headers | {SIGNATURE: "sha256=ü"}),
        lambda body, headers: (body, signed_headers(body, "other", NOW)),
    ],
)
def test_forged_hint_is_not(change: Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]) -> None:
    body, headers = change(BODY, signed_headers(BODY, "secret", NOW))
    assert not is_genuine(body, headers, "secret", NOW)


@pytest.mark.parametrize(("later", "expected"), [(0, True), (299, True), (302, False), (-299, True), (-302, False)])
def test_old_hint_is_not(later: float, expected: bool) -> None:
    assert MAX_AGE_SECONDS == 300
    assert is_genuine(BODY, signed_headers(BODY, "secret", NOW), "secret", NOW + later) is expected


@pytest.mark.parametrize(
    "timestamp", ["", "-1", "1e9", "1795000000.5", " 1795000000", "٣", "9" * 400, "9" * 60_000, "nan", "0x10", "1_0"]
)
def test_times_that_are_none_are_refused(timestamp: str) -> None:
    """Neither believed nor stumbled over: numbers of thousands of digits, say."""
    headers = signed_headers(BODY, "secret", NOW) | {TIMESTAMP: timestamp}
    assert is_genuine(BODY, headers, "secret", NOW) is False


@given(timestamp=st.text(max_size=20), signature=st.text(max_size=80), body=st.binary(max_size=20))
def test_no_forgery_is_stumbled_over(timestamp: str, signature: str, body: bytes) -> None:
    assert is_genuine(body, {TIMESTAMP: timestamp, SIGNATURE: signature}, "secret", NOW) is False


# Sending


class Listener:
    """A real HTTP server that keeps what it gets; `answer` decides the status."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[bytes, dict[str, str]]] = queue.Queue()
        self.status, self.headers = 200, {}
        self.go_on = threading.Event()
        self.go_on.set()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.heard.put((body, dict(self.headers)))
                listener.go_on.wait()
                self.send_response(listener.status)
                for name, value in listener.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def run_ids(self, number: int) -> list[str]:
        return [json.loads(self.heard.get(timeout=10)[0])["run_id"] for _ in range(number)]

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def nobody() -> str:
    """The URL of a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def test_hint_arrives_signed(listener: Listener) -> None:
    send(listener.url, "r-1", "secret")
    body, headers = listener.heard.get(timeout=10)
    assert json.loads(body) == {"run_id": "r-1"}
    assert headers["Content-Type"] == "application/json"
    assert is_genuine(body, headers, "secret", float(headers[TIMESTAMP]))


def test_proxies_of_the_environment_are_not_asked(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", nobody())
    send(listener.url, "r-1", "")
    assert listener.run_ids(1) == ["r-1"]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_refused_hint_is_said(listener: Listener, status: int) -> None:
    listener.status = status
    with pytest.raises(Refused):
        send(listener.url, "r-1", "")


def test_redirect_is_not_followed(listener: Listener) -> None:
    listener.status, listener.headers = 307, {"Location": nobody()}
    send(listener.url, "r-1", "secret")
    assert listener.run_ids(1) == ["r-1"]


def test_nobody_there_is_said() -> None:
    with pytest.raises(NotTaken):
        send(nobody(), "r-1", "")


# The hinter


def test_hints_go_in_order(listener: Listener) -> None:
    hinter = Hinter(listener.url, "")
    for number in range(20):
        hinter.hint(f"r-{number}")
    assert listener.run_ids(20) == [f"r-{number}" for number in range(20)]


def test_caller_does_not_wait(listener: Listener) -> None:
    """The listener does not answer while all hints are given."""
    listener.go_on.clear()
    hinter = Hinter(listener.url, "")
    for number in range(5):
        hinter.hint(f"r-{number}")
    listener.go_on.set()
    assert listener.run_ids(5) == [f"r-{number}" for number in range(5)]


def test_flood_is_dropped(listener: Listener) -> None:
    listener.go_on.clear()
    hinter = Hinter(listener.url, "", room=3)
    hinter.hint("r-0")
    assert listener.run_ids(1) == ["r-0"]  # it is being sent, and the three places are free
    for number in range(1, 100):
        hinter.hint(f"r-{number}")
    listener.go_on.set()
    assert listener.run_ids(3) == ["r-1", "r-2", "r-3"]
    hinter.hint("later")
    assert listener.run_ids(1) == ["later"]


def test_new_runs_that_come_while_another_hint_is_sent_share_one(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint that waits still wakes the provider for all of them; each provider has its own, and nothing else waits."""
    monkeypatch.setattr("app.hints.GATHER_SECONDS", 1.0)
    listener.go_on.clear()
    hinter = Hinter(listener.url, "")
    hinter.hint_new("r-0", "local")
    assert listener.run_ids(1) == ["r-0"]  # it is being sent: it may come too early for the next
    for number in range(1, 6):
        hinter.hint_new(f"r-{number}", "local")
        hinter.hint_new(f"d-{number}", "dag")
    hinter.hint("r-1")
    listener.go_on.set()
    assert listener.run_ids(3) == ["r-1", "r-5", "d-5"]


def test_address_that_is_none_is_said() -> None:
    with pytest.raises(NotTaken):
        send("http://::1:x/", "r-1", "")


def test_hints_go_on_after_failures(listener: Listener) -> None:
    hinter = Hinter(listener.url, "")
    listener.status = 500
    hinter.hint("r-0")
    assert listener.run_ids(1) == ["r-0"]
    listener.status = 200
    hinter.hint("r-1")
    assert listener.run_ids(1) == ["r-1"]


def test_hinting_nobody_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    logged = threading.Event()
    caplog.handler.addFilter(lambda _: logged.set() or True)  # type: ignore[func-returns-value]
    Hinter(nobody(), "secret").hint("r-1")
    assert logged.wait(10)
    assert "secret" not in caplog.text


def test_no_thread_without_a_hint() -> None:
    before = threading.active_count()
    Hinter(nobody(), "")
    assert threading.active_count() == before
