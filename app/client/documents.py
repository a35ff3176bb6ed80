"""Workflow and parameter files read as data: JSON, or YAML as CWL means it. Knows nothing of servers."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from app.client.errors import Invalid

_TYPES_BY_SUFFIX = {".cwl": "CWL", ".wdl": "WDL", ".nf": "NFL", ".smk": "SMK"}


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema. PyYAML's own rules are YAML 1.1's: `no` is a boolean, 1e-5 text, 12:30 a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _number)


def load(path: Path) -> Any:
    """The data in a JSON or YAML file. Raises Invalid with the place where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, _CoreLoader)  # noqa: S506
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error


def load_object(path: Path) -> dict[str, Any]:
    """As `load`; an empty file is an empty object, anything else is Invalid."""
    value = load(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(f"{path} holds {type(value).__name__}, where an object with the inputs by name is needed")
    return value


def type_of_name(path: str) -> str | None:
    """The workflow type that a file's name shows, None where it does not."""
    name = PurePosixPath(path)
    return "SMK" if name.name == "Snakefile" else _TYPES_BY_SUFFIX.get(name.suffix.lower())


def type_of(path: Path) -> tuple[str | None, str | None]:
    """The workflow type and version that a workflow file shows, each None where it does not."""
    kind = type_of_name(path.name)
    if kind == "WDL":
        return kind, _wdl_version(path)
    if kind == "CWL" or path.suffix.lower() in (".json", ".yml", ".yaml"):
        return _type_of_document(load(path), kind)
    return kind, None


def _type_of_document(document: Any, kind: str | None) -> tuple[str | None, str | None]:
    if not isinstance(document, dict):
        return kind, None
    if "cwlVersion" in document:
        return "CWL", str(document["cwlVersion"])
    return ("DAG", "1.0") if kind is None and "steps" in document else (kind, None)


def _wdl_version(path: Path) -> str:
    found = re.search(r"^\s*version\s+(\S+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return found[1] if found else "draft-2"
