"""Builds the Flask application. Everything that a request needs is in `app/context.py`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Semaphore
from typing import Any

from flask import Flask, Request, Response, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from app import api, auth, cli, metrics, request_metrics, web
from app.api import errors
from app.api.addresses import AliasPrefix, NameConverter, is_api_path
from app.artifacts import make_storage
from app.clock import utc_now
from app.context import Context
from app.credentials import Vault
from app.database import Database, engine_options, prepare
from app.extensions import db, migrate
from app.hints import Hinter
from app.intake import Intake
from app.paging import PageTokens
from app.recent_offers import RecentOffers
from app.run_requests import FIELDS
from app.uploads import UploadRequest
from app.watching import Waiters
from config import Settings


class PageSessions(SecureCookieSessionInterface):
    """The API has none."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        return None if is_api_path(request.path) else super().open_session(app, request)


class Application(Flask):
    """Flask, with the API's errors answered in one place, whoever registers handlers for the pages."""

    request_class = UploadRequest
    session_interface = PageSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Nothing here is async: Flask would look nine times for each request."""
        return func

    def handle_user_exception(self, e: Exception) -> HTTPException | ResponseReturnValue:
        return errors.respond(e) if is_api_path(request.path) else super().handle_user_exception(e)

    def handle_exception(self, e: Exception) -> Response:
        return errors.respond(e) if is_api_path(request.path) else super().handle_exception(e)


MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def create_app(
    settings: Settings,
    now: Callable[[], datetime] = utc_now,
    identify: auth.Identify = auth.identify_local,
) -> Flask:
    """An application on these settings; touches no table and starts no thread."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = Application(__name__, static_folder=None)
    app.url_map.strict_slashes = False  # a redirect would turn a POST into a GET
    app.url_map.merge_slashes = False
    app.url_map.converters["string"] = NameConverter
    app.config.from_mapping(_flask_settings(settings))
    db.init_app(app)
    migrate.init_app(app, directory=str(MIGRATIONS))
    app.extensions["wes"] = _context(app, settings, now)
    request_metrics.register(app)
    auth.register(app, settings, identify)
    api.register(app)
    web.register(app, settings)
    cli.register(app)
    _wrap(app, settings)
    return app


def _flask_settings(settings: Settings) -> dict[str, object]:
    return {
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": engine_options(settings.database_url),
        "SECRET_KEY": settings.signing_key(),
        "MAX_CONTENT_LENGTH": settings.max_request_bytes,
        "MAX_FORM_MEMORY_SIZE": settings.max_field_bytes,
        "MAX_FORM_PARTS": settings.max_attachments + len(FIELDS),
        "RESTX_MASK_SWAGGER": False,
    }


def _context(app: Flask, settings: Settings, now: Callable[[], datetime]) -> Context:
    with app.app_context():
        prepare(db.engine)
        database = Database(db.engine)
    database.listeners.append(metrics.count)
    hint_url = f"http://{settings.daemon_notification_host}:{settings.daemon_notification_port}/"
    return Context(
        settings,
        database,
        make_storage(settings),
        Intake(),
        RecentOffers(),
        Hinter(hint_url, settings.daemon_notification_secret),
        PageTokens(settings.signing_key()),
        Waiters(settings.max_waiters),
        Vault(settings.credential_keys()),
        Semaphore(settings.max_uploads),
        now,
    )


def _wrap(app: Flask, settings: Settings) -> None:
    """WSGI layers, the innermost first. Forwarded headers count only behind as many proxies as are declared."""
    app.wsgi_app = AliasPrefix(app.wsgi_app)  # type: ignore[method-assign]
    if hops := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, hops, hops, hops, 0, hops)  # type: ignore[method-assign]
