"""What accepts are measured against: Flask, one insert in one durable transaction by the bare driver, and nothing else.

python benchmarks/bare_app.py     # same settings, same server and same kind of database as application.py
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]

import psycopg  # noqa: E402
from flask import Flask, request  # noqa: E402
from sqlalchemy import make_url  # noqa: E402

from app import web_server  # noqa: E402
from app.database import BUSY_SECONDS, prepare_sqlite  # noqa: E402
from config import Settings  # noqa: E402

TABLE = "CREATE TABLE bare (id TEXT PRIMARY KEY, url TEXT)"
Insert = Callable[[str, str], None]


def create_app() -> Flask:
    app = Flask(__name__)
    insert = _inserter(Settings.load().database_url)

    @app.post("/runs")
    def accept() -> dict[str, str]:
        run_id = str(uuid.uuid4())
        insert(run_id, request.get_json()["workflow_url"])
        return {"run_id": run_id}

    @app.get("/healthz")
    def look() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _inserter(url: str) -> Insert:
    return _sqlite_inserter(url) if url.startswith("sqlite") else _postgresql_inserter(url)


def _sqlite_inserter(url: str) -> Insert:
    """One connection for the process, as SQLite has one writer at a time anyway."""
    connection = sqlite3.connect(make_url(url).database or "", BUSY_SECONDS, check_same_thread=False)
    prepare_sqlite(connection)
    lock = threading.Lock()

    def insert(run_id: str, workflow_url: str) -> None:
        with lock:
            connection.execute("INSERT INTO bare VALUES (?, ?)", (run_id, workflow_url))

    return insert


def _postgresql_inserter(url: str) -> Insert:
    mine = threading.local()
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    def insert(run_id: str, workflow_url: str) -> None:
        if not hasattr(mine, "connection"):
            mine.connection = psycopg.connect(conninfo, autocommit=True)
        mine.connection.execute("INSERT INTO bare VALUES (%s, %s)", (run_id, workflow_url))

    return insert


if __name__ == "__main__":
    sys.exit(web_server.serve(Settings.load(), "benchmarks.bare_app:create_app", ROOT))
