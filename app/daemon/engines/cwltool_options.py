"""The workflow_engine_parameters that a user may give to cwltool, and nothing else: each is checked by its own pattern.

Left out on purpose: whatever reads or writes other places, changes the environment, or picks the container runtime.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import Rejected

BOOLEAN, INTEGER, NUMBER = "boolean", "integer", "number"
PATTERNS = {BOOLEAN: "|true|false", INTEGER: "[0-9]{1,6}", NUMBER: r"[0-9]{1,6}(\.[0-9]{1,6})?"}
NAME = "[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"
IMAGE = "[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}"

NOT_OURS = frozenset({"provider"})
"""Taken by routing before a run gets here."""


@dataclass(frozen=True, slots=True)
class Option:
    """`pattern`: what a value must look like as a whole; the type's own where none is given."""

    name: str
    type: str = BOOLEAN
    default: str = "false"
    pattern: str = ""

    def argument(self, value: str | None) -> str | None:
        """The one word for the command line, None for a flag that is off. Raises Rejected."""
        text = (value or "").strip()
        if not re.fullmatch(self.pattern or PATTERNS[self.type], text, re.IGNORECASE | re.ASCII):
            raise Rejected(f"workflow_engine_parameters: {self.name} cannot be {value!r}.", "option_not_allowed")
        if self.type == BOOLEAN:
            return None if text.lower() == "false" else f"--{self.name}"
        return f"--{self.name}={text}"


OPTIONS = {
    option.name: option
    for option in (
        Option("parallel"),
        Option("parallel-max", INTEGER, "0"),
        Option("on-error", "string", "stop", "stop|continue"),
        Option("target", "string", "", NAME),
        Option("single-step", "string", "", NAME),
        Option("single-process", "string", "", NAME),
        Option("strict"),
        Option("non-strict"),
        Option("enable-ext"),
        Option("enable-dev"),
        Option("skip-schemas"),
        Option("eval-timeout", NUMBER, "60"),
        Option("disable-js-validation"),
        Option("js-console"),
        Option("no-compute-checksum"),
        Option("default-container", "string", "", IMAGE),
        Option("disable-pull"),
        Option("force-docker-pull"),
        Option("no-match-user"),
        Option("no-read-only"),
        Option("strict-memory-limit"),
        Option("strict-cpu-limit"),
        Option("debug"),
        Option("timestamps"),
    )
}


def arguments(parameters: Mapping[str, str | None]) -> list[str]:
    """Command-line words. Names may be written as cwltool writes them (`--on-error`). Raises Rejected."""
    given: dict[str, str] = {}
    for written, value in parameters.items():
        name = written.removeprefix("--").replace("_", "-")
        if name in NOT_OURS:
            continue
        if name not in OPTIONS:
            allowed = ", ".join(sorted(OPTIONS))
            raise Rejected(
                f"workflow_engine_parameters: {written!r} is not allowed. Allowed: {allowed}.", "option_not_allowed"
            )
        if name in given:
            raise Rejected(f"workflow_engine_parameters: {name} is given twice.", "option_not_allowed")
        given[name] = OPTIONS[name].argument(value) or ""
    return [word for word in given.values() if word]
