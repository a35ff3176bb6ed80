"""API and daemon on a bucket: attachments, logs and outputs there and back, downloads by range and by redirect, outages."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from app.artifacts.s3 import S3Storage
from app.client.wes_client import WesClient
from app.daemon.process import CannotStart, Exit
from app.daemon.process import run as run_daemon
from app.daemon.providers.provider_interface import LogSink, OutputSink, ProviderRun, Submission
from app.database import Database
from app.serving import REDIRECTED_BYTES
from app.states import State
from config import Settings
from tests.api_calls import BASE, EDGE, OFFERS, error_of, post_form, sign_on
from tests.conftest import Clock
from tests.daemon_world import World
from tests.fakes.s3 import KEY, REGION, S3Server
from tests.fakes.scripted import ScriptedProvider

pytestmark = EDGE
FORM = {"workflow_url": "main.cwl", "workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_params": "{}"}
LARGE = os.urandom(REDIRECTED_BYTES + 1)
TREE = {"a.txt": b"a", "deep/b ü.bin": os.urandom(2_000_000)}


class WorkingProvider(ScriptedProvider):
    """Takes its attachments when a run is submitted, and leaves a tree of files and a large one."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(world.platform)
        self.folder, self.taken = folder, dict[str, bytes]()

    def submit_workflow(self, run: Submission) -> ProviderRun:
        for attachment in run.attachments:
            with attachment.open() as file:
                self.taken[attachment.path] = file.read()
        return super().submit_workflow(run)

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        super().get_logs(provider_id, sink)
        sink.replace("tasks/step-1/stdout", b"a step's words\n")

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        for name, data in {**{f"tree/{name}": data for name, data in TREE.items()}, "large": LARGE}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        tree = {"class": "Directory", "location": sink.put_path("tree", self.folder / "tree"), "basename": "tree"}
        with (self.folder / "large").open("rb") as file:
            large = {"class": "File", "location": sink.put_stream("large.bam", file), "basename": "large.bam"}
        return {"tree": tree, "large": large}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def changes(s3: S3Server, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Settings that put the files into the bucket."""
    yield {
        "artifacts_s3_uri": f"s3://{s3.name}/{s3.new_prefix()}",
        "artifacts_s3_endpoint": s3.url,
        "artifacts_redirect": getattr(request, "param", False),
        "aws_region": REGION,
        "aws_access_key_id": KEY,
        "aws_secret_access_key": KEY,
        "default_wes_provider": "scripted",
    }
    s3.heal()


REDIRECTING = pytest.mark.parametrize("changes", [True], indirect=True)


@pytest.fixture
def world(app: Flask, database: Database, clock: Clock) -> World:
    storage = app.extensions["wes"].storage
    assert isinstance(storage, S3Storage)
    sign_on(database, clock(), {"scripted": OFFERS["local"]})
    return World(database, storage, clock)  # type: ignore[arg-type]


@pytest.fixture
def provider(world: World, tmp_path: Path) -> WorkingProvider:
    provider = WorkingProvider(world, tmp_path / "work")
    world.restart(provider=provider)
    return provider


def submit(client: FlaskClient, **attachments: bytes) -> str:
    answer = post_form(client, **FORM, attachments={"main.cwl": b"class: Workflow", **attachments})
    assert answer.status_code == 200, answer.text
    return str(answer.json["run_id"])


def complete(client: FlaskClient, world: World, **attachments: bytes) -> str:
    """A run that went all the way."""
    run_id = submit(client, **attachments)
    world.tick()
    world.platform.set(str(world.run(run_id).provider_id), State.COMPLETE, exit_code=0)
    world.tick_until(run_id, State.COMPLETE)
    return run_id


def test_a_run_with_its_files_there_and_back(
    client: FlaskClient, world: World, provider: WorkingProvider, settings: Settings
) -> None:
    big = os.urandom(12_000_000)
    run_id = complete(client, world, big=big)
    assert provider.taken == {"main.cwl": b"class: Workflow", "big": big}
    assert client.get(f"{BASE}/runs/{run_id}/logs/stdout").data == b"hello from the run\n"
    assert client.get(f"{BASE}/runs/{run_id}/tasks/step-1/logs/stdout").data == b"a step's words\n"
    assert client.get(f"{BASE}/runs/{run_id}/logs/stderr").data == b""
    listed = client.get(f"{BASE}/runs/{run_id}/outputs").json["outputs"]
    assert {file["path"]: file["size"] for file in listed} == {
        "large.bam": len(LARGE), "tree/a.txt": 1, "tree/deep/b ü.bin": 2_000_000,
    }  # fmt: skip
    got = {file["path"]: client.get(file["url"]) for file in listed}
    assert got["large.bam"].data == LARGE and got["tree/deep/b ü.bin"].data == TREE["deep/b ü.bin"]
    assert client.get(f"{BASE}/runs/{run_id}/outputs/tree/deep").json["outputs"] == listed[2:]
    page = client.get(f"/runs/{run_id}")
    assert page.status_code == 200 and "hello from the run" in page.text and "large.bam" in page.text
    assert client.delete(f"{BASE}/runs/{run_id}").status_code == 200
    assert world.storage.outputs(run_id) == []
    assert not (settings.data_dir / "artifacts").exists()


def test_a_growing_log_is_followed(client: FlaskClient, world: World, provider: WorkingProvider) -> None:
    run_id = submit(client)
    world.tick()
    job = world.platform.only_job()
    seen = b""
    for number in range(4):
        job.logs += f"line {number}\n".encode()
        client.get(f"{BASE}/runs/{run_id}/logs/stdout")
        world.clock.advance(seconds=20)
        world.tick()
        answer = client.get(f"{BASE}/runs/{run_id}/logs/stdout", headers={"Range": f"bytes={len(seen)}-"})
        assert answer.status_code == 206
        seen += answer.data
        assert seen == job.logs


# Downloads


def output_url(run_id: str, path: str = "large.bam") -> str:
    return f"{BASE}/runs/{run_id}/outputs/{path}"


def test_ranges_and_validators(client: FlaskClient, world: World, provider: WorkingProvider, s3: S3Server) -> None:
    url = output_url(complete(client, world))
    s3.requests.clear()
    answer = client.get(url, headers={"Range": "bytes=5000000-5000099"})
    assert (answer.status_code, answer.data) == (206, LARGE[5_000_000:5_000_100])
    assert answer.headers["Content-Range"] == f"bytes 5000000-5000099/{len(LARGE)}"
    assert len(s3.requests) == 2
    assert client.get(url, headers={"Range": "bytes=-7"}).data == LARGE[-7:]
    assert client.get(url, headers={"Range": "bytes=99999999999-"}).status_code == 416
    etag = answer.headers["ETag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    for match, status in ((etag, 206), ('"other"', 200)):
        with client.get(url, headers={"Range": "bytes=0-9", "If-Range": match}) as answer:
            assert answer.status_code == status
    s3.requests.clear()
    head = client.head(url)
    assert (head.status_code, head.content_length, head.headers["Accept-Ranges"]) == (200, len(LARGE), "bytes")
    assert len(s3.requests) == 1


@REDIRECTING
def test_large_whole_files_come_from_the_bucket(
    client: FlaskClient, world: World, provider: WorkingProvider, s3: S3Server
) -> None:
    run_id = complete(client, world)
    s3.requests.clear()
    answer = client.get(output_url(run_id))
    assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (302, b"", "no-store")
    assert [request.split()[0] for request in s3.requests] == ["HEAD"]
    link = answer.headers["Location"]
    assert link.startswith(s3.url) and "X-Amz-Signature=" in link and "X-Amz-Expires=900" in link
    fetched = requests.get(link, timeout=10)
    assert fetched.content == LARGE
    assert fetched.headers["Content-Disposition"] == "attachment; filename*=UTF-8''large.bam"
    assert fetched.headers["Content-Type"] == "application/octet-stream"
    part = client.get(output_url(run_id), headers={"Range": "bytes=3-9", "If-Range": fetched.headers["ETag"]})
    assert (part.status_code, part.data) == (206, LARGE[3:10])


@REDIRECTING
def test_the_rest_comes_from_the_api(client: FlaskClient, world: World, provider: WorkingProvider) -> None:
    """Small files, parts, logs, what the client has already, and HEAD, for which the link would not be good."""
    run_id = complete(client, world)
    url = output_url(run_id)
    assert client.get(output_url(run_id, "tree/a.txt")).data == b"a"
    assert client.get(url, headers={"Range": "bytes=0-"}).status_code == 206
    assert client.get(f"{BASE}/runs/{run_id}/logs/stdout").status_code == 200
    head = client.head(url)
    assert (head.status_code, head.content_length) == (200, len(LARGE))
    assert client.get(url, headers={"If-None-Match": head.headers["ETag"]}).status_code == 304
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 302


@REDIRECTING
def test_our_client_downloads_by_redirect(
    app: Flask, client: FlaskClient, world: World, provider: WorkingProvider, tmp_path: Path
) -> None:
    """Without its credentials, which are not the bucket's."""
    run_id = complete(client, world)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with WesClient(f"http://127.0.0.1:{server.server_port}", token="secret") as wes:
            files = wes.download_outputs(run_id, tmp_path / "fetched")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert LARGE in [path.read_bytes() for path in files]


# Outages


def test_outage_is_503_and_leaves_no_run(client: FlaskClient, world: World, s3: S3Server) -> None:
    s3.fail("denied", times=1000)
    answer = post_form(client, **FORM, attachments={"main.cwl": b"class: Workflow", "big": os.urandom(9_000_000)})
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert "storage" in error_of(answer)
    assert client.get(f"{BASE}/runs").json["runs"] == []


def test_outage_is_503_for_files_and_pages(
    client: FlaskClient, world: World, provider: WorkingProvider, s3: S3Server
) -> None:
    run_id = complete(client, world)
    s3.fail("denied", times=1000)
    for path in ("outputs", "outputs/large.bam", "logs/stdout"):
        answer = client.get(f"{BASE}/runs/{run_id}/{path}")
        assert answer.status_code == 503
        error_of(answer)
    assert client.get(f"{BASE}/runs/{run_id}").status_code == 200
    page = client.get(f"/runs/{run_id}")
    assert page.status_code == 503 and "storage" in page.text
    assert client.delete(f"{BASE}/runs/{run_id}").status_code == 200
    s3.heal()
    assert client.get(f"{BASE}/runs/{run_id}").status_code == 404


def test_readiness_tells(client: FlaskClient, world: World, s3: S3Server) -> None:
    assert client.get("/readyz").status_code == 200
    s3.fail("denied", times=1000)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["msg"]) == (503, "Artifact storage cannot be used.")


def test_outage_ends_no_run(client: FlaskClient, world: World, provider: WorkingProvider, s3: S3Server) -> None:
    """Attachments, logs and outputs are had when the bucket is back."""
    run_id = submit(client)
    s3.fail("denied", times=1000)
    for _ in range(10):
        world.tick()
        world.clock.advance(seconds=120)
    assert world.platform.jobs == {}
    assert not world.run(run_id).state.startswith("C")
    s3.heal()
    world.clock.advance(seconds=3600)
    world.tick_until(run_id, State.INITIALIZING)
    for _ in range(20):
        world.clock.advance(seconds=120)
        world.tick()
    provider_id = str(world.run(run_id).provider_id)
    world.platform.set(provider_id, State.COMPLETE, exit_code=0)
    s3.fail("denied", times=1000, method="PUT")
    for _ in range(20):
        world.clock.advance(seconds=120)
        world.tick()
    assert world.run(run_id).state not in (State.COMPLETE, State.SYSTEM_ERROR)
    assert "storage" in str(world.run(run_id).waiting_for)
    s3.heal()
    world.clock.advance(seconds=3600)
    world.tick_until(run_id, State.COMPLETE)
    assert client.get(output_url(run_id)).data == LARGE


def test_daemon_does_not_start_without_its_bucket(settings: Settings, app: Flask) -> None:
    lost = settings.model_copy(update={"artifacts_s3_uri": "s3://no-such-bucket"})
    with pytest.raises(CannotStart, match="NoSuchBucket") as caught:
        run_daemon(lost)
    assert caught.value.code == Exit.STORAGE


def test_rerun_of_a_swept_blob(
    client: FlaskClient, world: World, provider: WorkingProvider, s3: S3Server, database: Database
) -> None:
    """Its blob went to the trash when a sweep did not know better; a re-run has it all the same."""
    run_id = complete(client, world, data=b"precious")
    s3.age(200_000)
    world.storage.sweep(lambda runs: frozenset(runs), lambda _: frozenset())
    answer = client.post(f"{BASE}/runs/{run_id}/rerun")
    assert answer.status_code == 200, answer.text
    s3.age(200_000)
    for _ in range(2):
        world.storage.sweep(lambda runs: frozenset(runs), lambda hashes: frozenset(hashes))
    assert world.storage.blob(hashlib.sha256(b"precious").hexdigest()).size == 8
    provider.taken.clear()
    world.tick()
    assert provider.taken["data"] == b"precious"
