"""Requests as Prometheus sees them: counted and timed by the template of their route. Knows no run."""

from __future__ import annotations

import logging
import time
from functools import cache

from flask import Flask, Request, Response, g, request
from prometheus_client import Counter, Histogram

from app.metrics import CONTENT_TYPE, OTHER, exposition

log = logging.getLogger(__name__)

PATH = "/metrics"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "none"

REQUESTS = Counter("wes_http_requests_total", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "wes_http_request_duration_seconds",
    "From a request to its answer, without the bytes of files; not of those that wait for a state",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


def register(app: Flask) -> None:
    """Add the page, and measure every request of this application. Comes first: others are measured with it."""
    app.before_request(_begin)
    app.after_request(_end)
    app.add_url_rule(PATH, "metrics", lambda: Response(exposition(), content_type=CONTENT_TYPE))


def _begin() -> None:
    g.began = time.perf_counter()


def _end(response: Response) -> Response:
    try:
        _count(request._get_current_object(), response.status_code, time.perf_counter() - g.began)  # type: ignore[attr-defined]
    except OSError:  # somebody took the directory away in which the workers count together
        log.warning("a request is not counted", exc_info=True)
    return response


def _count(asked: Request, status: int, seconds: float) -> None:
    method = asked.method if asked.method in METHODS else OTHER
    route = asked.url_rule.rule if asked.url_rule else NO_ROUTE
    _counter(method, route, status).inc()
    if not asked.query_string or "wait" not in asked.args:
        _histogram(method, route).observe(seconds)


_counter, _histogram = cache(REQUESTS.labels), cache(SECONDS.labels)
