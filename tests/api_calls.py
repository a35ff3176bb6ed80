"""Short ways to call the API in tests, and a living daemon that offers cwltool."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import fleet
from app.daemon.providers.provider_interface import Capabilities, EngineOffer
from app.database import Database
from app.models import Daemon

BASE = "/ga4gh/wes/v1"
ALIAS = f"/api{BASE}"
EDGE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what is decided before any database is asked."""
CWLTOOL = EngineOffer("cwltool", "3.3", {"CWL": ("v1.0", "v1.1", "v1.2")}, (("outdir", "string", "out"),))
OFFERS = {
    "local": {
        "engines": [asdict(CWLTOOL)],
        "capabilities": asdict(Capabilities(task_logs=True, filesystem_protocols=("file", "http", "https"))),
        "problem": None,
    }
}
HELLO = {
    "workflow_url": "https://example.org/hello.cwl",
    "workflow_type": "CWL",
    "workflow_type_version": "v1.2",
    "workflow_params": {"who": "world"},
}


def sign_on(database: Database, now: datetime, offers: dict[str, Any] | None = None) -> None:
    """From now on a daemon is alive that offers this; by default cwltool at the local provider."""
    daemon = Daemon(
        id="d1", host="h1", hostname="here", version="0", started_at=now, last_seen=now, offers=offers or OFFERS
    )
    database.transact(lambda session: fleet.sign_on(session, daemon))


def post(client: FlaskClient, fields: dict[str, Any] | None = None, base: str = BASE, **more: Any) -> TestResponse:
    """POST /runs with a JSON body: HELLO with these changes."""
    return client.post(f"{base}/runs", json=HELLO | (fields or {}), **more)


def run(client: FlaskClient, fields: dict[str, Any] | None = None, **more: Any) -> str:
    """The run_id of an accepted run."""
    answer = post(client, fields, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json["run_id"])


def post_form(client: FlaskClient, path: str = "/runs", **fields: Any) -> TestResponse:
    """A multipart form; `attachments`: name -> bytes."""
    files = [("workflow_attachment", name, content) for name, content in fields.pop("attachments", {}).items()]
    texts = [(name, None, value.encode()) for name, value in fields.items()]
    return client.post(BASE + path, **multipart(*texts, *files))


def multipart(*parts: tuple[str, str | None, bytes], boundary: str = "b0undary") -> dict[str, Any]:
    """Body and content type of hand-made parts: (field name, filename or None, content), as they go over the wire."""
    body = b""
    for name, filename, content in parts:
        said = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        body += f"--{boundary}\r\nContent-Disposition: {said}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return {"data": body, "content_type": f"multipart/form-data; boundary={boundary}"}


def error_of(answer: TestResponse) -> str:
    """The words of an error, after a look at its shape."""
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json) == {"msg", "status_code"}
    assert answer.json["status_code"] == answer.status_code
    assert isinstance(answer.json["msg"], str)
    assert answer.json["msg"]
    return str(answer.json["msg"])
