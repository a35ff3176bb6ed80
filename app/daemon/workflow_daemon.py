"""The daemon: a loop for each provider, and what the loops share: leases, the sign of life, hints, housekeeping."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from app import fleet
from app.artifacts import ArtifactStorage
from app.daemon.claimed_runs import Policy
from app.daemon.holds import Holds
from app.daemon.provider_loop import ProviderLoop
from app.daemon.providers.provider_interface import WorkflowProviderInterface
from app.database import Database
from app.models import Daemon
from app.runs import claims, counts, listing, transitions
from app.runs.claims import ClaimedRun
from app.runs.transitions import End
from app.states import State

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3600.0
HOUSEKEEPING_SECONDS = 60.0


class WorkflowDaemon:
    """The loops, and what they share: leases, the sign of life, hints, housekeeping."""

    def __init__(
        self,
        providers: Sequence[WorkflowProviderInterface],
        database: Database,
        storage: ArtifactStorage,
        *,
        identity: Daemon,
        now: Callable[[], datetime],
        lease_seconds: float = 60.0,
        poll_seconds: float = 10.0,
        workers: int = 10,
        host_lost_after: float = 86_400.0,
        policy: Policy | None = None,
    ) -> None:
        self._database, self._storage, self._identity, self._now = database, storage, identity, now
        self._host_lost_after = timedelta(seconds=host_lost_after)
        self._holds = Holds(database, timedelta(seconds=lease_seconds), now)
        self.loops = [
            ProviderLoop(
                provider,
                database,
                storage,
                self._holds,
                daemon_id=identity.id,
                host=identity.host,
                now=now,
                poll_seconds=poll_seconds,
                workers=workers,
                policy=policy,
                ended=self._wake_pipelines,
            )
            for provider in providers
        ]
        self._silent_hosts: dict[str, datetime] = {}  # and their last sign of life, as of the last look
        self._beat_seconds = min(lease_seconds / 3, 10.0)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=loop.run, name=f"{loop.provider.name}-loop") for loop in self.loops]
        self._threads += [
            threading.Thread(target=self._every, args=(self._beat_seconds, self.beat), name="heart"),
            threading.Thread(target=self._every, args=(HOUSEKEEPING_SECONDS, self.keep_house), name="housekeeper"),
            threading.Thread(target=self._every, args=(SWEEP_SECONDS, self.sweep), name="sweeper"),
        ]

    def start(self) -> None:
        """Sign on, take over from dead predecessors on this host, and begin. The caller holds the host's lock."""
        self._identity.offers = self._offers()
        self._database.transact(self._take_over)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the steps that are under way, give every claim back, sign off."""
        self._stopping.set()
        for loop in self.loops:
            loop.stop()
        for thread in self._threads:
            thread.join()
        now = self._now()
        self._database.transact(lambda session: claims.release_dead(session, [self._identity.id], now))
        self._database.transact(lambda session: fleet.sign_off(session, self._identity.id, now))

    def hint(self, run_id: str) -> bool:
        """Somebody says that this run may be due. False where no such run waits for anything."""
        with self._database.reading() as session:
            found = claims.waiting_at(session, run_id, self._now())
        if found is None:
            return False
        provider, is_due = found
        if not is_due:
            self._database.transact(lambda session: claims.hint(session, [run_id], self._now()))
        self.wake([provider])
        return True

    def wake(self, providers: Iterable[str]) -> None:
        """Something is due at these providers."""
        names = set(providers)
        for loop in self.loops:
            if loop.provider.name in names:
                loop.wake()

    def beat(self) -> None:
        """Renew the leases and show a sign of life, with what is offered now."""
        self._holds.renew()
        offers = self._offers()
        news = offers if offers != self._identity.offers else None
        self._identity.offers = offers
        if not self._database.transact(lambda session: fleet.beat(session, self._identity.id, self._now(), news)):
            self._database.transact(self._take_over)

    def keep_house(self) -> None:
        """What has to be done now and then, by any daemon."""
        if brought := self._database.transact(lambda session: claims.bring_back(session, self._now())):
            log.warning("runs were put off by a clock that was wrong", extra={"runs": brought})
        self.end_lost_hosts()
        while self._database.transact(counts.fold) and not self._stopping.is_set():
            pass

    def end_lost_hosts(self) -> None:
        """End the runs of hosts on which no daemon has lived for long."""
        now = self._now()
        token = f"{self._identity.id}:lost"
        hosts = self._lost_hosts(now)
        if not hosts:
            return
        runs = self._database.transact(lambda session: claims.claim_lost(session, token, hosts, now, self._holds.lease))
        for run in runs:
            words = f"No daemon has lived on this run's host for {self._host_lost_after}."
            end = End(State.SYSTEM_ERROR, words, "host_lost")
            self._database.transact(
                lambda session, run=run, end=end: transitions.finish(session, run, end, now, by="daemon")  # type: ignore[misc]
            )

    def _lost_hosts(self, now: datetime) -> list[str]:
        """Hosts that are silent for long and have not stirred since the last look: after a sleep of this machine, or
        where this clock is wrong, hosts that live seem silent too."""
        with self._database.reading() as session:
            silent = fleet.silent_hosts(session, now - self._host_lost_after)
        lost = [host for host, seen in silent.items() if self._silent_hosts.get(host) == seen]
        self._silent_hosts = silent
        return lost

    def sweep(self) -> None:
        """Remove files that no row names, here and at the providers."""
        self._storage.sweep(lambda ids: self._known(ids)[1], self._stored_blobs)
        for loop in self.loops:
            loop.provider.sweep(self._known)

    def _wake_pipelines(self, run: ClaimedRun) -> None:
        """The end of a step has made its pipeline due."""
        if run.parent_id is not None:
            self.wake(["dag"])

    def _take_over(self, session: Any) -> None:
        dead = fleet.sign_on(session, _copy(self._identity))
        freed = claims.release_dead(session, dead, self._now())
        if dead:
            log.info("took over", extra={"from": dead, "runs": freed})

    def _known(self, run_ids: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        with self._database.reading() as session:
            return listing.known_runs(session, run_ids)

    def _stored_blobs(self, hashes: Iterable[str]) -> frozenset[str]:
        with self._database.reading() as session:
            return listing.stored_blobs(session, hashes)

    def _offers(self) -> dict[str, Any]:
        return {
            loop.provider.name: {
                "engines": [asdict(offer) for offer in loop.provider.offers()],
                "capabilities": asdict(loop.provider.capabilities),
                "problem": loop.problem,
            }
            for loop in self.loops
        }

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                do()
            except Exception:
                log.exception("will be tried again", extra={"what": do.__name__})
            self._stopping.wait(seconds)


def _copy(daemon: Daemon) -> Daemon:
    columns = ("id", "host", "hostname", "version", "started_at", "last_seen", "offers")
    return Daemon(**{name: getattr(daemon, name) for name in columns})
