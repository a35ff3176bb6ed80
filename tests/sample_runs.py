"""Runs in every state, made by the same functions that API and daemon use: for tests that need something to show."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app import fleet
from app.artifacts import ArtifactStorage
from app.database import Database
from app.models import Daemon, WorkflowRun
from app.runs import acceptance, claims, listing, transitions
from app.runs.acceptance import AttachedFile, NewRun
from app.runs.claims import Claimant
from app.runs.transitions import End
from app.states import State, is_terminal

HOST, TOKEN, LEASE = "test-host", "test-daemon:1", timedelta(seconds=60)
DAEMON = "daemon"


class SampleRuns:
    """Plays user and daemon on one database; every step happens at the clock's present time."""

    def __init__(self, database: Database, storage: ArtifactStorage, now: Callable[[], datetime]) -> None:
        self.database, self.storage, self.now = database, storage, now
        self._numbers = count(1)

    def accept(self, name: str = "sample", **changes: Any) -> str:
        """A QUEUED run; its id is a number that grows."""
        usual: dict[str, Any] = {
            "run_id": str(UUID(int=next(self._numbers) << 96 | 0x4000_8000 << 48)),
            "owner": "local",
            "name": name,
            "provider_type": "local",
            "workflow_type": "CWL",
            "workflow_type_version": "v1.2",
            "workflow_url": "workflow.cwl",
            "workflow_params": {},
        }
        new = NewRun(**usual | changes)
        return self.database.transact(lambda session: acceptance.accept(session, new, self.now()))

    def start(self, run_id: str, request: Mapping[str, Any] | None = None, **values: Any) -> None:
        """QUEUED -> INITIALIZING -> RUNNING at the provider `local-<run_id>`. `request`: what the provider prepared."""

        def submit(session: Session, run: WorkflowRun) -> None:
            facts: dict[str, Any] = {"attempt": 1, "submit_request": request}
            transitions.move(session, run, State.INITIALIZING, self.now(), by=DAEMON, **facts)
            transitions.record_provider_id(session, run_id, f"local-{run_id[:8]}", self.now(), by=DAEMON)

        self._with_claim(run_id, submit)
        self.move(run_id, State.RUNNING, start_time=self.now(), **values)

    def move(self, run_id: str, to: State, **values: Any) -> None:
        self._with_claim(run_id, lambda s, run: transitions.move(s, run, to, self.now(), by=DAEMON, **values))

    def end(self, run_id: str, state: State, note: str = "ended", **values: Any) -> None:
        """`values` as `End` takes them."""
        end = End(state, note, **values)
        self._with_claim(run_id, lambda s, run: transitions.finish(s, run, end, self.now(), by=DAEMON))

    def postpone(self, run_id: str, waiting_for: str) -> None:
        """A daemon looked at the run and gave it back."""
        self._with_claim(
            run_id,
            lambda s, run: claims.release(s, TOKEN, [run_id], self.now(), timedelta(0), waiting_for=waiting_for),
        )

    def set_tasks(self, run_id: str, tasks: Sequence[Mapping[str, Any]]) -> None:
        self._with_claim(run_id, lambda s, run: transitions.note_tasks(s, run, tasks))

    def accept_pipeline(self, document: Mapping[str, Any], sheets: Mapping[str, Any] | None = None) -> str:
        """A pipeline that a daemon has taken."""
        run_id = self.accept("pipeline", provider_type="dag", workflow_type="DAG", workflow_type_version="1.0")
        self.start(run_id, {"document": document, "sheets": sheets or {}})
        return run_id

    def accept_step(
        self, parent_id: str, step: str, state: State, shard: int = 0, try_number: int = 1, **end: Any
    ) -> str:
        """A run of a pipeline's step that has come to this state; `end` as `End` takes it."""
        place: dict[str, Any] = {"parent_id": parent_id, "step": step, "shard": shard, "try_number": try_number}
        run_id = self.accept(step, **place)
        if state != State.QUEUED:
            self.start(run_id)
        if is_terminal(state):
            self.end(run_id, state, **({"reason": "any"} if state == State.SYSTEM_ERROR else {}), **end)
        return run_id

    def attach(self, text: str | bytes, path: str) -> AttachedFile:
        """A file in artifact storage, to be accepted with a run."""
        upload = self.storage.new_upload()
        try:
            upload.write(text.encode() if isinstance(text, str) else text)
            return AttachedFile(path, *upload.keep())
        finally:
            upload.close()

    def log(self, run_id: str, name: str, text: str) -> None:
        self.storage.log_sink(run_id, 10_000_000).append(name, io.BytesIO(text.encode()))

    def output(self, run_id: str, path: str, content: bytes) -> dict[str, Any]:
        """Keep a file; returns the CWL File object that names it."""
        location = self.storage.output_sink(run_id).put_stream(path, io.BytesIO(content))
        return {"class": "File", "location": location, "basename": path.rpartition("/")[2], "size": len(content)}

    def sign_on_daemon(self) -> None:
        """From now on a daemon is alive."""
        now = self.now()
        daemon = Daemon(id=HOST, host=HOST, hostname="here", version="0", started_at=now, last_seen=now, offers={})
        self.database.transact(lambda session: fleet.sign_on(session, daemon))

    def _with_claim(self, run_id: str, work: Callable[[Session, WorkflowRun], Any]) -> None:
        def claim_and_work(session: Session) -> None:
            who = Claimant(listing.get_run(session, run_id, None).provider_type, HOST, TOKEN, LEASE)
            due = claims.claim_known(session, who, self.now(), 1000) + claims.claim_new(session, who, self.now(), 1000)
            (run,) = [run for run in due if run.run_id == run_id]
            work(session, run)
            claims.release(session, TOKEN, [run.run_id for run in due], self.now(), timedelta(0), observed=True)

        self.database.transact(claim_and_work)


def task(task_id: str, name: str | None = None, **columns: Any) -> dict[str, Any]:
    """Columns of a TaskLog."""
    usual = {
        "task_id": task_id,
        "name": name or task_id,
        "cmd": [],
        "start_time": None,
        "end_time": None,
        "exit_code": None,
        "system_logs": [],
        "has_stdout": False,
        "has_stderr": False,
    }
    return usual | columns
