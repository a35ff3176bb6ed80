"""A loop's sleep ends when it has to, and not before."""

from __future__ import annotations

import threading
import time

from app.daemon.alarm import Alarm

FOREVER = 3600.0


def test_what_rang_before_ends_the_next_sleep_once() -> None:
    alarm = Alarm()
    alarm.ring()
    alarm.ring()
    alarm.sleep(FOREVER)
    before = time.monotonic()
    alarm.sleep(0.05)
    assert time.monotonic() - before >= 0.05


def test_it_rings_within_the_time_that_was_said() -> None:
    alarm, before = Alarm(), time.monotonic()
    alarm.ring(FOREVER)
    alarm.ring(0.05)
    alarm.ring(FOREVER)
    alarm.sleep(FOREVER)
    assert time.monotonic() - before >= 0.05


def test_a_sleep_under_way_is_ended_by_another_thread() -> None:
    alarm, asleep = Alarm(), threading.Event()

    def sleep() -> None:
        asleep.set()
        alarm.sleep(FOREVER)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    asleep.wait()
    alarm.ring(0.01)
    sleeper.join(60)
    assert not sleeper.is_alive()
