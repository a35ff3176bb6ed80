"""Bytes from a WES server: logs from any offset, outputs that resume after a broken connection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import requests

from app.client.connection import Connection
from app.client.errors import Unreachable, WesClientError
from app.client.waiting import Pace

CHUNK_BYTES = 64 * 1024  # what a broken connection may cost: urllib3 drops an incomplete chunk
FIRST_TAIL_BYTES = 64 * 1024
LONGEST_TAIL_BYTES = 16 * 1024 * 1024
FRUITLESS_TRIES = 5
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/)?/\S+")
_NO_MORE = frozenset({416})


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a run left. `path` is relative, with '/'; `size` in bytes, None where the server does not tell."""

    path: str
    url: str
    size: int | None = None


def files_in(outputs: Any) -> list[Output]:
    """The files of a CWL output object, below the names of their outputs; for servers that offer no listing."""
    if not isinstance(outputs, dict):
        return []
    found: dict[str, Output] = {}
    for name, value in outputs.items():
        for output in _files(value, str(name)):
            path = _free(output.path, found)
            found[path] = replace(output, path=path)
    return list(found.values())


def _files(value: Any, folder: str) -> Iterator[Output]:
    if isinstance(value, list):
        for item in value:
            yield from _files(item, folder)
    elif isinstance(value, dict):
        location = str(value.get("location") or value.get("path") or "")
        name = str(value.get("basename") or PurePosixPath(location).name)
        if value.get("class") == "File" and location:
            yield Output(f"{folder}/{name}", location, value.get("size"))
        inner = f"{folder}/{name}" if value.get("class") == "Directory" else folder
        yield from _files(value.get("listing"), inner)
        yield from _files(value.get("secondaryFiles"), folder)


def _free(path: str, taken: Iterable[str]) -> str:
    """Outputs of a scatter may share a name: the second is called `name_2`."""
    free, number = path, 1
    while free in taken:
        number += 1
        free = f"{path}_{number}"
    return free


def inside(directory: Path, path: str) -> Path:
    """`directory`/`path`. Raises WesClientError where a server's path would lead out of the directory."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise WesClientError(f"The server names an output {path!r}, which is no path inside a directory")
    return directory.joinpath(*parts)


@dataclass
class Download:
    """One output on its way to `target`. What has arrived is kept beside it, so that a later download goes on there.

    `run_id` is part of the partial file's name: bytes of two runs never meet in one file.
    """

    connection: Connection
    output: Output
    target: Path
    run_id: str
    sleep: Callable[[float], None] = time.sleep

    @property
    def partial(self) -> Path:
        return self.target.with_name(f".{self.target.name[:150]}.{self.run_id[:64]}.part")

    def run(self) -> Path:
        """Returns `target`. Raises Unreachable after several tries without a new byte, OSError where disk says no."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        pace, fruitless = Pace(), 0
        while True:
            before = self._size()
            try:
                self._go_on(before)
                break
            except (Unreachable, requests.RequestException) as error:
                fruitless = 0 if self._size() > before else fruitless + 1
                if fruitless >= FRUITLESS_TRIES:
                    raise Unreachable(f"{self.output.path}: the connection broke again and again: {error}") from error
                self.sleep(pace.next())
        self._check()
        return self.partial.replace(self.target)

    def _go_on(self, offset: int) -> None:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self.connection.open(self.output.url, headers, _NO_MORE if offset else frozenset()) as response:
            content_range = response.headers.get("Content-Range", "")
            if response.status_code == 416:
                self._finish_or_begin_again(offset, content_range)
                return
            goes_on = response.status_code == 206 and content_range.startswith(f"bytes {offset}-")
            with self.partial.open("ab" if goes_on else "wb") as file:
                for chunk in response.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    file.flush()

    def _finish_or_begin_again(self, offset: int, content_range: str) -> None:
        if content_range != f"bytes */{offset}":
            self.partial.unlink()
            self._go_on(0)

    def _check(self) -> None:
        if self.output.size is not None and self.output.size != (size := self._size()):
            self.partial.unlink()
            raise WesClientError(f"{self.output.path}: the server announced {self.output.size} bytes and sent {size}")

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0


def read_log(connection: Connection, address: str, offset: int) -> Iterator[bytes]:
    """The bytes of a log from `offset` on, in chunks. `address`: a URL, or the text itself as old servers send it."""
    if not _ADDRESS.fullmatch(address):
        yield address.encode()[offset:]
        return
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with connection.open(address, headers, _NO_MORE) as response:
        if response.status_code == 416:
            return
        skip = offset if response.status_code == 200 else 0
        for chunk in _received(response):
            yield chunk[skip:]
            skip = max(0, skip - len(chunk))


def read_log_tail(connection: Connection, address: str, lines: int) -> bytes:
    """The last `lines` lines of a log, without reading all of it where the server knows Range."""
    if not _ADDRESS.fullmatch(address):
        return last_lines([address.encode()], lines)
    size = FIRST_TAIL_BYTES
    while True:
        with connection.open(address, {"Range": f"bytes=-{size}"}, _NO_MORE) as response:
            if response.status_code == 416:  # empty, or shorter: Werkzeug refuses that too
                return last_lines(read_log(connection, address, 0), lines)
            is_whole = response.status_code == 200 or response.headers.get("Content-Range", "").startswith("bytes 0-")
            tail = last_lines(_received(response), lines + 1)
        if is_whole or tail.count(b"\n") > lines or size >= LONGEST_TAIL_BYTES:
            return last_lines([tail], lines)
        size *= 8


def last_lines(chunks: Iterable[bytes], lines: int) -> bytes:
    kept = b""
    for chunk in chunks:
        kept = b"".join((kept + chunk).splitlines(keepends=True)[-lines:]) if lines > 0 else b""
    return kept


def _received(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_content(CHUNK_BYTES)
    except requests.RequestException as error:
        raise Unreachable(f"The connection broke while {response.url} was read: {error}") from error
