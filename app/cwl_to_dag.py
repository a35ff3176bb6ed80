"""A CWL Workflow as a pipeline of its steps, where that means the same; else the reason why not. Pure.

The same it is where every step runs a tool that stands in the document or behind a URL, takes inputs as they are, and
is scattered over one input at most. What CWL computes on the way (expressions, merges, conditions) an engine does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
HARMLESS = frozenset({"ScatterFeatureRequirement"})
ITEM = "item"
_STEP_FIELDS = frozenset({"id", "in", "out", "run", "scatter", "scatterMethod", "label", "doc"})
_FIELDS = frozenset({"id", "class", "cwlVersion", "inputs", "outputs", "steps", "requirements", "label", "doc"})


@dataclass(frozen=True, slots=True)
class Converted:
    """A pipeline document, and the tools that its steps run, by the names under which they must be attached."""

    document: dict[str, Any]
    tools: dict[str, dict[str, Any]]


class _Unlike(Exception):
    """Why a pipeline of the steps would not be the same."""


def convert(workflow: Mapping[str, Any], inputs: Mapping[str, Any]) -> Converted | str:
    """The pipeline, or in words why the workflow is better run by an engine as it stands."""
    try:
        return _convert(workflow, inputs)
    except _Unlike as error:
        return str(error)


def _convert(workflow: Mapping[str, Any], inputs: Mapping[str, Any]) -> Converted:
    if workflow.get("class") != "Workflow":
        raise _Unlike("it is no Workflow")
    _check_fields("the workflow", workflow, _FIELDS)
    if others := {name for name, _ in _named(workflow.get("requirements"), "class")} - HARMLESS:
        raise _Unlike(f"it has the requirement {min(others)}")
    context = {name: _value(name, declared, inputs) for name, declared in _named(workflow.get("inputs"))}
    tools: dict[str, dict[str, Any]] = {}
    steps = [_step(name, step, context, workflow, tools) for name, step in _named(workflow.get("steps"))]
    if not steps:
        raise _Unlike("it has no steps")
    names = {step["step_name"]: step for step in steps}
    outputs = {name: _output(name, declared, names) for name, declared in _named(workflow.get("outputs"))}
    title = str(workflow.get("label") or workflow.get("id") or "workflow").lstrip("#")
    document = {"workflow_name": title, "base_context": context, "steps": steps, "workflow_outputs": outputs}
    return Converted(document, tools)


def _step(
    name: str,
    step: Any,
    context: Mapping[str, Any],
    workflow: Mapping[str, Any],
    tools: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    if not isinstance(step, dict):
        raise _Unlike(f"step {name} cannot be read")
    _check_fields(f"step {name}", step, _STEP_FIELDS)
    sources = {port: _source(f"step {name}", port, given) for port, given in _named(step.get("in"), short="source")}
    params = {port: _reference(source, context) for port, source in sources.items()}
    made: dict[str, Any] = {"step_name": name, "workflow_type": "CWL", "params": params}
    if (scattered := step.get("scatter")) is not None:
        ports = scattered if isinstance(scattered, list) else [scattered]
        if len(ports) != 1 or ports[0] not in params:
            raise _Unlike(f"step {name} is scattered over several inputs")
        made["scatter"] = {"item": ITEM, "over": params[ports[0]]}
        params[ports[0]] = f"${{{ITEM}}}"
    return made | {"workflow_url": _tool(name, step.get("run"), workflow, tools)}


def _tool(name: str, run: Any, workflow: Mapping[str, Any], tools: dict[str, dict[str, Any]]) -> str:
    if isinstance(run, str) and run.startswith(("http://", "https://")):
        return run
    if isinstance(run, dict) and run.get("class") in ("CommandLineTool", "ExpressionTool"):
        tools[f"{name}.cwl"] = {"cwlVersion": workflow.get("cwlVersion", "v1.2"), **run}
        return f"{name}.cwl"
    raise _Unlike(f"what step {name} runs is neither a tool in the document nor a URL")


def _source(place: str, port: str, given: Any) -> str:
    extra = set(given) - {"source", "id"} if isinstance(given, dict) else set()
    source = given.get("source") if isinstance(given, dict) else given
    if extra or not isinstance(source, str):
        raise _Unlike(f"input {port} of {place} is more than one plain source")
    return source


def _reference(source: str, context: Mapping[str, Any]) -> str:
    """`step/output` or the name of an input of the workflow."""
    step, slash, output = source.lstrip("#").partition("/")
    if slash:
        return f"${{steps.{_checked(step)}.outputs.{_checked(output)}}}"
    if step not in context:
        raise _Unlike(f"there is no input {step}")
    return f"${{{step}}}"


def _output(name: str, declared: Any, steps: Mapping[str, Any]) -> str:
    extra = (
        set(declared) - {"id", "type", "outputSource", "label", "doc", "format"} if isinstance(declared, dict) else 1
    )
    source = declared.get("outputSource") if isinstance(declared, dict) else None
    if extra or not isinstance(source, str) or source.lstrip("#").partition("/")[0] not in steps:
        raise _Unlike(f"output {name} is more than the output of one step")
    return _reference(source, {})


def _value(name: str, declared: Any, inputs: Mapping[str, Any]) -> Any:
    value = inputs.get(name)
    if value is None and isinstance(declared, dict):
        value = declared.get("default")
    if value is None and not _is_optional(declared.get("type") if isinstance(declared, dict) else declared):
        raise _Unlike(f"the required input {name} is missing")
    if "${" in str(value):
        raise _Unlike(f"the value of {name} looks like a reference")
    return value


def _is_optional(kind: Any) -> bool:
    return kind.endswith("?") if isinstance(kind, str) else isinstance(kind, list) and "null" in kind


def _named(value: Any, key: str = "id", short: str | None = None) -> Iterator[tuple[str, Any]]:
    """Entries of a CWL map, which may be written as a list of objects with `key`."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = [(one.get(key), one) if isinstance(one, dict) else (None, one) for one in value]
    for name, entry in entries:
        checked = _checked(str(name).rpartition("#")[2].rpartition("/")[2])
        yield checked, {short: entry} if short and isinstance(entry, str) else entry


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise _Unlike(f"the name {name!r} is none that a pipeline takes")
    return name


def _check_fields(place: str, value: Mapping[str, Any], known: frozenset[str]) -> None:
    if extra := set(value) - known:
        raise _Unlike(f"{place} has {min(map(str, extra))}")
