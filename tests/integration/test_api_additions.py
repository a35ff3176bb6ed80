"""What this service adds to WES: validate, outputs, logs that are watched, delete, re-run, events, waiting, health."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.artifacts import DirectoryStorage
from app.context import Context
from app.database import Database
from app.hints import Hinter
from app.runs import transitions
from app.states import State
from app.watching import Waiters
from tests import rows
from tests.api_calls import BASE, EDGE, error_of, multipart, post_form, run, sign_on
from tests.conftest import Clock
from tests.sample_runs import SampleRuns, task

TOOL = b"cwlVersion: v1.2\nclass: CommandLineTool\ninputs: {who: string}\noutputs: []\n"
FORM = {"workflow_url": "main.cwl", "workflow_type": "CWL", "workflow_params": '{"who": "world"}'}


class KeptHints(Hinter):
    """Keeps the hints instead of sending them."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def hint(self, run_id: str) -> None:
        self.sent.append(run_id)

    def hint_new(self, run_id: str, provider: str) -> None:
        self.sent.append(run_id)


@pytest.fixture
def hints(app: Flask) -> Iterator[KeptHints]:
    kept = KeptHints()
    change_context(app, hinter=kept)
    return kept


def change_context(app: Flask, **changes: Any) -> None:
    context: Context = app.extensions["wes"]
    fields = {name: getattr(context, name) for name in Context.__slots__}
    app.extensions["wes"] = Context(**fields | changes)


@pytest.fixture
def samples(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)


def problems(client: FlaskClient, attachments: dict[str, bytes] | None = None, **fields: str) -> list[str]:
    attachments = {"main.cwl": TOOL} if attachments is None else attachments
    answer = post_form(client, "/runs/validate", **FORM | fields, attachments=attachments)
    assert answer.status_code == 200, answer.text
    assert answer.json["valid"] == (answer.json["problems"] == [])
    return list(answer.json["problems"])


def test_validate_finds_nothing_wrong_and_makes_no_run(client: FlaskClient, storage: DirectoryStorage) -> None:
    assert problems(client) == []
    assert client.get(f"{BASE}/runs").json["runs"] == []
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []


@EDGE
@pytest.mark.parametrize(
    ("fields", "attachments", "words"),
    [
        ({"workflow_params": "{"}, None, "workflow_params"),
        ({"workflow_params": ""}, None, "'who' is missing"),
        ({"workflow_url": ""}, None, "workflow_url is missing"),
        ({"workflow_url": "other.cwl"}, None, "none of the attachments"),
        ({}, {}, "missing 'workflow_attachment'"),
        ({"workflow_type": "WDL"}, None, "Supported: CWL"),
        ({"workflow_type_version": "v1.0"}, None, "cwlVersion v1.2"),
        ({}, {"main.cwl": b"[" * 5000}, "not YAML"),
        ({}, {"main.cwl": b"\xff\xfe"}, "not UTF-8"),
        ({}, {"main.cwl": b" \n"}, "is empty"),
        ({"workflow_url": "main.wdl"}, {"main.wdl": TOOL}, "looks like WDL"),
        ({}, {"main.cwl": TOOL, "../x": b""}, "workflow_attachment"),
    ],
)
def test_validate_says_what_is_wrong(
    client: FlaskClient,
    database: Database,
    clock: Clock,
    fields: dict[str, str],
    attachments: dict[str, bytes] | None,
    words: str,
) -> None:
    sign_on(database, clock())
    assert any(words in problem for problem in problems(client, attachments, **fields))


@EDGE
def test_validate_leaves_long_documents_to_the_engine(client: FlaskClient) -> None:
    assert problems(client, {"main.cwl": b"[" * 1_100_000}) == []
    assert problems(client, {"main.cwl": b"# " + b"\xc3\xa4" * 600_000}) == []


def test_outputs_are_listed_and_downloaded(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    assert client.get(f"{BASE}/runs/{run_id}/outputs").json == {"outputs": []}
    for path, content in {"b/a ü#?.txt": b"1", "a.bin": b"\0" * 100, "b/c/d": b""}.items():
        samples.output(run_id, path, content)
    listed = client.get(f"{BASE}/runs/{run_id}/outputs").json["outputs"]
    assert [(file["path"], file["size"]) for file in listed] == [("a.bin", 100), ("b/a ü#?.txt", 1), ("b/c/d", 0)]
    assert [len(client.get(file["url"]).data) for file in listed] == [100, 1, 0]


def test_a_directory_among_the_outputs_is_a_list(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    for path in ("dir/x", "dir/y/z", "dirx"):
        samples.output(run_id, path, b"1")
    for path in ("dir", "dir/"):
        listed = client.get(f"{BASE}/runs/{run_id}/outputs/{path}").json["outputs"]
        assert [file["path"] for file in listed] == ["dir/x", "dir/y/z"]


def test_I8_no_path_leaves_the_outputs(client: FlaskClient, samples: SampleRuns, storage: DirectoryStorage) -> None:
    run_id, other = samples.accept(), samples.accept()
    samples.output(run_id, "ok", b"1")
    samples.output(other, "secret", b"2")
    samples.log(run_id, "stdout", "3")
    (storage.root / "runs" / run_id / "outputs" / "link").symlink_to("/etc/passwd")
    for path in (
        f"../../{other}/outputs/secret",
        f"%2e%2e/%2e%2e/{other}/outputs/secret",
        "..%2f..%2flogs/stdout",
        "../logs/stdout",
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "ok%00",
        "link",
        "ok/../../../x",
        "x" * 5000,
        "./../logs/stdout",
    ):
        answer = client.get(f"{BASE}/runs/{run_id}/outputs/{path}")
        assert answer.status_code == 404, path
        error_of(answer)


def test_downloads_have_validators(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    samples.output(run_id, "x", b"0123456789")
    url = f"{BASE}/runs/{run_id}/outputs/x"
    etag = client.get(url).headers["ETag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    resumed = client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (resumed.status_code, resumed.data) == (206, b"56789")
    samples.output(run_id, "x", b"another file")
    changed = client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (changed.status_code, changed.data) == (200, b"another file")
    head = client.head(url)
    assert (head.status_code, head.content_length, head.data) == (200, 12, b"")


def test_a_watched_log_of_an_active_run_is_asked_for_now_and_then(
    client: FlaskClient, samples: SampleRuns, hints: KeptHints, database: Database, clock: Clock
) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    samples.set_tasks(run_id, [task("t1", has_stdout=True)])
    before = rows.row(database, run_id).hints
    for path in ("logs/stdout", "logs/stderr", "tasks/t1/logs/stdout"):
        assert client.get(f"{BASE}/runs/{run_id}/{path}").status_code == 200
    assert (hints.sent, rows.row(database, run_id).log_wanted_at) == ([run_id], clock())
    assert rows.row(database, run_id).hints == before + 1
    clock.advance(seconds=30)
    client.get(f"{BASE}/runs/{run_id}/logs/stdout")
    assert hints.sent == [run_id, run_id]


@pytest.mark.parametrize("state", [State.QUEUED, State.CANCELED])
def test_the_log_of_a_run_that_is_not_active_is_only_read(
    client: FlaskClient, samples: SampleRuns, hints: KeptHints, database: Database, clock: Clock, state: State
) -> None:
    run_id = samples.accept()
    if state == State.CANCELED:
        database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="local"))
    client.get(f"{BASE}/runs/{run_id}/logs/stdout")
    assert (hints.sent, rows.row(database, run_id).log_wanted_at) == ([], None)


def test_the_daemon_is_hinted_after_accept_and_cancel(client: FlaskClient, hints: KeptHints) -> None:
    run_id = run(client)
    assert hints.sent == [run_id]
    for _ in range(2):
        client.post(f"{BASE}/runs/{run_id}/cancel")
    assert hints.sent == [run_id, run_id], "an ended run needs no hint"


def test_delete_removes_an_ended_run_with_its_steps_and_files(
    client: FlaskClient, samples: SampleRuns, storage: DirectoryStorage, database: Database, clock: Clock
) -> None:
    parent = samples.accept(tags={"a": "b"})
    child = samples.accept(parent_id=parent, step="s")
    for run_id in (parent, child):
        samples.log(run_id, "stdout", "x")
        samples.output(run_id, "y", b"y")
    assert client.delete(f"{BASE}/runs/{parent}").status_code == 409
    for run_id in (child, parent):
        database.transact(lambda session, run_id=run_id: transitions.cancel(session, run_id, clock(), by="local"))
    assert client.delete(f"{BASE}/runs/{child}").status_code == 409
    answer = client.delete(f"{BASE}/runs/{parent}")
    assert (answer.status_code, answer.json) == (200, {"run_id": parent})
    assert [path for path in storage.root.rglob("*") if path.is_file()] == []
    for run_id in (parent, child):
        assert client.get(f"{BASE}/runs/{run_id}").status_code == 404
    assert client.delete(f"{BASE}/runs/{parent}").status_code == 404


def test_rerun_is_the_same_request_as_a_new_run(
    client: FlaskClient, database: Database, storage: DirectoryStorage, clock: Clock
) -> None:
    sign_on(database, clock())
    fields = {
        **FORM,
        "workflow_type_version": "1.2",
        "tags": '{"a": "b"}',
        "workflow_engine": "cwltool",
        "workflow_engine_parameters": '{"debug": null}',
        "name": "mine",
    }
    first = post_form(client, **fields, attachments={"main.cwl": TOOL, "in/x": b"1"}).json["run_id"]
    second = client.post(f"{BASE}/runs/{first}/rerun").json["run_id"]
    assert second != first
    old, new = rows.row(database, first), rows.row(database, second)
    for column in (
        "name", "workflow_type", "workflow_type_version", "workflow_url", "workflow_params", "workflow_engine", "tags",
        "workflow_engine_parameters", "provider_type", "owner", "state",
    ):  # fmt: skip
        assert getattr(old, column) == getattr(new, column), column
    echoes = [client.get(f"{BASE}/runs/{run_id}").json["request"] for run_id in (first, second)]
    assert echoes[0] == echoes[1]
    notes = [event["note"] for event in client.get(f"{BASE}/runs/{second}/events").json["events"]]
    assert notes == [f"accepted as a re-run of {first}"]
    client.post(f"{BASE}/runs/{first}/cancel")
    client.delete(f"{BASE}/runs/{first}")
    third = client.post(f"{BASE}/runs/{second}/rerun").json["run_id"]
    assert client.get(f"{BASE}/runs/{third}/status").json["state"] == "QUEUED"


def test_rerun_knows_idempotency_keys(client: FlaskClient) -> None:
    first = run(client)
    made = {client.post(f"{BASE}/runs/{first}/rerun", headers={"Idempotency-Key": "k"}).json["run_id"] for _ in "ab"}
    assert len(made) == 1


def test_rerun_of_what_is_no_longer_supported_is_400(client: FlaskClient, database: Database, clock: Clock) -> None:
    first = run(client, {"workflow_type": "WDL", "workflow_type_version": "1.0"})
    sign_on(database, clock())
    answer = client.post(f"{BASE}/runs/{first}/rerun")
    assert answer.status_code == 400
    assert "WDL" in error_of(answer)


def test_events_tell_who_and_why(client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    samples.start(run_id)
    client.post(f"{BASE}/runs/{run_id}/cancel")
    events = client.get(f"{BASE}/runs/{run_id}/events").json["events"]
    assert events[0] == {"at": "2026-11-20T12:00:00Z", "to_state": "QUEUED", "by": "local", "note": "accepted"}
    assert events[-1] == {
        "at": "2026-11-20T12:00:00Z",
        "from_state": "RUNNING",
        "to_state": "CANCELING",
        "by": "local",
        "note": "cancel requested",
    }


def test_waiting_ends_with_the_next_state(
    app: Flask, client: FlaskClient, database: Database, clock: Clock, samples: SampleRuns
) -> None:
    run_id = samples.accept()
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="local"))

    change_context(app, waiters=Waiters(1, pause))
    assert client.get(f"{BASE}/runs/{run_id}/status?wait=20").json["state"] == "CANCELED"
    assert len(pauses) == 3


@EDGE
def test_waiting_ends_after_the_asked_time_and_gives_its_seat_back(
    app: Flask, client: FlaskClient, samples: SampleRuns
) -> None:
    run_id = samples.accept()
    pauses: list[float] = []
    change_context(app, waiters=Waiters(1, pauses.append))
    for _ in range(2):
        pauses.clear()
        assert client.get(f"{BASE}/runs/{run_id}/status?wait=7.5").json["state"] == "QUEUED"
        assert sum(pauses) == pytest.approx(7.5)
    pauses.clear()
    client.get(f"{BASE}/runs/{run_id}/status?wait=100000")
    assert sum(pauses) == pytest.approx(60)


@EDGE
def test_waiters_beyond_the_room_are_answered_at_once(app: Flask, client: FlaskClient, samples: SampleRuns) -> None:
    run_id = samples.accept()
    pauses: list[float] = []
    change_context(app, waiters=Waiters(0, pauses.append))
    assert client.get(f"{BASE}/runs/{run_id}/status?wait=20").json["state"] == "QUEUED"
    assert pauses == []


def test_health(client: FlaskClient, database: Database, clock: Clock) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["daemons"]) == (200, [])
    offers = {"local": {"engines": [], "capabilities": {}, "problem": "No disk."}}
    sign_on(database, clock(), offers)
    ready = client.get("/readyz").json
    assert [daemon["hostname"] for daemon in ready["daemons"]] == ["here"]
    assert ready["provider_problems"] == {"local": "No disk."}
    clock.advance(minutes=5)
    assert client.get("/readyz").json["daemons"] == []


@EDGE
def test_the_swagger_page_describes_every_operation(client: FlaskClient) -> None:
    assert client.get("/docs").status_code == 200
    described = json.loads(client.get(f"{BASE}/swagger.json").data)
    assert described["basePath"] == BASE
    assert set(described["paths"]) >= {
        "/service-info", "/runs", "/runs/{run_id}", "/runs/{run_id}/status", "/runs/{run_id}/tasks",
        "/runs/{run_id}/tasks/{task_id}", "/runs/{run_id}/cancel", "/runs/validate", "/runs/{run_id}/rerun",
    }  # fmt: skip


@EDGE
def test_validate_reads_scalars_from_file_parts_too(client: FlaskClient) -> None:
    parts = [(name, "x.json", value.encode()) for name, value in FORM.items()]
    body = multipart(*parts, ("workflow_attachment", "main.cwl", TOOL))
    assert client.post(f"{BASE}/runs/validate", **body).json == {"valid": True, "problems": []}


def test_a_rerun_keeps_its_attachments_from_a_sweep(
    client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    first = post_form(client, **FORM, attachments={"main.cwl": TOOL}).json["run_id"]
    (blob,) = [path for path in (storage.root / "blobs").rglob("*") if len(path.name) == 64]
    os.utime(blob, (0, 0))
    assert client.post(f"{BASE}/runs/{first}/rerun").status_code == 200
    assert blob.stat().st_mtime > 0
    blob.unlink()
    assert client.post(f"{BASE}/runs/{first}/rerun").status_code == 404
