"""The web UI: pages made by the server, at `/`. Knows HTTP and HTML; never imports the API or the daemon.

views        parse, query, render                run_query    the runs page's query string
run_list     what the runs page shows            run_page     what a run's page shows
failure      why a run failed                    output_tree  its outputs as a tree
log_tail     its logs, from the end              formatting   times, sizes, durations in words
addresses    links into the API                  daemons      is anybody there to run it
step_graph   its steps and how they stand        known_steps  what never changes of them
"""

from __future__ import annotations

import logging

from flask import Flask, Response, make_response, render_template, request, url_for
from flask_bootstrap import Bootstrap5
from flask_wtf.csrf import CSRFError, CSRFProtect  # type: ignore[import-untyped]
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from app.context import current
from app.dag.layout import NODE_HEIGHT, NODE_WIDTH
from app.errors import Conflict, Forbidden, InvalidRequest, KeyReused, NotFound, StorageUnavailable, TooLarge, WesError
from app.states import TERMINAL
from app.web import addresses, formatting
from app.web.log_tail import TAIL_BYTES
from app.web.step_graph import NEEDS_SHOWN
from app.web.views import pages
from config import Settings

log = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",  # Bootstrap draws its own controls so
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_STATUS = {InvalidRequest: 400, Forbidden: 403, NotFound: 404, Conflict: 409, KeyReused: 422, TooLarge: 413}
_TITLES = {
    400: "This request is not understood",
    401: "Credentials are needed",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    503: "Not available for a while",
}
_csrf = CSRFProtect()


def register(app: Flask, settings: Settings) -> None:
    """Add the pages, and the error pages for whatever the API does not answer itself. SECRET_KEY must be set."""
    app.config.update(
        BOOTSTRAP_SERVE_LOCAL=True,
        SESSION_COOKIE_NAME="wes_session",  # cookies are shared by all ports of a host
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.public_url.startswith("https:"),
        WTF_CSRF_CHECK_DEFAULT=False,  # only the pages' forms carry a token; API requests are checked by app.auth
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
    )
    app.static_url_path = "/static"  # Bootstrap-Flask puts its own files beside it
    Bootstrap5(app)
    _csrf.init_app(app)
    app.register_blueprint(pages)
    app.register_error_handler(WesError, _show_wes_error)
    app.register_error_handler(HTTPException, _show_http_error)
    for away in (OperationalError, InterfaceError, PoolTimeout, StorageUnavailable):
        app.register_error_handler(away, _show_absence)


@pages.before_request
def _check_form_token() -> None:
    _csrf.protect()


@pages.errorhandler(CSRFError)
def _show_old_form(error: CSRFError) -> Response:
    return _show_problem(400, "This page was too old, or the form is not ours. Go back, reload the page and try again.")


@pages.after_request
def _protect(response: Response) -> Response:
    if request.endpoint != "web.static":
        response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _show_wes_error(error: WesError) -> Response:
    return _show_problem(_STATUS.get(type(error), 400), str(error))


def _show_http_error(error: HTTPException) -> Response:
    page = _show_problem(error.code or 500, error.description or error.name)
    page.headers.extend(header for header in error.get_headers() if header[0] != "Content-Type")
    return page


def _show_absence(error: OperationalError | InterfaceError | PoolTimeout | StorageUnavailable) -> Response:
    log.error("not available for a while", exc_info=error)
    page = _show_problem(
        503, "The database or the storage is overloaded or away. Runs that are under way go on. Try again soon."
    )
    page.headers["Retry-After"] = "5"
    return page


def _show_problem(status: int, words: str) -> Response:
    """A page for people that says what went wrong; asks nothing of the database."""
    title = _TITLES.get(status, "Something went wrong")
    return _protect(make_response(render_template("web/problem.html", title=title, words=words), status))


@pages.app_context_processor
def _words() -> dict[str, object]:
    """What every template may use."""
    return {
        "now": current().now(),
        "service_name": current().settings.service_name,
        "terminal": TERMINAL,
        "tail_bytes": TAIL_BYTES,
        "icons_url": url_for("web.static", filename="icons.svg"),
        "node_size": (NODE_WIDTH, NODE_HEIGHT),
        "needs_shown": NEEDS_SHOWN,
        "api_url": addresses.api_url,
        "api_root": addresses.api_root,
        "docs_url": addresses.docs_url,
        "iso": formatting.format_iso,
        "utc": formatting.format_utc,
        "format_age": formatting.format_age,
        "format_duration": formatting.format_duration,
        "format_size": formatting.format_size,
    }
