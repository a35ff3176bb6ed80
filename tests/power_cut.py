"""What a power cut leaves on a disk, from a record of what real processes wrote, named and synced. Knows no application.

    with Services(...) as services: services.prefix = recording(file) …     # strace notes every call, in order
    for call in read_calls(file): disk.apply(call); disk.leave(where)

The disk is as forgetful as POSIX allows: bytes last only once their file is synced, a name (new, moved or gone) only once
its directory is, and a directory only once its parent is. What is written in one call is not torn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CALLS = (
    "openat,mkdir,mkdirat,write,pwrite64,writev,sendto,sendmsg,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    "unlink,unlinkat"
)
_DONE = re.compile(rb"^(\d+) +(?:<\.\.\. \w+ resumed>)?(.*)\) += (-?)\d.*$")
_BEGUN = re.compile(rb"^(\d+) +(.*) <unfinished \.\.\.>$")
"""strace pads process numbers of less than five digits."""
_STRING = re.compile(rb'["<]((?:\\x[0-9a-f]{2})*)[">](\.\.\.)?')


def recording(file: Path) -> list[str]:
    """What goes before a command, which stays the direct child."""
    return [
        "strace",
        "-D",
        "-f",
        "-y",
        "-xx",
        "--seccomp-bpf",
        "-s",
        str(1 << 24),
        "-e",
        f"trace={CALLS}",
        "-o",
        str(file),
    ]


@dataclass(frozen=True)
class Call:
    """`strings`: paths of descriptors, path arguments and bytes, in their order; `words`: the call as text."""

    name: str
    strings: list[bytes]
    words: str

    @property
    def path(self) -> str:
        return self.strings[0].decode(errors="replace") if self.strings else ""

    @property
    def last_number(self) -> int:
        return int(self.words.rpartition(", ")[2])


def is_whole(file: Path) -> bool:
    """Nothing more will be noted: strace writes the end of the process that it was started for last."""
    data = file.read_bytes()
    main = data.partition(b" ")[0]
    return bool(re.search(rb"^%s +\+\+\+ " % main, data, re.MULTILINE))


def read_calls(file: Path) -> Iterator[Call]:
    """Every call that succeeded, in the order in which they ended."""
    begun: dict[bytes, bytes] = {}
    for line in file.read_bytes().splitlines():
        if unfinished := _BEGUN.match(line):
            begun[unfinished[1]] = unfinished[2]
        elif done := _DONE.match(line):
            text = begun.pop(done[1], b"") + done[2]
            if done[3]:  # it failed
                continue
            name, _, words = text.partition(b"(")
            found = _STRING.findall(words)
            assert not any(cut for _, cut in found), "a write was longer than strace was told to note"
            strings = [bytes.fromhex(string.replace(b"\\x", b"").decode()) for string, _ in found]
            yield Call(name.strip().decode(), strings, _STRING.sub(b"", words).decode(errors="replace"))


@dataclass
class Bytes:
    """A file: what processes see, and what is on the disk."""

    now: bytearray = field(default_factory=bytearray)
    lasting: bytes = b""


class Disk:
    """Of one directory; what lies in it at the start is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, Bytes | None] = {self._root: None}  # None: a directory
        for path in root.rglob("*"):
            if path.is_dir() or path.is_file():
                data = None if path.is_dir() else path.read_bytes()
                self._names[str(path)] = None if data is None else Bytes(bytearray(data), data)
        self._lasting = dict(self._names)

    def apply(self, call: Call) -> None:
        paths = [text for string in call.strings if (text := string.decode(errors="replace")).startswith(self._root)]
        if paths:
            getattr(self, f"_{call.name}")(call, *paths[-2 if call.name.startswith("rename") else -1 :])

    def leave(self, where: Path, all_written: bool = False) -> None:
        """What a new start finds; `all_written`: what a kill -9 leaves, which forgets nothing."""
        names = self._names if all_written else self._lasting
        for path in sorted(names):
            if all(str(parent) in names for parent in PurePosixPath(path).parents if self._holds(parent)):
                target, data = where / PurePosixPath(path).relative_to(self._root), names[path]
                if data is None:
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.write_bytes(data.now if all_written else data.lasting)

    def _holds(self, path: PurePosixPath) -> bool:
        return path.is_relative_to(self._root)

    def _openat(self, call: Call, path: str) -> None:
        if "O_CREAT" in call.words:
            data = self._names.setdefault(path, Bytes())
            if data is not None and "O_TRUNC" in call.words:
                data.now.clear()

    def _mkdir(self, call: Call, path: str) -> None:
        self._names[path] = None

    def _write(self, call: Call, path: str) -> None:
        """Nothing here writes so but at the end."""
        self._file(path).now.extend(call.strings[-1])

    def _pwrite64(self, call: Call, path: str) -> None:
        data, start = self._file(call.path).now, call.last_number
        data.extend(bytes(max(0, start - len(data))))
        data[start : start + len(call.strings[-1])] = call.strings[-1]

    def _ftruncate(self, call: Call, path: str) -> None:
        data, size = self._file(path).now, call.last_number
        data.extend(bytes(max(0, size - len(data))))
        del data[size:]

    def _fsync(self, call: Call, path: str) -> None:
        data = self._names.get(path)
        if data is not None:
            data.lasting = bytes(data.now)
            return
        for names, other in ((self._names, self._lasting), (self._lasting, self._names)):
            for child in [name for name in names if str(PurePosixPath(name).parent) == path]:
                if names is self._names:
                    self._lasting[child] = names[child]
                elif child not in other:
                    del self._lasting[child]

    def _rename(self, call: Call, source: str, target: str) -> None:
        self._names[target] = self._names.pop(source)

    def _unlink(self, call: Call, path: str) -> None:
        self._names.pop(path, None)

    def _file(self, path: str) -> Bytes:
        data = self._names[path]
        assert data is not None
        return data

    _mkdirat, _fdatasync, _renameat, _renameat2, _unlinkat = _mkdir, _fsync, _rename, _rename, _unlink
