"""What the API's resources have in common."""

from __future__ import annotations

from typing import Any

import flask_restx
from flask import request


class Resource(flask_restx.Resource):
    """Flask-RESTX would make one for each request, and weigh media types for each answer. All is JSON here, and checks
    are our own."""

    init_every_request = False

    def dispatch_request(self, **names: str) -> Any:
        method = "get" if request.method == "HEAD" else request.method.lower()
        return getattr(self, method)(**names)
