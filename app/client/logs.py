"""wesctl logs: a run's or a task's log as it is, as far as it has come, or until the run ends."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from app.client.errors import Invalid, RunNotFound, Unreachable
from app.client.progress import task_key
from app.client.session import Session, json_option, pass_session, run_argument
from app.client.transfers import last_lines
from app.client.waiting import Pace, Watch
from app.client.wes_client import WesClient


@dataclass
class Log:
    """One log of a run on a server, and how many bytes of it have been read."""

    client: WesClient
    run_id: str
    stream: str
    task_id: str | None
    offset: int = 0

    def new(self) -> Iterator[bytes]:
        """What has not been read yet. Its address is asked for each time: it may change while the run goes on."""
        address = self.client.find_log(self.run_id, self.stream, self.task_id)
        for chunk in self.client.iter_log(address, self.offset):
            self.offset += len(chunk)
            yield chunk

    def tail(self, lines: int) -> bytes:
        return self.client.get_log_tail(self.run_id, self.stream, self.task_id, lines)

    def follow(self) -> Iterator[bytes]:
        """What comes until the run ends. A server that is away for a while interrupts nothing."""
        pace = Pace(first=1.0, longest=10.0)
        for _ in Watch(self.client, self.run_id, hold=0.0, pace=pace).statuses():
            before = self.offset
            try:
                yield from self.new()
            except (Unreachable, RunNotFound):
                continue
            if self.offset > before:
                pace.reset()
        yield from self.new()


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--task", help="The log of this task (id or name) instead of the run's own.")
@click.option("--stderr", is_flag=True, help="Standard error instead of standard output.")
@click.option("--tail", type=click.IntRange(0), help="Only the last N lines.", metavar="N")
@json_option
@pass_session
def logs(
    session: Session, run: str, follow: bool, task: str | None, stderr: bool, tail: int | None, as_json: bool
) -> None:
    """Print a log of RUN, byte by byte as it was written."""
    if follow and as_json:
        raise click.UsageError("--follow has no end to make a JSON document of: leave one of the two out")
    run_id = session.find_run(run)
    task_id = find_task(session.client, run_id, task) if task else None
    log = Log(session.client, run_id, "stderr" if stderr else "stdout", task_id)
    if as_json:
        text = b"".join(log.new() if tail is None else [log.tail(tail)]).decode(errors="replace")
        session.display.json({"run_id": run_id, "task_id": task_id, "stream": log.stream, "text": text})
        return
    if tail is None:
        _write(log.new())
    else:
        _write([last_lines(log.new(), tail) if follow else log.tail(tail)])
    if follow:
        _write(log.follow())


def find_task(client: WesClient, run_id: str, wanted: str) -> str:
    """A task's id from its id or its name. Raises RunNotFound, and Invalid where several tasks have the name."""
    tasks = list(client.iter_tasks(run_id))
    ids = [task_key(task) for task in tasks if wanted == task_key(task)]
    ids = ids or [task_key(task) for task in tasks if wanted == task.get("name")]
    if len(ids) > 1:
        raise Invalid(f"Run {run_id} has {len(ids)} tasks called {wanted!r}: name one by its id: {', '.join(ids[:5])}")
    if not ids:
        raise RunNotFound(f"Run {run_id} has no task {wanted!r}")
    return ids[0]


def _write(chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
