"""How processes log: one line an event, with its fields, on standard error and into a file where one is asked for; as
text, or as JSON for a collector."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from config import SettingsError

FILE_BYTES = 10 * 1024**2
OLDER_FILES = 4
"""A file that is full becomes `<name>.1`, that one `.2`, …; the oldest goes."""


def configure(level: str, as_json: bool, file: Path | None = None) -> None:
    """Send everything that is logged through the standard library to stderr, and to `file`, in one form.

    Replaces earlier handlers. Raises SettingsError where `file` cannot be written; later, a full disk costs only lines.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    handlers[0].setFormatter(_formatter(as_json, colors=sys.stderr.isatty()))
    if file is not None:
        handlers.append(_open(file))
        handlers[1].setFormatter(_formatter(as_json, colors=False))
    logging.basicConfig(level=level, handlers=handlers, force=True)


def _add_time(_logger: object, _name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """When it happened: the same in every place it is written to."""
    at = datetime.fromtimestamp(event["_record"].created, UTC)
    return {**event, "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"}


def _open(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=OLDER_FILES, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"EXECUTOR_LOG_FILE: {file} cannot be written: {error.strerror}") from None


def _formatter(as_json: bool, colors: bool) -> logging.Formatter:
    add: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_time,
    ]
    final: list[structlog.types.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # the default formatter prints every local variable of a traceback, and some hold secrets
        plain = structlog.dev.plain_traceback
        final += [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=add, processors=final)
