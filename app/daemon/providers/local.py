"""Runs on this machine: a directory and a shim for each. Owns when a run is accepted and when a shim is started.

Engines own command lines (`engines/`), `local_life` owns processes, `shim` the engine while it runs. Nothing here knows
the database or the settings. A run is accepted from the moment in which its `request.json` is there: then `find` finds
it, and whoever looks at it sees to it that a shim starts. A provider id is the run id, so everything is idempotent.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.daemon.engines.engine_interface import RunDir, WorkflowEngine
from app.daemon.providers import local_life, shim
from app.daemon.providers.local_files import (
    append_streams,
    append_task_logs,
    hold_directory,
    lay_out,
    make_run_dir,
)
from app.daemon.providers.local_life import RECORD_DAMAGED, Ended, Running
from app.daemon.providers.local_outputs import OUTPUTS_LOST, keep_outputs
from app.daemon.providers.local_status import (
    ENGINE_UNAVAILABLE,
    RUN_ID_REFUSED,
    end_status,
    running_status,
)
from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    EngineOffer,
    Found,
    KnownRuns,
    LogSink,
    OutputSink,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.daemon.providers.shim_launcher import ShimLauncher
from app.errors import NotAccepted, OutcomeUnknown, ProviderError, Rejected
from app.states import State
from app.unrelated_folders import keep_apart

log = logging.getLogger(__name__)

STAGING_PATIENCE_SECONDS = 10.0  # for another submit of the same run
SHIM_START_SECONDS = 60.0  # a shim that gets the lock later than this refuses
RELAUNCH_SECONDS = 10.0  # a shim that has not begun by then is started again …
MAX_LAUNCHES = 6  # … so often
FORCE_MARGIN_SECONDS = 5.0  # what a shim gets on top of the grace, before it is killed with its engine
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class LocalProvider(WorkflowProviderInterface):
    """Engines on this machine. No call blocks for an engine; the longest are copies and what an engine fetches."""

    name = "local"
    capabilities = Capabilities(
        cancel=True, task_logs=True, sweep=True, host_bound=True, filesystem_protocols=("file", "http", "https")
    )
    status_interval_seconds = 2.0
    submit_timeout_seconds = 0.0  # `Absent` is proved here, not waited for: see find_workflow

    def __init__(
        self,
        runs: Path,
        engines: Sequence[WorkflowEngine],
        launcher: ShimLauncher,
        host: str,
        *,
        max_active: int | None = None,
        cancel_grace_seconds: float = 5.0,
        keep_seconds: float = 86400.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`runs`: where run directories are made. `keep_seconds`: how long those of ended runs stay."""
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep_apart(runs)
        self._runs = runs.resolve()
        self._engines = {engine.name.lower(): engine for engine in engines}
        self._launcher = launcher
        self._host = host
        self.max_active = max_active
        self._grace_seconds = cancel_grace_seconds
        self._keep_seconds = keep_seconds
        self._monotonic = monotonic
        self._now = now
        self._launches: dict[str, tuple[int, float]] = {}  # run id -> how many shims were started, when the last
        self._cancels: dict[str, float] = {}  # run id -> when this process first saw its cancel

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        """The engine is chosen once: a replay after a change of the installation is the same run."""
        return {"engine": self._engine_for(run).name}

    def submit_workflow(self, run: Submission) -> ProviderRun:
        """Lay the run out, accept it, start a shim. What fails before it is accepted leaves nothing behind."""
        root = self._root(run.run_id)
        if root is None:
            raise Rejected(f"The run id {run.run_id!r} cannot name a directory.", RUN_ID_REFUSED)
        try:
            with hold_directory(root, STAGING_PATIENCE_SECONDS) as alone:
                if not alone:
                    raise OutcomeUnknown("Another submit of this run is under way.")
                if shim.has(str(root), shim.REQUEST):
                    self._start_shim(root)
                else:
                    self._accept(run, root)
        except OSError as error:
            raise NotAccepted(f"This machine could not take the run: {error}") from error
        return self._provider_run(run.run_id)

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        """Accepted or not: a submit holds the directory until it is one or the other; a dead one accepts nothing."""
        root = self._root(run.run_id)
        if root is None:
            return Absent()
        with _unknown_outcome():
            if not shim.has(str(root), shim.REQUEST):
                if not root.exists():
                    return Absent()
                with hold_directory(root) as alone:
                    if not alone:
                        return Unsure("The run is being laid out.")
                    if not shim.has(str(root), shim.REQUEST):
                        return Absent()
        return Found(self._provider_run(run.run_id))

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        """A few small files each. A run that cannot be looked at now is left out."""
        statuses = {}
        for provider_id in provider_ids:
            try:
                status = self._status(provider_id)
            except (OSError, ProviderError) as error:
                log.warning("a local run cannot be looked at", extra={"run_id": provider_id, "error": str(error)})
            else:
                if status is not None:
                    statuses[provider_id] = status
        return statuses

    def get_workflow_status(self, provider_id: str) -> Status | None:
        """None only where there is no such run directory. Raises OutcomeUnknown where the disk does not say."""
        with _unknown_outcome():
            return self._status(provider_id)

    def cancel_workflow(self, provider_id: str) -> None:
        """Ask, and return: a run that has not begun never will; of one that runs everything ends after the grace."""
        root = self._root(provider_id)
        with _unknown_outcome():
            if root is not None and root.exists():
                local_life.ask_cancel(root)
                self._status(provider_id)

    def get_tasks(self, provider_id: str) -> list[Task]:
        """The steps that the engine has recorded so far."""
        with _unknown_outcome():
            found = self._laid_out(provider_id)
            return [] if found is None else found[0].tasks(found[1])

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        """Append what is new of the engine's streams and of its tasks' logs."""
        with _unknown_outcome():
            found = self._laid_out(provider_id)
            if found is None:
                return
            engine, run_dir = found
            append_streams(run_dir.root, sink)
            append_task_logs(run_dir.root, engine.tasks(run_dir), sink)

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        """The engine's output object, its files kept in `sink`."""
        with _unknown_outcome():
            found = self._laid_out(provider_id)
            if found is None:
                raise Rejected("The run's directory is no longer there.", OUTPUTS_LOST)
            engine, run_dir = found
            return keep_outputs(engine.outputs(run_dir), run_dir.outputs, sink)

    def offers(self) -> list[EngineOffer]:
        """The engines that are installed here, one offer a version."""
        return [offer for engine in self._engines.values() for offer in engine.offers()]

    def sweep(self, is_known: KnownRuns) -> None:
        """Remove directories: a deleted run's, an ended run's after `keep_seconds`, never one whose engine is alive.

        An engine whose run has ended without it is ended too: the run was given up, say, while this host was silent.
        """
        with _unknown_outcome():
            names = [entry.name for entry in os.scandir(self._runs) if entry.is_dir(follow_symlinks=False)]
        for name in [name for name in names if name.startswith(local_life.TRASH)]:
            shim.remove_tree(str(self._runs / name))
        candidates = [name for name in names if RUN_ID.fullmatch(name)]
        live, stored = is_known(candidates)
        for name in candidates:
            if name in stored - live:
                self._end_left_over(name)
            if name not in live and (name not in stored or self._is_old(name)):
                self._forget(name)

    def _end_left_over(self, run_id: str) -> None:
        root = str(self._runs / run_id)
        if shim.has(root, shim.REQUEST) and not shim.has(root, shim.EXIT):
            log.warning("a run has ended, and not its engine: it is ended now", extra={"run_id": run_id})
            try:
                self.cancel_workflow(run_id)
            except OutcomeUnknown as error:
                log.warning("it cannot be ended now", extra={"run_id": run_id, "error": str(error)})

    def _is_old(self, run_id: str) -> bool:
        try:
            return (self._runs / run_id).stat().st_mtime < self._now() - self._keep_seconds
        except FileNotFoundError:
            return False

    def _forget(self, run_id: str) -> None:
        self._launches.pop(run_id, None)
        self._cancels.pop(run_id, None)
        try:
            local_life.remove(self._runs / run_id)
        except OSError as error:
            log.warning("a run directory cannot be removed", extra={"run_id": run_id, "error": str(error)})

    def _root(self, run_id: str) -> Path | None:
        return self._runs / run_id if RUN_ID.fullmatch(run_id) else None

    def _provider_run(self, run_id: str) -> ProviderRun:
        return ProviderRun(run_id, provider_status="accepted", metadata={"host": self._host})

    def _engine_for(self, run: Submission) -> WorkflowEngine:
        """The engine that was chosen or named, else the first installed one for the type. Raises Rejected."""
        wanted = str(run.request.get("engine") or run.workflow_engine or "").lower()
        meant = [
            engine
            for name, engine in self._engines.items()
            if run.workflow_type in engine.workflow_types and wanted in ("", name)
        ]
        if not meant:
            raise Rejected(f"Nothing on this machine runs {run.workflow_type!r} {wanted}".rstrip(), ENGINE_UNAVAILABLE)
        engine = next((engine for engine in meant if engine.versions()), meant[0])
        engine.check(run)
        return engine

    def _accept(self, run: Submission, root: Path) -> None:
        try:
            engine = self._engine_for(run)
            run_dir = make_run_dir(root)
            lay_out(run.attachments, run_dir.work)
            launch = engine.stage(run, run_dir)
            request = {
                "run_id": run.run_id,
                "engine": engine.name,
                "argv": launch.argv,
                "environment": dict(launch.environment),
                "shown_cmd": launch.shown_cmd,
                "grace_seconds": self._grace_seconds,
                "boot_id": shim.boot_id(),
            }
            shim.write_record(str(root), shim.REQUEST, request)
            self._start_shim(root)
        except OutcomeUnknown:
            raise
        except Exception:
            (root / shim.REQUEST).unlink(missing_ok=True)
            shim.remove_tree(str(root))
            raise

    def _start_shim(self, root: Path) -> None:
        if not shim.is_decided(str(root)):
            self._launcher.start(root, shim.seconds_since_boot() + SHIM_START_SECONDS)
            launches, _ = self._launches.get(root.name, (0, 0.0))
            self._launches[root.name] = launches + 1, self._monotonic()

    def _laid_out(self, provider_id: str) -> tuple[WorkflowEngine, RunDir] | None:
        """The run's engine and directory; None where the directory is gone."""
        root = self._root(provider_id)
        try:
            request = None if root is None else shim.read_record(str(root), shim.REQUEST)
        except ValueError as error:
            raise Rejected(f"The run's request.json is damaged: {error}", RECORD_DAMAGED) from error
        if root is None or request is None:
            return None
        engine = self._engines.get(str(request.get("engine")).lower())
        if engine is None:
            raise NotAccepted(f"The engine {request.get('engine')!r} of this run is not set up on this machine now.")
        return engine, RunDir(root)

    def _status(self, run_id: str) -> Status | None:
        root = self._root(run_id)
        if root is None or not root.exists():
            return None
        standing = local_life.look(root)
        if isinstance(standing, Running):
            return running_status(root, standing, self._press_cancel(root, standing))
        if isinstance(standing, Ended):
            self._launches.pop(run_id, None)
            self._cancels.pop(run_id, None)
            return end_status(root, standing, self._engines)
        if not standing.held:
            self._see_to_start(root)
        return Status(State.INITIALIZING, "starting")

    def _see_to_start(self, root: Path) -> None:
        """Start a shim again where the last one has died before it began; any of them finds what the others did."""
        launches, last = self._launches.get(root.name, (0, -RELAUNCH_SECONDS))
        if self._monotonic() - last < RELAUNCH_SECONDS:
            return
        if launches < MAX_LAUNCHES:
            self._start_shim(root)
        else:
            local_life.give_up(root, f"{launches} shims were started and none began.")

    def _press_cancel(self, root: Path, running: Running) -> bool:
        """True where the run is to end: its shim is told so at every look, and is no longer waited for in the end."""
        if not local_life.is_cancel_asked(root):
            return False
        first_seen = self._cancels.setdefault(root.name, self._monotonic())
        if self._monotonic() - first_seen <= self._grace_seconds + FORCE_MARGIN_SECONDS:
            local_life.tell_shim(running)
        else:
            local_life.kill_by_force(running)
        return True


@contextmanager
def _unknown_outcome() -> Iterator[None]:
    """What the disk refuses now it may give later."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknown(f"This machine's disk or process table did not answer: {error}") from error
