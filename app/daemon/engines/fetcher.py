"""One checked way to get a file over http(s): addresses, sizes and times are limited, every redirect is checked again.

Knows nothing of workflow languages, nor of where files go. Never uses proxies or credentials from the surroundings.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse

from app.errors import NotAccepted, Rejected

Resolver = Callable[[str, int], list[str]]
"""(host, port) -> every address of the host. Raises socket.gaierror."""

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
CHUNK_BYTES = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRY_LATER = frozenset({408, 425, 429})
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
DEFAULT_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
SAFE_IN_TARGET = "/%:@!$&'()*+,;=~?"
USER_AGENT = "wes-fetcher"


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched for one run. `private_hosts`: `host` or `host:port`, as URLs spell them, in lower case."""

    private_hosts: frozenset[str] = frozenset()
    file_roots: tuple[Path, ...] = ()
    max_files: int = 500
    max_depth: int = 20
    max_document_bytes: int = 5 * 1024**2
    max_data_bytes: int = 10 * 1024**3  # all input files of a run together
    total_seconds: float = 300.0


def system_resolver(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """Fetches for one run: its time limit counts from its making. Not for several threads."""

    def __init__(self, policy: FetchPolicy, resolver: Resolver = system_resolver) -> None:
        self._policy = policy
        self._resolve = resolver
        self._deadline = time.monotonic() + policy.total_seconds

    def fetch(self, url: str, destination: Path, max_bytes: int) -> int:
        """Put the bytes of `url` into `destination`, whole or not at all; returns their number.

        Raises Rejected (forbidden address, 4xx, too large …) or NotAccepted (no connection, 429, 5xx, too slow).
        """
        hop = url
        for _ in range(MAX_REDIRECTS + 1):
            with self._response(hop) as response:
                if response.status not in REDIRECTS:
                    _check_status(url, response)
                    return self._save(url, response, destination, max_bytes)
                hop = urljoin(hop, response.headers.get("Location", ""))
        raise Rejected(f"{url} redirects more than {MAX_REDIRECTS} times.", "workflow_unreachable")

    @contextmanager
    def _response(self, url: str) -> Iterator[HTTPResponse]:
        parts, port = _checked_url(url)
        connection = self._connection(parts, port, self._checked_address(parts, port))
        try:
            with ExitStack() as opened:
                opened.callback(connection.close)
                connection.connect()
                opened.callback(self._watch(connection.sock, url).cancel)
                response = _get(connection, parts)
                opened.callback(response.close)
                yield response
        except ssl.SSLCertVerificationError as error:
            raise Rejected(f"The certificate of {url} is not trusted: {error}", "workflow_unreachable") from error
        except (HTTPError, OSError, http.client.HTTPException) as error:
            self._remaining(url)
            raise NotAccepted(f"{url} cannot be read now: {error}") from error

    def _watch(self, connected: socket.socket, url: str) -> Timer:
        """Ends the connection when the time is over, however slowly its bytes come."""
        watchdog = Timer(self._remaining(url), _cut, [connected])
        watchdog.daemon = True
        watchdog.start()
        return watchdog

    def _checked_address(self, parts: SplitResult, port: int) -> str:
        """The address to connect to. Looked up once a hop, so that what was checked is what is used."""
        host = str(parts.hostname)
        try:
            addresses = self._resolve(host, port)
        except UnicodeError as error:
            raise Rejected(f"There is no host {host}.", "workflow_unreachable") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                raise Rejected(f"There is no host {host}.", "workflow_unreachable") from error
            raise NotAccepted(f"The address of {host} cannot be looked up now: {error}") from error
        if not {host, f"{host}:{port}", f"[{host}]:{port}"} & self._policy.private_hosts:
            _refuse_private(host, addresses)
        return addresses[0]

    def _connection(self, parts: SplitResult, port: int, address: str) -> HTTPConnection:
        host = str(parts.hostname)
        if parts.scheme == "http":
            return HTTPConnection(address, port, timeout=CONNECT_SECONDS)
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return HTTPSConnection(address, port, timeout=CONNECT_SECONDS, ssl_context=context, server_hostname=host)

    def _save(self, url: str, response: HTTPResponse, destination: Path, max_bytes: int) -> int:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = destination.with_name(f".{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                for chunk in self._chunks(url, response, max_bytes):
                    file.write(chunk)
            partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)
        return destination.stat().st_size

    def _chunks(self, url: str, response: HTTPResponse, max_bytes: int) -> Iterator[bytes]:
        received = 0
        while chunk := response.read1(CHUNK_BYTES):
            received += len(chunk)
            if received > max_bytes:
                raise Rejected(f"{url} has more than {max_bytes} bytes, the limit here.", "workflow_too_large")
            self._remaining(url)
            yield chunk
        self._remaining(url)  # a connection that was cut looks like one that ended

    def _remaining(self, url: str) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise NotAccepted(f"Fetching took longer than {self._policy.total_seconds:g} s; {url} was not complete.")
        return remaining


def fetch_document(url: str, policy: FetchPolicy) -> bytes:
    """One document, for who needs its bytes and no file. Raises Rejected or NotAccepted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "document"
        Fetcher(policy).fetch(url, path, policy.max_document_bytes)
        return path.read_bytes()


def is_public(address: str) -> bool:
    """False for loopback, private, link-local, multicast and reserved ones, also wrapped in an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _refuse_private(host: str, addresses: Iterable[str]) -> None:
    private = [address for address in addresses if not is_public(address)]
    if private:
        raise Rejected(
            f"{host} is at {private[0]}, which is not a public address. "
            "The operator may allow the host with FETCH_PRIVATE_HOSTS.",
            "workflow_forbidden_address",
        )


def _checked_url(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise Rejected(f"{url!r} is not a URL: {error}.", "workflow_unreachable") from error
    if parts.scheme not in DEFAULT_PORTS or not HOST.fullmatch(parts.hostname or ""):
        raise Rejected(f"{url!r} is not an http or https URL with an ASCII host name.", "workflow_unreachable")
    if parts.username is not None or parts.password is not None:
        raise Rejected("A URL with a user name or password in it is not fetched.", "workflow_forbidden_address")
    return parts, port


def _get(connection: HTTPConnection, parts: SplitResult) -> HTTPResponse:
    query = f"?{quote(parts.query, safe=SAFE_IN_TARGET)}" if parts.query else ""
    headers = {
        "Host": parts.netloc,
        "User-Agent": USER_AGENT,
        "Accept": "application/yaml, application/json, text/plain;q=0.9, */*;q=0.8",
        "Accept-Encoding": "identity",
    }
    connection.timeout = SILENCE_SECONDS
    target = quote(parts.path or "/", safe=SAFE_IN_TARGET) + query
    connection.request("GET", target, headers=headers, preload_content=False)
    return connection.getresponse()


def _check_status(url: str, response: HTTPResponse) -> None:
    if response.status == http.client.OK:
        return
    answer = f"{url} answered {response.status} {response.reason or ''}".rstrip() + "."
    if response.status in TRY_LATER or response.status >= http.client.INTERNAL_SERVER_ERROR:
        seconds = response.headers.get("Retry-After", "")
        raise NotAccepted(answer, float(seconds) if seconds.isdecimal() else None)
    raise Rejected(answer, "workflow_unreachable")


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
