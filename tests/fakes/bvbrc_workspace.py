"""The Workspace of the BV-BRC fake: objects by path, which only their owner may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.fakes.bvbrc_users import RpcError

NOT_FOUND = "_ERROR_Object not found!_ERROR_ at /kb/deployment/lib/Bio/P3/Workspace/WorkspaceImpl.pm line 800.\n"


@dataclass(frozen=True, slots=True)
class Stored:
    kind: str
    text: str
    id: str
    is_elsewhere: bool  # large ones are kept in Shock, and their metadata says where


class Workspace:
    """`get` and `ls`, as far as results need them."""

    def __init__(self) -> None:
        self._objects: dict[str, Stored] = {}

    def put(self, path: str, text: str, kind: str = "txt", is_elsewhere: bool = False) -> None:
        """Keep an object; folders come to be as they are needed."""
        folder = path.rpartition("/")[0]
        while folder.count("/") > 1 and folder not in self._objects:
            self._objects[folder] = Stored("folder", "", str(uuid4()), False)
            folder = folder.rpartition("/")[0]
        self._objects[path] = Stored(kind, text, str(uuid4()), is_elsewhere)

    def remove(self, path: str) -> None:
        """Forget an object and what is below it."""
        self._objects = {
            name: stored for name, stored in self._objects.items() if name != path and not name.startswith(f"{path}/")
        }

    def text(self, path: str) -> str:
        return self._objects[path].text

    def listed(self, folder: str) -> list[list[str]]:
        """What a job result says of its files: pairs of path and id."""
        return [[path, stored.id] for path, stored in self._below(folder)]

    def get(self, user: str, what: Mapping[str, Any]) -> list[Any]:
        answer = []
        for path in what["objects"]:
            _check_owner(user, path)
            if path not in self._objects:
                raise RpcError(NOT_FOUND)
            stored = self._objects[path]
            data = None if what.get("metadata_only") or stored.is_elsewhere else stored.text
            answer.append([_metadata(path, stored, user), data])
        return [answer]

    def ls(self, user: str, what: Mapping[str, Any]) -> list[Any]:
        found = {}
        for folder in what["paths"]:
            _check_owner(user, folder)
            if folder in self._objects:
                found[folder] = [_metadata(path, stored, user) for path, stored in self._below(folder)]
        return [found]

    def _below(self, folder: str) -> list[tuple[str, Stored]]:
        return sorted((path, stored) for path, stored in self._objects.items() if path.startswith(f"{folder}/"))


def _check_owner(user: str, path: str) -> None:
    if path.split("/")[1:2] != [user]:
        raise RpcError(f"_ERROR_User lacks permission to {path} for requested action!_ERROR_")


def _metadata(path: str, stored: Stored, user: str) -> list[Any]:
    folder, _, name = path.rpartition("/")
    node = "https://p3.theseed.org/services/shock_api/node/1" if stored.is_elsewhere else ""
    size = len(stored.text.encode())
    return [name, stored.kind, f"{folder}/", "2026-11-20T12:00:00Z", stored.id, user, size, {}, {}, "o", "n", node]
