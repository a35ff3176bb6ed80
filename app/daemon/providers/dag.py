"""Pipelines of runs: every step is a run like any other. What happens next is worked out by `app.dag` at every look.

This provider stores nothing itself: a pipeline is its row, and its steps are rows, which it reads and adds to through
the port `PipelineRuns`. So it may die at any moment, and submitting is only checking the document.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Protocol
from urllib.parse import quote

from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    EngineOffer,
    Found,
    LogSink,
    OutputSink,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.dag.document import Document
from app.dag.pipeline import Pipeline
from app.dag.planning import Outlook, Start, StepRun, StepState, look
from app.errors import InvalidRequest, NotFound, Rejected
from app.pipeline_documents import PARALLEL, max_parallel, read_source
from app.run_requests import RunRequest
from app.states import State, is_terminal

log = logging.getLogger(__name__)

INVALID = "invalid_pipeline"
KEPT = 64
"""Pipelines whose document and ended steps are kept in memory; others are read again."""


@dataclass(frozen=True, slots=True)
class StoredPipeline:
    """`canceling`: nothing may begin any more. `request` reads what `prepare_request` made."""

    canceling: bool
    request: Callable[[], Mapping[str, Any]]


class PipelineRuns(Protocol):
    """What a pipeline needs of the store of runs. Locations of a step's files read `wes-run:<run id>/<path>`."""

    def pipeline(self, run_id: str) -> StoredPipeline | None: ...

    def steps(self, run_id: str, ended: Collection[str], living: Collection[str]) -> Mapping[str, StepRun]:
        """Run id -> run of a step, without those of `ended`. Parameters and outputs only where it is COMPLETE.

        `living` are the others that are known; the cost grows with them and with what is new.
        """
        ...

    def begin(self, run_id: str, starts: Sequence[Start], base: str) -> Mapping[str, bool]:
        """Accept these steps, each once however often this is called. Run id -> whether it is over already.

        Nothing where the pipeline is to end.
        """
        ...

    def cancel_steps(self, run_id: str) -> None: ...

    def history(self, run_id: str) -> str:
        """The pipeline's log."""
        ...

    def files_at(self, run_id: str, location: str) -> tuple[str, list[tuple[str, Callable[[], BinaryIO]]]] | None:
        """The path of a file or directory of one of this pipeline's steps, and path and opener of each file in it.

        None for any other location. Raises NotFound.
        """
        ...


class _Memory:
    """What never changes of a pipeline: its document, and the steps that have ended.

    `living`: ids of the others. `stood`: how the steps stood at the last look.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.pipeline = Pipeline(Document.model_validate(request["document"]), request["sheets"])
        self.max_parallel, self.base = int(request[PARALLEL]), str(request["base"])
        self.ended: dict[str, StepRun] = {}
        self.living: set[str] = set()
        self.stood: Mapping[str, StepState] = {}


class DagProvider(WorkflowProviderInterface):
    """`fetch`: reads a document behind a URL, with every guard. `max_parallel_steps`: unless a pipeline says."""

    name = "dag"
    capabilities = Capabilities(cancel=True, task_logs=True, sweep=True)
    status_interval_seconds = 30.0  # the end of a step wakes its pipeline at once
    submit_timeout_seconds = 0.0
    workflow_types: ClassVar[dict[str, tuple[str, ...]]] = {"DAG": ("1.0",)}

    def __init__(self, runs: PipelineRuns, fetch: Callable[[str], bytes], max_parallel_steps: int = 2) -> None:
        self._runs, self._fetch, self._max_parallel = runs, fetch, max_parallel_steps
        self._memory: OrderedDict[str, _Memory] = OrderedDict()

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        """Document and sheets as they are now, for good: what is behind a URL may change."""
        request = RunRequest(
            workflow_url=run.workflow_url,
            workflow_params=dict(run.workflow_params),
            attachments=tuple(attachment.path for attachment in run.attachments),
        )
        files = {attachment.path: attachment for attachment in run.attachments}

        def read(name: str, most: int) -> bytes:
            with files[name].open() as file:
                return file.read(most + 1)

        try:
            source = read_source(request, read, self._fetch)
            if source is None:
                raise InvalidRequest(f"There is no pipeline at {run.workflow_url!r}.")
            parallel = max_parallel(run.workflow_engine_parameters, source.pipeline, self._max_parallel)
        except InvalidRequest as error:
            raise Rejected(str(error), INVALID) from None
        return {"document": source.document, "sheets": source.sheets, "base": source.base, PARALLEL: parallel}

    def submit_workflow(self, run: Submission) -> ProviderRun:
        return ProviderRun(run.run_id, provider_status="planned")

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        """Accepted it always is: there is nothing to send."""
        return Found(self.submit_workflow(run))

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        return 0.0 if state == State.INITIALIZING else self.status_interval_seconds

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status]:
        """Go on with each as far as it can go now. One that makes trouble is left out, and looked at by itself."""
        statuses = {}
        for run_id in provider_ids:
            try:
                status = self.get_workflow_status(run_id)
            except Exception:
                log.exception("a pipeline cannot go on now", extra={"run_id": run_id})
            else:
                if status is not None:
                    statuses[run_id] = status
        return statuses

    def get_workflow_status(self, provider_id: str) -> Status | None:
        outlook = self._look(provider_id)
        memory = self._memory.get(provider_id)
        while outlook and outlook.starts and memory:
            begun = self._runs.begin(provider_id, outlook.starts, memory.base)
            memory.living |= begun.keys()
            if not any(begun.values()):
                break
            outlook = self._look(provider_id)
        return _status(outlook) if outlook else None

    def cancel_workflow(self, provider_id: str) -> None:
        self._runs.cancel_steps(provider_id)

    def get_tasks(self, provider_id: str) -> list[Task]:
        """None of its own: whoever shows a pipeline's tasks shows the runs of its steps."""
        return []

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        """What happened to it, as one text; its steps keep their own logs."""
        sink.replace("stdout", self._runs.history(provider_id).encode())

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        """What it puts out, the files in it kept as the pipeline's own."""
        outlook = self._look(provider_id)
        if outlook is None or outlook.outputs is None:
            raise Rejected("The pipeline has no outputs.", "outputs_lost")
        kept: dict[str, Any] = self._kept(provider_id, outlook.outputs, sink)
        return kept

    def offers(self) -> list[EngineOffer]:
        return [EngineOffer(self.name, "1.0", self.workflow_types, ((PARALLEL, "integer", str(self._max_parallel)),))]

    def _look(self, run_id: str) -> Outlook | None:
        stored = self._runs.pipeline(run_id)
        if stored is None:
            return None
        memory = self._remembered(run_id, stored)
        found = self._runs.steps(run_id, memory.ended.keys(), memory.living)
        living = {step_id: step for step_id, step in found.items() if not is_terminal(step.state)}
        memory.living = set(living)
        memory.ended |= {step_id: step for step_id, step in found.items() if step_id not in living}
        steps = [*memory.ended.values(), *living.values()]
        outlook = look(memory.pipeline, steps, memory.max_parallel, canceling=stored.canceling, before=memory.stood)
        memory.stood = outlook.steps
        return outlook

    def _remembered(self, run_id: str, stored: StoredPipeline) -> _Memory:
        if run_id not in self._memory:
            self._memory[run_id] = _Memory(stored.request())
        self._memory.move_to_end(run_id)
        while len(self._memory) > KEPT:
            self._memory.popitem(last=False)
        return self._memory[run_id]

    def _kept(self, run_id: str, value: Any, sink: OutputSink) -> Any:
        if isinstance(value, list):
            return [self._kept(run_id, item, sink) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: self._kept(run_id, item, sink) for key, item in value.items()}
        location = value.get("location")
        if isinstance(location, str) and value.get("class") in ("File", "Directory"):
            kept["location"] = self._keep(run_id, location, sink)
        return kept

    def _keep(self, run_id: str, location: str, sink: OutputSink) -> str:
        """The new location; the old one where it is no step's file."""
        try:
            found = self._runs.files_at(run_id, location)
        except NotFound as error:
            raise Rejected(f"A step's output is no longer there: {error}", "outputs_lost") from None
        if found is None:
            return location
        place, files = found
        for path, opener in files:
            with opener() as file:
                location = sink.put_stream(path, file).removesuffix(quote(path)) + quote(place)
        return location


def _status(outlook: Outlook) -> Status:
    if outlook.end is not None:
        return Status(outlook.end, "ended", message=outlook.message)
    counted = Counter(outlook.steps.values())
    words = ", ".join(f"{counted[state]} {state}" for state in StepState if counted[state])
    return Status(State.RUNNING, f"steps: {words}")
