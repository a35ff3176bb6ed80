"""The web application: `python application.py` serves it, `flask --app application …` works on it.

Works without an activated environment. Exit codes: 0 stopped by TERM or INT, 2 unusable settings, 3 no usable database,
5 port taken, 7 no usable artifact storage.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"
if __name__ == "__main__" and sys.prefix == sys.base_prefix and PYTHON.exists():
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606

from app.shared_counts import shared_counts  # noqa: E402

COUNTS = ExitStack()
if __name__ == "__main__":
    COUNTS.enter_context(shared_counts())

from flask import Flask  # noqa: E402

from app import factory, logs, web_server  # noqa: E402
from config import Settings, SettingsError  # noqa: E402


def create_app() -> Flask:
    """One for each worker process, and for `flask`."""
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format == "json")
    return factory.create_app(settings)


def main() -> int:
    try:
        settings = Settings.load()
        logs.configure(settings.log_level, settings.log_format == "json")
        return web_server.serve(settings, "application:create_app", ROOT)
    except SettingsError as error:
        print(f"These settings cannot be used:\n{error}", file=sys.stderr)
        return web_server.Exit.SETTINGS
    except web_server.CannotStart as error:
        print(error, file=sys.stderr)
        return error.code


if __name__ == "__main__":
    with COUNTS:
        code = main()
    sys.exit(code)
