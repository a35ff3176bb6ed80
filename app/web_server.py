"""The application as a process: checks before it starts, then granian with worker processes and limits."""

from __future__ import annotations

import os
import socket
from enum import IntEnum
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from app.api.addresses import BASE_PATH
from app.artifacts import make_storage
from app.database import Database
from app.readiness import database_problem
from config import Settings

BACKLOG = 1024
THREADS = 64
"""Requests at work in one worker process, besides those that are held open for a status."""
DRAIN_SECONDS = 10
"""How long requests may go on after TERM."""
HEADER_SECONDS = 20
HEADER_BYTES = 64 * 1024


class Exit(IntEnum):
    """Exit codes, the same as the daemon's."""

    STOPPED = 0
    SETTINGS = 2
    DATABASE = 3
    PORT_TAKEN = 5
    STORAGE = 7


class CannotStart(Exception):
    """Why, in words for the operator, and the exit code that says so."""

    def __init__(self, code: Exit, words: str) -> None:
        super().__init__(words)
        self.code = code


def serve(settings: Settings, target: str, working_dir: Path) -> Exit:
    """Serve `target` (module:factory) until TERM or INT. Raises CannotStart."""
    _check_database(settings)
    _check_storage(settings)
    settings.signing_key()  # made once here, not by every worker
    address, port = _free_address(settings)
    os.chdir(working_dir)
    host = f"[{address}]" if ":" in address else address
    print(f"WES is on http://{host}:{port}{BASE_PATH} (pages: http://{host}:{port}/)", flush=True)
    _server(settings, target, address, port).serve()
    return Exit.STOPPED


def _server(settings: Settings, target: str, address: str, port: int) -> MPServer:
    threads = THREADS + settings.max_waiters
    return MPServer(
        target,
        factory=True,
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        blocking_threads=threads,
        backpressure=2 * threads,
        backlog=BACKLOG,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000, max_buffer_size=HEADER_BYTES),
        respawn_failed_workers=True,
        workers_kill_timeout=DRAIN_SECONDS,
        log_level=LogLevels.error,
    )


def _check_database(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database.connect(settings.database_url)
    try:
        if problem := database_problem(database):
            raise CannotStart(Exit.DATABASE, problem)
    finally:
        database.engine.dispose()


def _check_storage(settings: Settings) -> None:
    if problem := make_storage(settings).problem():
        raise CannotStart(Exit.STORAGE, problem)


def _free_address(settings: Settings) -> tuple[str, int]:
    """The numeric address and a port where nobody listens: granian's own listeners would share one with a stranger."""
    family, _, _, _, where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            words = f"{settings.host}:{settings.port} cannot be used ({error.strerror}). Set HOST or PORT."
            raise CannotStart(Exit.PORT_TAKEN, words) from None
        return str(where[0]), int(probe.getsockname()[1])
