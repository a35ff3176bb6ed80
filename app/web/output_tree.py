"""A run's outputs as a tree to show: values, files with sizes, folders. Knows how kept files are named, not HTML.

The output object is the engine's own (CWL: objects with `class` File or Directory); any other JSON is shown as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from app.artifacts import output_location, output_path

MAX_NODES = 1000
MAX_DEPTH = 20
MAX_TEXT = 1000


@dataclass(frozen=True, slots=True)
class OutputNode:
    """One line of the tree. `path`: a kept file to download; `url`: a file that lies elsewhere."""

    label: str | None  # the output's name in the engine's object, None for an element of a list
    text: str = ""
    path: str | None = None
    url: str | None = None
    size: int | None = None  # bytes
    is_folder: bool = False
    children: tuple[OutputNode, ...] = ()
    left_out: int = 0  # children that are not shown


def output_tree(outputs: Mapping[str, Any] | None, sizes: Mapping[str, int]) -> OutputNode:
    """A folder with one child for each output; without an output object, one for each kept file.

    `sizes`: path of each kept output file -> bytes.
    """
    builder = _Builder(sizes)
    if outputs:
        return builder.folder(None, "", list(outputs.items()), MAX_DEPTH)
    return builder.folder(None, "", [(None, output_location(path)) for path in sizes], MAX_DEPTH)


class _Builder:
    """Turns values into nodes until there are MAX_NODES."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes, self._room = sizes, MAX_NODES

    def folder(self, label: str | None, text: str, items: list[tuple[str | None, Any]], depth: int) -> OutputNode:
        children, left_out = self._nodes(items, depth)
        return OutputNode(label, text, is_folder=True, children=children, left_out=left_out)

    def _nodes(self, items: list[tuple[str | None, Any]], depth: int) -> tuple[tuple[OutputNode, ...], int]:
        nodes = []
        for label, item in items:
            if self._room == 0:
                break
            self._room -= 1
            nodes.append(self._node(label, item, depth - 1))
        return tuple(nodes), len(items) - len(nodes)

    def _node(self, label: str | None, value: Any, depth: int) -> OutputNode:
        if isinstance(value, str) and output_path(value) is not None:
            value = {"class": "File", "location": value}
        if depth == 0 or not value or not isinstance(value, (dict, list)):
            return _leaf(label, value)
        if isinstance(value, list):
            return self.folder(label, "", [(None, item) for item in value], depth)
        if value.get("class") == "File":
            return self._file(label, value, depth)
        if value.get("class") == "Directory":
            return self._directory(label, value, depth)
        return self.folder(label, "", list(value.items()), depth)

    def _file(self, label: str | None, value: Mapping[str, Any], depth: int) -> OutputNode:
        location, path, name = _place(value)
        is_kept = path in self._sizes
        size = self._sizes.get(path or "", value.get("size"))
        beside, left_out = self._nodes([(None, item) for item in _items(value, "secondaryFiles")], depth)
        return OutputNode(
            label,
            name if is_kept else location or name,
            path=path if is_kept else None,
            url=_web_address(location),
            size=size if isinstance(size, int) else None,
            children=beside,
            left_out=left_out,
        )

    def _directory(self, label: str | None, value: Mapping[str, Any], depth: int) -> OutputNode:
        """Its listing, or, where the engine gave none, the kept files below its path."""
        _, path, name = _place(value)
        listing = _items(value, "listing")
        if not listing and path:
            listing = [output_location(kept) for kept in self._sizes if kept.startswith(f"{path}/")]
        return self.folder(label, f"{name}/", [(None, item) for item in listing], depth)


def _leaf(label: str | None, value: Any) -> OutputNode:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return OutputNode(label, text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…", url=_web_address(text))


def _place(value: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """(location, path below the run's outputs where it is kept, base name) of a CWL File or Directory."""
    location = _text(value, "location") or _text(value, "path")
    path = output_path(location)
    return location, path, _text(value, "basename") or PurePosixPath(path or location).name


def _web_address(text: str) -> str | None:
    return text if text.startswith(("https://", "http://")) and len(text) <= MAX_TEXT else None


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _items(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []
