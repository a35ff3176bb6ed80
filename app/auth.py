"""Who asks, and whether this request may be served at all: deny by default.

Without accounts the service listens on loopback only and everybody is `local`. Because any web page can reach
localhost, the Host header is held against a list (DNS rebinding), and requests that change something may not come from
other sites.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Flask, Request, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Forbidden, Unauthorized

from config import LOOPBACK_HOSTS, Settings

LOCAL_USER = "local"
PUBLIC_ENDPOINTS = frozenset(
    {
        "service_info",
        "auth_instructions",
        "healthz",
        "readyz",
        "doc",
        "specs",
        "restx_doc.static",
        "bootstrap.static",
        "web.static",
    }
)
"""What is served without credentials. Everything else answers 401 to nobody."""

Identify = Callable[[Request], str | None]
"""The user that a request's credentials prove; None where they prove nobody."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CORS_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Range, X-BVBRC-Token",
    "Access-Control-Expose-Headers": "Content-Range, Retry-After",
}


def identify_local(request: Request) -> str | None:
    """On loopback without accounts everybody is the same user."""
    return LOCAL_USER


def register(app: Flask, settings: Settings, identify: Identify) -> None:
    """Check every request of this application before anything else sees it."""

    names = _own_names(settings)

    @app.before_request
    def check() -> None:
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]
        if _hostname(f"//{asked.host}") not in names:
            raise BadRequest("This service is not known under that Host name. Names to accept go into ALLOWED_HOSTS.")
        if asked.method not in _SAFE:
            _check_origin(asked, settings)
        g.user = user = identify(asked)
        if user is None and not _is_public(asked):
            raise Unauthorized("Credentials are needed.", www_authenticate=WWWAuthenticate("basic", {"realm": "wes"}))

    @app.after_request
    def allow_listed_origins(response: Response) -> Response:
        if settings.allowed_origins:
            origin = request.headers.get("Origin")
            if origin in settings.allowed_origins:
                response.headers.extend({"Access-Control-Allow-Origin": origin, **_CORS_HEADERS})
            response.vary.add("Origin")
        return response


def current_user() -> str:
    """The owner that every query of this request is limited to."""
    return str(g.user)


def current_user_or_nobody() -> str | None:
    """For public endpoints, which show more to somebody: None where the request has no valid credentials."""
    return g.user  # type: ignore[no-any-return]


def _own_names(settings: Settings) -> frozenset[str]:
    public = urlsplit(settings.public_url).hostname
    return frozenset({*LOOPBACK_HOSTS, *(name.lower() for name in settings.allowed_hosts), *filter(None, [public])})


def _is_public(asked: Request) -> bool:
    return asked.endpoint in PUBLIC_ENDPOINTS or asked.endpoint is None or asked.method == "OPTIONS"


def _check_origin(asked: Request, settings: Settings) -> None:
    origin = asked.headers.get("Origin")
    if origin is not None:
        if origin not in {_origin(asked.host_url), _origin(settings.public_url), *settings.allowed_origins}:
            raise Forbidden("Requests from other web sites are refused. Origins to accept go into ALLOWED_ORIGINS.")
    elif asked.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("Requests from other web sites are refused.")


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def _hostname(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
