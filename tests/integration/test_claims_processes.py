"""Several real processes claim at once, also while some are killed: nobody gets what another holds, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select

from app.clock import utc_now
from app.database import Database
from app.models import RunEvent, WorkflowRun
from app.states import State

ROOT = Path(__file__).parents[2]
RUNS = 2000
PROCESSES = 4


@pytest.fixture
def queued(database: Database) -> Database:
    now = utc_now()
    usual = {
        "name": "r",
        "state": State.QUEUED,
        "owner": "ann",
        "workflow_type": "CWL",
        "workflow_type_version": "v1.2",
    }
    usual |= {"workflow_url": "a.cwl", "workflow_params": {}, "workflow_engine_parameters": {}, "tags": {}}
    usual |= {"submitted_at": now, "due_at": now, "provider_type": "local", "provider_metadata": {}}
    rows = [{"run_id": str(UUID(int=number)), **usual} for number in range(RUNS)]
    database.transact(lambda session: session.execute(insert(WorkflowRun), rows))
    return database


@dataclass(frozen=True)
class Claim:
    run_id: str
    token: str
    at: float


class Claimers:
    """Processes that claim, and one pipe on which all of them tell of it."""

    def __init__(self, url: str, lease: float, ends: bool) -> None:
        self._url, self._lease, self._ends = url, lease, ends
        self._reader, self._writer = os.pipe()
        self.living: dict[str, subprocess.Popen[bytes]] = {}
        self._names = (f"claimer{number}" for number in count(1))

    def start(self) -> None:
        name = next(self._names)
        arguments = [self._url, name, str(self._writer), str(self._lease), str(int(self._ends))]
        command = [sys.executable, "-m", "tests.claimer", *arguments]
        self.living[name] = subprocess.Popen(command, cwd=ROOT, pass_fds=(self._writer,))

    def replace(self, name: str) -> None:
        """kill -9, and another in its place."""
        victim = self.living.pop(name)
        victim.kill()
        victim.wait()
        self.start()

    def claims(self, kills: int = 0) -> Iterator[Claim]:
        """As they come, until no process is left that could claim. Kills so many that have just claimed."""
        with os.fdopen(self._reader) as lines:
            if not kills:
                os.close(self._writer)
            for number, line in enumerate(lines, 1):
                run_id, token, at = line.split()
                yield Claim(run_id, token, float(at))
                name = token.split(":")[0]
                if kills and number % (RUNS // 20) == 0 and name in self.living:
                    self.replace(name)
                    kills -= 1
                    if not kills:
                        os.close(self._writer)

    def wait(self) -> list[int]:
        return [process.wait() for process in self.living.values()]


@contextmanager
def claimers(database: Database, lease: float, ends: bool) -> Iterator[Claimers]:
    started = Claimers(database.engine.url.render_as_string(hide_password=False), lease, ends)
    for _ in range(PROCESSES):
        started.start()
    try:
        yield started
    finally:
        for process in started.living.values():
            process.kill()
            process.wait()


def test_nobody_gets_what_another_holds(queued: Database) -> None:
    with claimers(queued, lease=3600, ends=False) as processes:
        claimed = list(processes.claims())
        assert processes.wait() == [0] * PROCESSES
    assert len(claimed) == len({claim.run_id for claim in claimed}) == RUNS
    with queued.reading() as session:
        rows = session.execute(select(WorkflowRun.run_id, WorkflowRun.claim, WorkflowRun.unreleased_claims)).all()
    assert {(row.run_id, row.claim, row.unreleased_claims) for row in rows} == {
        (claim.run_id, claim.token, 1) for claim in claimed
    }


def test_killed_claimers_lose_nothing(queued: Database) -> None:
    """kill -9 of eight claimers in full swing; what they held comes back when their leases run out, not before."""
    lease = 1.0
    claimed: dict[str, list[Claim]] = defaultdict(list)
    with claimers(queued, lease, ends=True) as processes:
        for claim in processes.claims(kills=8):
            claimed[claim.run_id].append(claim)
        assert processes.wait() == [0] * PROCESSES
    assert set(claimed) == {str(UUID(int=number)) for number in range(RUNS)}
    for history in claimed.values():
        history.sort(key=lambda claim: claim.at)
        for earlier, later in pairwise(history):
            assert later.at >= earlier.at + lease
    with queued.reading() as session:
        states = session.execute(select(WorkflowRun.state, func.count()).group_by(WorkflowRun.state)).all()
        ends = session.execute(select(RunEvent.run_id, RunEvent.by).where(RunEvent.to_state == State.COMPLETE)).all()
    assert [tuple(state) for state in states] == [(State.COMPLETE, RUNS)]
    assert len(ends) == RUNS
    assert {(end.run_id, end.by) for end in ends} == {
        (run_id, history[-1].token) for run_id, history in claimed.items()
    }
    assert any(len(history) > 1 for history in claimed.values()), "no kill met a claim, so nothing was shown"
