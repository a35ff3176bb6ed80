"""Daemons come, beat, go and die; what they leave behind is known."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from app import fleet
from app.database import Database
from app.models import Daemon
from tests.conftest import Clock


def daemon(clock: Clock, name: str, host: str = "here", **changes: Any) -> Daemon:
    usual = {"hostname": "box", "version": "1", "started_at": clock(), "last_seen": clock(), "offers": {}}
    return Daemon(id=name, host=host, **usual | changes)


def sign_on(database: Database, new: Daemon) -> list[str]:
    return database.transact(lambda session: fleet.sign_on(session, new))


def beat(database: Database, clock: Clock, name: str, offers: Any = None) -> bool:
    return database.transact(lambda session: fleet.beat(session, name, clock(), offers))


def living(database: Database, clock: Clock, seconds: float = 60) -> list[str]:
    with database.reading() as session:
        return [found.id for found in fleet.living(session, clock() - timedelta(seconds=seconds))]


def silent_hosts(database: Database, clock: Clock, seconds: float) -> dict[str, datetime]:
    with database.reading() as session:
        return fleet.silent_hosts(session, clock() - timedelta(seconds=seconds))


def test_life_of_a_daemon(database: Database, clock: Clock) -> None:
    assert sign_on(database, daemon(clock, "one")) == []
    clock.advance(seconds=50)
    assert beat(database, clock, "one", {"local": {"engines": []}})
    clock.advance(seconds=60)
    assert living(database, clock) == ["one"]
    with database.reading() as session:
        assert [found.offers for found in fleet.known(session)] == [{"local": {"engines": []}}]
    database.transact(lambda session: fleet.sign_off(session, "one", clock()))
    assert living(database, clock) == []


def test_daemon_that_dies_is_not_living_for_long(database: Database, clock: Clock) -> None:
    sign_on(database, daemon(clock, "one"))
    clock.advance(seconds=60)
    assert living(database, clock) == ["one"]
    clock.advance(microseconds=1)
    assert living(database, clock) == []


def test_beat_keeps_the_offers(database: Database, clock: Clock) -> None:
    sign_on(database, daemon(clock, "one", offers={"local": 1}))
    assert beat(database, clock, "one")
    with database.reading() as session:
        assert [found.offers for found in fleet.known(session)] == [{"local": 1}]


def test_beat_of_an_unknown_daemon(database: Database, clock: Clock) -> None:
    assert not beat(database, clock, "one")
    assert living(database, clock) == []


def test_predecessors_on_the_same_host_are_dead(database: Database, clock: Clock) -> None:
    """Who signs on holds the host's lock, so nobody else lives there."""
    sign_on(database, daemon(clock, "one"))
    sign_on(database, daemon(clock, "elsewhere", "there"))
    assert sign_on(database, daemon(clock, "two")) == ["one"]
    assert sorted(living(database, clock)) == ["elsewhere", "two"]
    assert sign_on(database, daemon(clock, "three")) == ["two"]


def test_signing_on_again_changes_nothing_else(database: Database, clock: Clock) -> None:
    sign_on(database, daemon(clock, "one"))
    clock.advance(hours=1)
    assert sign_on(database, daemon(clock, "one", offers={"local": 2})) == []
    assert living(database, clock) == ["one"]


def test_longest_running_first(database: Database, clock: Clock) -> None:
    for name in ("b", "a", "c"):
        sign_on(database, daemon(clock, name, f"host-{name}"))
        clock.advance(seconds=1)
    assert living(database, clock) == ["b", "a", "c"]


def test_silent_hosts(database: Database, clock: Clock) -> None:
    then = clock()
    sign_on(database, daemon(clock, "one", "gone"))
    sign_on(database, daemon(clock, "two", "stopped"))
    database.transact(lambda session: fleet.sign_off(session, "two", clock()))
    clock.advance(hours=2)
    sign_on(database, daemon(clock, "three", "here"))
    assert silent_hosts(database, clock, 3600) == {"gone": then, "stopped": then}
    assert silent_hosts(database, clock, 7200) == {}
    sign_on(database, daemon(clock, "four", "gone"))
    assert silent_hosts(database, clock, 3600) == {"stopped": then}
