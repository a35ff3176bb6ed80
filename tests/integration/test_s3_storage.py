"""S3Storage where S3 is not a disk: few calls, lost answers, two writers, outages, broken bodies, much data."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from app.artifacts import DAY_SECONDS, DirectoryStorage, bucket, make_storage
from app.artifacts.bucket import CONNECT_SECONDS, TRIES, Access, Bucket
from app.artifacts.s3 import S3Storage
from app.artifacts.s3_logs import LOG_CHUNK_BYTES
from app.errors import NotFound, OutcomeUnknown, Rejected, StorageUnavailable
from config import Settings, SettingsError
from tests.fakes.s3 import KEY, S3Server

RUN = "7f3f1f3e-0000-4000-8000-000000000001"
MIB = 1024 * 1024
NOTHING = frozenset[str]()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def prefix(server: S3Server) -> Iterator[str]:
    server.requests.clear()
    yield server.new_prefix()
    server.heal()


@pytest.fixture
def storage(server: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    return S3Storage(server.bucket, prefix)


def keep(storage: S3Storage, data: bytes) -> str:
    upload = storage.new_upload()
    upload.write(data)
    sha256, _ = upload.keep()
    upload.close()
    return sha256


def put(storage: S3Storage, path: str, data: bytes = b"data") -> None:
    storage.output_sink(RUN).put_stream(path, io.BytesIO(data))


def log_of(storage: S3Storage, name: str = "stdout") -> bytes:
    log = storage.log(RUN, name)
    assert log is not None
    with log.open() as file:
        return file.read()


def methods(server: S3Server) -> list[str]:
    """Of the requests since the last time."""
    asked = [request.split()[0] for request in server.requests]
    server.requests.clear()
    return asked


# Few calls


def test_small_upload_is_one_call(storage: S3Storage, server: S3Server, prefix: str, tmp_path: Path) -> None:
    upload = storage.new_upload()
    upload.write(b"data")
    upload.seek(0)
    assert upload.read() == b"data"
    assert methods(server) == []
    sha256, _ = upload.keep()
    upload.close()
    assert methods(server) == ["PUT"]
    assert server.keys(prefix) == [f"blobs/{sha256}"]
    assert list((tmp_path / "spool").iterdir()) == []


def test_large_upload_goes_in_parts_while_it_comes(storage: S3Storage, server: S3Server, prefix: str) -> None:
    upload = storage.new_upload()
    for _ in range(20):
        upload.write(os.urandom(MIB))
    assert methods(server) == ["POST", "PUT", "PUT"]
    upload.seek(0)
    assert methods(server) == ["PUT", "POST"]
    sha256, _ = upload.keep()
    upload.close()
    assert methods(server) == ["HEAD", "HEAD", "PUT", "POST"]  # not there; copied; deleted from staging
    assert server.keys(prefix) == [f"blobs/{sha256}"]


def test_large_upload_of_what_is_there_is_not_copied(storage: S3Storage, server: S3Server, prefix: str) -> None:
    data = os.urandom(2 * MIB)
    keep(storage, data)
    server.requests.clear()
    sha256 = keep(storage, data)
    assert methods(server) == ["PUT", "HEAD", "POST"]
    assert server.keys(prefix) == [f"blobs/{sha256}"]


def test_very_large_upload_is_copied_in_parts(
    storage: S3Storage, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    monkeypatch.setattr(bucket, "_COPIED_PARTS", parts)
    data = os.urandom(12 * MIB)
    sha256 = keep(storage, data)
    assert len([request for request in server.requests if f"{sha256}?uploadId" in request]) == 3 + 1
    with storage.blob(sha256).open() as file:
        assert file.read() == data


@pytest.mark.parametrize("size", [0, 10, 2 * MIB, 20 * MIB])
@pytest.mark.parametrize("was_read", [False, True])
def test_dropped_upload_leaves_nothing(
    storage: S3Storage, server: S3Server, prefix: str, tmp_path: Path, size: int, was_read: bool
) -> None:
    upload = storage.new_upload()
    upload.write(os.urandom(size))
    if was_read:
        upload.seek(0)
    upload.close()
    assert (server.keys(prefix), server.unfinished(), list((tmp_path / "spool").iterdir())) == ([], 0, [])


def test_watched_log_costs_three_calls_a_look(storage: S3Storage, server: S3Server, prefix: str) -> None:
    for number in range(40):
        sink = storage.log_sink(RUN, 10 * MIB)
        assert sink.size("stdout") == number * 1000
        sink.append("stdout", io.BytesIO(b"x" * 1000))
        assert methods(server) == (["GET", "GET", "PUT"] if number else ["GET", "PUT"])
    sink.size("stdout")
    sink.append("stdout", io.BytesIO(b""))
    assert "PUT" not in methods(server)
    assert server.keys(prefix) == [f"runs/{RUN}/logs/stdout/{0:016}"]


def test_long_log_is_few_objects(storage: S3Storage, server: S3Server, prefix: str) -> None:
    sink = storage.log_sink(RUN, 100 * MIB)
    for _ in range(30):
        sink.append("stdout", io.BytesIO(os.urandom(700_000)))
    assert len(server.keys(prefix)) <= 30 * 700_000 / LOG_CHUNK_BYTES + 1
    (page,) = server.bucket.pages(prefix)
    assert max(stored.size for stored in page) < LOG_CHUNK_BYTES + MIB, "an append writes no more than that anew"
    server.requests.clear()
    assert sink.size("stdout") == 30 * 700_000
    assert methods(server) == ["GET"]


def test_reading_is_few_calls(storage: S3Storage, server: S3Server) -> None:
    put(storage, "out", os.urandom(9 * MIB))
    server.requests.clear()
    found = storage.output(RUN, "out")
    with found.open() as file:
        assert len(file.read()) == 9 * MIB
    assert len(methods(server)) <= 5
    with found.open() as file:
        while file.read(MIB):
            pass
        assert len(methods(server)) <= 4
        file.seek(0)
        for _ in range(1000):
            file.read(100)
        assert methods(server) == ["GET"]


def test_outputs_are_listed_by_pages(storage: S3Storage, server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(1100):
        (tmp_path / "tree" / f"{number:04}").touch()
    storage.output_sink(RUN).put_path("tree", tmp_path / "tree")
    server.requests.clear()
    assert len(storage.outputs(RUN)) == 1100
    assert methods(server) == ["GET", "GET"]
    storage.drop_run(RUN)
    assert methods(server) == ["GET", "POST", "GET", "POST"]
    assert storage.outputs(RUN) == []


# Logs: no byte lost, none twice


def test_of_two_daemons_that_append_one_is_refused(storage: S3Storage) -> None:
    """The other has lost its claim, or this one; whoever comes second looks again and finds what is there."""
    for text in (b"begin\n", b"next\n", b"x" * LOG_CHUNK_BYTES, b"end\n"):
        one, other = storage.log_sink(RUN, 100 * MIB), storage.log_sink(RUN, 100 * MIB)
        kept = one.size("stdout")
        assert other.size("stdout") == kept
        one.append("stdout", io.BytesIO(text))
        with pytest.raises(StorageUnavailable):
            other.append("stdout", io.BytesIO(text))
        assert other.size("stdout") == kept + len(text)
    assert log_of(storage) == b"begin\nnext\n" + b"x" * LOG_CHUNK_BYTES + b"end\n"


def test_append_whose_answer_is_lost_is_not_done_twice(storage: S3Storage, server: S3Server) -> None:
    source = b"one\ntwo\nthree\n"
    for end in (4, 8, 14):
        server.fail("lost", method="PUT")
        sink = storage.log_sink(RUN, 1000)
        with pytest.raises(StorageUnavailable):
            sink.append("stdout", io.BytesIO(source[sink.size("stdout") : end]))
        assert storage.log_sink(RUN, 1000).size("stdout") == end
    assert log_of(storage) == source


def test_replaced_log_leaves_no_chunks_behind(storage: S3Storage, server: S3Server, prefix: str) -> None:
    """Not even one that would follow on the new text."""
    sink = storage.log_sink(RUN, 100 * MIB)
    sink.append("stdout", io.BytesIO(b"x" * (LOG_CHUNK_BYTES + 1000)))
    assert len(server.keys(prefix)) == 2
    text = b"y" * LOG_CHUNK_BYTES
    sink.replace("stdout", text)
    assert log_of(storage) == text
    assert server.keys(prefix) == [f"runs/{RUN}/logs/stdout/{0:016}"]


def test_append_that_breaks_is_taken_up_where_it_ended(storage: S3Storage) -> None:
    data = os.urandom(10 * MIB)

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 6 * MIB:
                raise ConnectionResetError
            return super().read(size)

    with pytest.raises(ConnectionResetError):
        storage.log_sink(RUN, 100 * MIB).append("stdout", Breaking(data))
    sink = storage.log_sink(RUN, 100 * MIB)
    kept = sink.size("stdout")
    assert kept >= 4 * MIB
    sink.append("stdout", io.BytesIO(data[kept:]))
    assert log_of(storage) == data


@pytest.mark.parametrize("seed", range(6))
def test_log_is_whole_whatever_fails(storage: S3Storage, server: S3Server, seed: int) -> None:
    """The daemon asks for the size, appends what is new, and comes again where either fails."""
    chance = random.Random(seed)
    source = chance.randbytes(9 * MIB)
    written = kept = failures = 0
    while kept < len(source):
        written = min(len(source), written + chance.choice([1, 5000, MIB, 3 * MIB]))
        if chance.random() < 0.5:
            server.fail(chance.choice(["denied", "lost"]), skip=chance.randrange(3), times=chance.choice([1, TRIES]))
        sink = storage.log_sink(RUN, 100 * MIB)
        try:
            now = sink.size("stdout")
            assert kept <= now <= written
            kept = now
            sink.append("stdout", io.BytesIO(source[kept:written]))
        except StorageUnavailable:
            failures += 1
    server.heal()
    assert failures > 0
    assert log_of(storage) == source


# Outages

VERBS: dict[str, Callable[[S3Storage], object]] = {
    "blob": lambda storage: storage.blob("a" * 64),
    "renew_blob": lambda storage: storage.renew_blob("a" * 64),
    "keep": lambda storage: keep(storage, b"data"),
    "keep in parts": lambda storage: keep(storage, b"x" * 9 * MIB),
    "log": lambda storage: storage.log(RUN, "stdout"),
    "log size": lambda storage: storage.log_sink(RUN, 10).size("stdout"),
    "append": lambda storage: storage.log_sink(RUN, 10).append("stdout", io.BytesIO(b"x")),
    "replace": lambda storage: storage.log_sink(RUN, 10).replace("stdout", b"x"),
    "output": lambda storage: storage.output(RUN, "out"),
    "outputs": lambda storage: storage.outputs(RUN),
    "put_stream": lambda storage: put(storage, "out"),
    "put_stream in parts": lambda storage: put(storage, "out", b"x" * 9 * MIB),
    "put_path": lambda storage: storage.output_sink(RUN).put_path("out", Path(__file__)),
    "sweep": lambda storage: storage.sweep(lambda _: NOTHING, lambda _: NOTHING),
}


@pytest.fixture(scope="module")
def nowhere() -> Iterator[S3Storage]:
    """Nobody listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        yield S3Storage(Bucket(Access("bucket", url, "us-east-1", "key", "very secret", timeout_seconds=0.5)))


@pytest.mark.parametrize("verb", VERBS)
def test_refusal_may_pass(storage: S3Storage, server: S3Server, verb: str) -> None:
    """Expired credentials, a policy: not the end of a run. The words name no bucket and no host."""
    server.fail("denied", times=1000)
    with pytest.raises(StorageUnavailable) as caught:
        VERBS[verb](storage)
    assert server.name not in str(caught.value) and "127.0.0.1" not in str(caught.value)
    assert "AccessDenied" in str(caught.value) or "403" in str(caught.value)
    assert isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("verb", ["blob", "append", "put_path"])
def test_storage_that_is_away_may_come_back(nowhere: S3Storage, verb: str) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        VERBS[verb](nowhere)
    assert "127.0.0.1" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("verb", VERBS)
def test_one_failure_of_s3_is_not_noticed(storage: S3Storage, server: S3Server, verb: str) -> None:
    keep(storage, b"data")
    server.fail("error")
    try:
        VERBS[verb](storage)
    except NotFound:
        assert verb in ("blob", "renew_blob", "output")


def test_silence_ends(server: S3Server, prefix: str) -> None:
    storage = S3Storage(Bucket(server.access(timeout_seconds=0.3)), prefix)
    server.fail("hang", times=1000)
    with pytest.raises(StorageUnavailable):
        storage.output(RUN, "out")
    assert len(server.requests) == TRIES
    assert "ARTIFACTS_S3_URI cannot be used" in (storage.problem() or "")
    assert len(server.requests) == TRIES + 1
    assert CONNECT_SECONDS < 10


def test_problem_says_what_is_wrong(storage: S3Storage, server: S3Server, nowhere: S3Storage) -> None:
    assert storage.problem() is None
    server.fail("denied", times=10)
    assert "AccessDenied" in (storage.problem() or "")
    server.heal()
    other = S3Storage(Bucket(Access("no-such-bucket", server.url, "us-east-1", KEY, KEY)))
    assert "NoSuchBucket" in (other.problem() or "")
    assert "Could not connect" in (nowhere.problem() or "")
    assert "secret" not in (nowhere.problem() or "")


def test_run_that_cannot_be_dropped_now_is_left_to_a_sweep(storage: S3Storage, server: S3Server) -> None:
    put(storage, "out")
    server.fail("denied", times=10)
    storage.drop_run(RUN)
    server.heal()
    assert [file.path for file in storage.outputs(RUN)] == ["out"]
    server.age(2 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 1
    assert storage.outputs(RUN) == []


@pytest.mark.parametrize("size", [2 * MIB, 20 * MIB])
def test_upload_that_cannot_be_dropped_now_is_left_to_a_sweep(
    storage: S3Storage, server: S3Server, prefix: str, size: int
) -> None:
    upload = storage.new_upload()
    upload.write(os.urandom(size))
    if size < 8 * MIB:
        upload.seek(0)
    server.fail("denied", times=10)
    upload.close()
    server.heal()
    assert (len(server.keys(prefix)), server.unfinished()) in ((1, 0), (0, 1))
    server.age(2 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 1
    assert (server.keys(prefix), server.unfinished()) == ([], 0)


def test_put_that_fails_leaves_no_parts(storage: S3Storage, server: S3Server) -> None:
    server.fail("denied", skip=2)
    with pytest.raises(StorageUnavailable):
        put(storage, "out", b"x" * 20 * MIB)
    assert (storage.outputs(RUN), server.unfinished()) == ([], 0)


def test_log_that_is_dropped_before_an_append_is_looked_at_again(storage: S3Storage) -> None:
    sink = storage.log_sink(RUN, 100)
    sink.append("stdout", io.BytesIO(b"one"))
    assert sink.size("stdout") == 3
    storage.drop_run(RUN)
    with pytest.raises(StorageUnavailable):
        sink.append("stdout", io.BytesIO(b"two"))
    assert sink.size("stdout") == 0


# Reading what breaks off, or changes


def test_body_that_breaks_off_is_fetched_again(storage: S3Storage, server: S3Server) -> None:
    data = os.urandom(6 * MIB)
    put(storage, "out", data)
    found = storage.output(RUN, "out")
    server.fail("cut", times=TRIES - 1, method="GET")
    with found.open() as file:
        assert file.read() == data
    server.fail("cut", times=TRIES, method="GET")
    with found.open() as file, pytest.raises(StorageUnavailable):
        file.read()


def test_reading_what_changes_fails_and_mixes_nothing(storage: S3Storage) -> None:
    put(storage, "out", b"a" * 6 * MIB)
    with storage.output(RUN, "out").open() as file:
        assert file.read(10) == b"a" * 10
        put(storage, "out", b"b" * 6 * MIB)
        with pytest.raises(StorageUnavailable):
            file.read()
    with storage.output(RUN, "out").open() as file:
        storage.drop_run(RUN)
        with pytest.raises(StorageUnavailable):
            file.read()


def test_reading_a_log_that_is_cut_short_meanwhile_fails(storage: S3Storage) -> None:
    sink = storage.log_sink(RUN, 1000)
    sink.append("stdout", io.BytesIO(b"a" * 900))
    log = storage.log(RUN, "stdout")
    assert log is not None
    for text in (b"short", b""):
        sink.replace("stdout", text)
        with log.open() as file, pytest.raises(StorageUnavailable):
            file.read()


# Sweeping


def test_blob_waits_in_the_trash_for_a_day(storage: S3Storage, server: S3Server, prefix: str) -> None:
    sha256 = keep(storage, b"data")
    server.age(2 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 0
    (trashed,) = server.keys(prefix)
    assert re.fullmatch(rf"trash/{sha256}\.[0-9a-f]+", trashed)
    with storage.blob(sha256).open() as file:
        assert file.read() == b"data"
    server.age(0.9 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 0
    server.age(0.2 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 1
    assert server.keys(prefix) == []


def test_known_blob_comes_back_from_the_trash(storage: S3Storage, server: S3Server, prefix: str) -> None:
    """An upload relied on it in the moment in which a sweep took it."""
    sha256 = keep(storage, b"data")
    server.age(2 * DAY_SECONDS)
    storage.sweep(lambda _: NOTHING, lambda _: NOTHING)
    server.age(2 * DAY_SECONDS)
    assert storage.sweep(lambda _: NOTHING, lambda _: frozenset({sha256})) == 0
    assert server.keys(prefix) == [f"blobs/{sha256}"]


def test_blob_in_the_trash_is_found_while_it_comes_back(storage: S3Storage, server: S3Server, prefix: str) -> None:
    """The sweep brings it back between a reader's look where it should be and the one into the trash."""
    sha256 = keep(storage, b"data")
    server.age(2 * DAY_SECONDS)
    storage.sweep(lambda _: NOTHING, lambda _: NOTHING)
    server.age(2 * DAY_SECONDS)
    back = lambda: storage.sweep(lambda _: NOTHING, lambda _: frozenset({sha256}))  # noqa: E731
    server.fail("pass", method="HEAD", match=sha256, then=back)
    assert storage.blob(sha256).size == 4


def test_renewed_blob_is_out_of_the_trash(storage: S3Storage, server: S3Server, prefix: str) -> None:
    sha256 = keep(storage, b"data")
    server.age(2 * DAY_SECONDS)
    storage.sweep(lambda _: NOTHING, lambda _: NOTHING)
    storage.renew_blob(sha256)
    assert f"blobs/{sha256}" in server.keys(prefix)


@pytest.mark.parametrize("fault", ["denied", "lost"])
@pytest.mark.parametrize("skip", range(8))
def test_sweep_that_fails_anywhere_loses_nothing(storage: S3Storage, server: S3Server, fault: str, skip: int) -> None:
    wanted, unwanted = keep(storage, b"wanted"), keep(storage, b"unwanted")
    server.age(2 * DAY_SECONDS)
    storage.sweep(lambda _: NOTHING, lambda _: NOTHING)
    for _ in range(3):
        server.age(2 * DAY_SECONDS)
        server.fail(fault, skip=skip, times=TRIES)
        with suppress(StorageUnavailable):
            storage.sweep(lambda _: NOTHING, lambda _: frozenset({wanted}))
        server.heal()
        assert storage.blob(wanted).size == 6
    for _ in range(2):
        server.age(2 * DAY_SECONDS)
        storage.sweep(lambda _: NOTHING, lambda _: frozenset({wanted}))
    assert storage.blob(wanted).size == 6
    with pytest.raises(NotFound):
        storage.blob(unwanted)


# Names


def test_path_that_is_too_long_for_a_key_is_refused(storage: S3Storage, tmp_path: Path) -> None:
    path = "/".join(["n" * 250] * 5)
    with pytest.raises(NotFound):
        storage.output(RUN, path)
    assert storage.log(RUN, path) is None
    (tmp_path / "f").touch()
    outputs, logs = storage.output_sink(RUN), storage.log_sink(RUN, 10)
    for write in (
        lambda: outputs.put_stream(path, io.BytesIO(b"")),
        lambda: outputs.put_path(path, tmp_path / "f"),
        lambda: logs.append(path, io.BytesIO(b"x")),
    ):
        with pytest.raises(Rejected, match="too long"):
            write()


def test_runs_of_one_bucket_keep_apart_by_prefix(server: S3Server, prefix: str) -> None:
    one, other = S3Storage(server.bucket, prefix), S3Storage(server.bucket, f"{prefix}0")
    put(one, "out")
    sha256 = keep(one, b"data")
    assert other.outputs(RUN) == []
    with pytest.raises(NotFound):
        other.blob(sha256)
    server.age(2 * DAY_SECONDS)
    for _ in range(2):
        assert other.sweep(lambda _: NOTHING, lambda _: NOTHING) == 0
    assert one.blob(sha256).size == 4


# Settings


def test_settings_choose_the_storage(server: S3Server, prefix: str, blind: None, tmp_path: Path) -> None:
    usual = {"_env_file": None, "data_dir": tmp_path}
    assert isinstance(make_storage(Settings(**usual)), DirectoryStorage)
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY}
    uri = f"s3://{server.name}/{prefix}/"
    storage = make_storage(Settings(**usual, **keys, artifacts_s3_uri=uri, artifacts_s3_endpoint=server.url))
    assert isinstance(storage, S3Storage) and storage.problem() is None
    sha256 = keep(storage, b"data")
    assert server.keys(prefix) == [f"blobs/{sha256}"]


@pytest.mark.parametrize("uri", ["s3:/bucket", "bucket", "s3://", "s3://Bucket/x", "s3://bucket/../x y", "file:///x"])
def test_uri_that_is_none_is_refused(blind: None, uri: str) -> None:
    with pytest.raises(SettingsError, match="ARTIFACTS_S3_URI"):
        Settings.load(_env_file=None, artifacts_s3_uri=uri)


def test_two_places_are_refused(blind: None) -> None:
    with pytest.raises(SettingsError, match="one place only"):
        Settings.load(_env_file=None, artifacts_s3_uri="s3://bucket", artifacts_dir="/var/artifacts")


def test_secrets_are_not_shown() -> None:
    access = Access("bucket", secret_access_key="secret", session_token="secret")
    assert "secret" not in repr(access).replace("secret_access_key", "")


@pytest.mark.parametrize("size", [1, 2 * MIB, 20 * MIB])
def test_everything_is_kept_with_the_checksums_of_aws(
    server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    """Without an endpoint of its own the client sends and checks them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    storage = S3Storage(Bucket(Access(server.name, "", "eu-central-1", KEY, KEY)), prefix)
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    storage.output_sink(RUN).put_path("path", tmp_path / "f")
    put(storage, "stream", data)
    storage.log_sink(RUN, 100 * MIB).append("stdout", io.BytesIO(data))
    assert log_of(storage) == data
    for file in (*storage.outputs(RUN), storage.blob(keep(storage, data))):
        with file.open() as opened:
            assert opened.read() == data
    storage.drop_run(RUN)
    assert storage.outputs(RUN) == []


# Much data

BOUNDED = """
import hashlib, io, resource, sys
from pathlib import Path
from app.artifacts.bucket import Access, Bucket
from app.artifacts.s3 import S3Storage

url, bucket, prefix, path, size, verb = sys.argv[1:]
size = int(size)
MIB = 1024 * 1024


class Zeros(io.RawIOBase):
    left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), self.left)
        buffer[:count] = bytes(count)
        self.left -= count
        return count


def drain(file):
    read = hashlib.sha256()
    while data := file.read(MIB):
        read.update(data)
    return read.hexdigest()


storage = S3Storage(Bucket(Access(bucket, url, "eu-central-1", "testing", "testing")), prefix)
storage.output_sink("warm").put_path("small", Path(sys.executable).parent / "activate")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if verb == "upload":
    upload = storage.new_upload()
    for _ in range(size // MIB):
        upload.write(bytes(MIB))
    upload.seek(0)
    sha256, _ = upload.keep()
    with storage.blob(sha256).open() as file:
        assert drain(file) == sha256
elif verb == "stream":
    storage.output_sink("run").put_stream("large", Zeros())
    with storage.output("run", "large").open() as file:
        print(drain(file))
elif verb == "path":
    storage.output_sink("run").put_path("large", Path(path))
    with storage.output("run", "large").open() as file:
        print(drain(file))
else:
    storage.log_sink("run", size).append("stdout", Zeros())
    with storage.log("run", "stdout").open() as file:
        print(drain(file))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("size", [100 * MIB, pytest.param(300 * MIB, marks=pytest.mark.long)])
@pytest.mark.parametrize("verb", ["upload", "stream", "path", "log"])
def test_large_files_take_little_memory(server: S3Server, prefix: str, tmp_path: Path, verb: str, size: int) -> None:
    """Much in and out again, in a process of its own: the bucket lies in this one's memory."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(size)
    command = [sys.executable, "-c", BOUNDED, server.url, server.name, prefix, str(large), str(size), verb]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    *digest, grown_kib = done.stdout.split()
    assert int(grown_kib) < 64 * 1024
    zeros = hashlib.sha256()
    for _ in range(size // MIB):
        zeros.update(bytes(MIB))
    assert digest in ([], [zeros.hexdigest()])
