"""The steps of pipelines in the store of runs: what `providers/dag.py` is given as its port. Knows no HTTP.

A file that one step put out becomes an attachment of the step that gets it: its bytes are kept under their hash, and
its location in the parameters is that attachment's path. So every provider reads it as it reads any attachment.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from app import fleet
from app.artifacts import CHUNK, ArtifactStorage, output_path
from app.attachment_names import check_name
from app.daemon.providers.dag import StoredPipeline
from app.dag.planning import Start, StepRun
from app.database import Database
from app.errors import InvalidRequest, NotFound
from app.models import WorkflowRun
from app.pipeline_documents import route_step, step_request
from app.pipeline_log import pipeline_log
from app.pipeline_states import read_step_runs
from app.routing import Offers, Rules, read_offers
from app.runs import listing, pipelines
from app.runs.acceptance import AttachedFile, NewRun
from app.runs.pipelines import NewStep
from app.runs.transitions import End
from app.states import State

LOCATION = "wes-run:"
FOLDER = "inputs-of-steps"
"""Where the files of earlier steps are among a step's attachments: FOLDER/<step>/<shard>/<path>."""
REFUSED = "step_refused"
_NAMES = uuid.UUID("6f0a1c5e-6b52-4a0e-9d0b-2f6d3f1f7c55")


@dataclass(frozen=True, slots=True)
class _Family:
    """A pipeline as its steps are made: its row, its attachments' paths, what is offered."""

    parent: WorkflowRun
    attachments: tuple[str, ...]
    offers: Offers
    base: str


_Files = dict[str, AttachedFile]
"""The files of earlier steps that a step gets, by path."""


class PipelineStore:
    """`wake`: tells the loops of these providers that something is due; set by whoever has the loops."""

    def __init__(self, database: Database, storage: ArtifactStorage, now: Callable[[], datetime], rules: Rules) -> None:
        self._database, self._storage, self._now, self._rules = database, storage, now, rules
        self.wake: Callable[[Iterable[str]], None] = lambda providers: None

    def pipeline(self, run_id: str) -> StoredPipeline | None:
        with self._database.reading() as session:
            state = pipelines.state_of(session, run_id)
        return StoredPipeline(state == State.CANCELING, lambda: self._request(run_id)) if state else None

    def _request(self, run_id: str) -> Mapping[str, Any]:
        with self._database.reading() as session:
            return listing.get_run(session, run_id, None).submit_request or {}

    def steps(self, run_id: str, ended: Collection[str], living: Collection[str]) -> Mapping[str, StepRun]:
        with self._database.reading() as session:
            found = read_step_runs(session, run_id, ended, living)
        return {step_id: replace(step, outputs=_located(step.outputs, step_id)) for step_id, step in found.items()}

    def begin(self, run_id: str, starts: Sequence[Start], base: str) -> Mapping[str, bool]:
        family = self._family(run_id, base)
        new = [self._new_step(family, start) for start in starts]
        now = self._now()
        if not self._database.transact(lambda session: pipelines.accept_steps(session, run_id, new, now)):
            return {}
        self.wake({step.run.provider_type for step in new if step.end is None})
        return {step.run.run_id: step.end is not None for step in new}

    def cancel_steps(self, run_id: str) -> None:
        now = self._now()
        self.wake(self._database.transact(lambda session: pipelines.cancel_steps(session, run_id, now)))

    def history(self, run_id: str) -> str:
        with self._database.reading() as session:
            return pipeline_log(listing.get_run(session, run_id, None), pipelines.runs_of(session, run_id))

    def files_at(self, run_id: str, location: str) -> tuple[str, list[tuple[str, Callable[[], BinaryIO]]]] | None:
        step_id, path = _parts(location)
        if not step_id:
            return None
        with self._database.reading() as session:
            step = listing.get_run(session, step_id, None)
        if step.parent_id != run_id:
            return None
        place = f"{step.step}/{step.shard}"
        files = [(f"{place}/{found}", open_it) for found, open_it in self._output_files(step_id, path)]
        return f"{place}/{path.rstrip('/')}", files

    def _family(self, run_id: str, base: str) -> _Family:
        with self._database.reading() as session:
            parent = pipelines.parent_of_steps(session, run_id)
            attachments = tuple(file.path for file in listing.get_attachments(session, run_id))
            offers = read_offers(fleet.offered(session, self._now()))
        return _Family(parent, attachments, offers, base)

    def _new_step(self, family: _Family, start: Start) -> NewStep:
        """The step's run, ended already where an earlier pipeline did it or nothing here would run it."""
        files: _Files = {}
        try:
            params = self._with_inputs(start.params, family, files)
            run = self._routed(family, start, params, tuple(files.values()))
        except (InvalidRequest, NotFound) as error:
            run = _plain(family.parent, start, {})
            words = f"This step cannot be run: {error}"
            return NewStep(run, End(State.SYSTEM_ERROR, f"{REFUSED}: {words}", REFUSED))
        return self._reused(family.parent, run) or NewStep(run)

    def _routed(self, family: _Family, start: Start, params: dict[str, Any], files: tuple[AttachedFile, ...]) -> NewRun:
        names = (*family.attachments, *(file.path for file in files))
        plain = _plain(family.parent, start, params)
        request = step_request(start.step, params, names, family.offers, family.base, plain.name)
        chosen = route_step(request, family.offers, self._rules)
        return replace(
            plain,
            provider_type=chosen.provider,
            workflow_type=chosen.workflow_type,
            workflow_type_version=chosen.workflow_type_version,
            workflow_url=request.workflow_url,
            workflow_engine=chosen.engine,
            workflow_engine_version=chosen.engine_version,
            workflow_engine_parameters=request.workflow_engine_parameters,
            tags={**family.parent.tags, **request.tags},
            attachments=files,
        )

    def _with_inputs(self, value: Any, family: _Family, files: _Files) -> Any:
        """Parameters in which every file of an earlier step is an attachment. Only steps of this pipeline are read."""
        if isinstance(value, list):
            return [self._with_inputs(item, family, files) for item in value]
        if isinstance(value, dict):
            return {key: self._with_inputs(item, family, files) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith(LOCATION):
            return value
        run_id, path = _parts(value)
        with self._database.reading() as session:
            place = pipelines.place_of(session, family.parent.run_id, run_id)
        if place is None:
            raise InvalidRequest(f"{value!r} is no file of a step of this pipeline.")
        step, shard = place
        for found, open_it in self._output_files(run_id, path):
            name = check_name(f"{FOLDER}/{step}/{shard}/{found}")
            if name not in files:
                files[name] = self._attach(name, open_it)
        return f"{FOLDER}/{step}/{shard}/{path}"

    def _output_files(self, run_id: str, path: str) -> list[tuple[str, Callable[[], BinaryIO]]]:
        """One file, or all below a directory. Raises NotFound where there is none."""
        try:
            file = self._storage.output(run_id, path)
        except NotFound:
            below = path.rstrip("/") + "/"
            inside = [(file.path, file.open) for file in self._storage.outputs(run_id) if file.path.startswith(below)]
            if not inside:
                raise
            return inside
        return [(path, file.open)]

    def _attach(self, name: str, open_it: Callable[[], BinaryIO]) -> AttachedFile:
        upload = self._storage.new_upload()
        try:
            with open_it() as source:
                while data := source.read(CHUNK):
                    upload.write(data)
            return AttachedFile(name, *upload.keep())
        finally:
            upload.close()

    def _reused(self, parent: WorkflowRun, run: NewRun) -> NewStep | None:
        """The step as the pipeline that this one is a re-run of did it, if it succeeded with the same inputs."""
        if parent.reused_from is None or run.step is None:
            return None
        with self._database.reading() as session:
            earlier = pipelines.completed_step(session, parent.reused_from, run.step, run.shard)
            if earlier is None or _identity_of(earlier, listing.get_own_attachments(session, earlier.run_id)) != (
                _identity(run)
            ):
                return None
        self._copy(earlier.run_id, run.run_id)
        note = f"reused from run {earlier.run_id}, which did it with the same inputs"
        times = {"start_time": earlier.start_time, "end_time": earlier.end_time}
        values = {"cmd": earlier.cmd, "provider_status": "reused"}
        end = End(State.COMPLETE, note, exit_code=earlier.exit_code, outputs=earlier.outputs, values=values, **times)  # type: ignore[arg-type]
        return NewStep(replace(run, reused_from=earlier.run_id, note=note), end)

    def _copy(self, run_id: str, to: str) -> None:
        """Outputs and logs, so that either run may be deleted."""
        outputs, logs = self._storage.output_sink(to), self._storage.log_sink(to, 2**63)
        for file in self._storage.outputs(run_id):
            with file.open() as source:
                outputs.put_stream(file.path, source)
        for name in ("stdout", "stderr"):
            if (kept := self._storage.log(run_id, name)) is not None and not logs.size(name):
                with kept.open() as source:
                    logs.append(name, source)


def _plain(parent: WorkflowRun, start: Start, params: dict[str, Any]) -> NewRun:
    """The run of a step before it is known where it goes. Its id follows from its place, so a crash makes no second."""
    step = start.step
    name = f"{step.step_name}[{start.shard}]" if step.scatter else step.step_name
    place = f"{parent.run_id}/{step.step_name}/{start.shard}/{start.try_number}"
    return NewRun(
        run_id=str(uuid.uuid5(_NAMES, place)),
        owner=parent.owner,
        name=name,
        provider_type=parent.provider_type,
        workflow_type=(step.workflow_type or parent.workflow_type)[:32],
        workflow_type_version=(step.workflow_type_version or "")[:32],
        workflow_url=step.workflow_url or step.app or "",
        workflow_params=params,
        parent_id=parent.run_id,
        step=step.step_name,
        shard=start.shard,
        try_number=start.try_number,
        note=f"step {name} of {parent.run_id}",
    )


def _identity(run: NewRun) -> tuple[Any, ...]:
    """Two steps of the same identity do the same."""
    return (
        run.provider_type, run.workflow_type, run.workflow_type_version, run.workflow_url, run.workflow_params,
        run.workflow_engine, run.workflow_engine_version, run.workflow_engine_parameters,
        sorted((file.path, file.sha256) for file in run.attachments),
    )  # fmt: skip


def _identity_of(run: WorkflowRun, attachments: Iterable[AttachedFile]) -> tuple[Any, ...]:
    return (
        run.provider_type, run.workflow_type, run.workflow_type_version, run.workflow_url, run.workflow_params,
        run.workflow_engine, run.workflow_engine_version, run.workflow_engine_parameters,
        sorted((file.path, file.sha256) for file in attachments),
    )  # fmt: skip


def _located(value: Any, run_id: str) -> Any:
    """Outputs whose kept files say whose they are."""
    if isinstance(value, list):
        return [_located(item, run_id) for item in value]
    if isinstance(value, dict):
        return {key: _located(item, run_id) for key, item in value.items()}
    path = output_path(value) if isinstance(value, str) else None
    return value if path is None else f"{LOCATION}{run_id}/{quote(path)}"


def _parts(location: str) -> tuple[str, str]:
    """(run id, path); ("", "") for any other location."""
    if not location.startswith(LOCATION):
        return "", ""
    run_id, _, path = location.removeprefix(LOCATION).partition("/")
    return run_id, unquote(path)
