"""Runs apps of BV-BRC's AppService, each under the token that its user sent along.

start_app2 has no idempotency key, and its answer takes as long as the app's preflight. So a run's task carries a mark,
by which it is found where the answer was lost; of two the older is kept and the other killed. A run is started at least
once, and a second time is seen and ended. For users and operators: docs/providers/bvbrc.md.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.bvbrc_token import BvbrcToken
from app.clock import utc_now
from app.daemon.providers.bvbrc_api import BAD_ARGUMENTS, BvbrcService, Refusal
from app.daemon.providers.bvbrc_apps import Apps
from app.daemon.providers.bvbrc_files import Workspace, append_logs, read_details, read_outputs, read_report
from app.daemon.providers.bvbrc_records import (
    Details,
    Failure,
    QueueEntry,
    Started,
    TaskId,
    read_many,
    read_one,
    state_of,
    status_of,
)
from app.daemon.providers.bvbrc_records import Task as BvbrcTask
from app.daemon.providers.bvbrc_requests import START_PARAMETERS, WORKFLOW_TYPE, prepare
from app.daemon.providers.bvbrc_search import Seen, TaskSearch
from app.daemon.providers.bvbrc_tokens import TokenGate, UserTokens
from app.daemon.providers.pacing import TokenBucket, TokenBuckets
from app.daemon.providers.provider_interface import (
    Absent,
    Capabilities,
    CredentialSource,
    EngineOffer,
    Found,
    LogSink,
    OutputSink,
    Pace,
    ProviderRun,
    Status,
    Submission,
    Task,
    Unsure,
    WorkflowProviderInterface,
)
from app.errors import NotAccepted, NotReady, OutcomeUnknown, ProviderError, Rejected
from app.states import State, is_terminal

log = logging.getLogger(__name__)

MAX_IDS = 100  # in one question; no limit is published
BURST = 5
LATER_SECONDS = 300.0
BUSY_SECONDS = 10.0
LONGEST_WORDS = 450
LOOKS = ((300.0, 10.0), (1800.0, 30.0))
"""(running for less than so many seconds, seconds to the next look); later a minute."""
_EXPLAINED = re.compile(r"error submitting job: ?\S|(could not|unable to) find app", re.IGNORECASE)
"""Errors of start_app2 that say what is wrong with the request; others are the service's own troubles."""
_DISABLED = re.compile(r"submissions are disabled", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BvbrcAccess:
    """Where BV-BRC is, and how long its calls, and the answer to a submit, may take, in seconds."""

    service_url: str
    workspace_url: str
    timeout_seconds: float = 60.0
    preflight_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class BvbrcOptions:
    """`grace_seconds`: how long after its time-out a submit may still show up, since its preflight goes on."""

    grace_seconds: float = 900.0
    calls_per_second: float = 5.0  # for each user
    concurrent_submits: int = 4
    max_active: int | None = None


class BvbrcProvider(WorkflowProviderInterface):
    """`credentials` lends the users' tokens. Raises ValueError for an address to which none may be sent."""

    name = "bvbrc"
    capabilities = Capabilities(cancel=True)
    status_interval_seconds = 10.0
    outputs_tries = 3

    def __init__(
        self,
        access: BvbrcAccess,
        options: BvbrcOptions,
        credentials: CredentialSource,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        words = f"At most {options.calls_per_second:g} calls a second are made to BV-BRC for a user."
        buckets = TokenBuckets(lambda: TokenBucket(options.calls_per_second, words, burst=BURST))
        gate = TokenGate(now)

        def service(url: str, name: str, seconds: float) -> BvbrcService:
            return BvbrcService(url, name, seconds, gate, buckets, now)

        submit_seconds = 2 * access.preflight_seconds  # HttpApi leaves half of a call's time for the answer
        self._service = service(access.service_url, "AppService", access.timeout_seconds)
        self._submits = service(access.service_url, "AppService", submit_seconds)
        self._workspace = Workspace(service(access.workspace_url, "Workspace", access.timeout_seconds))
        self._tokens, self._apps, self._search = (
            UserTokens(credentials),
            Apps(self._service, now),
            TaskSearch(self._service),
        )
        self._now, self._log_seconds, self._most_submits = now, access.preflight_seconds, options.concurrent_submits
        self._under_way, self._lock = 0, threading.Lock()
        self.max_active = options.max_active
        self.submit_timeout_seconds = submit_seconds
        self.visibility_grace_seconds = options.grace_seconds

    # Submitting

    def pace(self) -> Pace:
        """A submit holds a thread for as long as its preflight takes: some threads are left for everything else."""
        return Pace(submits=max(0, self._most_submits - self._under_way))

    def prepare_request(self, run: Submission) -> dict[str, Any]:
        if self._under_way >= self._most_submits:
            raise NotReady("Other submits are in BV-BRC's preflight.", BUSY_SECONDS)
        return prepare(run, self._tokens.of_run(run.run_id), self._apps)

    def submit_workflow(self, run: Submission) -> ProviderRun:
        token, request = self._tokens.of_run(run.run_id), run.request or self.prepare_request(run)
        try:
            with self._one_more_under_way():
                answer = self._submits.call(token, "start_app2", request["app"], request["params"], request["start"])
        except Refusal as refusal:
            return self._refused(token, run, refusal)
        started = Seen(read_one(Started, answer[0] if answer else None).id, "queued")
        others: list[Seen] = []
        with suppress(ProviderError):  # it has started, and nothing that cannot be asked now changes that
            others = [seen for seen in self._search.find(token, run) if seen.task_id != started.task_id]
        return self._oldest(token, run, [started, *others])

    def find_workflow(self, run: Submission) -> Found | Absent | Unsure:
        if run.sent_at is None:
            return Absent()
        try:
            token = self._tokens.of_run(run.run_id)
            seen = self._search.find(token, run)
        except NotReady as error:
            return Unsure(str(error))
        return Found(self._oldest(token, run, seen)) if seen else self.not_seen(run, self._now())

    # Following

    def get_workflow_statuses(self, provider_ids: Iterable[str]) -> Mapping[str, Status | Unsure]:
        """One question for each user: what goes wrong with one user's token concerns nobody else."""
        groups, without = self._tokens.group(filter(None, map(TaskId.parse, provider_ids)))
        statuses: dict[str, Status | Unsure] = dict(without)
        failures: list[ProviderError] = []
        for token, task_ids in groups.items():
            try:
                statuses |= self._statuses(token, task_ids)
            except NotReady as error:
                statuses |= dict.fromkeys(map(str, task_ids), Unsure(str(error)))
            except ProviderError as error:
                failures.append(error)
                statuses |= dict.fromkeys(map(str, task_ids), Unsure(f"BV-BRC does not answer: {error}"))
        if failures and len(failures) == len(groups):
            raise failures[0]
        return statuses

    def seconds_to_next_look(self, state: State, running_seconds: float) -> float:
        return next((seconds for age, seconds in LOOKS if running_seconds < age), 60.0)

    def cancel_workflow(self, provider_id: str) -> None:
        if (task_id := TaskId.parse(provider_id)) is not None:
            token = self._tokens.of_run(task_id.run_id)
            self._kill(token, task_id.task)
            self._end_others(token, task_id, self._search.entries(token, task_id.run_id))

    def cancel_duplicate(self, provider_id: str) -> None:
        if (task_id := TaskId.parse(provider_id)) is not None:
            self._kill(self._tokens.of_run(task_id.run_id), task_id.task)

    # Collecting

    def get_tasks(self, provider_id: str) -> list[Task]:
        """An app is one step: what goes on inside it BV-BRC does not tell."""
        if (task_id := TaskId.parse(provider_id)) is None:
            return []
        token = self._tokens.of_run(task_id.run_id)
        if (task := self._look(token, task_id)) is None:
            return []
        details = read_details(self._service, token, task.id)
        is_over = is_terminal(state_of(task.status) or State.RUNNING)
        step = Task(
            task.id,
            task.app or task.id,
            start_time=task.start_time,
            end_time=task.completed_time,
            exit_code=details.exit_code if is_over else None,
            system_logs=(f"host: {details.hostname}",) if details.hostname else (),
        )
        return [step]

    def get_logs(self, provider_id: str, sink: LogSink) -> None:
        if (task_id := TaskId.parse(provider_id)) is not None:
            append_logs(self._service, self._tokens.of_run(task_id.run_id), task_id.task, sink, self._log_seconds)

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        """They stay in the user's Workspace, so `sink` gets none of them."""
        if (task_id := TaskId.parse(provider_id)) is not None:
            token = self._tokens.of_run(task_id.run_id)
            if (task := self._look(token, task_id)) is not None:
                self._end_others(token, task_id, self._search.entries(token, task_id.run_id))
                return read_outputs(self._workspace, token, task)
        raise Rejected(f"BV-BRC does not know the task {provider_id}.", "provider_lost_run")

    def offers(self) -> list[EngineOffer]:
        parameters = tuple((name, "string", "") for name in START_PARAMETERS)
        return [EngineOffer(self.name, "1.0", {WORKFLOW_TYPE: ("1.0",)}, parameters)]

    def _statuses(self, token: BvbrcToken, task_ids: list[TaskId]) -> dict[str, Status | Unsure]:
        tasks: dict[str, BvbrcTask] = {}
        for start in range(0, len(task_ids), MAX_IDS):
            tasks |= self._ask(token, task_ids[start : start + MAX_IDS])
        known = (task_id for task_id in task_ids if task_id.task in tasks)
        return {str(task_id): self._status(token, task_id, tasks[task_id.task]) for task_id in known}

    def _status(self, token: BvbrcToken, task_id: TaskId, task: BvbrcTask) -> Status | Unsure:
        """A failure is told with what else is known of it, as soon as BV-BRC says that."""
        if state_of(task.status) != State.EXECUTOR_ERROR:
            return status_of(task)
        try:
            return status_of(task, self._failure(token, task_id, task))
        except (NotAccepted, OutcomeUnknown) as error:
            return Unsure(f"BV-BRC says that it failed, and not yet why: {error}")

    def _failure(self, token: BvbrcToken, task_id: TaskId, task: BvbrcTask) -> Failure:
        entries = self._search.entries(token, task_id.run_id)
        self._end_others(token, task_id, entries)
        entry = next((one for one in entries if one.id == task.id), QueueEntry(id=task.id, status=task.status))
        details = Details()
        with suppress(Refusal):
            details = read_details(self._service, token, task.id)
        report = read_report(self._workspace, token, task)
        return Failure(details.exit_code, entry.status, entry.cluster_job_status, report)

    def _look(self, token: BvbrcToken, task_id: TaskId) -> BvbrcTask | None:
        return self._ask(token, [task_id]).get(task_id.task)

    def _ask(self, token: BvbrcToken, task_ids: list[TaskId]) -> dict[str, BvbrcTask]:
        """Those of the tasks that BV-BRC knows."""
        match self._service.call(token, "query_tasks", [task_id.task for task_id in task_ids]):
            case [dict(found), *_]:
                return {task.id: task for task in read_many(BvbrcTask, found.values())}
        raise OutcomeUnknown("BV-BRC answered query_tasks with something else.")

    def _refused(self, token: BvbrcToken, run: Submission, refusal: Refusal) -> ProviderRun:
        """The service is done with the submit, so one look tells whether a task came of it all the same."""
        if _DISABLED.search(str(refusal)):  # it says so before it does anything
            raise NotAccepted(str(refusal), LATER_SECONDS)
        try:
            seen = self._search.find(token, run)
        except ProviderError as error:
            raise OutcomeUnknown(f"{refusal} Whether it started cannot be seen: {error}"[:LONGEST_WORDS]) from None
        if seen:
            return self._oldest(token, run, seen)
        if refusal.code in BAD_ARGUMENTS or _EXPLAINED.search(str(refusal)):
            raise Rejected(str(refusal), "refused")
        raise NotReady(f"{refusal} Nothing was started; it is asked again later.", LATER_SECONDS)

    def _oldest(self, token: BvbrcToken, run: Submission, seen: list[Seen]) -> ProviderRun:
        """The first of a run's tasks is its execution; any other is one too many.

        Raises OutcomeUnknown where one of those cannot be ended now.
        """
        first, *others = sorted(seen, key=lambda one: int(one.task_id))
        task_id = TaskId(first.task_id, run.run_id)
        try:
            self._end_others(token, task_id, [QueueEntry(id=other.task_id, status=other.word) for other in others])
        except ProviderError as error:
            raise OutcomeUnknown(f"It was started twice, and the second is not yet ended: {error}") from None
        return ProviderRun(str(task_id), provider_status=first.word, metadata={"task_id": first.task_id})

    def _end_others(self, token: BvbrcToken, task_id: TaskId, entries: list[QueueEntry]) -> None:
        """Kill every living task of the run but this one: such as a submit that came through after all patience."""
        for entry in entries:
            if entry.id != task_id.task and not is_terminal(state_of(entry.status) or State.RUNNING):
                log.error("killing a second execution", extra={"run_id": task_id.run_id, "task_id": entry.id})
                self._kill(token, entry.id)

    def _kill(self, token: BvbrcToken, task_id: str) -> None:
        match self._service.call(token, "kill_task", task_id):
            case [0 | "0", str(words), *_]:
                log.info("nothing was killed", extra={"task_id": task_id, "words": token.hidden_in(words)})

    @contextmanager
    def _one_more_under_way(self) -> Iterator[None]:
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
