"""Runs and their tasks in the HealthOmics fake: started once a token, living on the timeline. Knows no HTTP."""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.aws_model import Refused
from tests.fakes.omics_account import Account, Members, known_in, page, present, require, stamp
from tests.fakes.omics_exports import FAILURES, LOG_GROUP, Exports, filled, output_document
from tests.fakes.omics_workflows import Workflows
from tests.fakes.timeline import Plan, Plans

SECONDS = {"PENDING": 5, "STARTING": 20, "RUNNING": 60, "STOPPING": 10}
NEXT = {"PENDING": "STARTING", "STARTING": "RUNNING", "RUNNING": "STOPPING"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
PARAMETERS_BYTES = 50_000
TASK = {"cpus": 2, "memory": 4, "gpus": 0, "instanceType": "omics.m.large", "cacheHit": False}
UNLISTED = ("log", "statusMessage", "failureReason", "imageDetails")
OWN_PLAN = "fake-plan"
"""A tag, or a parameter of any workflow, that holds the run's plan as JSON."""


@dataclass(slots=True, eq=False)
class Run:
    """One run. `asked`: StartRun's members with the defaults filled in; `number` orders and never comes again."""

    number: int
    id: str
    arn: str
    asked: Members
    workflow: Members
    plan: Plan
    place: str
    created: datetime
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = ""
    cancelled: bool = False
    started: datetime | None = None
    stopped: datetime | None = None
    reason: str | None = None
    message: str | None = None
    turn: int = 0
    tasks: dict[str, Members] = field(default_factory=dict)


class Runs:
    """The methods named as operations take checked members and return the answer's."""

    def __init__(self, account: Account, workflows: Workflows, plans: Plans, exports: Exports) -> None:
        self._account, self._workflows, self._plans, self._exports = account, workflows, plans, exports
        self._options, self._timeline = account.options, account.timeline
        self._by_status: dict[str, dict[int, Run]] = defaultdict(dict)
        self._freed: deque[str] = deque()
        self.runs: dict[str, Run] = {}
        self.events: list[Members] = []

    # Operations

    def start_run(self, asked: Members) -> Members:
        answer = self._account.once("run", asked, self._new_run)
        run = self.runs.get(answer["id"])
        return {**answer, "status": run.status if run and run.uuid == answer["uuid"] else "DELETED"}

    def get_run(self, asked: Members) -> Members:
        run = known_in(self.runs, asked["id"], "run")
        streams = {"engineLogStream": self._stream(run, "/engine"), "runLogStream": self._stream(run)}
        return present(
            **{
                name: value
                for name, value in run.asked.items()
                if name not in ("requestId", "tags", "configurationName")
            },
            **{"arn": run.arn, "id": run.id, "uuid": run.uuid, "status": run.status},
            tags=self._account.tags[run.arn],
            workflowUuid=run.workflow["uuid"],
            digest=run.workflow["digest"],
            runOutputUri=run.place,
            startedBy=self._account.arn("user/fake", "iam"),
            creationTime=stamp(run.created),
            startTime=stamp(run.started),
            stopTime=stamp(run.stopped),
            statusMessage=run.message,
            failureReason=run.reason,
            logLocation=streams if run.started else None,
        )

    def list_runs(self, asked: Members) -> Members:
        visible = self._timeline.now() - timedelta(seconds=self._options.list_lag_seconds)
        states = [asked["status"]] if "status" in asked else list(self._by_status)
        rows = {number: run for state in states for number, run in self._by_status[state].items()}
        return page(rows, asked, lambda run: run.created <= visible and self._fits(run, asked), _listed)

    def cancel_run(self, asked: Members) -> None:
        run = known_in(self.runs, asked["id"], "run")
        if run.status in ENDED:
            raise Refused("ConflictException", f"run {run.id} is {run.status}")
        if run.status != "STOPPING":
            run.cancelled = True
            self._end_tasks(run)
            self._enter(run, "STOPPING")

    def delete_run(self, asked: Members) -> None:
        run = known_in(self.runs, asked["id"], "run")
        if run.status not in ENDED:
            raise Refused("ConflictException", f"run {run.id} is {run.status}: only an ended run can be deleted")
        del self.runs[run.id], self._by_status[run.status][run.number], self._account.tags[run.arn]
        self._freed.append(run.id)
        run.status = "DELETED"
        self._tell(run)

    def list_run_tasks(self, asked: Members) -> Members:
        return page(
            known_in(self.runs, asked["id"], "run").tasks,
            asked,
            lambda task: asked.get("status") in (None, task["status"]),
            lambda task: {name: value for name, value in task.items() if name not in UNLISTED},
        )

    def get_run_task(self, asked: Members) -> Members:
        run = known_in(self.runs, asked["id"], "run")
        task = known_in(run.tasks, asked["taskId"], "task")
        shown = {name: value for name, value in task.items() if name != "log"}
        return {**shown, "logStream": self._stream(run, f"/task/{asked['taskId']}")}

    # For tests

    def put(self, run_id: str, status: str, reason: str | None, message: str | None) -> None:
        """Bring a run into a state, in which it stays until it is told, cancelled or deleted."""
        run = self.runs[run_id]
        run.reason, run.message = reason or run.reason, message or run.message
        if status in ENDED:
            self._end_tasks(run)
        self._enter(run, self._exported(run) if status == "COMPLETED" else status)
        run.turn += 1

    # Starting

    def _new_run(self, given: Members) -> Members:
        asked, workflow = self._checked(given)
        limit = self._options.max_runs
        if limit is not None and len(self.runs) >= limit:
            raise Refused("ServiceQuotaExceededException", f"Maximum number of runs reached: {limit}")
        number = self._account.new_id()
        run_id = self._freed.popleft() if self._freed else number
        own = asked.get("tags", {}).get(OWN_PLAN) or asked.get("parameters", {}).get(OWN_PLAN)
        flat = asked.get("outputUriPrefixMode") == "NONE_WITH_OVERWRITE"
        run = Run(
            number=int(number),
            id=run_id,
            arn=self._account.arn(f"run/{run_id}"),
            asked=asked,
            workflow=workflow,
            plan=self._plans.choose(asked, own),
            place=asked["outputUri"].rstrip("/") + ("" if flat else f"/{run_id}"),
            created=self._timeline.now(),
        )
        self.runs[run_id] = run
        self._account.tags[run.arn] = tags = dict(asked.get("tags", {}))
        self._enter(run, "PENDING")
        names = {"arn": run.arn, "id": run.id, "uuid": run.uuid, "tags": tags, "runOutputUri": run.place}
        return {**names, "networkingMode": asked.get("networkingMode", "RESTRICTED")}

    def _checked(self, given: Members) -> tuple[Members, Members]:
        """StartRun's members with defaults, and the workflow, checked as the service does beyond the model."""
        earlier = known_in(self.runs, given["runId"], "run").asked if "runId" in given else {}
        asked = {"workflowType": "PRIVATE", "retentionMode": "RETAIN", **earlier, **given}
        require("workflowId" in asked, "workflowId or runId is required")
        workflow = self._workflows.find(asked["workflowId"], asked["workflowType"], asked.get("workflowVersionName"))
        require(workflow["status"] == "ACTIVE", f"workflow {workflow['id']} is {workflow['status']}")
        defaults = {name: workflow[name] for name in ("storageType", "storageCapacity") if name in workflow}
        asked = {"storageType": "STATIC", **defaults, **asked}
        require(asked["storageType"] != "STATIC" or "storageCapacity" in asked, "STATIC storage needs storageCapacity")
        require(re.match(r"s3://[^/]{3,}", asked["outputUri"]), "outputUri is not an S3 URI")
        require(re.match(r"arn:aws[\w-]*:iam::\d{12}:role/.", asked["roleArn"]), "roleArn is not the ARN of a role")
        require(len(asked.get("tags", {})) <= 50, "more than 50 tags")
        for name, kept in (("cacheId", self._account.caches), ("runGroupId", self._account.groups)):
            if name in asked:
                known_in(kept, asked[name], name)
        _check_parameters(asked.get("parameters", {}), workflow.get("parameterTemplate"))
        return asked, workflow

    # A run's life

    def _enter(self, run: Run, status: str) -> None:
        """Bring a run into a state, to leave it as planned; what was planned before is void."""
        self._by_status[run.status].pop(run.number, None)
        run.status = status
        self._by_status[status][run.number] = run
        if status == "RUNNING":
            self._start_tasks(run)
        if status in ENDED:
            self._finish(run)
        self._exports.log(f"run/{run.id}/engine", [status])
        self._tell(run)
        run.turn += 1
        if status not in ENDED:
            turn = run.turn
            seconds = run.plan.seconds.get(status, SECONDS[status])
            self._timeline.after(seconds, lambda: self._leave(run) if run.turn == turn else None)

    def _leave(self, run: Run) -> None:
        if run.status == "RUNNING":
            self._end_tasks(run)
        if run.status != "STOPPING":
            self._enter(run, NEXT[run.status])
        elif run.cancelled:
            self._enter(run, "CANCELLED")
        else:
            self._enter(run, self._exported(run) if run.plan.outcome == "COMPLETED" else run.plan.outcome)

    def _exported(self, run: Run) -> str:
        """Write the outputs; how the run ends then."""
        default, files = output_document(run.workflow.get("engine", "WDL"), run.workflow["name"], run.place)
        document = filled(default if run.plan.outputs is None else run.plan.outputs, run.place)
        try:
            for path, text in (run.plan.files or files).items():
                self._exports.put(f"{run.place}/{path}", text)
            if document is not None:
                self._exports.put(f"{run.place}/{self._options.outputs_name}", document)
        except FAILURES as failure:
            run.reason, run.message = "EXPORT_FAILED", f"Could not write to {run.place}: {failure}"
            return "FAILED"
        return "COMPLETED"

    def _finish(self, run: Run) -> None:
        run.stopped = self._timeline.now()
        if run.status == "FAILED":
            run.reason = run.reason or run.plan.reason or "WORKFLOW_RUN_FAILED"
            run.message = run.message or run.plan.message or "The workflow failed"
        manifest = json.dumps({"arn": run.arn, "uuid": run.uuid, "status": run.status})
        self._exports.log(f"manifest/run/{run.id}/{run.uuid}", [manifest])

    def _start_tasks(self, run: Run) -> None:
        run.started = run.started or self._timeline.now()
        self._exports.log(f"run/{run.id}", run.plan.log)
        for planned in run.plan.tasks if not run.tasks else ():
            task_id, now = self._account.new_id(), self._account.now()
            made = {"taskId": task_id, "uuid": str(uuid.uuid4()), "creationTime": now, "startTime": now}
            run.tasks[task_id] = {**TASK, **planned, **made, "status": "RUNNING"}
            self._exports.log(f"run/{run.id}/task/{task_id}", planned.get("log", [f"{planned['name']} started"]))

    def _end_tasks(self, run: Run) -> None:
        """End the tasks as planned; where that does not say how, the last one shares the run's fate."""
        for planned, task in zip(run.plan.tasks, run.tasks.values(), strict=False):
            last = planned is run.plan.tasks[-1]
            end = planned.get("status", run.plan.outcome if last else "COMPLETED")
            task.update(status="CANCELLED" if run.cancelled else end, stopTime=self._account.now())

    def _fits(self, run: Run, asked: Mapping[str, Any]) -> bool:
        name, wanted = run.asked.get("name", ""), asked.get("name", "")
        named = not wanted or name == wanted or (self._options.name_match == "prefix" and name.startswith(wanted))
        return named and asked.get("runGroupId") in (None, run.asked.get("runGroupId")) and "batchId" not in asked

    def _stream(self, run: Run, more: str = "") -> str:
        return self._account.arn(f"log-group:{LOG_GROUP}:log-stream:run/{run.id}{more}", "logs")

    def _tell(self, run: Run) -> None:
        """What EventBridge would deliver."""
        names = {"omicsVersion": "1.0.0", "arn": run.arn, "status": run.status, "uuid": run.uuid, "runId": run.id}
        detail = present(
            **names,
            runName=run.asked.get("name"),
            runOutputUri=run.place,
            workflowId=run.workflow["id"],
            workflowName=run.workflow.get("name"),
            workflowUuid=run.workflow["uuid"],
            failureReason=run.reason,
            statusMessage=run.message,
        )
        envelope = {"version": "0", "id": str(uuid.uuid4()), "detail-type": "Run Status Change", "source": "aws.omics"}
        place = {"account": self._account.number, "region": self._account.region, "time": self._account.now()}
        self.events.append({**envelope, **place, "resources": [run.arn], "detail": detail})


def _check_parameters(parameters: Members, template: Members | None) -> None:
    size = len(json.dumps(parameters).encode())
    require(size <= PARAMETERS_BYTES, f"parameters are {size} bytes, more than {PARAMETERS_BYTES}")
    if template is not None:
        unknown = sorted(set(parameters) - set(template) - {OWN_PLAN})
        require(not unknown, f"parameters not in the parameter template: {', '.join(unknown)}")
        needed = {name for name, entry in template.items() if not entry.get("optional")}
        require(
            needed <= set(parameters), f"required parameters missing: {', '.join(sorted(needed - set(parameters)))}"
        )


def _listed(run: Run) -> Members:
    names = ("name", "priority", "storageType", "storageCapacity", "workflowVersionName")
    return present(
        **{name: run.asked.get(name) for name in names},
        **{"arn": run.arn, "id": run.id, "status": run.status, "workflowId": run.workflow["id"]},
        workflowName=run.workflow.get("name"),
        creationTime=stamp(run.created),
        startTime=stamp(run.started),
        stopTime=stamp(run.stopped),
    )
