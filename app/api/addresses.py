"""The base path, its alias, and absolute URLs as clients can reach them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from flask import request
from werkzeug.routing import BaseConverter

from app.context import current

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BASE_PATH = "/ga4gh/wes/v1"
ALIAS_PREFIX = "/api"
PIPELINES_PATH = "/api/v1"
MACHINE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Outside the base path, and nothing that people look at."""


def is_api_path(path: str) -> bool:
    """True where answers, also errors, are JSON as WES defines it."""
    return path == BASE_PATH or path.startswith((f"{BASE_PATH}/", f"{PIPELINES_PATH}/")) or path in MACHINE_PATHS


class NameConverter(BaseConverter):
    """A part of a path that can be a name in the database: PostgreSQL takes no NUL."""

    regex = r"[^/\x00]+"
    part_isolating = True


class AliasPrefix:
    """WSGI: `/api/ga4gh/wes/v1/…` is the same API; as its SCRIPT_NAME is `/api`, absolute URLs stay under it."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path.startswith(f"{ALIAS_PREFIX}{BASE_PATH}") and is_api_path(path.removeprefix(ALIAS_PREFIX)):
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + ALIAS_PREFIX
            environ["PATH_INFO"] = path.removeprefix(ALIAS_PREFIX)
        return self._application(environ, start_response)


def root_url() -> str:
    """Where this service is reached: the configured address, else the one of this (checked) request. Without '/'."""
    return current().settings.public_url.rstrip("/") or request.host_url.rstrip("/")


def run_url(run_id: str) -> str:
    """The absolute URL of a run, under the base path that this request used."""
    return f"{root_url()}{request.script_root}{BASE_PATH}/runs/{quote(run_id, safe='')}"


def output_url(run_id: str, path: str) -> str:
    return f"{run_url(run_id)}/outputs/{quote(path)}"
