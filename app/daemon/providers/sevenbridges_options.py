"""workflow_engine_parameters that a Seven Bridges task takes, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.errors import Rejected

OPTIONS = (
    ("instance_type", "string", ""),
    ("max_parallel_instances", "int", ""),
    ("use_memoization", "boolean", ""),
    ("use_elastic_disk", "boolean", ""),
    ("use_interruptible_instances", "boolean", ""),
)
"""(name, type, default): where a task says nothing, the project's own settings hold."""
ROUTED = frozenset({"provider"})
MOST_INSTANCES = 1000


def task_options(parameters: Mapping[str, str | None]) -> dict[str, Any]:
    """For `tasks.create` of the library. Raises Rejected for what is not known or not of its type."""
    kinds = {name: kind for name, kind, _ in OPTIONS}
    if strange := sorted(set(parameters) - set(kinds) - ROUTED):
        words = f"workflow_engine_parameters: Seven Bridges takes {', '.join(kinds)}, not {', '.join(strange)[:200]}."
        raise Rejected(words, "unknown_engine_parameter")
    settings = {name: _READERS[kind](name, text) for name, kind in kinds.items() if (text := parameters.get(name, ""))}
    settings |= {name: True for name, kind in kinds.items() if kind == "boolean" and parameters.get(name, "") is None}
    interruptible = settings.pop("use_interruptible_instances", None)
    options: dict[str, Any] = {"execution_settings": settings} if settings else {}
    return options if interruptible is None else {**options, "interruptible": interruptible}


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise _misfit(name, "true or false", text)
    return text.lower() == "true"


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MOST_INSTANCES):
        raise _misfit(name, f"a number from 1 to {MOST_INSTANCES}", text)
    return int(text)


def _text(name: str, text: str) -> str:
    return text


def _misfit(name: str, expected: str, text: str) -> Rejected:
    return Rejected(f"workflow_engine_parameters.{name} is not {expected}: {text[:60]!r}", "wrong_engine_parameter")


_READERS: Mapping[str, Callable[[str, str], Any]] = {"string": _text, "int": _number, "boolean": _boolean}
