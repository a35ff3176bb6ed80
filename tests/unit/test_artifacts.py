"""DirectoryStorage: what is kept is whole and on the disk, what is not named stays out, what is used is never swept."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.artifacts import DAY_SECONDS, ArtifactStorage, DirectoryStorage, output_location, output_path
from app.artifacts.directory import SMALL_BYTES, SMALL_UPLOADS
from app.errors import NotFound, Rejected

RUN = "7f3f1f3e-0000-4000-8000-000000000001"
OTHER = "7f3f1f3e-0000-4000-8000-000000000002"
NOTHING = frozenset[str]()


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "artifacts")


def keep(storage: ArtifactStorage, data: bytes) -> str:
    upload = storage.new_upload()
    upload.write(data)
    sha256, size = upload.keep()
    upload.close()
    assert (sha256, size) == (hashlib.sha256(data).hexdigest(), len(data))
    return sha256


def content(opened: Callable[[], BinaryIO]) -> bytes:
    with opened() as file:
        return file.read()


def put(storage: ArtifactStorage, path: str, data: bytes = b"data", run: str = RUN) -> str:
    return storage.output_sink(run).put_stream(path, io.BytesIO(data))


def listed(storage: ArtifactStorage, run: str = RUN) -> list[str]:
    return [file.path for file in storage.outputs(run)]


def files(folder: Path) -> list[str]:
    """Everything that lies there, but for locks."""
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def age(path: Path, seconds: float = 2 * DAY_SECONDS) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


# Uploads


@pytest.mark.parametrize("data", [b"", b"x", b"data" * 1_000_000], ids=len)
def test_upload_is_kept_under_its_hash(storage: DirectoryStorage, data: bytes) -> None:
    blob = storage.blob(keep(storage, data))
    assert (blob.size, content(blob.open)) == (len(data), data)
    assert files(storage.root / "staging") == []


def test_equal_uploads_are_one_file(storage: DirectoryStorage) -> None:
    assert len({keep(storage, b"same") for _ in range(3)} | {keep(storage, b"other")}) == 2
    assert len(files(storage.root / "blobs")) == 2


def test_upload_in_pieces_can_be_read_back(storage: DirectoryStorage) -> None:
    upload = storage.new_upload()
    for piece in (b"one ", b"two ", b"three"):
        assert upload.write(piece) == len(piece)
    assert upload.seek(0) == 0
    assert (upload.read(4), upload.read()) == (b"one ", b"two three")
    assert content(storage.blob(upload.keep()[0]).open) == b"one two three"
    upload.close()


def test_small_uploads_make_no_file_before_they_are_kept_but_only_so_many(storage: DirectoryStorage) -> None:
    small = [storage.new_upload() for _ in range(SMALL_UPLOADS)]
    for upload in small:
        upload.write(b"x" * SMALL_BYTES)
    assert files(storage.root) == []
    one_more, large = storage.new_upload(), small.pop()
    one_more.write(b"y")
    large.write(b"x")
    assert len(files(storage.root / "staging")) == 2
    for upload in (*small, one_more, large, large):
        upload.close()
    assert files(storage.root) == []
    again = storage.new_upload()
    again.write(b"y")
    assert files(storage.root) == []
    again.close()


def test_what_is_read_back_does_not_change_what_is_written_then(storage: DirectoryStorage) -> None:
    upload = storage.new_upload()
    upload.write(b"0123456789")
    upload.seek(2)
    assert upload.read(3) == b"234"
    upload.write(b"ABC")
    sha256 = upload.keep()[0]
    assert content(storage.blob(sha256).open) == b"0123456789ABC"
    assert sha256 == hashlib.sha256(b"0123456789ABC").hexdigest()
    upload.close()


def test_dropped_upload_leaves_nothing(storage: DirectoryStorage) -> None:
    upload = storage.new_upload()
    upload.write(b"data")
    upload.close()
    upload.close()
    assert files(storage.root) == []
    with pytest.raises(NotFound):
        storage.blob(hashlib.sha256(b"data").hexdigest())


def test_old_blob_may_be_read_while_it_is_uploaded_again(storage: DirectoryStorage) -> None:
    blob = storage.blob(keep(storage, b"data"))
    with blob.open() as file:
        keep(storage, b"data")
        assert file.read() == b"data"


# On the disk, in this order


class Disk:
    """Notes what is synced and renamed, by path; fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, Path]] = []
        self.broken = lambda path: False
        fsync, replace = os.fsync, os.replace

        def noted_fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if self.broken(path):
                raise OSError(5, "Input/output error")
            self.done.append(("sync", path))
            fsync(descriptor)

        def noted_replace(source: Any, target: Any, **how: Any) -> None:
            self.done.append(("rename", Path(target)))
            replace(source, target, **how)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        monkeypatch.setattr(os, "rename", noted_replace)

    def synced_after(self, target: Path) -> set[Path]:
        """What was synced after the rename to `target`."""
        return {path for what, path in self.done[self.done.index(("rename", target)) :] if what == "sync"}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_blob_is_on_the_disk_before_it_has_its_name(storage: DirectoryStorage, disk: Disk) -> None:
    """I1: bytes, then name, then every directory that leads to it, also where another process has just made them."""
    for process in (storage, DirectoryStorage(storage.root)):
        disk.done.clear()
        sha256 = keep(process, b"data")
        blob = storage.root / "blobs" / sha256[:2] / sha256
        if process is storage:
            assert disk.done[0][0] == "sync" and disk.done[0][1].parent == storage.root / "staging"
            assert disk.done[1] == ("rename", blob)
        synced = {path for what, path in disk.done[-3:] if what == "sync"}
        assert synced == {blob.parent, storage.root / "blobs", storage.root}
    keep(storage, b"data")
    assert disk.done[-1] == ("sync", blob.parent)


def test_blob_that_cannot_be_synced_is_not_there(storage: DirectoryStorage, disk: Disk) -> None:
    disk.broken = lambda path: path.parent.name == "staging"
    upload = storage.new_upload()
    upload.write(b"data")
    with pytest.raises(OSError, match="Input/output"):
        upload.keep()
    upload.close()
    assert files(storage.root) == []


def test_outputs_are_on_the_disk_when_put_returns(storage: DirectoryStorage, disk: Disk, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a", "deep/b", "deep/er/c"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    storage.output_sink(RUN).put_path("tree", source)
    put(storage, "stream/s")
    outputs = storage.root / "runs" / RUN / "outputs"
    for name in ("tree/a", "tree/deep/b", "tree/deep/er/c", "stream/s"):
        before = disk.done[: disk.done.index(("rename", outputs / name))]
        assert before[-1][0] == "sync" and before[-1][1].name.endswith(".wes-part")
        above = [folder for folder in (outputs / name).parents if folder.is_relative_to(storage.root)]
        assert disk.synced_after(outputs / name) >= set(above)


def test_output_that_cannot_be_synced_is_not_there(storage: DirectoryStorage, disk: Disk) -> None:
    disk.broken = lambda path: path.name.endswith(".wes-part")
    with pytest.raises(OSError, match="Input/output"):
        put(storage, "out")
    assert files(storage.root) == []


# Sweeping


def test_sweep_takes_what_is_old_and_unknown(storage: DirectoryStorage) -> None:
    old, young, known = (keep(storage, name) for name in (b"old", b"young", b"known"))
    upload = storage.new_upload()
    upload.write(b"left behind by a killed process" * SMALL_BYTES)
    for run in (RUN, OTHER):
        put(storage, "out", run=run)
        age(storage.root / "runs" / run)
    for sha256 in (old, known):
        age(storage.root / "blobs" / sha256[:2] / sha256)
    for path in (storage.root / "staging").iterdir():
        age(path)
    put(storage, "out", run="young")
    assert storage.sweep(lambda runs: frozenset({OTHER}), lambda hashes: frozenset({known})) == 3
    left = {f"blobs/{sha256[:2]}/{sha256}" for sha256 in (young, known)}
    assert set(files(storage.root)) == left | {f"runs/{OTHER}/outputs/out", "runs/young/outputs/out"}
    upload.close()


def test_blob_that_is_uploaded_again_is_young(storage: DirectoryStorage) -> None:
    """Between the sweep's question to the database and its unlink the same content comes in again."""
    sha256 = keep(storage, b"data")
    age(storage.root / "blobs" / sha256[:2] / sha256)

    def known(_: object) -> frozenset[str]:
        keep(storage, b"data")
        return NOTHING

    assert storage.sweep(lambda _: NOTHING, known) == 0
    assert content(storage.blob(sha256).open) == b"data"


def test_blob_that_is_used_again_is_young(storage: DirectoryStorage) -> None:
    sha256 = keep(storage, b"data")
    age(storage.root / "blobs" / sha256[:2] / sha256)

    def known(_: object) -> frozenset[str]:
        storage.renew_blob(sha256)
        return NOTHING

    assert storage.sweep(lambda _: NOTHING, known) == 0
    assert content(storage.blob(sha256).open) == b"data"


def test_unknown_blob_cannot_be_renewed(storage: DirectoryStorage) -> None:
    for sha256 in ("a" * 64, keep(storage, b"data")[::-1]):
        with pytest.raises(NotFound):
            storage.renew_blob(sha256)


def test_uploads_and_sweeps_at_once_lose_nothing(storage: DirectoryStorage) -> None:
    """What was old and unknown a moment ago and is uploaded again is there, whatever a sweep does meanwhile."""
    named: set[str] = set()
    enough = Event()

    def upload(part: int) -> None:
        while not enough.is_set():
            sha256 = keep(storage, f"{part}".encode())
            assert content(storage.blob(sha256).open) == f"{part}".encode()
            named.add(sha256)
            assert content(storage.blob(sha256).open) == f"{part}".encode()
            named.discard(sha256)
            age(storage.root / "blobs" / sha256[:2] / sha256)

    with ThreadPoolExecutor(3) as pool:
        uploads = [pool.submit(upload, part) for part in range(3)]
        swept = 0
        while swept < 30 and not any(upload.done() for upload in uploads):
            swept += storage.sweep(lambda _: NOTHING, lambda _: frozenset(named))
        enough.set()
        for done in uploads:
            done.result()


def test_upload_and_sweep_of_one_blob_wait_for_each_other(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sweep found old it unlinks before anybody can put a new one in its place, and the other way round."""
    sha256 = keep(storage, b"data")
    blob = storage.root / "blobs" / sha256[:2] / sha256
    refused: list[str] = []

    def may_not(how: int, doing: str) -> None:
        with (blob.parent / ".lock").open() as lock:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(doing)

    replace, utime, unlink = os.replace, os.utime, os.unlink
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: (may_not(fcntl.LOCK_EX, "upload"), replace(*names)))
        patch.setattr(os, "utime", lambda name: (may_not(fcntl.LOCK_EX, "renewal"), utime(name)))
        keep(storage, b"data")
        blob.unlink()
        keep(storage, b"data")
    assert refused == ["renewal", "upload"]
    refused.clear()
    age(blob)
    monkeypatch.setattr(os, "unlink", lambda *names, **how: (may_not(fcntl.LOCK_SH, "sweep"), unlink(*names, **how)))
    assert storage.sweep(lambda _: NOTHING, lambda _: NOTHING) == 1
    assert refused == ["sweep"]


def test_two_sweeps_at_once(storage: DirectoryStorage) -> None:
    for number in range(60):
        put(storage, "out", run=f"run-{number}")
        age(storage.root / "runs" / f"run-{number}")
        sha256 = keep(storage, str(number).encode())
        age(storage.root / "blobs" / sha256[:2] / sha256)
    barrier = Barrier(3)

    def sweep(_: int) -> int:
        barrier.wait()
        return storage.sweep(lambda _: NOTHING, lambda _: NOTHING)

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(sweep, range(3))) >= 120
    assert files(storage.root) == []


# The jail


@pytest.fixture
def planted(storage: DirectoryStorage, tmp_path: Path) -> Path:
    """A run's outputs into which somebody put what does not belong there."""
    put(storage, "good/file")
    (tmp_path / "secret").write_text("secret")
    outputs = storage.root / "runs" / RUN / "outputs"
    (outputs / "link").symlink_to(tmp_path / "secret")
    (outputs / "folder").symlink_to(tmp_path)
    (outputs / "good" / "up").symlink_to("../../../..")
    (outputs / "nowhere").symlink_to("nowhere")
    os.mkfifo(outputs / "pipe")
    return outputs


@pytest.mark.parametrize(
    "path", ["link", "folder/secret", "good/up/secret", "nowhere", "pipe", "good", "folder", "none"]
)
def test_planted_things_are_not_served(storage: DirectoryStorage, planted: Path, path: str) -> None:
    with pytest.raises(NotFound):
        storage.output(RUN, path)


def test_planted_things_are_not_listed(storage: DirectoryStorage, planted: Path) -> None:
    assert listed(storage) == ["good/file"]


def test_file_that_becomes_a_link_is_not_followed(storage: DirectoryStorage, tmp_path: Path) -> None:
    put(storage, "out")
    (tmp_path / "secret").write_text("secret")
    found = storage.output(RUN, "out")
    path = storage.root / "runs" / RUN / "outputs" / "out"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        found.open()


# Output trees


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "result"
    folder.mkdir(parents=True)
    return folder


def put_tree(storage: DirectoryStorage, source: Path) -> str:
    return storage.output_sink(RUN).put_path("tree", source)


def test_file(storage: DirectoryStorage, source: Path) -> None:
    (source / "f").write_bytes(b"data")
    assert storage.output_sink(RUN).put_path("a b/ü#?.txt", source / "f") == "wes-output:a%20b/%C3%BC%23%3F.txt"
    found = storage.output(RUN, "a b/ü#?.txt")
    assert (found.path, found.size, content(found.open)) == ("a b/ü#?.txt", 4, b"data")
    assert listed(storage) == ["a b/ü#?.txt"]


def break_out(source: Path) -> None:
    (source / "bad").symlink_to("../../../../../etc/hostname")


def escape(source: Path) -> None:
    (source.parent / "secret").write_text("secret")
    (source / "bad").symlink_to(source.parent / "secret")


def climb(source: Path) -> None:
    (source / "bad").symlink_to("..")


def turn(source: Path) -> None:
    (source / "bad").symlink_to(".")


def loop(source: Path) -> None:
    (source / "bad").symlink_to("bad")


def dangle(source: Path) -> None:
    (source / "bad").symlink_to("nothing")


def pipe(source: Path) -> None:
    os.mkfifo(source / "bad")


def device(source: Path) -> None:
    (source / "bad").symlink_to("/dev/zero")


def real_device(source: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make a device")
    os.mknod(source / "bad", stat.S_IFCHR | 0o666, os.makedev(1, 5))


def listen(source: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(source, os.O_RDONLY)  # the path itself may be too long for a socket
        listener.bind(f"/proc/self/fd/{here}/bad")
        os.close(here)


def name_badly(source: Path) -> None:
    (source / "bad\udcff").write_text("x")


@pytest.mark.parametrize(
    "plant",
    [break_out, escape, climb, turn, loop, dangle, pipe, device, real_device, listen, name_badly],
    ids=lambda plant: plant.__name__,
)
def test_tree_with_something_bad_in_it_is_refused(
    storage: DirectoryStorage, source: Path, plant: Callable[[Path], None]
) -> None:
    (source / "good").write_text("good")
    plant(source)
    with pytest.raises(Rejected) as caught:
        put_tree(storage, source)
    assert "bad" in str(caught.value)
    assert caught.value.reason == "outputs_unreadable"
    assert "secret" not in {content(file.open) for file in storage.outputs(RUN)}


def test_output_that_is_a_link_itself_is_refused(storage: DirectoryStorage, source: Path) -> None:
    """Whatever it leads to lies outside of it."""
    (source.parent / "secret").write_text("secret")
    (source / "link").symlink_to("../secret")
    with pytest.raises(Rejected):
        put_tree(storage, source / "link")
    assert listed(storage) == []


def test_output_that_is_not_there_is_refused(storage: DirectoryStorage, source: Path) -> None:
    with pytest.raises(Rejected):
        put_tree(storage, source / "missing")


def test_put_again_replaces(storage: DirectoryStorage, source: Path) -> None:
    """After a crash outputs are collected once more."""
    (source / "f").write_text("half")
    put_tree(storage, source)
    (source / "f").unlink()
    (source / "f").write_text("whole")
    put_tree(storage, source)
    put_tree(storage, source)
    assert content(storage.output(RUN, "tree/f").open) == b"whole"
    assert files(storage.root) == [f"runs/{RUN}/outputs/tree/f"]


def test_files_are_copied_where_they_cannot_be_linked(
    storage: DirectoryStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (source / "f").write_bytes(b"data" * 1_000_000)
    put_tree(storage, source)
    assert content(storage.output(RUN, "tree/f").open) == b"data" * 1_000_000
    assert storage.root.joinpath("runs", RUN, "outputs", "tree", "f").stat().st_nlink == 1


def test_stream_that_breaks_leaves_nothing(storage: DirectoryStorage) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError
            return super().read(3)

    with pytest.raises(ConnectionResetError):
        storage.output_sink(RUN).put_stream("out", Breaking(b"data"))
    assert files(storage.root) == listed(storage) == []


def test_half_written_file_is_not_listed(storage: DirectoryStorage) -> None:
    """What a process that was killed in the middle leaves behind."""
    put(storage, "out")
    (storage.root / "runs" / RUN / "outputs" / ".0123456789abcdef.wes-part").write_text("half")
    assert listed(storage) == ["out"]


def test_file_that_shrinks_after_it_was_looked_up(storage: DirectoryStorage) -> None:
    put(storage, "out", b"0123456789")
    found = storage.output(RUN, "out")
    with (storage.root / "runs" / RUN / "outputs" / "out").open("wb") as file:
        file.write(b"01")
    assert (found.size, content(found.open)) == (10, b"01")
    assert storage.output(RUN, "out").version != found.version


# Logs


def test_log_is_replaced(storage: DirectoryStorage) -> None:
    sink = storage.log_sink(RUN, 10)
    for words, kept in ((b"first", b"first"), (b"now", b"now"), (b"0123456789", b"0123456789")):
        sink.replace("stdout", words)
        log = storage.log(RUN, "stdout")
        assert log is not None and content(log.open) == kept
    sink.replace("stdout", b"0123456789x")
    log = storage.log(RUN, "stdout")
    assert log is not None and content(log.open) == b"0123456789\n[cut here: a log keeps at most 10 bytes]\n"
    assert files(storage.root) == [f"runs/{RUN}/logs/stdout"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=12), max_size=8), cap=st.integers(1, 20))
def test_log_keeps_what_fits_and_says_once_that_it_is_cut(
    storage: DirectoryStorage, pieces: list[bytes], cap: int
) -> None:
    storage.drop_run(RUN)
    sink = storage.log_sink(RUN, cap)
    for piece in pieces:
        sink.append("stdout", io.BytesIO(piece))
    written = b"".join(pieces)
    mark = f"\n[cut here: a log keeps at most {cap} bytes]\n".encode() if len(written) > cap else b""
    log = storage.log(RUN, "stdout")
    assert (content(log.open) if log else b"") == written[:cap] + mark


# Names

NAMES = st.text(st.characters(codec="utf-8"), max_size=20) | st.lists(
    st.sampled_from(["..", ".", "", "a", "b c", "%2e%2e", "..%2f", "~", "-rf", "é", "\u202e", "\\..", "\n", "\0"]),
    max_size=5,
).map("/".join)


@given(path=NAMES)
def test_location_round_trip(path: str) -> None:
    location = output_location(path)
    assert location.isascii() and " " not in location
    assert output_path(location) == path


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "s3://bucket/key", "WES-OUTPUT:a", "/a"])
def test_other_locations_are_not_ours(location: str) -> None:
    assert output_path(location) is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=NAMES)
def test_any_name_is_kept_inside_or_refused(storage: DirectoryStorage, tmp_path: Path, path: str) -> None:
    storage.drop_run(RUN)
    try:
        put(storage, path, path.encode())
    except Rejected:
        assert listed(storage) == []
        with pytest.raises(NotFound):
            storage.output(RUN, path)
        return
    assert content(storage.output(RUN, path).open) == path.encode()
    (kept,) = listed(storage)
    assert content(storage.output(RUN, kept).open) == path.encode()
    assert [name for name in files(tmp_path) if not name.startswith(f"artifacts/runs/{RUN}/outputs/")] == []


# Whether it can be used


def test_usable_storage_has_no_problem(storage: DirectoryStorage) -> None:
    assert storage.problem() is None


def test_root_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    assert "ARTIFACTS_DIR" in (DirectoryStorage(tmp_path / "artifacts").problem() or "")
