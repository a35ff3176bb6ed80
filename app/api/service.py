"""What the service says of itself: service-info, its health, and how to get credentials. Public."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response
from flask_restx import Namespace

from app import fleet, routing
from app.api.addresses import root_url
from app.api.resource import Resource
from app.api.shapes import Json, timestamp
from app.auth import current_user_or_nobody
from app.context import current
from app.readiness import database_problem, storage_problem
from app.runs import counts
from app.states import State
from app.submissions import known_offers
from app.version import VERSION

WES_VERSIONS = ["1.0", "1.0.0", "1.1", "1.1.0"]
AUTH_INSTRUCTIONS = """Authorization

This service listens on this machine only and asks for no credentials: whoever can reach it is the user "local".
To offer it to other machines, put an authenticating proxy in front of it.
"""
INSTALLED_AT = timestamp(datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC))
"""When this code came to this machine."""
ns = Namespace("service", "What this service is and can run", path="/service-info")


@ns.route("", endpoint="service_info")
class ServiceInfo(Resource):
    def get(self) -> Json:
        """Get what this service is, and what it can run"""
        return _identity() | _abilities() | {"system_state_counts": _state_counts()}


def register(app: Flask) -> None:
    """Add the routes that lie outside the base path."""
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/readyz", "readyz", readyz)
    app.add_url_rule("/auth-instructions", "auth_instructions", auth_instructions)


def healthz() -> Json:
    """The process answers."""
    return {"status": "ok"}


def readyz() -> tuple[Json, int]:
    """Runs can be accepted: 200. Whether a daemon lives to start them is said, but changes no status."""
    context = current()
    if problem := database_problem(context.database) or storage_problem(context.storage):
        return {"msg": problem, "status_code": 503}, 503
    with context.database.reading() as session:
        daemons = fleet.living(session, context.now() - fleet.ALIVE_FOR)
    alive = [{"hostname": d.hostname, "version": d.version, "last_seen": timestamp(d.last_seen)} for d in daemons]
    problems = {
        provider: offer["problem"]
        for daemon in daemons
        for provider, offer in daemon.offers.items()
        if offer["problem"]
    }
    return {"status": "ok", "daemons": alive, "provider_problems": problems}, 200


def auth_instructions() -> Response:
    return Response(AUTH_INSTRUCTIONS, mimetype="text/plain")


def _identity() -> Json:
    settings = current().settings
    return {
        "id": settings.service_id,
        "name": settings.service_name,
        "type": {"group": "org.ga4gh", "artifact": "wes", "version": "1.1.0"},
        "description": "Runs workflows at every place that is configured here, behind the GA4GH WES API.",
        "organization": {"name": settings.organization_name, "url": settings.organization_url},
        "contactUrl": settings.contact_info_url,
        "documentationUrl": f"{root_url()}/docs",
        "createdAt": settings.service_created_at,
        "updatedAt": INSTALLED_AT,
        "environment": settings.service_environment,
        "version": VERSION,
    }


def _abilities() -> dict[str, Any]:
    offers = known_offers(current())
    types, engines = routing.workflow_type_versions(offers), routing.workflow_engine_versions(offers)
    return {
        "supported_wes_versions": WES_VERSIONS,
        "supported_filesystem_protocols": routing.filesystem_protocols(offers),
        "workflow_type_versions": {name: {"workflow_type_version": versions} for name, versions in types.items()},
        "workflow_engine_versions": {name: {"workflow_engine_version": versions} for name, versions in engines.items()},
        "default_workflow_engine_parameters": [
            {"name": name, "type": kind, "default_value": default}
            for name, kind, default in routing.default_parameters(offers)
        ],
        "auth_instructions_url": f"{root_url()}/auth-instructions",
        "tags": {f"provider:{name}": json.dumps(dict(offer.capabilities)) for name, offer in offers.items()},
    }


def _state_counts() -> dict[str, int]:
    """Of the caller's own runs; zeros for somebody without credentials."""
    user = current_user_or_nobody()
    if user is None:
        return dict.fromkeys(State, 0)
    with current().database.reading() as session:
        return {str(state): count for state, count in counts.by_state(session, user).items()}
