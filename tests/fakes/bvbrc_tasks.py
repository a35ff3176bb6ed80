"""The AppService of the BV-BRC fake: apps, tasks that live on a clock with Slurm behind them, and lists of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

from tests.fakes.bvbrc_users import Options, RpcError
from tests.fakes.bvbrc_workspace import Workspace
from tests.fakes.timeline import Plan, Plans, Timeline

FIRST_ID = 21_000_000
SECONDS: Mapping[str, float | None] = {"QUEUED": 5, "PENDING": 5, "RUNNING": 60}
CANCEL_SECONDS = 3
TASK_STATES = {
    "Q": ("Queued", "queued"),
    "S": ("Submitted to cluster", "pending"),
    "C": ("Completed", "completed"),
    "F": ("Failed", "failed"),
    "D": ("Deleted", "deleted"),
    "T": ("Terminated", "failed"),
    "P": ("Suspended", "suspended"),
}
"""Code -> description, which qstat shows, and service_status, which all else shows. P is the fake's own."""
OUTPUT = [
    {"id": "output_path", "label": "Output Folder", "required": 1, "default": None, "type": "folder"},
    {"id": "output_file", "label": "File Basename", "required": 1, "default": None, "type": "wsid"},
]
APPS: list[dict[str, Any]] = [
    {
        "id": "Date",
        "script": "App-Date",
        "label": "Date and time",
        "description": "Returns the current date and time.",
        "parameters": OUTPUT,
    },
    {
        "id": "GenomeAssembly2",
        "script": "App-GenomeAssembly2",
        "label": "Assemble WGS reads",
        "description": "Assemble reads into a set of contigs",
        "parameters": [
            {
                "id": "paired_end_libs",
                "type": "group",
                "required": 0,
                "default": None,
                "allow_multiple": True,
                "group": [
                    {"id": "read1", "label": "Read file 1", "required": 1, "type": "wstype", "wstype": "ReadFile"},
                    {"id": "read2", "label": "Read file 2", "required": 0, "type": "wstype", "wstype": "ReadFile"},
                    {"id": "interleaved", "required": False, "default": False, "type": "bool"},
                ],
            },
            {"id": "srr_ids", "label": "SRR ID", "required": 0, "type": "string", "allow_multiple": True},
            {"id": "recipe", "required": 0, "default": "auto", "enum": ["auto", "unicycler", "spades"], "type": "enum"},
            {"id": "racon_iter", "required": 0, "default": 2, "type": "int"},
            {"id": "min_contig_cov", "required": 0, "default": 5, "type": "float"},
            {"id": "trim", "required": 0, "default": False, "type": "boolean"},
            *OUTPUT,
        ],
    },
    {
        "id": "GenomeAnnotation",
        "script": "App-GenomeAnnotation",
        "label": "Annotate genome",
        "description": "Calls genes and functionally annotate input contig set.",
        "parameters": [
            "text between parameters is documentation",
            {"id": "contigs", "label": "Contig file", "required": 1, "default": None, "type": "wstype"},
            {"id": "scientific_name", "label": "Scientific Name", "required": 1, "default": None, "type": "string"},
            {"id": "code", "label": "Genetic Code", "required": 1, "default": 11, "type": "enum", "enum": ["11", "4"]},
            {
                "id": "domain",
                "label": "Domain",
                "required": 1,
                "default": "Bacteria",
                "type": "enum",
                "enum": ["Bacteria", "Archaea"],
            },
            *OUTPUT,
        ],
    },
]


@dataclass(slots=True)
class Task:
    id: int
    owner: str
    app: str
    params: dict[str, Any]
    start: Mapping[str, Any]
    plan: Plan
    submitted: datetime
    code: str = "Q"
    slurm: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int | None = None
    starts: int = 0
    stdout: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.code in "CFDT"


class AppService:
    """Methods take the user and the call's parameters; they return the list of return values."""

    def __init__(self, timeline: Timeline, plans: Plans, options: Options, workspace: Workspace) -> None:
        self._timeline, self._plans, self._options, self._workspace = timeline, plans, options, workspace
        self.tasks: dict[int, Task] = {}
        self._ids = count(FIRST_ID)
        self.url = ""

    def service_status(self, user: str) -> list[Any]:
        return [[1, ""] if self._options.enabled else [0, "Maintenance until noon"]]

    def enumerate_apps(self, user: str) -> list[Any]:
        return [APPS]

    def start_app2(self, user: str, app_id: Any, params: Any, start: Any) -> list[Any]:
        if not (isinstance(app_id, str) and isinstance(params, dict) and isinstance(start, dict)):
            raise RpcError('Invalid arguments passed to start_app2:\n\tInvalid type for argument "params"\n')
        if not self._options.enabled:
            raise RpcError("App service submissions are disabled\n")
        self._preflight(app_id, params)
        plan = self._plans.choose(params, params.get("fake-plan"))
        now = self._timeline.now()
        task = Task(next(self._ids), user, app_id, {**params, "_preflight": {"cpu": 1}}, start, plan, now)
        self.tasks[task.id] = task
        self._after(task, "QUEUED", self._to_cluster)
        if not self._options.row:
            return [self._told(task)]
        row = {"id": task.id, "owner": user, "state_code": "Q", "application_id": app_id, "parent_task": None}
        keys = ("output_path", "output_file")
        row |= {key: params.get(key) for key in keys} | {"user_metadata": start.get("user_metadata")}
        return [row | {"params": json.dumps(task.params), "base_url": start.get("base_url")}]

    def query_tasks(self, user: str, ids: list[Any]) -> list[Any]:
        """Anybody's, and those that are not numbers are passed over."""
        asked = [int(one) for one in map(str, ids) if re.fullmatch(r"\d+", one)]
        return [{str(one): self._told(self.tasks[one], plain=True) for one in asked if one in self.tasks}]

    def query_task_details(self, user: str, task_id: Any) -> list[Any]:
        """Addresses for any id; what the runner has noted, as text."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(task_id)):
            raise RpcError("Invalid task ID at AppServiceImpl.pm line 900.\n")
        details = {f"{stream}_url": f"{self.url}/task_info/{task_id}/{stream}" for stream in ("stdout", "stderr")}
        task = self.tasks.get(int(task_id)) if str(task_id).isdigit() else None
        if task is not None and task.started is not None:
            details |= {"pid": "4711", "hostname": "maple-7"}
            if task.exit_code is not None:
                details["exitcode"] = str(task.exit_code)
        return [details]

    def enumerate_tasks_filtered(self, user: str, offset: int, size: int, which: Mapping[str, Any]) -> list[Any]:
        tasks = [task for task in self._of(user, which) if self._fits(which.get("app"), task.app)]
        return [[self._told(task) for task in self._page(tasks, offset, size)], len(tasks)]

    def enumerate_tasks_qstat(self, user: str, offset: int, size: int, which: Mapping[str, Any]) -> list[Any]:
        if not self._options.qstat:
            raise RpcError("'enumerate_tasks_qstat' is not a valid method in service AppService.", -32601)
        tasks = [
            task
            for task in self._of(user, which)
            if self._fits(which.get("user_metadata"), task.start.get("user_metadata"))
        ]
        return [[_queued(task) for task in self._page(tasks, offset, size)], len(tasks)]

    def kill_task(self, user: str, task_id: Any) -> list[Any]:
        task = self.tasks.get(int(task_id)) if str(task_id).isdigit() else None
        if task is None:
            return [0, "Task not found"]
        if task.owner != user:
            return [0, "Permission denied"]
        if task.code == "Q":
            self._finish(task, "T", "")
            return [1, "Terminated"]
        if task.code in "SP":
            self._timeline.after(CANCEL_SECONDS, lambda: self._finish(task, "F", "CANCELLED by 1017"))
            return [1, f"Canceled {task.id * 7}"]
        return [0, f"Task in non-running state {task.code}"]

    def log(self, task_id: str) -> str | None:
        """A task's standard output; the service itself takes signatures out of it."""
        task = self.tasks.get(int(task_id)) if task_id.isdigit() else None
        if task is None or not task.stdout:
            return None
        return "".join(re.sub(r"(un=.*sig=)[a-z0-9]*", r"\1XXX", line) + "\n" for line in task.stdout)

    def _preflight(self, app_id: str, params: Mapping[str, Any]) -> None:
        """What the app itself finds wrong; an unknown app is found out by a program that tells the user nothing."""
        app = next((app for app in APPS if app["id"] == app_id), None)
        problems = params.get("fake-preflight-error")
        if app is None:
            raise RpcError("Error submitting job: \n")
        required = (one for one in app["parameters"] if isinstance(one, dict) and one["required"])
        missing = [
            f"Required parameter {one['label']} ({one['id']}) missing" for one in required if one["id"] not in params
        ]
        if missing:  # whatever its default: that is for parameters that may be left out
            problems = "Errors found in parameter processing:\n    " + "\n    ".join(missing)
        if problems:
            raise RpcError(f"Error submitting job: {problems}\n")

    def _after(self, task: Task, stage: str, then: Any) -> None:
        seconds = {**SECONDS, **task.plan.seconds}[stage]
        self._timeline.after(seconds, lambda: None if task.is_over else then(task))

    def _to_cluster(self, task: Task) -> None:
        task.code, task.slurm = "S", "PENDING"
        self._after(task, "PENDING", self._begin)

    def _begin(self, task: Task) -> None:
        task.slurm, task.started, task.starts = "RUNNING", self._timeline.now(), task.starts + 1
        task.stdout += task.plan.log[:-1]
        self._after(task, "RUNNING", self._end)

    def _end(self, task: Task) -> None:
        task.stdout += task.plan.log[-1:]
        folder = f"{task.params['output_path']}/.{task.params['output_file']}"
        has_failed = task.plan.outcome != "COMPLETED"
        if task.plan.message:
            self._workspace.put(f"{folder}/JobFailed.txt", task.plan.message)
        if task.plan.reason in ("", "FAILED"):  # else its machine or its time was taken away
            task.exit_code = 1 if has_failed else 0
            self._leave_result(task, folder)
        self._finish(task, "F" if has_failed else "C", task.plan.reason or task.plan.outcome)

    def _leave_result(self, task: Task, folder: str) -> None:
        for name, text in task.plan.files.items():
            self._workspace.put(f"{folder}/{name}", text)
        result = {
            "id": str(task.id),
            "app": task.app,
            "parameters": task.params,
            "output_files": self._workspace.listed(folder),
            "job_output": task.plan.outputs or "",
            "success": int(task.exit_code == 0),
        }
        path = f"{task.params['output_path']}/{task.params['output_file']}"
        self._workspace.put(path, json.dumps(result), "job_result")

    def _finish(self, task: Task, code: str, slurm: str) -> None:
        if not task.is_over:
            task.code, task.slurm, task.finished = code, slurm or task.slurm, self._timeline.now()

    def _of(self, user: str, which: Mapping[str, Any]) -> list[Task]:
        """A user's tasks in the order asked for; the newest first if none is."""
        since = which.get("start_time")
        tasks = [task for task in self.tasks.values() if task.owner == user]
        if since and not self._options.ignores_filters:
            tasks = [task for task in tasks if task.submitted >= datetime.fromisoformat(since)]
        return sorted(tasks, key=lambda task: task.id, reverse=which.get("sort_order", "desc") != "asc")

    def _fits(self, wanted: Any, value: Any) -> bool:
        return self._options.ignores_filters or wanted in (None, value)

    def _page(self, tasks: list[Task], offset: int, size: int) -> list[Task]:
        return tasks[offset : offset + min(size, self._options.page)]

    def _told(self, task: Task, plain: bool = False) -> dict[str, Any]:
        """query_tasks tells times as the database does, everything else in ISO 8601."""
        word = TASK_STATES[task.code][1]
        return {
            "id": task.id,
            "parent_id": None,
            "app": task.app,
            "workspace": None,
            "parameters": task.params,
            "user_id": task.owner,
            "status": self._options.running_word if task.slurm == "RUNNING" and task.code == "S" else word,
            "submit_time": _stamp(task.submitted, plain),
            "start_time": _stamp(task.started, plain),
            "completed_time": _stamp(task.finished, plain),
            "elapsed_time": "",
            "storage_location": "active",
            "application_name": task.app,
        }


def _queued(task: Task) -> dict[str, Any]:
    return {
        "id": str(task.id),
        "owner": task.owner,
        "app": task.app,
        "masked": 0,
        "status": TASK_STATES[task.code][0],
        "submit_time": _stamp(task.submitted),
        "start_time": _stamp(task.started),
        "finish_time": _stamp(task.finished),
        "output_path": task.params.get("output_path"),
        "output_file": task.params.get("output_file"),
        "user_metadata": task.start.get("user_metadata"),
        "cluster_job_id": str(task.id * 7) if task.slurm else "",
        "cluster_job_status": task.slurm,
    }


def _stamp(at: datetime | None, plain: bool = False) -> str:
    if at is None:
        return ""
    return f"{at:%Y-%m-%d %H:%M:%S}" if plain else f"{at:%Y-%m-%dT%H:%M:%SZ}"
