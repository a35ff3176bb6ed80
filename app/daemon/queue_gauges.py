"""How many runs there are and how long they wait, as gauges that are read when somebody asks. Knows no provider.

Every daemon of a database tells the same, since the database does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.runs import backlog, counts
from app.runs.backlog import Waiting
from app.states import ACTIVE, State

log = logging.getLogger(__name__)

KEPT_SECONDS = 5.0
"""How long an answer is good: a flood of questions asks the database no more often."""
LIVING = (State.QUEUED, *sorted(ACTIVE))


class QueueGauges(Collector):
    """`providers`: those for which zeros are told too. Where the database does not answer nothing is told."""

    def __init__(
        self,
        database: Database,
        providers: Iterable[str],
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._providers, self._now, self._monotonic = database, tuple(providers), now, monotonic
        self._lock = threading.Lock()
        self._told: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if self._monotonic() - self._read_at >= KEPT_SECONDS:
                self._told = self._read()
                self._read_at = self._monotonic()
            return self._told

    def _read(self) -> list[Metric]:
        try:
            with self._database.reading() as session:
                waiting, stored = backlog.read_backlog(session), counts.by_state(session, None)
        except SQLAlchemyError:
            log.exception("the gauges cannot be read")
            return []
        return [*self._gauges(waiting), _stored(stored)]

    def _gauges(self, waiting: Iterable[Waiting]) -> list[Metric]:
        now, names = self._now(), ["provider", "state"]
        runs = GaugeMetricFamily("wes_queue_runs", "Runs that are not over, by provider and state", labels=names)
        oldest = GaugeMetricFamily(
            "wes_queue_oldest_seconds", "How long ago the first of them was submitted", labels=names
        )
        found = {(group.provider, group.state): group for group in waiting}
        for place in sorted({*found, *((name, state) for name in self._providers for state in LIVING)}):
            group = found.get(place)
            runs.add_metric(place, group.runs if group else 0)
            oldest.add_metric(place, max(0.0, (now - group.oldest).total_seconds()) if group else 0)
        active = sum(group.runs - group.steps for group in found.values() if group.state in ACTIVE)
        words = "Runs past QUEUED and not over that are no steps of others"
        return [runs, oldest, GaugeMetricFamily("active_workflows_count", words, active)]


def _stored(numbers: dict[State, int]) -> Metric:
    runs = GaugeMetricFamily("wes_runs", "All runs that are stored, by state", labels=["state"])
    for state, number in numbers.items():
        runs.add_metric([state], number)
    return runs
