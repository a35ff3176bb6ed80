"""`flask --app application …`: what an administrator does from a shell."""

from __future__ import annotations

from collections.abc import Iterable

import click
from flask import Flask
from flask.cli import AppGroup

from app.context import current
from app.daemon.engines.environments import EngineEnvironments, InstallFailed
from app.runs import listing

engines = AppGroup("engines", help="Workflow engines, each version in an environment of its own.")
runs = AppGroup("runs", help="Stored runs.")
_VERSION = click.argument("version", required=False)


def register(app: Flask) -> None:
    """Add the commands to this application's `flask`."""
    app.cli.add_command(engines)
    app.cli.add_command(runs)


@engines.command("list")
def list_engines() -> None:
    """Say which engines are installed here."""
    installed = _environments().installed()
    for environment in installed:
        click.echo(f"{environment.engine} {environment.version}  {environment.path}")
    if not installed:
        click.echo("No engine is installed. Install one with: flask --app application engines install cwltool")


@engines.command("install")
@click.argument("engine")
@_VERSION
def install_engine(engine: str, version: str | None) -> None:
    """Install ENGINE, at VERSION or at the one that this service is tested with. Takes minutes."""
    try:
        environment = _environments().install(engine, version)
    except InstallFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{environment.engine} {environment.version} is installed in {environment.path}")


@engines.command("remove")
@click.argument("engine")
@_VERSION
def remove_engine(engine: str, version: str | None) -> None:
    """Remove an installed engine. Runs that still use it will fail."""
    try:
        removed = _environments().remove(engine, version)
    except InstallFailed as error:
        raise click.ClickException(str(error)) from None
    click.echo("Removed." if removed else "It was not installed.")


@runs.command("sweep")
@click.option("--older-than-hours", default=24.0, show_default=True, help="Younger things are left alone.")
def sweep(older_than_hours: float) -> None:
    """Remove files of deleted runs and of requests that were never accepted."""
    removed = current().storage.sweep(_known_runs, _stored_blobs, older_than_hours * 3600)
    click.echo(f"Removed {removed}.")


def _environments() -> EngineEnvironments:
    return EngineEnvironments(current().settings.data_dir / "engines")


def _known_runs(run_ids: Iterable[str]) -> frozenset[str]:
    with current().database.reading() as session:
        return listing.known_runs(session, run_ids)[1]


def _stored_blobs(hashes: Iterable[str]) -> frozenset[str]:
    with current().database.reading() as session:
        return listing.stored_blobs(session, hashes)
