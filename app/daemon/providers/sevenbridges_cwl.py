"""A CWL workflow of several documents as the one JSON document that Seven Bridges installs as an app.

Pure but for `read`, which gets a document by its place: an attachment's path, or an address.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

import yaml

from app.daemon.engines.cwl_documents import Excessive, Unreadable, parse
from app.errors import InvalidRequest, Rejected
from app.strict import load_json

MAX_DOCUMENTS = 500
MAX_BYTES = 5 * 1024 * 1024
PROCESSES = frozenset({"Workflow", "CommandLineTool", "ExpressionTool"})
NOT_CWL = "workflow_not_cwl"

Read = Callable[[str], bytes]


class _Loader(yaml.CSafeLoader):
    """Dates stay text, since JSON has none."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def packed(place: str, read: Read) -> dict[str, Any]:
    """The document at `place` with all that it refers to in the place of the references. Raises Rejected."""
    document = _Packing(read).document(place, ())
    if not isinstance(document, dict) or "cwlVersion" not in document or document.get("class") not in PROCESSES:
        raise Rejected(f"{place} is not a CWL process: it needs a cwlVersion and a class.", NOT_CWL)
    return document


def content_hash(document: Mapping[str, Any]) -> str:
    """The same for the same content, however it was written down."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class _Packing:
    """One workflow's; counts what it has read."""

    def __init__(self, read: Read) -> None:
        self._read, self._documents, self._bytes = read, 0, 0

    def document(self, place: str, parents: tuple[str, ...]) -> Any:
        if place in parents:
            raise Rejected(f"{place} refers to itself, by way of {parents[-1]}.", NOT_CWL)
        value = self._parsed(place)
        if isinstance(value, dict) and "$graph" in value:
            words = f"{place} is a packed document ($graph). Attach the documents that it was packed from instead."
            raise Rejected(words, NOT_CWL)
        return self._resolved(value, place, (*parents, place))

    def _resolved(self, value: Any, place: str, parents: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._resolved(element, place, parents) for element in value]
        if not isinstance(value, dict):
            return value
        if isinstance(target := value.get("$import"), str):
            return self.document(_joined(place, target), parents)
        if isinstance(target := value.get("$include"), str):
            return self._text(_joined(place, target))
        resolved = {key: self._resolved(element, place, parents) for key, element in value.items()}
        if isinstance(target := value.get("run"), str) and {"in", "out"} & set(value):
            resolved["run"] = self.document(_joined(place, target), parents)
        return resolved

    def _parsed(self, place: str) -> Any:
        source = self._source(place)
        try:
            parse(source)  # not too deep, no aliases that multiply
            return load_json(json.dumps(yaml.load(source, Loader=_Loader), ensure_ascii=False), place)  # noqa: S506
        except (Unreadable, Excessive, InvalidRequest, yaml.YAMLError, ValueError, TypeError) as error:
            raise Rejected(f"{place} is not a CWL document: {' '.join(str(error).split())[:300]}", NOT_CWL) from None

    def _text(self, place: str) -> str:
        try:
            return self._source(place).decode()
        except UnicodeDecodeError:
            raise Rejected(f"{place} is not text.", NOT_CWL) from None

    def _source(self, place: str) -> bytes:
        source = self._read(place)
        self._documents += 1
        self._bytes += len(source)
        if self._documents > MAX_DOCUMENTS or self._bytes > MAX_BYTES:
            words = f"The workflow has more than {MAX_DOCUMENTS} documents or {MAX_BYTES} bytes."
            raise Rejected(words, "workflow_too_large")
        return source


def _joined(place: str, target: str) -> str:
    """Where a reference in the document at `place` leads. Raises Rejected for a fragment: a part of a graph."""
    if "#" in target:
        raise Rejected(f"{place} refers to {target!r}, a part of a packed document, which is not taken.", NOT_CWL)
    if "://" in place or "://" in target:
        return urljoin(place, target)
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
