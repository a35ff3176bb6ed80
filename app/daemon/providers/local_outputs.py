"""A local run's output object: files handed to the sink, locations rewritten. Nothing outside `outputs/` gets out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from app.daemon.providers.provider_interface import OutputSink
from app.errors import Rejected

OUTPUTS_LOST = "outputs_lost"
OUTPUT_REFUSED = "output_refused"
LOCAL_KEYS = ("path", "dirname")  # say where a file lies on this machine


def keep_outputs(output: dict[str, Any], outputs: Path, sink: OutputSink) -> dict[str, Any]:
    """Put every File and Directory of `output` into `sink` and return `output` with their locations there.

    A file's place below the run's outputs is its place below `outputs` (an absolute path without symbolic links), so
    equal basenames stay apart. What lies in a kept Directory is at that Directory's location + "/" + its quoted path.
    Raises Rejected with OUTPUTS_LOST or OUTPUT_REFUSED.
    """
    named = [(entry, _place(entry, outputs)) for entry in _entries(output)]
    directories = {name for entry, name in named if name and entry["class"] == "Directory"}
    kept: dict[str, str] = {}
    for entry, name in named:
        if name and name not in kept and not any(parent in directories for parent in _parents(name)):
            kept[name] = sink.put_path(name, _checked(name, entry["class"], outputs))
    for entry, name in named:
        for key in LOCAL_KEYS:
            entry.pop(key, None)
        if name:
            entry["location"] = _location(name, kept)
    return output


def _entries(output: Any) -> Iterator[dict[str, Any]]:
    """Every File and Directory object, however deep: in records, arrays, secondaryFiles and listings."""
    waiting = [output]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class") in ("File", "Directory"):
                yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _place(entry: dict[str, Any], outputs: Path) -> str | None:
    """The path below `outputs`; None for a literal and for what already lies in lasting storage."""
    location = entry.get("location") or entry.get("path")
    if location is None or (isinstance(location, str) and location.startswith("_:")):
        if "contents" in entry or "listing" in entry:
            return None
        raise Rejected(f"A {entry['class']} of the outputs has no location.", OUTPUTS_LOST)
    try:
        url = urlsplit(location)
        path = unquote(url.path, errors="strict") if url.scheme == "file" else location
        if url.scheme not in ("", "file"):
            return None
        name = os.path.relpath(os.path.normpath(path), outputs)
        name.encode()
    except (ValueError, TypeError, AttributeError) as error:
        raise Rejected(f"The location of a {entry['class']} of the outputs is not readable.", OUTPUT_REFUSED) from error
    if not path.startswith("/") or name == "." or name.split("/")[0] == "..":
        raise _refused(name, "lies outside the run's outputs")
    return name


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in Path(name).parents if str(parent) != "."]


def _checked(name: str, kind: str, outputs: Path) -> Path:
    """The real path of an output. Nothing writes there any more: the run's processes have ended."""
    try:
        real = (outputs / name).resolve(strict=True)
        mode = real.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Rejected(f"The output {name!r} is not there.", OUTPUTS_LOST) from error
    except (RuntimeError, ValueError) as error:
        raise _refused(name, "cannot be followed") from error
    if not real.is_relative_to(outputs):
        raise _refused(name, "is a link that leads out of the run's outputs")
    if not (stat.S_ISDIR(mode) if kind == "Directory" else stat.S_ISREG(mode)):
        raise _refused(name, f"is not a {kind}")
    if kind == "Directory":
        _check_tree(name, real, outputs)
    return real


def _check_tree(name: str, real: Path, outputs: Path) -> None:
    for folder, subfolders, files in os.walk(real):
        for path in (Path(folder, inner) for inner in subfolders + files):
            if path.is_symlink():
                if not Path(os.path.realpath(path)).is_relative_to(outputs):
                    raise _refused(name, "holds a link that leads out of the run's outputs")
            elif not (path.is_dir() or path.is_file()):
                raise _refused(name, "holds a pipe or a device")


def _location(name: str, kept: dict[str, str]) -> str:
    if name in kept:
        return kept[name]
    parent = next(parent for parent in _parents(name) if parent in kept)
    return f"{kept[parent].rstrip('/')}/{quote(name[len(parent) + 1 :])}"


def _refused(name: str, why: str) -> Rejected:
    return Rejected(f"The output {name!r} {why}.", OUTPUT_REFUSED)
