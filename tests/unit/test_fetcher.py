"""What the fetcher fetches, and what it refuses: addresses, redirects, sizes, times, answers. Against real sockets."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.daemon.engines.fetcher import Fetcher, FetchPolicy, is_public
from app.errors import NotAccepted, Rejected
from tests.fakes.web import Page, Web


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({"/doc": "text"}) as web:
        yield web


def fetch(web: Web, path: str, into: Path, max_bytes: int = 1000, **policy: float) -> bytes:
    settings = FetchPolicy(private_hosts=frozenset({web.host}), **policy)  # type: ignore[arg-type]
    size = Fetcher(settings).fetch(web.url + path, into / "got", max_bytes)
    content = (into / "got").read_bytes()
    assert size == len(content)
    return content


def test_a_file_is_fetched_without_credentials_or_proxies(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    assert fetch(web, "/doc", tmp_path) == b"text"
    [(path, headers)] = web.asked
    assert path == "/doc"
    assert headers["Host"] == web.host
    assert not headers.keys() & {"Authorization", "Cookie", "Proxy-Authorization"}


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
        ),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("allowed", [(), ("127.0.0.1:1",), ("localhost",), ("example.org",)])
def test_a_private_address_is_refused_unless_its_host_is_allowed(
    web: Web, tmp_path: Path, allowed: tuple[str, ...]
) -> None:
    with pytest.raises(Rejected, match="not a public address") as refusal:
        Fetcher(FetchPolicy(frozenset(allowed))).fetch(f"{web.url}/doc", tmp_path / "got", 1000)
    assert refusal.value.reason == "workflow_forbidden_address"
    assert web.asked == []


def test_a_host_may_be_allowed_on_every_port(web: Web, tmp_path: Path) -> None:
    Fetcher(FetchPolicy(frozenset({"127.0.0.1"}))).fetch(f"{web.url}/doc", tmp_path / "got", 1000)
    assert web.paths == ["/doc"]


def test_one_private_address_among_public_ones_is_enough_to_refuse(tmp_path: Path) -> None:
    fetcher = Fetcher(FetchPolicy(), lambda host, port: ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(Rejected) as refusal:
        fetcher.fetch("http://two.test/doc", tmp_path / "got", 1000)
    assert refusal.value.reason == "workflow_forbidden_address"


def test_the_checked_address_is_the_one_connected_to(web: Web, tmp_path: Path) -> None:
    """DNS rebinding: the name is looked up once, and would lead elsewhere the second time."""
    answers = iter([["127.0.0.1"]])
    fetcher = Fetcher(FetchPolicy(frozenset({"rebind.test"})), lambda host, port: next(answers))
    fetcher.fetch(f"http://rebind.test:{web.port}/doc", tmp_path / "got", 1000)
    assert web.asked[0][1]["Host"] == f"rebind.test:{web.port}"


def test_a_redirect_is_followed_and_checked_again(web: Web, tmp_path: Path) -> None:
    web.pages["/old"] = Page(status=302, headers={"Location": "/doc"})
    assert fetch(web, "/old", tmp_path) == b"text"
    web.pages["/old"] = Page(status=302, headers={"Location": f"http://localhost:{web.port}/doc"})
    with pytest.raises(Rejected, match="localhost is at"):
        fetch(web, "/old", tmp_path)
    assert web.paths == ["/old", "/doc", "/old"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.org/x", "http://u:p@example.org/", "http://"]
)
def test_a_redirect_elsewhere_is_refused(web: Web, tmp_path: Path, location: str) -> None:
    web.pages["/old"] = Page(status=301, headers={"Location": location})
    with pytest.raises(Rejected):
        fetch(web, "/old", tmp_path)


def test_redirects_end(web: Web, tmp_path: Path) -> None:
    web.pages["/loop"] = Page(status=307, headers={"Location": "/loop"})
    with pytest.raises(Rejected, match="redirects more than"):
        fetch(web, "/loop", tmp_path)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
def test_a_definite_no_is_rejected(web: Web, tmp_path: Path, status: int) -> None:
    web.pages["/no"] = Page(status=status)
    with pytest.raises(Rejected, match=f"answered {status}") as refusal:
        fetch(web, "/no", tmp_path)
    assert refusal.value.reason == "workflow_unreachable"


@pytest.mark.parametrize(("status", "after"), [(429, 7.0), (500, None), (503, 120.0)])
def test_a_passing_trouble_is_tried_again_later(web: Web, tmp_path: Path, status: int, after: float | None) -> None:
    web.pages["/busy"] = Page(status=status, headers={} if after is None else {"Retry-After": f"{after:g}"})
    with pytest.raises(NotAccepted) as trouble:
        fetch(web, "/busy", tmp_path)
    assert trouble.value.retry_after == after


def test_no_connection_is_tried_again_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotAccepted):
        Fetcher(FetchPolicy(frozenset({"127.0.0.1"}))).fetch(f"http://127.0.0.1:{port}/", tmp_path / "got", 1000)


@pytest.mark.parametrize(("code", "error"), [(socket.EAI_NONAME, Rejected), (socket.EAI_AGAIN, NotAccepted)])
def test_names_that_cannot_be_looked_up(tmp_path: Path, code: int, error: type[Exception]) -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(code, "not found")

    with pytest.raises(error):
        Fetcher(FetchPolicy(), resolver).fetch("http://nowhere.test/", tmp_path / "got", 1000)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://",
            "http:///doc",
            "http://[::1",
            "http://ho st/",
            "http://a..b/",
            "http://x:99999/",
            "http://ex\u00e4mple.org/",
        ),
        *("ftp://example.org/", "file:///etc/passwd", "gopher://x/", "http://user@example.org/", "//example.org/x"),
        "http://" + "a" * 300,
    ],
)
def test_what_is_not_a_plain_web_address_is_rejected(tmp_path: Path, url: str) -> None:
    with pytest.raises(Rejected):
        Fetcher(FetchPolicy()).fetch(url, tmp_path / "got", 1000)


def test_too_large_is_rejected_and_leaves_nothing(web: Web, tmp_path: Path) -> None:
    web.pages["/big"] = Page(b"x" * 1001)
    with pytest.raises(Rejected, match="more than 1000 bytes") as refusal:
        fetch(web, "/big", tmp_path)
    assert refusal.value.reason == "workflow_too_large"
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_for_what_is_unpacked(web: Web, tmp_path: Path) -> None:
    web.pages["/zip"] = Page(gzip.compress(b"x" * 100_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(Rejected, match="more than 1000 bytes"):
        fetch(web, "/zip", tmp_path)


def test_a_chunked_answer(web: Web, tmp_path: Path) -> None:
    def chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    web.pages["/chunks"] = Page(stream=chunks)
    assert fetch(web, "/chunks", tmp_path) == b"abcde"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"", b"nonsense\r\n\r\n"])
def test_half_an_answer_is_tried_again_and_leaves_nothing(web: Web, tmp_path: Path, answer: bytes) -> None:
    web.pages["/half"] = Page(stream=lambda handler: handler.wfile.write(answer))
    with pytest.raises(NotAccepted):
        fetch(web, "/half", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\nabc"])
def test_a_server_that_never_ends_is_cut(web: Web, tmp_path: Path, begun: bytes) -> None:
    over = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begun)
        over.wait()

    web.pages["/hang"] = Page(stream=hang)
    with pytest.raises(NotAccepted, match="longer than"):
        try:
            fetch(web, "/hang", tmp_path, total_seconds=0.2)
        finally:
            over.set()


def certificate(host: str, folder: Path) -> Path:
    """A self-signed certificate for `host` with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.pem").write_bytes(made.public_bytes(Encoding.PEM) + private)
    return folder / "tls.pem"


@pytest.mark.parametrize(("host", "is_trusted"), [("right.test", True), ("wrong.test", False)])
def test_the_certificate_is_checked_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_trusted: bool
) -> None:
    pem = certificate("right.test", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    fetcher = Fetcher(FetchPolicy(frozenset({host})), lambda host, port: ["127.0.0.1"])
    with Web({"/doc": "text"}, context) as web:
        if is_trusted:
            assert fetcher.fetch(f"https://{host}:{web.port}/doc", tmp_path / "got", 1000) == 4
        else:
            with pytest.raises(Rejected, match="not trusted"):
                fetcher.fetch(f"https://{host}:{web.port}/doc", tmp_path / "got", 1000)


def test_an_unknown_certificate_is_not_trusted(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate("localhost", tmp_path))
    fetcher = Fetcher(FetchPolicy(frozenset({"localhost"})), lambda host, port: ["127.0.0.1"])
    with Web({}, context) as web, pytest.raises(Rejected, match="not trusted"):
        fetcher.fetch(f"https://localhost:{web.port}/doc", tmp_path / "got", 1000)
