"""Lays out in `work/` whatever documents and inputs a CWL run refers to, so that the engine needs no network.

What came over http(s), or from the operator's file roots, is kept in a folder of its own below `work/`, laid out like
its source, so that relative references stay true; those that would not are rewritten. Knows no engine and no options.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from app.daemon.engines.cwl_documents import Document, Excessive, Kind, Reference, Unreadable, parse
from app.daemon.engines.fetcher import Fetcher, FetchPolicy
from app.errors import NotAccepted, Rejected

WEB = ("http", "https")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
ESCAPED_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
MAX_PATH_CHARS = 1000
NAMED_ATTACHMENTS = 10


@dataclass(frozen=True, slots=True)
class Waiting:
    """A document that is in its place and whose references are not yet looked at."""

    origin: str  # its URL: what its relative references are relative to
    path: Path
    depth: int


class Staging:
    """One run's staging, over a `work/` that holds its attachments and nothing else. `folder`: a name free in it."""

    def __init__(self, work: Path, folder: str, policy: FetchPolicy, fetcher: Fetcher) -> None:
        self._work = Path(os.path.realpath(work))
        self._folder = self._work / folder
        self._policy = policy
        self._roots = tuple(Path(os.path.realpath(root)) for root in policy.file_roots)
        self._fetcher = fetcher
        self._places: dict[str, Path] = {}
        self._documents: set[str] = set()
        self._waiting: deque[Waiting] = deque()
        self._read: list[tuple[Waiting, Document]] = []
        self._changes: dict[Path, list[tuple[Reference, str]]] = {}
        self._fetched_files = 0
        self._fetched_bytes = 0

    def stage(self, workflow_url: str, params: Mapping[str, Any]) -> tuple[str, str]:
        """The URI of the process to run, its #fragment kept, and the text of its inputs, for a file anywhere.

        Raises Rejected, or NotAccepted where it may work later.
        """
        try:
            return self._staged(workflow_url, params)
        except ValueError as error:
            raise Rejected(f"A reference is not a URL or a path: {error}.", "workflow_unreachable") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise Rejected(f"A reference is too long: {error}.", "workflow_unreachable") from error
            raise NotAccepted(f"The run's files cannot be laid out now: {error}") from error

    def _staged(self, workflow_url: str, params: Mapping[str, Any]) -> tuple[str, str]:
        entry, fragment = self._entry(workflow_url)
        process = self._place(entry, Kind.DOCUMENT, 0)
        self._check_entry(workflow_url, process)
        inputs = self._localized(dict(params))
        self._follow()
        self._rewrite()
        return process.as_uri() + (f"#{fragment}" if fragment else ""), _json_for_yaml(inputs)

    # The process document

    def _entry(self, workflow_url: str) -> tuple[str, str]:
        if urlsplit(workflow_url).scheme in (*WEB, "file") or workflow_url.startswith("/"):
            url, fragment = urldefrag("file://" + workflow_url if workflow_url.startswith("/") else workflow_url)
            return url, fragment
        whole = self._attached(workflow_url)
        path, _, fragment = workflow_url.rpartition("#")
        if whole.is_file() or not path:
            return whole.as_uri(), ""
        return self._attached(path).as_uri(), fragment

    def _check_entry(self, workflow_url: str, path: Path) -> None:
        if not path.is_file():
            if SCHEME.match(workflow_url) and urlsplit(workflow_url).scheme != "file":
                raise Rejected(
                    f"workflow_url: {workflow_url} cannot be had here; http, https and attachments can.",
                    "workflow_unreachable",
                )
            attached = sorted(str(file.relative_to(self._work)) for file in self._work.rglob("*") if file.is_file())
            names = ", ".join(attached[:NAMED_ATTACHMENTS]) or "none"
            raise Rejected(f"workflow_url: there is no {workflow_url!r}. Attached: {names}.", "workflow_not_found")
        if urlsplit(workflow_url).scheme in WEB and not self._parsed(Waiting(workflow_url, path, 0)).has_version:
            raise Rejected(f"{workflow_url} is not a CWL document: it says no cwlVersion.", "workflow_not_cwl")

    def _attached(self, name: str) -> Path:
        """A name as it stands, else percent-decoded: clients do both."""
        candidates = [self._work / name, self._work / unquote(name)]
        inside = [path for path in map(_real, candidates) if path.is_relative_to(self._work)]
        if not inside:
            raise Rejected(f"{name!r} leaves the run's own files.", "workflow_forbidden_path")
        return next((path for path in inside if path.exists()), inside[0])

    # Inputs

    def _localized(self, value: Any) -> Any:
        """Inputs with every File, Directory and directive as a file:// URI."""
        if isinstance(value, list):
            return [self._localized(item) for item in value]
        if not isinstance(value, dict):
            return value
        value = {key: self._localized(item) for key, item in value.items()}
        if value.get("class") in ("File", "Directory"):
            given = value.get("location") or value.pop("path", None)
            if isinstance(given, str) and not given.startswith("_:"):
                value.pop("path", None)
                value["location"] = self._input(given, Kind[value["class"].upper()])
        for directive, kind in (("$import", Kind.DOCUMENT), ("$mixin", Kind.DOCUMENT), ("$include", Kind.TEXT)):
            if isinstance(value.get(directive), str):
                value[directive] = self._input(value[directive], kind)
        return value

    def _input(self, given: str, kind: Kind) -> str:
        if urlsplit(given).scheme in (*WEB, "file"):
            url = given
        elif given.startswith("/"):
            url = _real(Path(given)).as_uri()
        elif SCHEME.match(given) and not self._attached(given).exists():
            raise Rejected(
                f"Input {given} cannot be fetched here; http, https and attachments can.", "input_unsupported"
            )
        else:
            url = self._attached(given).as_uri()
        return self._place(urldefrag(url)[0], kind, 0).as_uri()

    # Documents and what they refer to

    def _follow(self) -> None:
        while self._waiting:
            document = self._waiting.popleft()
            if document.depth > self._policy.max_depth:
                raise Rejected(
                    f"Documents import each other deeper than {self._policy.max_depth}.", "workflow_too_large"
                )
            try:
                parsed = self._parsed(document)
            except Unreadable:
                continue  # the engine says where the mistake is
            self._read.append((document, parsed))
            changes = [(reference, self._resolved(reference, document)) for reference in parsed.references]
            self._changes[document.path] = [(reference, uri) for reference, uri in changes if uri]

    def _parsed(self, document: Waiting) -> Document:
        is_remote = urlsplit(document.origin).scheme in WEB
        if document.path.stat().st_size > self._policy.max_document_bytes:
            limit = self._policy.max_document_bytes
            raise Rejected(f"{document.path.name} has more than {limit} bytes, the limit here.", "workflow_too_large")
        try:
            parsed = parse(document.path.read_bytes())
        except Excessive as error:
            raise Rejected(f"{document.path.name}: {error}", "workflow_too_large") from error
        except Unreadable as error:
            if is_remote:
                raise Rejected(f"{document.origin} is not a CWL document: {error}", "workflow_not_cwl") from error
            raise
        if is_remote and not parsed.is_collection:
            raise Rejected(f"{document.origin} is not a CWL document.", "workflow_not_cwl")
        return parsed

    def _resolved(self, reference: Reference, document: Waiting) -> str | None:
        """The URI to write instead; None where what stands there is right, or not ours to judge."""
        value = reference.value
        if reference.kind is Kind.MENTION or value.startswith(("#", "_:")) or "$(" in value or "${" in value:
            return None
        target, fragment = urldefrag(urljoin(document.origin, value))
        if urlsplit(target).scheme not in (*WEB, "file"):
            return None
        try:
            place = self._place(target, reference.kind, document.depth + 1, document.origin)
        except (Rejected, NotAccepted):
            if reference.kind is Kind.SCHEMA:
                return None
            raise
        as_it_stands = urldefrag(urljoin(document.path.as_uri(), value))[0]
        if unquote(as_it_stands) == unquote(place.as_uri()):
            return None
        return place.as_uri() + (f"#{fragment}" if fragment else "")

    def _rewrite(self) -> None:
        """Once everything is in its place, so that mentions of it anywhere are known."""
        for document, parsed in self._read:
            mentions = [(reference, self._known(reference)) for reference in parsed.references]
            changes = self._changes[document.path] + [(reference, uri) for reference, uri in mentions if uri]
            if changes:
                document.path.write_text(parsed.replaced(changes), encoding="utf-8")

    def _known(self, reference: Reference) -> str | None:
        target, fragment = urldefrag(reference.value)
        if reference.kind is not Kind.MENTION or target not in self._places:
            return None
        return self._places[target].as_uri() + (f"#{fragment}" if fragment else "")

    # Where things are put

    def _place(self, url: str, kind: Kind, depth: int, origin: str = "") -> Path:
        """Where the file behind `url` is for this run, fetched or copied if need be. A local one may be missing."""
        if url not in self._places:
            is_remote = urlsplit(url).scheme in WEB
            self._places[url] = self._download(url, kind) if is_remote else self._local(url, kind, origin)
        path = self._places[url]
        if kind is Kind.DOCUMENT and url not in self._documents and path.is_file():
            self._documents.add(url)
            self._waiting.append(Waiting(url, path, depth))
        return path

    def _download(self, url: str, kind: Kind) -> Path:
        if kind is Kind.DIRECTORY:
            raise Rejected(f"{url}: a Directory cannot be fetched; give its files as `listing`.", "input_unsupported")
        path = self._mirrored(url)
        self._count()
        if kind is Kind.FILE:
            limit = self._policy.max_data_bytes - self._fetched_bytes
            self._fetched_bytes += self._fetcher.fetch(url, path, limit)
        else:
            self._fetcher.fetch(url, path, self._policy.max_document_bytes)
        return path

    def _local(self, url: str, kind: Kind, origin: str) -> Path:
        parts = urlsplit(url)
        path = _real(Path(unquote(parts.path)))
        if path.is_relative_to(self._work):
            return path
        allowed = parts.netloc in ("", "localhost") and any(path.is_relative_to(root) for root in self._roots)
        if not allowed or urlsplit(origin).scheme in WEB:
            raise Rejected(
                f"{unquote(parts.path)} is not among this run's files, nor below a directory that the operator "
                "opened with FILE_ROOTS.",
                "workflow_forbidden_path",
            )
        return path if kind in (Kind.FILE, Kind.DIRECTORY) or not path.is_file() else self._copied(path)

    def _copied(self, path: Path) -> Path:
        self._count()
        copy = self._folder / "files" / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return copy

    def _count(self) -> None:
        self._fetched_files += 1
        if self._fetched_files > self._policy.max_files:
            raise Rejected(
                f"The run refers to more than {self._policy.max_files} files elsewhere.", "workflow_too_large"
            )

    def _mirrored(self, url: str) -> Path:
        """Laid out as at the source, where that makes a path; else in a folder named after the whole URL."""
        parts = urlsplit(url)
        segments = [parts.netloc.replace(":", "_"), *(unquote(segment) for segment in parts.path.split("/")[1:])]
        if not parts.query and len(segments) > 1 and len(url) < MAX_PATH_CHARS and all(map(_is_plain, segments)):
            path = self._folder.joinpath(parts.scheme, *segments)
            if self._is_free(path):
                return path
        name = segments[-1] if len(segments) > 1 and _is_plain(segments[-1]) else "document"
        return self._folder / parts.scheme / f"~{hashlib.sha256(url.encode()).hexdigest()[:16]}" / name

    def _is_free(self, path: Path) -> bool:
        """`/a` and `/a/b` can both be documents on the web, not on a disk."""
        above = [parent for parent in path.parents if parent.is_relative_to(self._folder)]
        return not path.is_dir() and not any(parent.is_file() for parent in above)


def _json_for_yaml(value: Any) -> str:
    """JSON that is YAML as well: YAML knows no surrogate pairs, and takes some characters only when escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return ESCAPED_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _is_plain(segment: str) -> bool:
    fits = 0 < len(segment.encode()) <= 200 and segment.isprintable() and "/" not in segment
    return fits and segment not in (".", "..") and not segment.startswith("~")


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (ValueError, OSError) as error:
        raise Rejected(f"{str(path)!r} is not a path: {error}.", "workflow_forbidden_path") from error
