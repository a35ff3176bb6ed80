"""Names of attachments: which are safe as paths below any directory, and which of them a workflow_url means. Pure."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from app.errors import InvalidRequest

MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 1024

_DRIVE = re.compile(r"[A-Za-z]:")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_UTF8 = "\ufffd"


def check_name(name: str) -> str:
    """The name, if it is a safe relative path with '/'. Raises InvalidRequest, which says what is wrong with it."""
    if problem := _problem(name):
        raise InvalidRequest(f"workflow_attachment {name!r}: {problem}")
    return name


def check_together(names: Iterable[str]) -> None:
    """Raises InvalidRequest where two names would meet on some file system."""
    seen: dict[str, str] = {}
    for name in names:
        if twin := seen.get(key := _folded(name)):
            raise InvalidRequest(f"workflow_attachment {name!r} and {twin!r} are the same file on some systems")
        seen[key] = name
    for key, name in seen.items():
        for parent in PurePosixPath(key).parents:
            if str(parent) in seen:
                raise InvalidRequest(f"workflow_attachment {seen[str(parent)]!r} is a file and a folder of {name!r}")


def attachment_of(workflow_url: str, names: Iterable[str]) -> str | None:
    """The attachment that a relative workflow_url means, its `#fragment` left aside; None where it is none of them."""
    path = workflow_url.partition("#")[0]
    by_form = {unicodedata.normalize("NFC", name): name for name in names}
    for spelling in (path, unquote(path), unquote(urlsplit(workflow_url).path)):
        if found := by_form.get(unicodedata.normalize("NFC", posixpath.normpath(spelling))):
            return found
    return None


def _problem(name: str) -> str | None:
    parts = name.split("/")
    checks = {
        "has control, direction or undecodable characters": any(map(_is_unprintable, name)),
        "is absolute": name.startswith("/") or bool(_DRIVE.match(name)),
        "has a backslash": "\\" in name,
        "has an empty, '.' or '..' component": not {"", ".", ".."}.isdisjoint(parts),
    }
    if problem := next((words for words, found in checks.items() if found), None):
        return problem
    if any(len(part.encode()) > MAX_COMPONENT_BYTES for part in parts):
        return f"has a component of more than {MAX_COMPONENT_BYTES} bytes"
    return f"is longer than {MAX_PATH_BYTES} bytes" if len(name.encode()) > MAX_PATH_BYTES else None


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI or character == _NOT_UTF8


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
