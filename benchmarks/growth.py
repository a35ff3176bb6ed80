"""What a million stored runs cost: the same questions to a database with 1,000 runs and to one with 1,000,000, in turn.

    .venv/bin/python -m benchmarks.growth [--runs 1000000] [--rounds 15] [--only sqlite|postgresql]

Prints the median time of each question on the small database, and the median ratio of pairs (large over small).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from app.database import Database
from app.models import Base, RunCount
from app.runs import claims, counts, listing
from app.runs.listing import RunFilter
from app.states import State
from tests.postgresql import Postgresql

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SMALL = 1_000
ACTIVE = 500  # of either database, so that claims find as much in both

_VALUES = """
INSERT INTO workflow_runs (run_id, name, state, owner, workflow_type, workflow_type_version, workflow_url,
    workflow_params, workflow_engine_parameters, tags, submitted_at, provider_type, provider_id, provider_metadata,
    attempt, due_at, hints, unreleased_claims, failures, shard, "try")
"""
_POSTGRESQL = """
SELECT 'run-' || n, 'run ' || n, CASE WHEN n <= :active THEN 'RUNNING' ELSE 'COMPLETE' END, 'local', 'CWL', 'v1.2',
    'a.cwl', '{}', '{}', '{}', CAST(:now AS timestamptz) - n * interval '1 second', 'fake', 'job-' || n, '{}', 1,
    CASE WHEN n <= :active THEN CAST(:now AS timestamptz) - interval '1 second' END, 0, 0, 0, 0, 1
FROM generate_series(1, :runs) AS n
"""
_SQLITE = """
WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :runs)
SELECT 'run-' || n, 'run ' || n, CASE WHEN n <= :active THEN 'RUNNING' ELSE 'COMPLETE' END, 'local', 'CWL', 'v1.2',
    'a.cwl', '{}', '{}', '{}', strftime('%Y-%m-%d %H:%M:%S.000000', :now, '-' || n || ' seconds'), 'fake',
    'job-' || n, '{}', 1,
    CASE WHEN n <= :active THEN strftime('%Y-%m-%d %H:%M:%S.000000', :now, '-1 seconds') END, 0, 0, 0, 0, 1
FROM series
"""
_TAGS = (
    "INSERT INTO run_tags (run_id, key, value) SELECT run_id, 'project', 'p' || (length(run_id) % 7) FROM workflow_runs"
)

Question = Callable[[Session], object]


def questions() -> dict[str, Question]:
    """What the daemon, the API and the pages ask all the time."""
    newest = RunFilter()
    who = claims.Claimant("fake", "host", "daemon:1", timedelta(seconds=60))
    return {
        "status of one run": lambda session: listing.get_state(session, "run-7", "local"),
        "one run": lambda session: listing.get_run(session, "run-7", "local"),
        "first page of 50": lambda session: listing.list_summaries(session, "local", newest, 50),
        "page by state": lambda session: listing.list_summaries(
            session, "local", RunFilter(states=(State.RUNNING,)), 50
        ),
        "page in the middle": lambda session: listing.list_summaries(
            session, "local", newest, 50, (NOW - timedelta(seconds=600), "run-600")
        ),
        "page by tag": lambda session: listing.list_summaries(
            session, "local", RunFilter(tags=(("project", "p6"),)), 50
        ),
        "counts by state": lambda session: counts.by_state(session, "local"),
        "bounded count": lambda session: listing.count_runs(session, "local", newest, 1000),
        "claim 500 due runs": lambda session: claims.claim_known(session, who, NOW, 500),
        "what is due": lambda session: claims.look_ahead(session, "fake", "host", NOW),
    }


def fill(database: Database, runs: int) -> None:
    Base.metadata.create_all(database.engine)
    source = _SQLITE if database.engine.dialect.name == "sqlite" else _POSTGRESQL
    now = NOW.strftime("%Y-%m-%d %H:%M:%S") if database.engine.dialect.name == "sqlite" else NOW
    with database.engine.begin() as connection:
        connection.execute(text(_VALUES + source), {"runs": runs, "active": ACTIVE, "now": now})
        connection.execute(text(_TAGS))
        rows = [{"state": "RUNNING", "n": ACTIVE}, {"state": "COMPLETE", "n": runs - ACTIVE}]
        connection.execute(insert(RunCount), [{"owner": "local", **row} for row in rows])
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


def seconds(database: Database, question: Question) -> float:
    """Asked in a transaction that is rolled back, so that a claim can be made again."""
    with database.engine.connect() as connection, Session(connection) as session:
        began = time.perf_counter()
        question(session)
        took = time.perf_counter() - began
        session.rollback()
    return took


@contextmanager
def databases(kind: str, runs: int) -> Iterator[tuple[Database, Database]]:
    with ExitStack() as stack:
        if kind == "sqlite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            urls = [f"sqlite:///{folder / name}.sqlite" for name in ("small", "large")]
        else:
            server = stack.enter_context(Postgresql())
            urls = [server.create_database(name) for name in ("small", "large")]
        pair = [Database.connect(url) for url in urls]
        for database, count in zip(pair, (SMALL, runs), strict=True):
            fill(database, count)
        yield pair[0], pair[1]
        for database in pair:
            database.engine.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    for kind in [given.only] if given.only else ["sqlite", "postgresql"]:
        with databases(kind, given.runs) as (small, large):
            print(f"\n{kind}: {given.runs:,} runs stored over {SMALL:,}")
            for name, question in questions().items():
                pairs = [(seconds(small, question), seconds(large, question)) for _ in range(given.rounds)]
                ratio = statistics.median(b / a for a, b in pairs)
                print(f"  {name:24} {statistics.median(a for a, _ in pairs) * 1000:8.2f} ms   ratio {ratio:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
