"""What the daemon is told of a local run: WES states, and the reason words with their meanings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.daemon.engines.engine_interface import RunDir, WorkflowEngine
from app.daemon.providers import shim
from app.daemon.providers.local_files import ATTACHMENT_LOST, ATTACHMENT_REFUSED
from app.daemon.providers.local_life import RECORD_DAMAGED, Ended, Running
from app.daemon.providers.local_outputs import OUTPUT_REFUSED, OUTPUTS_LOST
from app.daemon.providers.provider_interface import Status
from app.states import State

ENGINE_UNAVAILABLE = "engine_unavailable"
RUN_ID_REFUSED = "run_id_refused"
DISK_FULL = "disk_full"

REASONS: dict[str, str] = {
    shim.LOST: "The process that attends the engine died before the engine ended.",
    shim.TERMINATED: "This machine, or somebody on it, ended the run; it was not cancelled through the service.",
    shim.NOT_STARTED: "The engine could not be started.",
    DISK_FULL: "This machine's disk was full when the engine laid out the run's files.",
    RECORD_DAMAGED: "The record of how the run ended is damaged.",
    ENGINE_UNAVAILABLE: "No engine on this machine runs such a workflow.",
    RUN_ID_REFUSED: "The run id cannot name a directory.",
    ATTACHMENT_REFUSED: "An attachment's path cannot be laid out.",
    ATTACHMENT_LOST: "An attachment is missing or damaged in storage.",
    OUTPUTS_LOST: "The engine ended well, but its outputs are not there.",
    OUTPUT_REFUSED: "An output lies outside the run's outputs, or is no plain file or directory.",
}
"""Every reason word of this provider, in a Status or a Rejected. Engines add their own to Rejected."""


def running_status(root: Path, running: Running, is_ending: bool) -> Status:
    """`is_ending`: a cancel was asked for, and the run's processes are not all gone."""
    word = "canceling" if is_ending else "running"
    return Status(State.RUNNING, word, start_time=_moment(running.start), cmd=_shown_cmd(_request(root)))


def end_status(root: Path, ended: Ended, engines: Mapping[str, WorkflowEngine]) -> Status:
    """How the run ended; an engine's failure in its adapter's words. `engines` by lower-case name."""
    request = _request(root)
    state, reason, message = State.SYSTEM_ERROR, None, ended.message
    if ended.reason == shim.CANCELED:
        state = State.CANCELED
    elif ended.reason == shim.EXITED:
        state = State.EXECUTOR_ERROR if ended.exit_code else State.COMPLETE
        engine = engines.get(str(request.get("engine")).lower())
        if ended.exit_code and engine is not None:
            message = engine.failure(RunDir(root), ended.exit_code)
            if engine.found_disk_full(RunDir(root)):
                state, reason, message = State.SYSTEM_ERROR, DISK_FULL, f"{REASONS[DISK_FULL]} {message}"
    else:
        reason, message = ended.reason, " ".join(filter(None, (REASONS[ended.reason], ended.message)))
    return Status(
        state,
        ended.reason,
        reason=reason,
        message=message,
        exit_code=ended.exit_code,
        start_time=_moment(ended.start),
        end_time=_moment(ended.end),
        cmd=_shown_cmd(request),
    )


def _request(root: Path) -> dict[str, Any]:
    try:
        return shim.read_record(str(root), shim.REQUEST) or {}
    except ValueError:
        return {}


def _shown_cmd(request: Mapping[str, Any]) -> tuple[str, ...] | None:
    words = request.get("shown_cmd")
    return tuple(str(word) for word in words) if isinstance(words, list) else None


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
