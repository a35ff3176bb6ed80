"""What a request costs: durable accepts and reads by the service, over a bare Flask app on the same server, in turn.

    .venv/bin/python -m benchmarks.accepts [--rounds 5] [--seconds 2] [--only sqlite|postgresql]

Eight clients at once, connections kept open, two worker processes. The bare app does one durable insert of two texts by
the bare driver and answers JSON (benchmarks/bare_app.py); ours stores the whole run, and tells a daemon of it that has
no room for it. Prints medians of pairs: requests a second, and CPU time of the server's processes a request, which a
busy machine distorts less. Every answer must be 200.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import requests
from sqlalchemy import text

from app import fleet
from app.database import Database
from app.models import Daemon
from benchmarks.bare_app import TABLE
from tests.postgresql import Postgresql
from tests.services import ROOT, Services

CLIENTS = 8
RUNS_LISTED = 50
NUMBER = b"0123456789"
"""Where it stands in a message, a number comes instead, so that no two attachments are alike."""
FIELDS = {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_params": '{"message": "hello"}'}
BY_URL = {**FIELDS, "workflow_params": {"message": "hello"}, "workflow_url": "https://example.org/hello.cwl"}
ENGINE = {"engine": "cwltool", "engine_version": "3.3", "workflow_types": {"CWL": ["v1.0", "v1.1", "v1.2"]}}
OFFERS: dict[str, Any] = {"local": {"engines": [ENGINE], "capabilities": {}, "problem": None}}


class BareApp(Services):
    """The same settings and the same schema, and one table more."""

    api_script = "benchmarks/bare_app.py"


@dataclass(frozen=True)
class Load:
    """What one round of one server took."""

    a_second: float
    cpu: float  # seconds of the server's processes for a request
    p99: float  # seconds


@dataclass(frozen=True)
class Target:
    """A request, and the server that gets it."""

    services: Services
    message: bytes

    def measure(self, seconds: float) -> Load:
        before, began = _cpu(self.services), time.perf_counter()
        times = drive(self.services.port, self.message, seconds)
        took = time.perf_counter() - began
        return Load(
            len(times) / took, (_cpu(self.services) - before) / len(times), sorted(times)[len(times) * 99 // 100]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    for kind in [given.only] if given.only else ["sqlite", "postgresql"]:
        with servers(kind) as (bare, ours):
            print(f"\n{kind}, {CLIENTS} clients")
            for name, pair in questions(bare, ours).items():
                compare(name, *pair, given.rounds, given.seconds)
    return 0


def compare(name: str, bare: Target, ours: Target, rounds: int, seconds: float) -> None:
    pairs = [(bare.measure(seconds), ours.measure(seconds)) for _ in range(rounds)]
    rates = [mine.a_second / other.a_second for other, mine in pairs]
    costs = [mine.cpu / other.cpu for other, mine in pairs]
    typical = statistics.median
    print(
        f"  {name:24} {typical(mine.a_second for _, mine in pairs):6.0f}/s over "
        f"{typical(other.a_second for other, _ in pairs):6.0f}/s: ratio {typical(rates):.2f} "
        f"({min(rates):.2f} to {max(rates):.2f}); p99 {typical(mine.p99 for _, mine in pairs) * 1000:.0f} ms; "
        f"CPU {typical(mine.cpu for _, mine in pairs) * 1000:.2f} ms, {typical(costs):.1f} times",
        flush=True,
    )


def questions(bare: Services, ours: Services) -> dict[str, tuple[Target, Target]]:
    """Name -> (what the bare app gets, what ours gets)."""
    insert = Target(bare, _message(bare, "POST", "/runs", json={"workflow_url": BY_URL["workflow_url"]}))
    trivial = Target(bare, _message(bare, "GET", "/healthz"))
    runs, document = f"{ours.url}/runs", (ROOT / "examples" / "hello_world.cwl").read_bytes()
    run_id = requests.post(runs, json=BY_URL, timeout=30).json()["run_id"]
    accepts: dict[str, dict[str, Any]] = {
        "POST JSON": {"json": BY_URL},
        "POST a new attachment": _with_attachment(document + b"# " + NUMBER),
        "POST a known attachment": _with_attachment(document),
    }
    reads = {"GET status": f"/{run_id}/status", "GET run": f"/{run_id}", "GET 50 runs": f"?page_size={RUNS_LISTED}"}
    return {name: (insert, Target(ours, _message(ours, "POST", runs, **body))) for name, body in accepts.items()} | {
        name: (trivial, Target(ours, _message(ours, "GET", runs + path))) for name, path in reads.items()
    }


def _with_attachment(content: bytes) -> dict[str, Any]:
    fields = {**FIELDS, "workflow_url": "hello_world.cwl"}
    return {"data": fields, "files": {"workflow_attachment": ("hello_world.cwl", content)}}


def drive(port: int, message: bytes, seconds: float) -> list[float]:
    """Send it over and over on CLIENTS connections from this one thread; returns how long each answer took."""
    times: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for number in range(CLIENTS):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            exchange = _exchange(peer, message, time.time_ns() // 1000 * CLIENTS + number, times)
            selector.register(peer, selectors.EVENT_READ, exchange)
            next(exchange)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for key, _ in selector.select(1):
                next(key.data)
    return times


def _exchange(peer: socket.socket, message: bytes, number: int, times: list[float]) -> Generator[None]:
    """Sends, reads the answer, adds its time to `times` and begins again; yields where it would wait."""
    while True:
        number += CLIENTS
        began, answer = time.perf_counter(), b""
        peer.sendall(message.replace(NUMBER, b"%010d" % (number % 10**10)))
        while not _is_whole(answer):
            yield
            answer += peer.recv(1 << 20) or sys.exit("The server closed a connection.")
        if not answer.startswith(b"HTTP/1.1 200"):
            sys.exit(f"Answered: {answer[:1000].decode(errors='replace')}")
        times.append(time.perf_counter() - began)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


def _message(services: Services, method: str, where: str, **body: Any) -> bytes:
    """The bytes of a request."""
    url = where if where.startswith("http") else services.origin + where
    request = requests.Request(method, url, headers={"Host": f"127.0.0.1:{services.port}"}, **body).prepare()
    lines = [f"{method} {request.path_url} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    content = request.body.encode() if isinstance(request.body, str) else request.body or b""
    return "\r\n".join([*lines, "", ""]).encode() + content


@contextmanager
def servers(kind: str) -> Iterator[tuple[Services, Services]]:
    with ExitStack() as stack:
        urls: list[dict[str, str]] = [{}, {}]
        if kind == "postgresql":
            server = stack.enter_context(Postgresql(durable=True))
            urls = [{"DATABASE_URI": server.create_database(name)} for name in ("bare", "ours")]
        bare = stack.enter_context(BareApp(urls[0], start=False))
        ours = stack.enter_context(Services({**urls[1], "PROVIDERS": "dag"}, start=False))
        for services in (bare, ours):
            services.migrate()
        _change(bare, lambda session: session.execute(text(TABLE)))
        _change(ours, lambda session: fleet.sign_on(session, _full_daemon()))
        for services in (bare, ours):
            services.start_api()
        ours.start_daemon()
        yield bare, ours


def _change(services: Services, work: Callable[[Any], object]) -> None:
    url = services.environment.get("DATABASE_URI", f"sqlite:///{services.data_dir / 'wes.sqlite'}")
    database = Database.connect(url)
    database.transact(work)
    database.engine.dispose()


def _full_daemon() -> Daemon:
    """One that offers cwltool, so that requests are held against an offer, and claims nothing."""
    now = datetime.now(UTC)
    seen = now + timedelta(days=1)
    return Daemon(id="full", host="full", hostname="full", version="0", started_at=now, last_seen=seen, offers=OFFERS)


def _cpu(services: Services) -> float:
    """Seconds that the server's processes have worked."""
    parent = psutil.Process(services.processes["api"].pid)
    return sum(sum(process.cpu_times()[:2]) for process in (parent, *parent.children(recursive=True)))


if __name__ == "__main__":
    sys.exit(main())
