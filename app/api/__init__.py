"""The WES API: Flask-RESTX resources. They parse, call `app.runs`, and answer plain dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response
from flask_restx import Api

from app.api import files, models, pipelines, runs, service, tasks
from app.api.addresses import BASE_PATH
from app.version import VERSION


class WesApi(Api):
    """Leaves errors to the application, which answers them all in one place."""

    def error_router(self, original_handler: Callable[[Exception], Response], error: Exception) -> Response:
        return original_handler(error)


def register(app: Flask) -> None:
    """Add the API, its Swagger page at /docs, and the health pages."""
    api = WesApi(
        app,
        version=VERSION,
        title="Workflow Execution Service",
        description="GA4GH WES 1.1.0 with additions. The same API answers under /api/ga4gh/wes/v1.",
        prefix=BASE_PATH,
        doc="/docs",
    )
    for model in models.ALL:
        api.models[model.name] = model
    for part in (runs, tasks, files, service):
        api.add_namespace(part.ns)
    service.register(app)
    app.register_blueprint(pipelines.blueprint)
    app.after_request(_harden)


def _harden(response: Response) -> Any:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response
