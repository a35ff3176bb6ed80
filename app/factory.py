"""Builds the Flask application. Everything that a request needs is in `app/context.py`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flask import Flask

from app.artifacts import DirectoryStorage
from app.clock import utc_now
from app.context import Context
from app.database import Database, engine_options, prepare
from app.extensions import db, migrate
from app.hints import Hinter
from config import Settings


def create_app(settings: Settings, now: Callable[[], datetime] = utc_now) -> Flask:
    """An application on these settings; touches no table and starts no thread."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = Flask(__name__, static_folder=None)
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.database_url)
    db.init_app(app)
    migrate.init_app(app)
    with app.app_context():
        prepare(db.engine)
        database = Database(db.engine)
    hint_url = f"http://{settings.daemon_notification_host}:{settings.daemon_notification_port}/"
    hinter = Hinter(hint_url, settings.daemon_notification_secret)
    storage = DirectoryStorage(settings.artifacts_root)
    app.extensions["wes"] = Context(settings, database, storage, hinter, now)
    return app
