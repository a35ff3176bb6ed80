"""Which local files a workflow and its parameters need, and under which names they travel. Sends nothing.

Names are relative to the files' common root, so that relative references between the documents stay true; the
parameters' locations are rewritten to those names. Only CWL says in a general way what is a file: for other workflow
types the workflow itself and the files given explicitly travel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from app.client.documents import load, load_object
from app.client.errors import Invalid

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A request's files: `files` is name -> path; `workflow_url` is one of the names, with the fragment if any."""

    workflow_url: str
    workflow_params: Mapping[str, Any]
    files: Mapping[str, Path]


def collect(workflow: str, is_cwl: bool, params: Path | None, extra: Iterable[Path] = ()) -> Bundle:
    """The workflow, what it refers to, the parameters' files and `extra` ones.

    `workflow`: a path, perhaps with `#fragment`, or an address, which stays as it is. Raises Invalid for a missing
    file, and for an absolute path between documents, which means nothing on the server.
    """
    try:
        return _collect(workflow, is_cwl, params, extra)
    except RecursionError as error:
        raise Invalid(f"{workflow} or its parameters contain themselves") from error


def _collect(workflow: str, is_cwl: bool, params: Path | None, extra: Iterable[Path]) -> Bundle:
    file, fragment = local_file(workflow)
    documents = Documents()
    job = load_object(params) if params else {}
    inputs = Inputs(params.parent.absolute() if params else Path(), documents.patterns)
    if is_cwl and file:
        documents.read(file)
    if is_cwl:
        inputs.find(job)
    given = {below for path in extra for below in _files_below(_lexical(path))}
    attached = {*documents.files, *inputs.files, *given, *([file] if file else ())}
    places = [*(path.parent for path in attached), *inputs.directories]
    root = Path(os.path.commonpath(places)) if places else Path()
    return Bundle(
        quote(_name(file, root)) + fragment if file else workflow,
        inputs.rewrite(job, root) if is_cwl else job,
        {_name(path, root): path for path in sorted(attached)},
    )


def local_file(workflow: str) -> tuple[Path | None, str]:
    """(path, `#fragment` or ""), the path None where there is no such file; a file may have `#` in its name."""
    name, hash_sign, fragment = workflow.partition("#")
    if Path(workflow).is_file():
        return _lexical(Path(workflow)), ""
    return (_lexical(Path(name)), hash_sign + fragment) if Path(name).is_file() else (None, "")


class Documents:
    """CWL documents read from one on: every document, included text and default file that they refer to."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.patterns: dict[str, list[str]] = {}  # input -> secondaryFiles patterns, of the first document

    def read(self, path: Path) -> None:
        self.files.add(path)
        document = load(path)
        if len(self.files) == 1:
            self.patterns.update(_patterns_by_input(document))
        self._walk(document, path)

    def _walk(self, value: Any, document: Path) -> None:
        if isinstance(value, list):
            for item in value:
                self._walk(item, document)
        elif isinstance(value, dict):
            self._follow_references(value, document)
            self._add_files(value, document.parent)
            for inner in value.values():
                self._walk(inner, document)

    def _follow_references(self, value: dict[str, Any], document: Path) -> None:
        is_step = "in" in value and "out" in value
        for reference in (value.get("run") if is_step else None, value.get("$import")):
            if isinstance(reference, str) and (path := _referred(reference, document)) and path not in self.files:
                self.read(path)
        if isinstance(value.get("$include"), str) and (path := _referred(value["$include"], document)):
            self.files.add(path)

    def _add_files(self, value: dict[str, Any], base: Path) -> None:
        if value.get("class") in ("File", "Directory") and not _is_absolute(value):
            self._add_present([_local_path(value, base)])
        if isinstance(value.get("$schemas"), list):
            self._add_present(_beside(str(schema), base) for schema in value["$schemas"])
        if isinstance(value.get("default"), dict) and (path := _local_path(value["default"], base)):
            self._add_present(_siblings(path, _patterns(value.get("secondaryFiles"))))

    def _add_present(self, paths: Iterable[Path | None]) -> None:
        """A default may be missing: it matters only where no input takes its place, and then the engine says so."""
        self.files.update(file for path in paths if path and path.exists() for file in _files_below(path))


class Inputs:
    """The local files and directories of a parameter object, whose locations are relative to `base`."""

    def __init__(self, base: Path, patterns: Mapping[str, list[str]]) -> None:
        self.files: set[Path] = set()
        self.directories: set[Path] = set()
        self._base = base
        self._patterns = patterns

    def find(self, job: Mapping[str, Any]) -> None:
        """Raises Invalid for what is not there."""
        for name, value in job.items():
            for file in _file_objects(value):
                if path := _local_path(file, self._base):
                    self._add(path, str(file["class"]), name)

    def _add(self, path: Path, kind: str, name: str) -> None:
        if not (path.is_file() if kind == "File" else path.is_dir()):
            raise Invalid(f"Input {name!r}: there is no {kind.lower()} {path}")
        if kind == "Directory":
            self.directories.add(path)
        self.files.update(_files_below(path))
        self.files.update(_siblings(path, self._patterns.get(name, ())))

    def rewrite(self, value: Any, root: Path) -> Any:
        """The same parameters with the names below `root` as locations."""
        if isinstance(value, list):
            return [self.rewrite(item, root) for item in value]
        if not isinstance(value, dict):
            return value
        path = _local_path(value, self._base) if value.get("class") in ("File", "Directory") else None
        if path is None:
            return {key: self.rewrite(inner, root) for key, inner in value.items()}
        kept = {key: self.rewrite(inner, root) for key, inner in value.items() if key not in ("path", "location")}
        if path.is_dir() and not _files_below(path):
            return {"basename": path.name, "listing": [], **kept}  # an empty directory cannot be attached
        return {**kept, "location": quote(_name(path, root))}


def _file_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every File and Directory object in a value, secondary files and listings included."""
    if isinstance(value, dict):
        if value.get("class") in ("File", "Directory"):
            yield value
        for inner in value.values():
            yield from _file_objects(inner)
    elif isinstance(value, list):
        for item in value:
            yield from _file_objects(item)


def _local_path(file: Mapping[str, Any], base: Path) -> Path | None:
    """Where a File or Directory object lies on this machine; None for a literal, a URL or an expression."""
    if isinstance(file.get("location"), str):
        return _beside(file["location"], base)
    path = file.get("path")
    if not isinstance(path, str) or "$(" in path or "://" in path:
        return None
    return _lexical(base / path)


def _beside(location: str, base: Path) -> Path | None:
    """A location is a URI reference: percent-decoded, relative to `base`."""
    if location.startswith("file:"):
        return _lexical(Path(unquote(urlsplit(location).path)))
    if _SCHEME.match(location) or "$(" in location:
        return None
    return _lexical(base / unquote(location.partition("#")[0]))


def _referred(reference: str, document: Path) -> Path | None:
    """The file that a document refers to; None where the reference leads to the web or stays in the document."""
    if reference.startswith("#") or (_SCHEME.match(reference) and not reference.startswith("file:")):
        return None
    if reference.startswith(("/", "file:")):
        raise Invalid(f"{document} refers to {reference}: make that relative, it means nothing on the server")
    path = _beside(reference, document.parent)
    if path is None or not path.is_file():
        raise Invalid(f"{document} refers to {reference}, which does not exist")
    return path


def _is_absolute(file: Mapping[str, Any]) -> bool:
    return str(file.get("location") or file.get("path")).startswith(("/", "file:"))


def _patterns_by_input(document: Any) -> dict[str, list[str]]:
    processes = document.get("$graph", [document]) if isinstance(document, dict) else []
    found: dict[str, list[str]] = {}
    for process in processes if isinstance(processes, list) else ():
        inputs = process.get("inputs") if isinstance(process, dict) else None
        named = inputs.items() if isinstance(inputs, dict) else ((each.get("id"), each) for each in inputs or ())
        for name, each in named:
            if isinstance(each, dict):
                found.setdefault(str(name).rpartition("#")[2].rpartition("/")[2], []).extend(
                    _patterns(each.get("secondaryFiles"))
                )
    return found


def _patterns(declared: Any) -> list[str]:
    """The fixed patterns of a `secondaryFiles` declaration; expressions are the engine's to find out."""
    each = declared if isinstance(declared, list) else [declared]
    texts = (item.get("pattern") if isinstance(item, dict) else item for item in each)
    return [text.removesuffix("?") for text in texts if isinstance(text, str) and "$" not in text]


def _siblings(path: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """The secondary files that are there: each `^` takes one suffix off, the rest is appended."""
    for pattern in patterns:
        ending = pattern.lstrip("^")
        name = path.name
        for _ in range(len(pattern) - len(ending)):
            name = name.rpartition(".")[0] or name
        if (sibling := path.with_name(name + ending)).is_file():
            yield sibling


def _files_below(path: Path) -> list[Path]:
    if not path.exists():
        raise Invalid(f"There is no file {path}")
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names if Path(folder, name).is_file()]


def _lexical(path: Path) -> Path:
    """Absolute, without `..`, as URLs are resolved: symbolic links keep their own names."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
