"""A CWL document, looked at without an engine: does it parse, is it what was said, which inputs are missing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024
"""Callers leave longer documents to the engine."""
CLASSES = frozenset({"Workflow", "CommandLineTool", "ExpressionTool", "Operation"})


def cwl_problems(text: str, fragment: str, version: str | None, params: Mapping[str, Any]) -> list[str]:
    """In words. `fragment` chooses a process of a packed document; `version`: as the client named it."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [f"The document is not YAML that can be read: {' '.join(str(error).split())[:300]}"]
    if not isinstance(document, dict):
        return ["The document is not a CWL document: it is not a mapping."]
    process = chosen_process(document, fragment)
    if process is None:
        return [f"The document has no process {fragment or 'main'!r}."]
    return [*_header_problems(document, process, version), *_input_problems(process, params)]


def chosen_process(document: dict[str, Any], fragment: str) -> dict[str, Any] | None:
    """The one that is meant; in a packed document it is `main` unless the fragment names another."""
    graph = document.get("$graph")
    if not isinstance(graph, list):
        return document
    wanted = fragment or "main"
    for process in graph:
        if isinstance(process, dict) and str(process.get("id", "")).lstrip("#") == wanted:
            return process
    return graph[0] if len(graph) == 1 and not fragment and isinstance(graph[0], dict) else None


def _header_problems(document: dict[str, Any], process: dict[str, Any], version: str | None) -> Iterator[str]:
    written = document.get("cwlVersion")
    if written is None:
        yield "The document has no cwlVersion."
    elif version and str(written).removeprefix("v") != version.removeprefix("v"):
        yield f"The document has cwlVersion {written}, but workflow_type_version is {version}."
    if process.get("class") not in CLASSES:
        yield f"The document's class is {process.get('class')!r}, which is none of {', '.join(sorted(CLASSES))}."


def _input_problems(process: dict[str, Any], params: Mapping[str, Any]) -> Iterator[str]:
    for name, declared in entries(process.get("inputs")):
        if _is_required(declared) and params.get(name) is None:
            yield f"The required input {name!r} is missing in workflow_params."


def entries(named: Any) -> Iterator[tuple[str, Any]]:
    """(name, what is declared) of inputs or steps: the form with names as keys, or the list of objects with ids."""
    if isinstance(named, dict):
        yield from ((str(name), declared) for name, declared in named.items())
    elif isinstance(named, list):
        for declared in named:
            if isinstance(declared, dict) and isinstance(declared.get("id"), str):
                yield declared["id"].rpartition("#")[2].rpartition("/")[2], declared


def _is_required(declared: Any) -> bool:
    if isinstance(declared, dict):
        if declared.get("default") is not None:
            return False
        declared = declared.get("type")
    if isinstance(declared, list):
        return "null" not in declared
    return declared != "null" and not (isinstance(declared, str) and declared.endswith("?"))
