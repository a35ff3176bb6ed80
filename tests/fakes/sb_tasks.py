"""Tasks of the Seven Bridges fake: drafts that are checked when they are run, and lives on the timeline."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.fakes.sb_apps import FILE_CLASSES, Apps, input_errors, ports
from tests.fakes.sb_files import Files, StoredFile
from tests.fakes.sb_platform import ApiError, Call, Json, Platform, bulk, known, moment, stamp
from tests.fakes.timeline import Plan, Plans

SECONDS = {"CREATING": 5, "QUEUED": 15, "RUNNING": 60, "ABORTING": 10}
NEXT = {"CREATING": "QUEUED", "QUEUED": "RUNNING", "ABORTING": "ABORTED"}
ENDED = ("COMPLETED", "FAILED", "ABORTED")
STATES = ("DRAFT", *SECONDS, *ENDED)
ORDERS = ("created_time", "start_time", "name", "end_time", "created_by")
SETTINGS = {"instance_type", "max_parallel_instances", "use_memoization", "use_elastic_disk"}
BRIEF = ("href", "id", "name", "project", "status")
OWN_PLAN = "fake_plan"
"""An input of any app that holds the task's plan."""


@dataclass(slots=True, eq=False)
class StoredTask:
    """One task; `asked` is what it was created with."""

    asked: Json
    app: str
    raw: Json
    plan: Plan
    created: datetime
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "DRAFT"
    started: datetime | None = None
    ended: datetime | None = None
    outputs: Json = field(default_factory=dict)
    jobs: list[Json] = field(default_factory=list)
    turn: int = 0
    starts: int = 0


class Tasks:
    def __init__(self, platform: Platform, apps: Apps, files: Files, plans: Plans) -> None:
        self._platform, self._apps, self._files, self._plans = platform, apps, files, plans
        self.tasks: dict[str, StoredTask] = {}

    # Calls

    def create(self, call: Call) -> Json:
        optional = ["description", "inputs", "use_interruptible_instances", "execution_settings", "output_location"]
        asked = call.fields(["name", "project", "app"], optional)
        self._platform.check_project(asked["project"])
        if strange := set(asked.get("execution_settings") or {}) - SETTINGS:
            raise ApiError(400, 7001, f"Unknown execution settings: {strange}")
        return self._run_if_asked(call, self._new(asked))

    def clone(self, call: Call) -> Json:
        return self._run_if_asked(call, self._new(self._find(call.names["id"]).asked))

    def get(self, call: Call) -> Json:
        return self._describe(self._find(call.names["id"]))

    def bulk_get(self, call: Call) -> Json:
        return bulk(call.ids("task_ids"), lambda task_id: self._describe(self._find(task_id)))

    def query(self, call: Call) -> tuple[Json, int]:
        order = call.asks("order_by")
        status = call.asks("status")
        if (order and order not in ORDERS) or (status and status not in STATES):
            raise ApiError(400, 7001, f"No such order or status: {order} {status}")
        found = [task for task in self.tasks.values() if _fits(task, call)]
        if order:
            found.sort(key=_key(order), reverse=call.asks("order") == "desc")
        whole = "_all" in (call.asks("fields") or "")
        return self._platform.page(
            call,
            found,
            lambda task: {name: value for name, value in self._describe(task).items() if whole or name in BRIEF},
            ordered=bool(order),
        )

    def run(self, call: Call) -> Json:
        task = self._find(call.names["id"])
        self._require(task.status == "DRAFT", task)
        return self._run(task)

    def abort(self, call: Call) -> Json:
        task = self._find(call.names["id"])
        self._require(task.status in SECONDS, task)
        if task.status != "ABORTING":
            self.enter(task, "ABORTING")
        return self._describe(task)

    def delete(self, call: Call) -> None:
        task = self._find(call.names["id"])
        self._require(task.status == "DRAFT", task)
        del self.tasks[task.id]

    def execution_details(self, call: Call) -> Json:
        task = self._find(call.names["id"])
        times = {"start_time": stamp(task.started), "end_time": stamp(task.ended)}
        href = f"{self._platform.base}/tasks/{task.id}/execution_details"
        return {"href": href, **times, "status": task.status, "message": _message(task), "jobs": task.jobs}

    # Lives

    def enter(self, task: StoredTask, status: str, moves: bool = True) -> None:
        """Bring a task into a state, to leave it as planned; what was planned before is void."""
        task.status = status
        task.turn += 1
        if status == "CREATING":
            task.starts += 1
        if status == "RUNNING":
            task.started = task.started or self._platform.timeline.now()
            task.jobs = [self._job(planned) for planned in task.plan.tasks]
        if status in ENDED:
            self._finish(task)
        elif moves and status in SECONDS:
            turn, seconds = task.turn, task.plan.seconds.get(status, SECONDS[status])
            self._platform.timeline.after(seconds, lambda: self._leave(task) if task.turn == turn else None)

    def _leave(self, task: StoredTask) -> None:
        self.enter(task, NEXT.get(task.status, task.plan.outcome))

    def _finish(self, task: StoredTask) -> None:
        task.ended = self._platform.timeline.now()
        for planned, job in zip(task.plan.tasks, task.jobs, strict=False):
            last = planned is task.plan.tasks[-1]
            end = "DONE" if task.status == "COMPLETED" or (task.status == "FAILED" and not last) else "FAILED"
            log = "".join(f"{line}\n" for line in planned.get("log", task.plan.log)).encode()
            stderr = self._files.add(f"{planned['name']}.stderr", log, None, task=task.id)
            logs = {"stderr": f"{self._platform.base}/files/{stderr.id}/download_info"}
            job.update(status=planned.get("status", end), end_time=self._platform.now(), logs=logs)
        if task.status == "COMPLETED":
            task.outputs = self._made(task)

    def _job(self, planned: Any) -> Json:
        given = {name: value for name, value in planned.items() if name not in ("log", "status")}
        instance = {"id": "i-0fake", "type": "c4.2xlarge", "provider": "AWS"}
        facts = {"status": "RUNNING", "start_time": self._platform.now(), "retried": False, "instance": instance}
        return {
            "command_line": f"run {planned['name']}",
            "docker": {"checksum": "sha256:0"},
            **facts,
            **given,
            "logs": {},
        }

    def _made(self, task: StoredTask) -> Json:
        """The outputs, with their files in the project. A planned output names a planned file by its path; a planned
        directory lists its own."""
        plan = task.plan
        wanted = plan.outputs
        if wanted is None:
            wanted = {name: {"class": "File", "path": f"{name}.txt"} for name in ports(task.raw["outputs"])}
        made: Json = {}

        def stored(value: Any) -> Any:
            if isinstance(value, list):
                return [stored(element) for element in value]
            if not isinstance(value, dict):
                return value
            if value.get("class") not in FILE_CLASSES:
                return {name: stored(element) for name, element in value.items()}
            made = self._kept(task, value, None)
            beside = {name: stored(value[name]) for name in ("secondaryFiles",) if name in value}
            size = {"size": len(made.content)} if made.type == "file" else {}
            return {"class": value["class"], "path": made.id, "name": made.name, **size, **beside}

        for name, value in wanted.items():
            made[name] = stored(value)
        return made

    def _kept(self, task: StoredTask, planned: Json, parent: str | None) -> StoredFile:
        project, name = task.asked["project"], planned["path"].rpartition("/")[2]
        if planned["class"] == "Directory":
            folder = self._files.add_folder(name, project, parent, task=task.id)
            for child in planned.get("listing", ()):
                self._kept(task, child, folder.id)
            return folder
        text = task.plan.files.get(planned["path"], f"made by {task.asked['name']}\n")
        return self._files.add(name, text.encode(), project, parent=parent, task=task.id)

    def _new(self, asked: Json) -> StoredTask:
        app, revision, raw = self._apps.find(asked["app"])
        plan = self._plans.choose(asked, (asked.get("inputs") or {}).get(OWN_PLAN))
        task = StoredTask(asked, f"{app}/{revision}", raw, plan, self._platform.timeline.now())
        self.tasks[task.id] = task
        return task

    def _run_if_asked(self, call: Call, task: StoredTask) -> Json:
        return self._run(task) if call.asks("action") == "run" else self._describe(task)

    def _run(self, task: StoredTask) -> Json:
        """Start a draft; with errors in its inputs it stays one, and says so."""
        if not self._errors(task):
            self.enter(task, "CREATING")
        return self._describe(task)

    def _require(self, holds: bool, task: StoredTask) -> None:
        if not holds:
            raise ApiError(self._platform.options.wrong_state, 7003, f"Task is {task.status}")

    def _find(self, task_id: Any) -> StoredTask:
        found: StoredTask = known(self.tasks, task_id, 7002, "task")
        return found

    def _errors(self, task: StoredTask) -> list[str]:
        project = task.asked["project"]
        return list(
            input_errors(task.raw, task.asked.get("inputs") or {}, lambda path: self._files.holds(path, project))
        )

    def _describe(self, task: StoredTask) -> Json:
        asked = task.asked
        given = {
            name: asked.get(name)
            for name in ("name", "project", "description", "execution_settings", "output_location")
        }
        begun = task.status != "DRAFT"
        spent = ((task.ended or self._platform.timeline.now()) - task.started).total_seconds() if task.started else 0.0
        unknown = set(asked.get("inputs") or {}) - set(ports(task.raw["inputs"]))
        return {
            "href": f"{self._platform.base}/tasks/{task.id}",
            "id": task.id,
            **given,
            "app": task.app,
            "type": "v2",
            "status": task.status,
            "created_by": self._platform.user,
            "executed_by": self._platform.user if begun else None,
            "created_time": stamp(task.created),
            "start_time": stamp(task.started),
            "end_time": stamp(task.ended),
            "batch": False,
            "inputs": asked.get("inputs") or {},
            "outputs": task.outputs,
            "errors": [] if begun else self._errors(task),
            "warnings": [f"Unknown input: {name}" for name in sorted(unknown)],
            "price": {"amount": round(spent * 0.0001, 4), "currency": "USD"} if begun else None,
            "execution_status": _execution(task, int(spent)),
            "use_interruptible_instances": asked.get("use_interruptible_instances"),
        }


def _fits(task: StoredTask, call: Call) -> bool:
    times = {"created": task.created, "started": task.started, "ended": task.ended}
    for name, at in times.items():
        first, last = call.asks(f"{name}_from"), call.asks(f"{name}_to")
        if (first and (at is None or at < moment(first))) or (last and (at is None or at > moment(last))):
            return False
    project, status = call.asks("project"), call.asks("status")
    return project in (None, task.asked["project"]) and status in (None, task.status) and not call.asks("parent")


def _key(order: str) -> Callable[[StoredTask], tuple[bool, Any]]:
    """What tasks are ordered by; those without it come first."""
    times = {"created_time": "created", "start_time": "started", "end_time": "ended"}

    def key(task: StoredTask) -> tuple[bool, Any]:
        value = getattr(task, times[order]) if order in times else task.asked.get(order, "")
        return value is not None, value or ""

    return key


def _execution(task: StoredTask, seconds: int) -> Json:
    steps = len(task.plan.tasks)
    done = sum(job["status"] == "DONE" for job in task.jobs)
    return {
        "steps_completed": done,
        "steps_total": steps,
        "message": _message(task),
        "execution_duration": seconds * 1000,
    }


def _message(task: StoredTask) -> str:
    return task.plan.message if task.status == "FAILED" and task.plan.message else task.status.capitalize()
