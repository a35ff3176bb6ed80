"""Logs from any byte on, and outputs that arrive whole although connections break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client.connection import Connection
from app.client.errors import Invalid, RunNotFound, Unreachable, WesClientError
from app.client.transfers import FIRST_TAIL_BYTES, Download, Output, files_in, inside, last_lines
from app.client.wes_client import WesClient
from tests.fakes.wes_server import FakeRun, Fault, WesServer

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server() -> Iterator[WesServer]:
    with WesServer() as running:
        yield running


@pytest.fixture
def client(server: WesServer) -> Iterator[WesClient]:
    with WesClient(server.url) as ready:
        yield ready


def add_log(server: WesServer, text: bytes) -> None:
    server.add(FakeRun("r", files={"stdout": text}))


def download(server: WesServer, target: Path, size: int | None = None) -> Path:
    connection = Connection(server.url, None, None, 30.0)
    output = Output("big.bin", f"{server.url}/runs/r/files/big.bin", size)
    try:
        return Download(connection, output, target, "r", sleep=lambda _: None).run()
    finally:
        connection.close()


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("offset", [0, 1, 5, 11, 12, 400])
def test_a_log_is_read_from_an_offset(server: WesServer, client: WesClient, offset: int, knows_ranges: bool) -> None:
    server.knows_ranges = knows_ranges
    add_log(server, b"hello\nworld\n")
    assert client.get_log("r", offset=offset) == b"hello\nworld\n"[offset:]


def test_a_log_that_is_not_there_yet_is_empty(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r"))
    assert client.get_log("r", "stderr") == b""
    assert client.get_log_tail("r", "stderr") == b""


def test_old_servers_send_the_text_itself(client: WesClient) -> None:
    assert b"".join(client.iter_log("two words\n", 4)) == b"words\n"


def test_a_log_in_a_bucket_is_said_to_be_there(client: WesClient) -> None:
    with pytest.raises(Invalid, match="s3://bucket/log is not offered over HTTP"):
        list(client.iter_log("s3://bucket/log"))


def test_a_tasks_log_has_an_address_of_its_own(server: WesServer, client: WesClient) -> None:
    server.add(FakeRun("r", files={"t": b"task"}, tasks=[{"id": "7", "stderr": "/ga4gh/wes/v1/runs/r/files/t"}]))
    assert client.get_log("r", "stderr", "7") == b"task"
    with pytest.raises(RunNotFound):
        client.get_log("r", "stderr", "8")


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("lines", [0, 1, 20, 30_000, 1_000_000])
def test_the_tail_of_a_long_log(server: WesServer, client: WesClient, lines: int, knows_ranges: bool) -> None:
    server.knows_ranges = knows_ranges
    every = [f"line {number}\n".encode() for number in range(40_000)]
    add_log(server, b"".join(every))
    assert client.get_log_tail("r", "stdout", lines=lines) == b"".join(every[-lines:] if lines else [])


@pytest.mark.parametrize("text", [b"", b"short\nlog\n"])
def test_the_tail_of_a_log_that_is_shorter_than_what_is_asked_for(
    server: WesServer, client: WesClient, text: bytes
) -> None:
    add_log(server, text)
    for server.refuses_long_suffixes in (False, True):
        assert client.get_log_tail("r", "stdout") == text


def test_a_tail_does_not_fetch_the_whole_log(server: WesServer, client: WesClient) -> None:
    add_log(server, b"x\n" * 2_000_000)
    client.get_log_tail("r", "stdout", lines=5)
    assert server.headers["Range"] == f"bytes=-{FIRST_TAIL_BYTES}"


@given(st.lists(st.binary(max_size=20)), st.integers(0, 10))
def test_the_last_lines_do_not_depend_on_how_the_bytes_came(chunks: list[bytes], lines: int) -> None:
    whole = b"".join(chunks).replace(b"\r", b"")
    parts = [chunk.replace(b"\r", b"") for chunk in chunks]
    assert last_lines(parts, lines) == last_lines([whole], lines)


def test_a_download_goes_on_after_every_break(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    server.cut_after = 100_000
    assert download(server, tmp_path / "deep" / "big.bin", len(CONTENT)).read_bytes() == CONTENT
    assert len(server.requests) == 4
    assert server.headers["Range"] == "bytes=196608-"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["big.bin"]


def test_a_later_download_goes_on_where_an_earlier_one_stopped(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    (tmp_path / ".big.bin.r.part").write_bytes(CONTENT[:100_000])
    assert download(server, tmp_path / "big.bin").read_bytes() == CONTENT
    assert server.headers["Range"] == "bytes=100000-"


def test_what_had_arrived_whole_is_not_fetched_again(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    (tmp_path / ".big.bin.r.part").write_bytes(CONTENT)
    assert download(server, tmp_path / "big.bin").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_partial_file_that_is_too_long_is_begun_again(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    (tmp_path / ".big.bin.r.part").write_bytes(CONTENT + b"more")
    assert download(server, tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_part_that_begins_elsewhere_than_asked_for_is_not_appended(server: WesServer, tmp_path: Path) -> None:
    place = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.faults = [Fault("/files/", 206, place, CONTENT)]
    (tmp_path / ".big.bin.r.part").write_bytes(CONTENT[:100])
    assert download(server, tmp_path / "big.bin").read_bytes() == CONTENT


def test_the_partial_file_of_another_run_is_not_used(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    (tmp_path / ".big.bin.other.part").write_bytes(b"wrong")
    assert download(server, tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_and_a_connection_that_always_breaks_are_given_up(
    server: WesServer, tmp_path: Path
) -> None:
    server.add(FakeRun("r", files={"big.bin": CONTENT}))
    server.cut_after, server.knows_ranges = 30_000, False
    with pytest.raises(Unreachable, match=r"^big\.bin: "):
        download(server, tmp_path / "big.bin")
    assert not (tmp_path / "big.bin").exists()


def test_a_short_file_is_no_download(server: WesServer, tmp_path: Path) -> None:
    server.add(FakeRun("r", files={"big.bin": b"short"}))
    with pytest.raises(WesClientError, match="announced 6 bytes and sent 5"):
        download(server, tmp_path / "big.bin", 6)
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_another_server_are_found_in_its_output_object(
    server: WesServer, client: WesClient, tmp_path: Path
) -> None:
    files = {"a.txt": b"A", "b.txt": b"B"}
    outputs = {name[0]: {"class": "File", "location": f"{server.url}/runs/r/files/{name}"} for name in files}
    server.add(FakeRun("r", files=files, outputs={**outputs, "count": 3}))
    assert client.download_outputs("r", tmp_path) == [tmp_path / "a" / "a.txt", tmp_path / "b" / "b.txt"]
    assert (tmp_path / "b" / "b.txt").read_bytes() == b"B"


def test_outputs_are_taken_from_a_listing_where_there_is_one(server: WesServer, client: WesClient) -> None:
    body = b'{"outputs": [{"path": "x/y", "url": "http://127.0.0.1/y", "size": 4}]}'
    server.faults = [Fault("/outputs", 200, body=body)]
    assert client.list_outputs("r") == [Output("x/y", "http://127.0.0.1/y", 4)]


def test_files_in_arrays_directories_and_secondary_files_are_found() -> None:
    def file(name: str, **more: Any) -> dict[str, Any]:
        return {"class": "File", "location": f"http://h/{name}", **more}

    outputs = {
        "many": [file("out.txt"), file("out.txt", size=3)],
        "bam": file("x.bam", secondaryFiles=[file("x.bam.bai")]),
        "tree": {"class": "Directory", "basename": "d", "listing": [file("in.txt", basename="renamed")]},
        "literal": {"class": "File", "contents": "no location"},
        "number": 4,
        "nothing": None,
    }
    assert [(found.path, found.url, found.size) for found in files_in(outputs)] == [
        ("many/out.txt", "http://h/out.txt", None),
        ("many/out.txt_2", "http://h/out.txt", 3),
        ("bam/x.bam", "http://h/x.bam", None),
        ("bam/x.bam.bai", "http://h/x.bam.bai", None),
        ("tree/d/renamed", "http://h/in.txt", None),
    ]


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../x", "a/../../x", "a/..", "a\\b", "a\0b"])
def test_paths_that_lead_out_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(WesClientError):
        inside(tmp_path, path)


@given(st.text(alphabet="ab./\\\0 ~", min_size=1, max_size=12))
def test_no_path_leads_out(path: str) -> None:
    try:
        target = inside(Path("/jail"), path)
    except WesClientError:
        return
    assert Path("/jail") in target.resolve().parents
