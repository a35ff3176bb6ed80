"""The connection breaks while a COMMIT is under way: nobody knows, so the same request is sent again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.database import Database
from app.models import WorkflowRun
from app.runs import acceptance
from tests.conftest import Clock
from tests.postgresql import SOCKET_NAME, Postgresql
from tests.rows import changes, new_run


class Wire:
    """Between a client and PostgreSQL; cuts the first COMMIT off, before it arrives or before its answer does."""

    def __init__(self, listener: socket.socket, server: Path, arrives: bool) -> None:
        self._listener, self._server, self._arrives = listener, server, arrives
        self.cut = False

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            Thread(target=self._relay, args=(client,)).start()

    def _relay(self, client: socket.socket) -> None:
        muted = Event()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._server))
            answers = Thread(target=_answer, args=(server, client, muted))
            answers.start()
            while data := client.recv(65536):
                if b"COMMIT" in data and not self.cut:
                    self.cut = True
                    muted.set()
                    if not self._arrives:
                        client.shutdown(socket.SHUT_RDWR)
                        break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            answers.join()


def _answer(server: socket.socket, client: socket.socket, muted: Event) -> None:
    """Hand answers on; the one that comes once `muted` is set breaks the connection in its place."""
    with suppress(OSError):  # the client has gone first
        while data := server.recv(65536):
            if muted.is_set():
                client.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(data)


@contextmanager
def wire(server: Path, arrives: bool) -> Iterator[tuple[Wire, str]]:
    with TemporaryDirectory(prefix="wire-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/{SOCKET_NAME}")
        listener.listen()
        cutting = Wire(listener, server, arrives)
        thread = Thread(target=cutting.serve)
        thread.start()
        try:
            yield cutting, folder
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("key", [None, "k"])
def test_request_is_accepted_once(
    database: Database, postgresql: Postgresql, clock: Clock, arrives: bool, key: str | None
) -> None:
    """I1: whether the COMMIT arrived or not, sending the same request again gives the one run."""
    new = new_run(idempotency_key=key, tags={"a": "b"})
    with wire(postgresql.home / SOCKET_NAME, arrives) as (cutting, folder):
        url = database.engine.url.set(query={"host": folder})
        far = Database.connect(url.render_as_string())
        with pytest.raises(OperationalError):
            far.transact(lambda session: acceptance.accept(session, new, clock()))
        assert cutting.cut
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(WorkflowRun)) == (1 if arrives else 0)
        assert far.transact(lambda session: acceptance.accept(session, new, clock())) == new.run_id
        far.engine.dispose()
    with database.reading() as session:
        assert session.scalars(select(WorkflowRun.run_id)).all() == [new.run_id]
    assert changes(database, new.run_id) == [(None, "QUEUED")]
