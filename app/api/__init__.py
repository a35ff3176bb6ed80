"""The WES API: Flask-RESTX resources. They parse, call `app.runs`, and answer plain dicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response
from flask_restx import Api, Model, Namespace

from app.api import files, models, pipelines, runs, service, tasks
from app.api.addresses import BASE_PATH, PIPELINES_PATH
from app.version import VERSION


class WesApi(Api):
    """Answers JSON, whatever is asked for, and leaves errors to the application, which answers them in one place."""

    def make_response(self, data: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """Flask-RESTX would weigh media types first, of which there is one."""
        return Response(json.dumps(data) + "\n", code, headers, content_type="application/json")

    def error_router(self, original_handler: Callable[[Exception], Response], error: Exception) -> Response:
        return original_handler(error)


def register(app: Flask) -> None:
    """Add the API, the pipeline engine's own, a Swagger page for each at their `/docs`, and the health pages."""
    described = "GA4GH WES 1.1.0 with additions. The same API answers under /api/ga4gh/wes/v1."
    wes = WesApi(
        app,
        version=VERSION,
        title="Workflow Execution Service",
        description=f"{described} The pipeline engine's own API: [{PIPELINES_PATH}/docs]({PIPELINES_PATH}/docs).",
        prefix=BASE_PATH,
        doc="/docs",
    )
    _fill(wes, models.ALL, (runs.ns, tasks.ns, files.ns, service.ns))
    blueprint = Blueprint("pipelines", __name__, url_prefix=PIPELINES_PATH)
    engine = WesApi(
        blueprint,
        version=VERSION,
        title="Pipelines",
        description="The pipeline engine's own API. Its workflows are runs of the [WES API](/docs) too.",
        doc="/docs",
    )
    _fill(engine, models.OF_PIPELINES, (pipelines.ns, pipelines.health_ns))
    app.register_blueprint(blueprint)
    service.register(app)
    app.after_request(_harden)


def _fill(api: Api, described: Iterable[Model], parts: Iterable[Namespace]) -> None:
    for model in described:
        api.models[model.name] = model
    for part in parts:
        api.add_namespace(part)


def _harden(response: Response) -> Any:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response
