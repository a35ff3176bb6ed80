"""wesctl commands that start, follow or end runs: submit, rerun, watch, cancel, delete."""

from __future__ import annotations

import mimetypes
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click

from app.client.attachments import Bundle, collect, local_file
from app.client.display import moment, size
from app.client.documents import type_of, type_of_name
from app.client.errors import Unreachable
from app.client.exits import Exit, exit_of_state
from app.client.failure import report_failure
from app.client.progress import Follower, View
from app.client.session import Pair, Session, json_option, pass_session, run_argument, timeout_option
from app.client.wes_client import RunRequest

_OWN_ID = re.compile(r"[\w-]*\d[\w-]*")  # of a workflow that the provider keeps
_FILE = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_watch = click.option("--watch", is_flag=True, help="Follow the run; the exit code is its end.")
_outdir = click.option("--outdir", type=_FOLDER, help="Follow the run and fetch its outputs into this directory.")


@click.command()
@click.argument("workflow")
@click.argument("params", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("-a", "--attach", type=_FILE, multiple=True, help="A further file or directory to send along.")
@click.option("--type", "kind", help="CWL, WDL, NFL, SMK or DAG; found out from the workflow where left out.")
@click.option("--type-version", help="Version of the workflow language; found out likewise.")
@click.option("--engine", help="The engine to run it on.")
@click.option("--engine-version", help="Needs --engine.")
@click.option("--engine-param", "engine_params", type=Pair(bare=True), multiple=True, help="KEY alone is a flag.")
@click.option("--tag", "tags", type=Pair(), multiple=True, help="KEY=VALUE, several times for several.")
@click.option("--name", help="A name to find the run by.")
@click.option("--idempotency-key", help="Sent again with the same key, the same request is the same run.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@_watch
@_outdir
@timeout_option
@json_option
@pass_session
def submit(
    session: Session, /, workflow: str, params: Path | None, dry_run: bool, idempotency_key: str | None,
    watch: bool, outdir: Path | None, timeout: float | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Run WORKFLOW, a local file, an address or a provider's own id, with the inputs in the JSON or YAML file PARAMS.

    Local files that a CWL workflow and PARAMS refer to are sent along.
    """
    bundle, request = _build(workflow, params, **options)
    if dry_run:
        _show_request(session, bundle, request, as_json)
        return
    key = idempotency_key or str(uuid.uuid4())
    try:
        run_id = session.client.run_workflow(idempotency_key=key, **request)["run_id"]
    except Unreachable as error:
        again = f"It is unknown whether the run was accepted. To send it again safely: --idempotency-key {key}"
        raise Unreachable(f"{error.msg}\n{again}", error.status_code) from error
    _go_on(session, run_id, watch, outdir, timeout, as_json)


def _build(
    workflow: str,
    params: Path | None,
    attach: Iterable[Path],
    kind: str | None,
    type_version: str | None,
    **options: Any,
) -> tuple[Bundle, RunRequest]:
    file, _ = local_file(workflow)
    if file is None and not urlsplit(workflow).scheme and not _OWN_ID.fullmatch(workflow):
        raise click.BadParameter(f"there is no file {workflow!r}, and it is no address", param_hint="WORKFLOW")
    found, version = type_of(file) if file else (type_of_name(urlsplit(workflow).path), None)
    kind = kind or found
    bundle = collect(workflow, (kind or "").upper() == "CWL", params, attach)
    return bundle, _request(bundle, kind, type_version or version, **options)


def _request(
    bundle: Bundle, kind: str | None, type_version: str | None, engine: str | None, engine_version: str | None,
    engine_params: Iterable[tuple[str, str | None]], tags: Iterable[tuple[str, str]], name: str | None,
) -> RunRequest:  # fmt: skip
    request = {
        "workflow_url": bundle.workflow_url,
        "workflow_params": bundle.workflow_params,
        "workflow_type": kind,
        "workflow_type_version": type_version,
        "workflow_engine": engine,
        "workflow_engine_version": engine_version,
        "workflow_engine_parameters": dict(engine_params),
        "tags": dict(tags) | ({"name": name} if name else {}),
    }
    attachments = [(name, path, _media_type(name)) for name, path in bundle.files.items()]
    kept = {key: value for key, value in request.items() if value or key == "workflow_params"}
    return cast(RunRequest, {**kept, "workflow_attachment": attachments})


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _show_request(session: Session, bundle: Bundle, request: RunRequest, as_json: bool) -> None:
    fields: dict[str, Any] = {key: value for key, value in request.items() if key != "workflow_attachment"}
    files = [(name, path.stat().st_size) for name, path in bundle.files.items()]
    if as_json:
        session.display.json(
            {**fields, "workflow_attachment": [{"name": name, "size": count} for name, count in files]}
        )
        return
    session.display.facts(fields)
    session.display.table(("attachment", "size"), ((name, size(count)) for name, count in files))


@click.command()
@run_argument
@_watch
@_outdir
@timeout_option
@json_option
@pass_session
def rerun(session: Session, run: str, watch: bool, outdir: Path | None, timeout: float | None, as_json: bool) -> None:
    """Run the same request as RUN again, as a new run."""
    run_id = session.client.rerun_run(session.find_run(run))["run_id"]
    _go_on(session, run_id, watch, outdir, timeout, as_json)


@click.command()
@run_argument
@_outdir
@timeout_option
@json_option
@pass_session
def watch(session: Session, run: str, outdir: Path | None, timeout: float | None, as_json: bool) -> None:
    """Follow RUN until it ends; the exit code is its end. Ctrl-C leaves it running."""
    _follow(session, session.find_run(run), outdir, timeout, as_json)


def _go_on(
    session: Session, run_id: str, watch: bool, outdir: Path | None, timeout: float | None, as_json: bool
) -> None:
    """After a run was accepted: print its id, or follow it."""
    if watch or outdir or timeout is not None:
        session.display.say(f"Run {run_id} accepted")
        _follow(session, run_id, outdir, timeout, as_json)
    elif as_json:
        session.display.json({"run_id": run_id})
    else:
        session.display.line(run_id)


def _follow(session: Session, run_id: str, outdir: Path | None, timeout: float | None, as_json: bool) -> None:
    """Show progress, then the result: the output object, or the run log with --json. Exits with the run's end."""
    client, display = session.client, session.display
    again = f"Watch it again: wesctl watch {run_id}"
    try:
        began = moment((client.get_run_log(run_id).get("run_log") or {}).get("start_time"))
        state = Follower(client, display, View(run_id, began=began or datetime.now(UTC)), timeout).follow()
    except KeyboardInterrupt:
        display.say(f"Detached, run {run_id} goes on. {again}")
        raise click.exceptions.Exit(Exit.DETACHED) from None
    except TimeoutError as error:
        display.say(f"{error}; it goes on. {again}")
        raise click.exceptions.Exit(Exit.TIMEOUT) from None
    log = client.get_run_log(run_id)
    if state == "COMPLETE" and outdir:
        for path in client.download_outputs(run_id, outdir):
            display.say(str(path))
    if state in ("EXECUTOR_ERROR", "SYSTEM_ERROR"):
        report_failure(client, display, run_id)
    if as_json or state == "COMPLETE":
        display.json(log if as_json else log.get("outputs") or {})
    raise click.exceptions.Exit(exit_of_state(state))


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@json_option
@pass_session
def cancel(session: Session, runs: tuple[str, ...], as_json: bool) -> None:
    """Cancel each RUN. One that has ended stays as it is."""
    run_ids = [session.find_run(run) for run in runs]
    for run_id in run_ids:
        session.client.cancel_run(run_id)
    _show_ids(session, run_ids, as_json)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_session
def delete(session: Session, runs: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove each RUN that has ended, with its logs and outputs, for good."""
    run_ids = [session.find_run(run) for run in runs]
    if not (yes or _confirm(f"Delete {', '.join(run_ids)} with logs and outputs?")):
        raise click.UsageError("nothing was deleted; --yes deletes without asking")
    for run_id in run_ids:
        session.client.delete_run(run_id)
    _show_ids(session, run_ids, as_json)


def _confirm(question: str) -> bool:
    """No answer is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False


def _show_ids(session: Session, run_ids: list[str], as_json: bool) -> None:
    if as_json:
        session.display.json({"run_ids": run_ids})
    else:
        session.display.table(("run",), ([run_id] for run_id in run_ids))
