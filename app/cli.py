"""`flask --app application …`: what an administrator does from a shell."""

from __future__ import annotations

from flask import Flask
from flask.cli import AppGroup


def register(app: Flask) -> None:
    runs = AppGroup("runs", help="Stored runs.")
    app.cli.add_command(runs)
