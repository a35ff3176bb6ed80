"""What the API does when the world fails: database, disk, client, COMMIT. I1, I7 and the faults of RELIABILITY.md."""

from __future__ import annotations

import errno
import io
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event, text
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.api.errors import respond
from app.artifacts import DirectoryStorage, Upload
from app.context import Context
from app.database import Database
from app.errors import OutcomeUnknown
from app.factory import create_app
from app.runs import listing
from app.runs.listing import RunFilter
from config import Settings
from tests.api_calls import BASE, EDGE, error_of, multipart, post, post_form, run
from tests.conftest import Clock

T = TypeVar("T")
FORM = {"workflow_url": "main.cwl", "workflow_type": "CWL"}


def change_context(app: Flask, **changes: Any) -> None:
    context: Context = app.extensions["wes"]
    fields = {name: getattr(context, name) for name in Context.__slots__}
    app.extensions["wes"] = Context(**fields | changes)


def stored(database: Database) -> list[str]:
    with database.reading() as session:
        return [one.run_id for one in listing.list_runs(session, None, RunFilter(), 1000).runs]


def files(storage: DirectoryStorage) -> list[Path]:
    return [path for path in storage.root.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.fixture(params=["postgresql+psycopg://nobody@127.0.0.1:1/none", "sqlite:////nonexistent/wes.sqlite"])
def cut_off(request: pytest.FixtureRequest, blind: None, tmp_path: Path, clock: Clock) -> Iterator[FlaskClient]:
    """A service whose database cannot be reached."""
    settings = Settings(_env_file=None, database_uri=request.param, data_dir=tmp_path, secret_key="k")
    app = create_app(settings, clock)
    yield app.test_client()
    app.extensions["wes"].database.engine.dispose()


def test_I7_a_database_that_is_away_is_503_with_retry_after(cut_off: FlaskClient) -> None:
    for method, path in (
        ("GET", "/runs"),
        ("GET", "/runs/x"),
        ("GET", "/runs/x/status"),
        ("POST", "/runs/x/cancel"),
        ("DELETE", "/runs/x"),
        ("GET", "/runs/x/logs/stdout"),
        ("GET", "/service-info"),
    ):
        answer = cut_off.open(BASE + path, method=method)
        assert answer.status_code == 503, path
        assert int(answer.headers["Retry-After"]) > 0
        error_of(answer)
    assert post(cut_off).status_code == 503
    assert post_form(cut_off, **FORM, attachments={"main.cwl": b"x"}).status_code == 503


def test_health_tells_a_living_process_from_one_that_can_serve(cut_off: FlaskClient) -> None:
    assert cut_off.get("/healthz").status_code == 200
    ready = cut_off.get("/readyz")
    assert ready.status_code == 503
    assert "does not answer" in error_of(ready)


def test_a_database_that_is_not_migrated_is_said(blind: None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.sqlite"
    app = create_app(Settings(_env_file=None, database_uri=url, data_dir=tmp_path, secret_key="k"))
    ready = app.test_client().get("/readyz")
    app.extensions["wes"].database.engine.dispose()
    assert ready.status_code == 503
    assert "flask --app application db upgrade" in error_of(ready)


class FullUpload(Upload):
    """An upload on a disk without room; `at`: what fails."""

    def __init__(self, inner: Upload, at: str) -> None:
        self._inner, self._at = inner, at

    def write(self, data: bytes) -> int:
        self._fail_at("write")
        return self._inner.write(data)

    def keep(self) -> tuple[str, int]:
        self._fail_at("keep")
        return self._inner.keep()

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)

    def seek(self, offset: int) -> int:
        return self._inner.seek(offset)

    def close(self) -> None:
        self._inner.close()

    def _fail_at(self, what: str) -> None:
        if what == self._at:
            raise OSError(errno.ENOSPC, "No space left on device")


class FullStorage(DirectoryStorage):
    at = "write"

    def new_upload(self) -> Upload:
        return FullUpload(super().new_upload(), self.at)


@pytest.mark.parametrize("at", ["write", "keep"])
def test_I7_a_full_disk_is_507_and_no_row(
    app: Flask, client: FlaskClient, database: Database, storage: DirectoryStorage, at: str
) -> None:
    full = FullStorage(storage.root)
    full.at = at
    change_context(app, storage=full)
    answer = post_form(client, **FORM, attachments={"main.cwl": b"x"})
    assert answer.status_code == 507
    error_of(answer)
    assert (stored(database), files(storage)) == ([], [])


@EDGE
def test_I7_a_full_database_is_507_and_no_row(app: Flask, client: FlaskClient, database: Database) -> None:
    def shrink(connection: Any, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    engine = app.extensions["wes"].database.engine
    event.listen(engine, "connect", shrink)
    answer = post(client, {"workflow_params": {"x": "y" * 1_000_000}})
    assert answer.status_code == 507
    error_of(answer)
    assert stored(database) == []


class Breaking(Database):
    """A database whose connection breaks around the COMMIT of its first transactions."""

    def __init__(self, inner: Database, after_commit: bool, times: int) -> None:
        super().__init__(inner.engine)
        self._after_commit, self._times = after_commit, times

    def _transact(self, begin: Any, work: Callable[[Session], T]) -> T:
        if self._times == 0:
            return super()._transact(begin, work)
        self._times -= 1
        if self._after_commit:
            super()._transact(begin, work)
        raise OperationalError("COMMIT", {}, Exception("server closed the connection"), connection_invalidated=True)


@pytest.mark.parametrize("after_commit", [True, False])
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
def test_I1_a_lost_answer_to_commit_is_looked_up(
    app: Flask, client: FlaskClient, database: Database, after_commit: bool, key: dict[str, str]
) -> None:
    change_context(app, database=Breaking(database, after_commit, 1))
    run_id = run(client, headers=key)
    assert stored(database) == [run_id]
    (accepted,) = client.get(f"{BASE}/runs/{run_id}/events").json["events"]
    assert accepted["note"] == "accepted"


def test_I1_a_commit_that_keeps_failing_is_503_and_no_row(app: Flask, client: FlaskClient, database: Database) -> None:
    change_context(app, database=Breaking(database, False, 100))
    assert post(client).status_code == 503
    assert stored(database) == []


class Looking(Database):
    """Notes which blobs are in artifact storage when a transaction begins."""

    def __init__(self, inner: Database, storage: DirectoryStorage) -> None:
        super().__init__(inner.engine)
        self._storage = storage
        self.seen: list[int] = []

    def _transact(self, begin: Any, work: Callable[[Session], T]) -> T:
        self.seen.append(len(files(self._storage)))
        return super()._transact(begin, work)


def test_I1_attachments_are_kept_before_the_row_is_written(
    app: Flask, client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    looking = Looking(database, storage)
    change_context(app, database=looking)
    assert post_form(client, **FORM, attachments={"main.cwl": b"1", "a": b"2"}).status_code == 200
    assert looking.seen == [2]


def test_9_equal_keys_at_once_make_one_run(app: Flask, database: Database) -> None:
    def send(number: int) -> Any:
        return post(app.test_client(), headers={"Idempotency-Key": f"k{number % 3}"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json["run_id"] for answer in answers} == set(stored(database))
    assert len(stored(database)) == 3


def test_9_one_key_for_different_requests_at_once_goes_to_one_of_them(app: Flask, database: Database) -> None:
    def send(number: int) -> int:
        return post(app.test_client(), {"name": str(number)}, headers={"Idempotency-Key": "k"}).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(send, range(6)))
    assert statuses == [200, 422, 422, 422, 422, 422]
    assert len(stored(database)) == 1


class Broken(io.BytesIO):
    """The body of a client that goes away."""

    def readinto(self, buffer: Any) -> int:
        if count := super().readinto(buffer):
            return count
        raise ConnectionResetError("peer went away")


@pytest.mark.parametrize("breaks", [True, False], ids=["reset", "closed"])
def test_I1_an_upload_that_is_cut_off_leaves_nothing(
    client: FlaskClient, database: Database, storage: DirectoryStorage, breaks: bool
) -> None:
    parts = [(name, None, value.encode()) for name, value in FORM.items()]
    body = multipart(*parts, ("workflow_attachment", "main.cwl", b"x" * 200_000))
    sent = body["data"][:150_000]
    answer = client.post(
        f"{BASE}/runs",
        input_stream=Broken(sent) if breaks else io.BytesIO(sent),
        content_type=body["content_type"],
        content_length=len(body["data"]),
    )
    assert answer.status_code == 400
    error_of(answer)
    assert (stored(database), files(storage)) == ([], [])


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@EDGE
def test_I10_more_attachments_than_descriptors(client: FlaskClient) -> None:
    attachments = {"main.cwl": b"x"} | {f"f{number}": b"y" for number in range(100)}
    with few_descriptors(20):
        assert post_form(client, **FORM, attachments=attachments).status_code == 200


class Mistaken(DirectoryStorage):
    def outputs(self, run_id: str) -> Any:
        raise RuntimeError("a mistake of ours: password=hunter2")


def test_I11_what_is_logged_of_a_failed_statement_holds_no_values(
    client: FlaskClient, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.transact(lambda session: session.execute(text("ALTER TABLE workflow_runs RENAME TO gone")))
    assert post(client, {"workflow_params": {"token": "hunter2"}}).status_code in (500, 503)
    assert "workflow_runs" in caplog.text
    assert "hunter2" not in caplog.text


@EDGE
def test_I7_a_mistake_of_ours_is_500_in_our_shape_and_keeps_its_secrets(app: Flask, client: FlaskClient) -> None:
    run_id = run(client)
    change_context(app, storage=Mistaken(app.extensions["wes"].storage.root))
    answer = client.get(f"{BASE}/runs/{run_id}/outputs")
    assert answer.status_code == 500
    assert "hunter2" not in error_of(answer)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT 1", {}, Exception("no")), 503),
        (InterfaceError("SELECT 1", {}, Exception("no")), 503),
        (PoolTimeout("QueuePool limit"), 503),
        (OutcomeUnknown("the bucket does not answer"), 503),
        (OSError(errno.EMFILE, "Too many open files"), 503),
        (OSError(errno.ENFILE, "Too many open files"), 503),
        (OSError(errno.ENOSPC, "No space"), 507),
        (OSError(errno.EDQUOT, "Quota"), 507),
        (DataError("SELECT 1", {}, Exception("invalid byte sequence")), 400),
        (OSError(errno.EIO, "I/O error"), 500),
        (KeyError("x"), 500),
    ],
)
def test_every_exception_has_a_status(error: Exception, status: int) -> None:
    answer = respond(error)
    assert answer.status_code == status
    assert answer.json["status_code"] == status
    assert ("Retry-After" in answer.headers) == (status == 503)
