"""wesctl commands that only look: status, list, show, tasks, outputs, info."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from app.client.connection import Json
from app.client.display import duration, size
from app.client.progress import task_key, task_state
from app.client.references import SEARCHED_RUNS, name_of
from app.client.session import Pair, Session, json_option, pass_session, run_argument

_TASK_HEADS = ("task", "name", "state", "took")


@click.command()
@run_argument
@json_option
@pass_session
def status(session: Session, run: str, as_json: bool) -> None:
    """Print the state of RUN."""
    answer = session.client.get_run_status(session.find_run(run))
    session.display.json(answer) if as_json else session.display.line(str(answer.get("state", "UNKNOWN")))


@click.command("list")
@click.option("--state", "states", multiple=True, help="Only runs in this state; several times for several.")
@click.option("--tag", "tags", type=Pair(), multiple=True, help="Only runs with this tag.")
@click.option("--name", help="Only runs with this name.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many runs.")
@json_option
@pass_session
def list_(
    session: Session,
    states: tuple[str, ...],
    tags: tuple[tuple[str, str], ...],
    name: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, as the server orders them: ours has the newest first."""
    wanted = {state.upper() for state in states}
    filters: dict[str, Any] = {f"tag.{key}": value for key, value in tags}
    filters |= {"state": ",".join(sorted(wanted)) or None, "name": name}
    listed = islice(session.client.iter_runs(page_size=min(limit, 500), **filters), SEARCHED_RUNS)
    runs = list(islice((run for run in listed if _fits(run, wanted, dict(tags), name)), limit))
    if as_json:
        session.display.json({"runs": runs})
    else:
        session.display.table(("run", "state", "name", "submitted", "took", "tags"), map(_row, runs))


def _fits(run: Json, states: set[str], tags: dict[str, str], name: str | None) -> bool:
    """Other servers than ours do not know the filters: what they send is filtered here."""
    own = run.get("tags") or {}
    return (
        (not states or run.get("state") in states)
        and all(own.get(key) == value for key, value in tags.items())
        and (name is None or "*" in name or name_of(run) == name)
    )


def _row(run: Json) -> tuple[str, ...]:
    tags = " ".join(f"{key}={value}" for key, value in (run.get("tags") or {}).items())
    took = duration(run.get("start_time"), run.get("end_time"))
    submitted = str(run.get("submitted_at") or run.get("start_time") or "")
    return str(run["run_id"]), str(run.get("state", "")), name_of(run), submitted, took, tags


@click.command()
@run_argument
@json_option
@pass_session
def show(session: Session, run: str, as_json: bool) -> None:
    """Print everything about RUN: its request, its times, its tasks, its outputs."""
    log = session.client.get_run_log(session.find_run(run))
    if as_json:
        session.display.json(log)
        return
    request, own = log.get("request") or {}, log.get("run_log") or {}
    session.display.facts({"run": log.get("run_id"), "state": log.get("state"), "name": own.get("name")})
    session.display.facts(request)
    session.display.facts({key: own.get(key) for key in ("start_time", "end_time", "exit_code")})
    session.display.facts({"took": duration(own.get("start_time"), own.get("end_time")), "outputs": log.get("outputs")})
    for line in own.get("system_logs") or ():
        session.display.line(f"  {line}")
    session.display.table(_TASK_HEADS, map(_task_row, session.client.iter_tasks(str(log["run_id"]))))


@click.command()
@run_argument
@json_option
@pass_session
def tasks(session: Session, run: str, as_json: bool) -> None:
    """List the tasks of RUN."""
    found = session.client.iter_tasks(session.find_run(run))
    if as_json:
        session.display.json({"task_logs": list(found)})
    else:
        session.display.table(_TASK_HEADS, map(_task_row, found))


def _task_row(task: Json) -> tuple[str, ...]:
    took = duration(task.get("start_time"), task.get("end_time"))
    return task_key(task), str(task.get("name") or ""), task_state(task), took


@click.command()
@run_argument
@click.option(
    "--download", type=click.Path(file_okay=False, path_type=Path), help="Also fetch them into this directory."
)
@json_option
@pass_session
def outputs(session: Session, run: str, download: Path | None, as_json: bool) -> None:
    """List the files that RUN left, or fetch them; a broken download goes on where it stopped."""
    run_id = session.find_run(run)
    found = session.client.list_outputs(run_id)
    paths = session.client.download_outputs(run_id, download) if download else []
    if as_json:
        files = [{"path": file.path, "url": file.url, "size": file.size} for file in found]
        session.display.json({"outputs": files, "downloaded": [str(path) for path in paths]})
    elif download:
        session.display.table(("file",), ((str(path),) for path in paths))
    else:
        session.display.table(("file", "size"), ((file.path, size(file.size)) for file in found))


@click.command()
@json_option
@pass_session
def info(session: Session, as_json: bool) -> None:
    """Print what the server is and what it can run."""
    answer = session.client.get_service_info()
    if as_json:
        session.display.json(answer)
        return
    named = {key: answer.get(key) for key in ("name", "version", "auth_instructions_url")}
    counts = {state: count for state, count in (answer.get("system_state_counts") or {}).items() if count}
    session.display.facts({"address": session.client.base_url, **named})
    session.display.facts({"WES": ", ".join(answer.get("supported_wes_versions") or ()), "runs": counts})
    for title, field in (("types", "workflow_type"), ("engines", "workflow_engine")):
        versions = answer.get(f"{field}_versions") or {}
        session.display.facts({title: "; ".join(f"{name} {_versions(found)}" for name, found in versions.items())})


def _versions(found: Any) -> str:
    """WES 1.1 has an object around the list, older servers the list alone or a word."""
    inner = next(iter(found.values()), []) if isinstance(found, dict) else found
    return ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
