"""One contract for every artifact storage: what is kept comes back, nothing leaves its place, no sweep takes what is used."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.artifacts import DAY_SECONDS, ArtifactStorage, DirectoryStorage, StoredFile, output_path
from app.artifacts.s3 import S3Storage
from app.errors import NotFound, Rejected
from tests.fakes.s3 import S3Server

RUN = "7f3f1f3e-0000-4000-8000-000000000001"
OTHER = "7f3f1f3e-0000-4000-8000-000000000002"
NOTHING = frozenset[str]()
MIB = 1024 * 1024
SIZES = [0, 1, 100_000, MIB, MIB + 1, 9 * MIB]
"""Of uploads and outputs: around every border at which S3 is handled in another way."""


@dataclass
class World:
    """A storage, and a way to let time pass for what is in it."""

    storage: ArtifactStorage
    age: Callable[[float], None]  # days

    def sweep(self, runs: frozenset[str] = NOTHING, blobs: frozenset[str] = NOTHING) -> int:
        """Long after, and once more a day later; these are still known. Returns how many things went."""
        gone = 0
        for _ in range(2):
            self.age(1.1)
            gone += self.storage.sweep(lambda _: runs, lambda _: blobs)
        return gone


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["directory", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "directory":
        root = tmp_path / "artifacts"
        return World(DirectoryStorage(root), lambda days: age_below(root, days))
    server = request.getfixturevalue("s3")
    return World(S3Storage(server.bucket, server.new_prefix()), lambda days: server.age(days * DAY_SECONDS))


@pytest.fixture
def storage(world: World) -> ArtifactStorage:
    return world.storage


def age_below(root: Path, days: float) -> None:
    for path in root.rglob("*"):
        then = path.stat().st_mtime - days * DAY_SECONDS
        os.utime(path, (then, then))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "result"
    folder.mkdir(parents=True)
    return folder


def keep(storage: ArtifactStorage, data: bytes) -> str:
    upload = storage.new_upload()
    upload.write(data)
    sha256, size = upload.keep()
    upload.close()
    assert (sha256, size) == (hashlib.sha256(data).hexdigest(), len(data))
    return sha256


def content(file: StoredFile | None) -> bytes:
    assert file is not None
    with file.open() as opened:
        data = opened.read()
    assert len(data) == file.size
    return data


def put(storage: ArtifactStorage, path: str, data: bytes = b"data", run: str = RUN) -> str:
    return storage.output_sink(run).put_stream(path, io.BytesIO(data))


def test_it_can_be_used(storage: ArtifactStorage) -> None:
    assert storage.problem() is None


# Uploads


@pytest.mark.parametrize("size", SIZES)
def test_upload_is_kept_under_its_hash(storage: ArtifactStorage, size: int) -> None:
    data = os.urandom(size)
    sha256 = keep(storage, data)
    assert content(storage.blob(sha256)) == data
    assert keep(storage, data) == sha256


@pytest.mark.parametrize("size", SIZES)
def test_upload_can_be_read_back_before_it_is_kept(storage: ArtifactStorage, size: int) -> None:
    data = os.urandom(size)
    upload = storage.new_upload()
    for start in range(0, size, 700_000):
        piece = data[start : start + 700_000]
        assert upload.write(piece) == len(piece)
    for _ in range(2):
        assert upload.seek(0) == 0
        assert (upload.read(4), upload.read()) == (data[:4], data[4:])
    assert upload.seek(2) == 2
    assert upload.read(3) == data[2:5]
    assert content(storage.blob(upload.keep()[0])) == data
    upload.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("was_read", [False, True])
def test_dropped_upload_is_gone(storage: ArtifactStorage, size: int, was_read: bool) -> None:
    data = os.urandom(size)
    upload = storage.new_upload()
    upload.write(data)
    if was_read:
        upload.seek(0)
    for _ in range(2):
        upload.close()
    with pytest.raises(NotFound):
        storage.blob(hashlib.sha256(data).hexdigest())


def test_blob_may_be_read_while_it_is_uploaded_again(storage: ArtifactStorage) -> None:
    with storage.blob(keep(storage, b"data")).open() as file:
        keep(storage, b"data")
        assert file.read() == b"data"


def test_unknown_blob_is_not_found(storage: ArtifactStorage) -> None:
    keep(storage, b"data")
    for sha256 in ("a" * 64, "", "..", "\0", "a/b"):
        with pytest.raises(NotFound):
            storage.blob(sha256)
        with pytest.raises(NotFound):
            storage.renew_blob(sha256)


# Reading


def test_opened_file_is_read_like_a_file(storage: ArtifactStorage) -> None:
    data = os.urandom(10 * MIB)
    put(storage, "out", data)
    with storage.output(RUN, "out").open() as file:
        assert file.seekable() and file.tell() == 0
        assert file.read(10) == data[:10]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert (file.read(100), file.read(1)) == (data[-5:], b"")
        assert file.seek(4 * MIB - 3) == file.tell() == 4 * MIB - 3
        assert file.read(6 * MIB) == data[4 * MIB - 3 : 10 * MIB - 3]
        file.seek(7)
        assert file.seek(3, os.SEEK_CUR) == 10
        assert file.read() == data[10:]
        assert file.seek(2 * len(data)) == 2 * len(data)
        assert file.read(1) == b""


def test_version_tells_other_bytes_apart(storage: ArtifactStorage) -> None:
    put(storage, "out", b"one")
    first = storage.output(RUN, "out").version
    assert storage.output(RUN, "out").version == first
    put(storage, "out", b"two")
    assert storage.output(RUN, "out").version != first
    assert storage.output(RUN, "out").version.isascii() and '"' not in first


def test_age_is_in_unix_time(storage: ArtifactStorage) -> None:
    before = time.time()
    put(storage, "out")
    assert before - 2 < storage.output(RUN, "out").modified < time.time() + 2


# Logs


def test_log_grows(storage: ArtifactStorage) -> None:
    sink = storage.log_sink(RUN, 1000)
    assert (sink.size("stdout"), storage.log(RUN, "stdout")) == (0, None)
    versions = set()
    for words in (b"one\n", b"", b"two\n"):
        sink.append("stdout", io.BytesIO(words))
        log = storage.log(RUN, "stdout")
        assert log is not None
        versions.add(log.version)
    assert len(versions) == 2
    source = io.BytesIO(b"seen already, three\n")
    source.seek(14)
    storage.log_sink(RUN, 1000).append("stdout", source)
    assert content(storage.log(RUN, "stdout")) == b"one\ntwo\nthree\n"
    assert sink.size("stdout") == 14


def test_large_log_in_uneven_pieces(storage: ArtifactStorage) -> None:
    data = os.urandom(11 * MIB)
    sink, source = storage.log_sink(RUN, 20 * MIB), io.BytesIO(data)
    for size in (3, 5 * MIB, 100, 4 * MIB - 100, 1, 2 * MIB, 10**9):
        kept = sink.size("stderr")
        assert kept == source.tell()
        sink.append("stderr", io.BytesIO(source.read(size)))
    assert content(storage.log(RUN, "stderr")) == data
    log = storage.log(RUN, "stderr")
    assert log is not None
    with log.open() as file:
        file.seek(len(data) - 65_536)
        assert file.read(65_536) == data[-65_536:]


def test_log_that_was_looked_up_stays_as_long_while_it_grows(storage: ArtifactStorage) -> None:
    sink = storage.log_sink(RUN, 1000)
    sink.append("stdout", io.BytesIO(b"one\n"))
    log = storage.log(RUN, "stdout")
    assert log is not None
    sink.append("stdout", io.BytesIO(b"two\n"))
    with log.open() as file:
        assert (log.size, file.read(log.size)) == (4, b"one\n")


def test_logs_of_tasks_are_apart(storage: ArtifactStorage) -> None:
    sink = storage.log_sink(RUN, 1000)
    names = ("stdout", "stderr", "tasks/t1/stdout", "tasks/t 2/stdout", "tasks/0000000000000000/stdout")
    for name in names:
        sink.append(name, io.BytesIO(name.encode()))
    for name in names:
        assert content(storage.log(RUN, name)) == name.encode()
    assert storage.log(RUN, "tasks/t1") is storage.log(RUN, "tasks") is storage.log(OTHER, "stdout") is None


def test_log_is_replaced(storage: ArtifactStorage) -> None:
    sink = storage.log_sink(RUN, 6 * MIB)
    sink.append("stdout", io.BytesIO(b"x" * 5 * MIB))
    sink.append("stdout", io.BytesIO(b"y" * 1000))
    for text in (b"first", b"", b"now", b"z" * 6 * MIB):
        sink.replace("stdout", text)
        log = storage.log(RUN, "stdout")
        assert log is not None and content(log) == text
        assert sink.size("stdout") == len(text)
    sink.append("stdout", io.BytesIO(b"more than fits"))
    assert content(storage.log(RUN, "stdout")).endswith(b"z\n[cut here: a log keeps at most 6291456 bytes]\n")


@pytest.mark.parametrize("pieces", [[15], [10, 5], [10, 0, 1, 1], [1] * 15, [9, 6]], ids=str)
def test_log_keeps_what_fits_and_says_once_that_it_is_cut(storage: ArtifactStorage, pieces: list[int]) -> None:
    sink, source = storage.log_sink(RUN, 10), io.BytesIO(b"0123456789ABCDEF")
    for size in pieces:
        sink.append("stdout", io.BytesIO(source.read(size)))
    assert content(storage.log(RUN, "stdout")) == b"0123456789\n[cut here: a log keeps at most 10 bytes]\n"
    storage.log_sink(RUN, 10).replace("stderr", b"0123456789A")
    assert content(storage.log(RUN, "stderr")) == b"0123456789\n[cut here: a log keeps at most 10 bytes]\n"


# Outputs


@pytest.mark.parametrize("path", ["f", "a b/ü#?%2F.txt", "deep/er/\t", "-rf", "..a/b..", "a//./b", "n" * 255])
@pytest.mark.parametrize("way", ["path", "stream"])
def test_output_comes_back_by_its_location(storage: ArtifactStorage, source: Path, path: str, way: str) -> None:
    (source / "f").write_bytes(b"data")
    sink = storage.output_sink(RUN)
    location = sink.put_path(path, source / "f") if way == "path" else sink.put_stream(path, io.BytesIO(b"data"))
    assert output_path(location) == path and location.isascii()
    assert content(storage.output(RUN, path)) == b"data"
    (listed,) = storage.outputs(RUN)
    assert content(storage.output(RUN, listed.path)) == content(listed) == b"data"


@pytest.mark.parametrize("size", SIZES)
def test_outputs_of_every_size(storage: ArtifactStorage, source: Path, size: int) -> None:
    (source / "f").write_bytes(data := os.urandom(size))
    storage.output_sink(RUN).put_path("tree", source)
    put(storage, "stream", data)
    assert [(file.path, content(file)) for file in storage.outputs(RUN)] == [("stream", data), ("tree/f", data)]


def test_tree_with_links_inside(storage: ArtifactStorage, source: Path) -> None:
    (source / "inner" / "deep").mkdir(parents=True)
    (source / "inner" / "deep" / "file").write_text("file")
    (source / "beside").symlink_to("inner/deep/file")
    (source / "again").symlink_to(source / "inner")
    (source / "empty").mkdir()
    storage.output_sink(RUN).put_path("tree", source)
    listed = storage.outputs(RUN)
    assert [file.path for file in listed] == ["tree/again/deep/file", "tree/beside", "tree/inner/deep/file"]
    assert {content(file) for file in listed} == {b"file"}


@pytest.mark.parametrize("target", ["/etc/hostname", "../secret", "..", ".", "bad", "nothing", "/dev/zero"])
def test_tree_with_a_link_to_elsewhere_is_refused(storage: ArtifactStorage, source: Path, target: str) -> None:
    (source.parent / "secret").write_text("secret")
    (source / "bad").symlink_to(target)
    with pytest.raises(Rejected, match="bad") as caught:
        storage.output_sink(RUN).put_path("tree", source)
    assert caught.value.reason == "outputs_unreadable"
    assert "tree/bad" not in [file.path for file in storage.outputs(RUN)]


def test_many_files_are_kept(storage: ArtifactStorage, source: Path) -> None:
    for number in range(150):
        (source / f"{number:03}").write_text(str(number))
    storage.output_sink(RUN).put_path("tree", source)
    assert [content(file) for file in storage.outputs(RUN)] == [str(number).encode() for number in range(150)]


def test_put_again_replaces(storage: ArtifactStorage, source: Path) -> None:
    for text in ("half", "whole", "whole"):
        (source / "fresh").write_text(text)
        (source / "fresh").replace(source / "f")
        storage.output_sink(RUN).put_path("tree", source)
    assert [(file.path, content(file)) for file in storage.outputs(RUN)] == [("tree/f", b"whole")]


@pytest.mark.parametrize("size", [3, 20 * MIB])
def test_stream_that_breaks_leaves_nothing(storage: ArtifactStorage, size: int) -> None:
    class Breaking(io.BytesIO):
        def read(self, wanted: int | None = -1) -> bytes:
            if self.tell() >= size:
                raise ConnectionResetError
            return super().read(min(wanted or 0, size))

    with pytest.raises(ConnectionResetError):
        storage.output_sink(RUN).put_stream("out", Breaking(b"x" * 2 * size))
    assert storage.outputs(RUN) == []


# The jail


BAD_PATHS = [
    "", ".", "/", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "//etc/passwd", "a\0b", "\0", "../" * 40 + "etc/passwd",
    f"../../{OTHER}/outputs/secret", "x/../../../../blobs", "n" * 256, "\ud800", "a/\udcff",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_names_that_lead_out_are_refused(storage: ArtifactStorage, source: Path, path: str) -> None:
    put(storage, "secret", run=OTHER)
    (source / "f").write_text("x")
    with pytest.raises(NotFound):
        storage.output(RUN, path)
    assert storage.log(RUN, path) is None
    outputs, logs = storage.output_sink(RUN), storage.log_sink(RUN, 100)
    for write in (
        lambda: outputs.put_stream(path, io.BytesIO(b"x")),
        lambda: outputs.put_path(path, source / "f"),
        lambda: logs.append(path, io.BytesIO(b"x")),
        lambda: logs.replace(path, b"x"),
        lambda: logs.size(path),
    ):
        with pytest.raises(Rejected):
            write()
    assert storage.outputs(RUN) == []


@pytest.mark.parametrize("run", ["", "..", "../blobs", "/etc"])
def test_run_ids_are_names_too(storage: ArtifactStorage, run: str) -> None:
    for look in (storage.outputs, storage.drop_run, lambda run: storage.output(run, "out")):
        with pytest.raises(NotFound):
            look(run)


def test_folder_is_no_file(storage: ArtifactStorage) -> None:
    put(storage, "folder/f")
    for path in ("folder", "folder/", "f", "folder/f/g"):
        with pytest.raises(NotFound):
            storage.output(RUN, path)


# Dropping and sweeping


def test_dropped_run_is_gone_and_others_are_not(storage: ArtifactStorage) -> None:
    for run in (RUN, OTHER, RUN + "0"):
        put(storage, "out", run=run)
        storage.log_sink(run, 100).append("stdout", io.BytesIO(b"log"))
    for _ in range(2):
        storage.drop_run(RUN)
    assert (storage.outputs(RUN), storage.log(RUN, "stdout")) == ([], None)
    for run in (OTHER, RUN + "0"):
        assert [file.path for file in storage.outputs(run)] == ["out"]
        assert content(storage.log(run, "stdout")) == b"log"


def test_sweep_takes_what_is_old_and_unknown(world: World) -> None:
    storage = world.storage
    unknown, known = keep(storage, b"unknown"), keep(storage, b"known")
    for run in (RUN, OTHER):
        put(storage, "out", run=run)
    assert world.sweep(runs=frozenset({OTHER}), blobs=frozenset({known})) == 2
    assert content(storage.blob(known)) == b"known"
    with pytest.raises(NotFound):
        storage.blob(unknown)
    with pytest.raises(NotFound):
        storage.renew_blob(unknown)
    assert (storage.outputs(RUN), [file.path for file in storage.outputs(OTHER)]) == ([], ["out"])


def test_sweep_leaves_what_is_young(world: World) -> None:
    storage = world.storage
    sha256 = keep(storage, b"data")
    put(storage, "out")
    whole, half = storage.new_upload(), storage.new_upload()
    for upload in (whole, half):
        upload.write(os.urandom(20 * MIB))
    whole.seek(0)
    world.age(0.9)
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 0
    assert content(storage.blob(sha256)) == content(storage.output(RUN, "out")) == b"data"
    for upload in (whole, half):
        assert content(storage.blob(upload.keep()[0]))


@pytest.mark.parametrize("is_whole", [False, True])
def test_sweep_takes_uploads_that_were_left_behind(world: World, is_whole: bool) -> None:
    upload = world.storage.new_upload()
    upload.write(os.urandom(20 * MIB))
    if is_whole:
        upload.seek(0)
    assert world.sweep() == 1
    assert world.sweep() == 0
    upload.close()


def test_sweep_asks_only_for_what_there_is(world: World) -> None:
    sha256 = keep(world.storage, b"data")
    put(world.storage, "out")
    world.age(2)
    asked: set[str] = set()

    def known(names: Iterable[str]) -> frozenset[str]:
        asked.update(names)
        return frozenset(asked)

    assert world.storage.sweep(known, known) == 0
    assert asked == {sha256, RUN}


def test_blob_that_comes_in_again_during_a_sweep_stays(world: World) -> None:
    """Between the sweep's question to the database and what it then does; a day later the database knows it."""
    storage = world.storage
    large, small, used = os.urandom(2 * MIB), b"small", b"used"
    hashes = [keep(storage, data) for data in (large, small, used)]
    world.age(2)

    def known(names: Iterable[str]) -> frozenset[str]:
        for sha256, data in zip(hashes[:2], (large, small), strict=True):
            if sha256 in names:
                keep(storage, data)
        if hashes[2] in names:
            storage.renew_blob(hashes[2])
        return NOTHING

    storage.sweep(lambda _: NOTHING, known)
    assert [content(storage.blob(sha256)) for sha256 in hashes] == [large, small, used]
    world.sweep(blobs=frozenset(hashes))
    assert [content(storage.blob(sha256)) for sha256 in hashes] == [large, small, used]
    assert world.sweep() == 3


def test_sweep_of_nothing(world: World) -> None:
    assert world.sweep() == 0
