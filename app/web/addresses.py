"""Where the pages link to in the API: the JSON twins, logs and output files. Knows addresses, nothing else."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from flask import request

from app.context import current
from app.web.formatting import format_iso
from app.web.run_query import RunQuery

API_PATH = "/ga4gh/wes/v1"


def api_url(*parts: str, **query: str) -> str:
    """An address below the API's base path, on this host; `parts` may hold slashes."""
    path = "".join(f"/{quote(part)}" for part in parts)
    return f"{request.script_root}{API_PATH}{path}{'?' if query else ''}{urlencode(query)}"


def api_root() -> str:
    """The API's base URL as it is reached from elsewhere: the configured address, else the one of this request."""
    return (current().settings.public_url.rstrip("/") or request.url_root.rstrip("/")) + API_PATH


def docs_url() -> str:
    """The API's own documentation."""
    return f"{request.script_root}/docs"


def twin_query(query: RunQuery) -> dict[str, str]:
    """The filters of the runs page, as the API spells them."""
    which = query.which
    said = {
        "state": ",".join(which.states),
        "name": which.name,
        "workflow_type": which.workflow_type,
        "since": format_iso(which.since) if which.since else None,
        **{f"tag.{key}": value for key, value in which.tags},
    }
    return {name: value for name, value in said.items() if value}
