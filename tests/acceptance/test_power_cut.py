"""I1: what was accepted survives a kill -9 and a power cut at any moment. Real processes, and the disk at its worst."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from sqlalchemy import text

from app.artifacts import DirectoryStorage
from app.database import Database
from app.runs import listing
from app.runs.listing import RunFilter
from tests.power_cut import Call, Disk, is_whole, read_calls, recording
from tests.services import START_SECONDS, Services

FORM = {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": "main.cwl"}
RUNS = 24
OTHER_CUTS = 60


@pytest.fixture
def _strace() -> None:
    if shutil.which("strace") is None:
        assert os.environ.get("CI") != "true", "CI=true, but there is no strace"
        pytest.skip("strace is not installed: apt-get install strace")


@pytest.mark.usefixtures("_strace")
def test_what_was_accepted_survives_a_power_cut(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with Services({"DATA_DIR": str(tmp_path / "data")}, start=False) as services:
        services.migrate()
        disk = Disk(tmp_path / "data")
        services.prefix = recording(record)
        services.start_api()
        sent = submit_runs(services)
        services.stop("api")
        await_end(record)
    calls = list(read_calls(record))
    answers = {number: run_id for number, call in enumerate(calls) if (run_id := answered(call))}
    assert set(answers.values()) == set(sent)
    others = range(0, len(calls), len(calls) // OTHER_CUTS)
    accepted: dict[str, bytes] = {}
    for number, call in enumerate(calls):
        disk.apply(call)
        if number in answers:
            accepted[answers[number]] = sent[answers[number]]
        if number in answers or number in others:
            for all_written in (False, True):
                check(disk, tmp_path / "left", all_written, accepted)


def submit_runs(services: Services) -> dict[str, bytes]:
    """One after the other, then several at once, in both halves some with equal attachments that are new.

    run_id -> the attachment's bytes.
    """

    def submit(number: int) -> tuple[str, bytes]:
        content = b"cwlVersion: v1.2\n" * (100 + (number % 7 if number < RUNS // 2 else 10 + number // 4))
        files = {"workflow_attachment": ("main.cwl", content)}
        answer = requests.post(f"{services.url}/runs", data=FORM, files=files, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["run_id"], content

    with ThreadPoolExecutor(8) as pool:
        return dict([*map(submit, range(RUNS // 2)), *pool.map(submit, range(RUNS // 2, RUNS))])


def await_end(record: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_whole(record):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answered(call: Call) -> str | None:
    """The run whose acceptance this call tells a client."""
    found = re.search(rb'"run_id": *"([^"]+)"', b"".join(call.strings)) if call.path.startswith("socket:") else None
    return found[1].decode() if found else None


def check(disk: Disk, where: Path, all_written: bool, accepted: dict[str, bytes]) -> None:
    """A start on what is left finds every accepted run, and every run that it finds is whole."""
    shutil.rmtree(where, ignore_errors=True)
    disk.leave(where, all_written)
    database, storage = Database.connect(f"sqlite:///{where / 'wes.sqlite'}"), DirectoryStorage(where / "artifacts")
    with database.reading() as session:
        assert session.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        found = {run.run_id for run in listing.list_runs(session, None, RunFilter(), 1000).runs}
        files = {run_id: listing.get_attachments(session, run_id) for run_id in found}
    database.engine.dispose()
    assert found >= set(accepted)
    for run_id, attached in files.items():
        assert [file.path for file in attached] == ["main.cwl"]
        with storage.blob(attached[0].sha256).open() as blob:
            data = blob.read()
        assert hashlib.sha256(data).hexdigest() == attached[0].sha256
        assert accepted.get(run_id, data) == data
