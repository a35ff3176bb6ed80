"""The `flask` commands of an administrator."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient

from app.artifacts import DirectoryStorage
from app.database import Database
from app.runs import deletion
from tests.api_calls import BASE, EDGE, post_form

FORM = {"workflow_url": "main.cwl", "workflow_type": "CWL"}


@EDGE
def test_engines_are_listed_and_wrong_names_are_said(app: Flask) -> None:
    shell = app.test_cli_runner()
    assert "No engine is installed" in shell.invoke(args=["engines", "list"]).output
    assert shell.invoke(args=["engines", "remove", "cwltool"]).output == "It was not installed.\n"
    unknown = shell.invoke(args=["engines", "install", "nonsense"])
    assert (unknown.exit_code, "There is no engine 'nonsense'" in unknown.output) == (1, True)


def test_a_sweep_removes_what_no_run_has(
    app: Flask, client: FlaskClient, database: Database, storage: DirectoryStorage
) -> None:
    kept, gone = (
        post_form(client, **FORM, attachments={"main.cwl": content}).json["run_id"] for content in (b"kept", b"gone")
    )
    client.post(f"{BASE}/runs/{gone}/cancel")
    database.transact(lambda session: deletion.delete_run(session, gone, "local"))
    (storage.root / "staging" / "of-a-killed-process").write_bytes(b"never accepted")
    shell = app.test_cli_runner()
    assert shell.invoke(args=["runs", "sweep"]).output == "Removed 0.\n", "all is younger than a day"
    assert shell.invoke(args=["runs", "sweep", "--older-than-hours", "-1"]).output == "Removed 2.\n"
    left = [path for path in storage.root.rglob("*") if path.is_file() and path.name != ".lock"]
    assert [path.read_bytes() for path in left] == [b"kept"]
    assert client.post(f"{BASE}/runs/{kept}/rerun").status_code == 200
