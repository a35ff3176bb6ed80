"""What a cwltool run left behind, read back: steps, outputs, reasons. Trusts none of it: steps can write there."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from app.daemon.engines.engine_interface import RunDir
from app.daemon.providers.provider_interface import Task
from app.errors import Rejected

EVENTS = "events.jsonl"
NO_SPACE = f"[Errno {errno.ENOSPC}]"
UNSUPPORTED = 33  # cwltool's exit code for a feature that it does not have
MAX_OUTPUT_OBJECT_BYTES = 64 * 1024**2
TAIL_BYTES = 64 * 1024
SHOWN_STEPS = 3
SHOWN_STEP_LINES = 5
SHOWN_CHARS = 4000

_TASK_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOG_LINE = re.compile(r"(?:\[[^\]]*\] )?(DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")


def read_tasks(run_dir: RunDir) -> list[Task]:
    """The steps in the order in which they began. A line that is not whole, or not ours, is left out."""
    tasks: dict[str, Task] = {}
    for event in _events(run_dir.record / EVENTS):
        task_id, at = event["task"], _time(event.get("time"))
        if event["event"] == "started" and task_id not in tasks:
            tasks[task_id] = Task(
                task_id=task_id,
                name=str(event.get("name") or task_id),
                cmd=tuple(map(str, _list(event.get("argv")))),
                start_time=at,
                system_logs=_resources(event),
                has_stdout=run_dir.task_log(task_id, "stdout").is_file(),
                has_stderr=run_dir.task_log(task_id, "stderr").is_file(),
            )
        elif event["event"] == "ended" and task_id in tasks:
            tasks[task_id] = _ended(tasks[task_id], event, at)
    return list(tasks.values())


def _ended(task: Task, event: Mapping[str, Any], at: datetime | None) -> Task:
    """A signal's negative exit code becomes 128+n, as everywhere."""
    code = event.get("exit_code")
    exit_code = (code if code >= 0 else 128 - code) if isinstance(code, int) else None
    status = str(event.get("status"))
    logs = task.system_logs if status == "success" else (*task.system_logs, f"cwltool calls this {status}")
    return replace(task, end_time=at, exit_code=exit_code, system_logs=logs)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with _regular(path) as file:
        for line in file:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and "event" in event and _is_task_id(event.get("task")):
                yield event


def _is_task_id(value: Any) -> bool:
    return isinstance(value, str) and _TASK_ID.fullmatch(value) is not None


def _regular(path: Path) -> BinaryIO:
    """The file, or an empty one where it is missing, a link or a pipe: a step may have put that there."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError:
        return BytesIO()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return BytesIO()


def _time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return at if at.tzinfo else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resources(event: Mapping[str, Any]) -> tuple[str, ...]:
    cores, ram = event.get("cores"), event.get("ram_mib")
    return (f"Requested: {cores:g} cores, {ram:g} MiB",) if _is_number(cores) and _is_number(ram) else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_outputs(run_dir: RunDir) -> dict[str, Any]:
    """The output object. Each File and Directory has a `location` below `outputs/` and no `path`. Raises Rejected."""
    outputs = _output_object(run_dir.stdout)
    root = Path(os.path.realpath(run_dir.outputs))
    for entry in _files(outputs):
        location = str(entry.get("location"))
        parts = urlsplit(location)
        path = Path(os.path.realpath(unquote(parts.path)))
        if parts.scheme != "file" or not path.is_relative_to(root):
            raise Rejected(
                f"The engine names an output that is not below the outputs: {location}", "outputs_unreadable"
            )
        entry["location"] = path.as_uri()
        entry.pop("path", None)
    return outputs


def _output_object(path: Path) -> dict[str, Any]:
    with _regular(path) as file:
        text = file.read(MAX_OUTPUT_OBJECT_BYTES + 1)
    if len(text) > MAX_OUTPUT_OBJECT_BYTES:
        raise Rejected(f"The output object has more than {MAX_OUTPUT_OBJECT_BYTES} bytes.", "outputs_unreadable")
    try:
        outputs = json.loads(text, parse_constant=lambda word: None)  # NaN: null, as JavaScript writes it
    except (ValueError, RecursionError) as error:
        raise Rejected(f"The engine left no readable output object: {error}", "outputs_unreadable") from error
    if not isinstance(outputs, dict):
        raise Rejected("The engine left no output object.", "outputs_unreadable")
    return outputs


def _files(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class") in ("File", "Directory"):
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def explain_failure(run_dir: RunDir, exit_code: int) -> str:
    """What a user can act on: the steps that failed, with their last words, then what the engine says of it."""
    parts = [] if exit_code == UNSUPPORTED else list(_failed_steps(run_dir))
    parts += _complaints(_tail(run_dir.stderr))
    if exit_code == UNSUPPORTED:
        parts.insert(0, "The workflow needs something that this engine, as it is set up here, cannot do.")
    return "\n".join(parts or [f"The engine ended with exit code {exit_code} and said nothing."])[:SHOWN_CHARS]


def found_disk_full(run_dir: RunDir) -> bool:
    """By cwltool's own words, in which no step has a say; a step that failed before may be what filled the disk."""
    has_failed = any(task.exit_code for task in read_tasks(run_dir))
    return not has_failed and any(NO_SPACE in line for line in _complaints(_tail(run_dir.stderr)))


def _failed_steps(run_dir: RunDir) -> Iterator[str]:
    ends = (event for event in _events(run_dir.record / EVENTS) if event["event"] == "ended")
    failed = {event["task"] for event in ends if event.get("status") != "success"}
    tasks = [task for task in read_tasks(run_dir) if task.task_id in failed]
    for task in tasks[:SHOWN_STEPS]:
        how = "failed" if task.exit_code is None else f"ended with exit code {task.exit_code}"
        last_lines = _tail(run_dir.task_log(task.task_id, "stderr"))[-SHOWN_STEP_LINES:]
        yield "\n".join([f"Step {task.name} {how}{':' if last_lines else '.'}", *(f"  {line}" for line in last_lines)])
    if len(tasks) > SHOWN_STEPS:
        yield f"{len(tasks) - SHOWN_STEPS} more steps failed."


def _complaints(lines: list[str]) -> list[str]:
    """The engine's errors with the lines that belong to them; else its warnings; else the last lines of anything
    that is no part of its log."""
    level, errors, warnings, others = "", [], [], []
    for line in lines:
        if begins := _LOG_LINE.match(line):
            level, line = begins[1], begins[2]
        elif level in ("DEBUG", "INFO") and not line.startswith(" "):  # indented ones go on with what was logged
            level = ""
        if level in ("ERROR", "CRITICAL"):
            errors += _telling(line)
        elif level == "WARNING" and not line.startswith(("Final process status", "[job ", "[step ", "[workflow ")):
            warnings.append(line)
        elif not level:
            others.append(line)
    return errors or warnings or others[-SHOWN_STEP_LINES:]


def _telling(line: str) -> list[str]:
    """Without advice for whoever types cwltool's command, and without a heading that says only that it failed."""
    line = line.replace(", try again with --debug for more information", "")
    return [] if line == "Workflow error:" else [line]


def _tail(path: Path) -> list[str]:
    with _regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = _ANSI.sub("", file.read(TAIL_BYTES).decode(errors="replace"))
    return [line.rstrip() for line in text.splitlines() if line.strip()]
