"""The rate budget of a token, and the turns in which runs are looked at, by clocks that a test moves."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from app.daemon.providers.provider_interface import Pace
from app.daemon.providers.sevenbridges_budget import BURST, WINDOW_SECONDS, Budget, Turns
from app.errors import NotReady
from app.states import State

START = datetime(2026, 11, 20, tzinfo=UTC)


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def budget(time: Time) -> Budget:
    return Budget(2.5, now=time.now, monotonic=time.monotonic, sleep=time.sleep)


def left(requests: int, seconds: float) -> dict[str, str]:
    reset = int(START.timestamp() + seconds)
    return {"X-RateLimit-Remaining": str(requests), "X-RateLimit-Reset": str(reset)}


def test_requests_keep_to_the_rate(time: Time, budget: Budget) -> None:
    for _ in range(BURST + 750):
        budget.take()
    assert time.passed == pytest.approx(WINDOW_SECONDS)


def test_looks_stop_before_the_limit_and_submits_do_not(time: Time, budget: Budget) -> None:
    budget.served(left(100, 120))
    budget.check_look()
    budget.served(left(99, 120))
    with pytest.raises(NotReady, match="Only 99 requests are left") as wait:
        budget.check_look()
    assert wait.value.retry_after == 120
    budget.take()
    time.passed = 120
    budget.check_look()


def test_the_reserve_is_a_share_of_the_tokens_own_limit(budget: Budget) -> None:
    budget.served({"X-RateLimit-Limit": "200", **left(20, 120)})
    budget.check_look()
    budget.served({"X-RateLimit-Limit": "200", **left(19, 120)})
    with pytest.raises(NotReady):
        budget.check_look()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (left(0, 200), 200),
        (left(0, -5), 1),
        (left(0, 10**6), WINDOW_SECONDS),
        ({"X-RateLimit-Remaining": "0"}, WINDOW_SECONDS),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}, WINDOW_SECONDS),
        (left(0, 3) | {"Retry-After": "60"}, 60),
        ({"Retry-After": "60"}, 60),
    ],
)
def test_nothing_is_asked_before_the_window_is_over(
    time: Time, budget: Budget, headers: dict[str, str], seconds: float
) -> None:
    assert budget.refused("Rate limit exceeded!", headers) == pytest.approx(seconds, abs=2)
    with pytest.raises(NotReady, match="Rate limit"):
        time.passed += max(seconds - 13, 0)
        budget.take() if seconds > 12 else budget.refused("Rate limit exceeded!", left(0, 100)) and budget.take()
    time.passed += WINDOW_SECONDS
    budget.take()


def test_other_refusals_wait_longer_each_time(budget: Budget) -> None:
    assert all(budget.refused("busy", left(500, 200)) <= 2.0**n for n in range(1, 6))
    budget.served({})
    assert budget.refused("busy", {}) <= 2


def test_the_pace_is_of_submits_which_are_two_requests(time: Time, budget: Budget) -> None:
    assert budget.pace() == Pace(BURST // 2)
    for _ in range(BURST - 1):
        budget.take()
    assert budget.pace() == Pace(0, 1.0)
    budget.refused("Rate limit exceeded!", left(0, 100))
    assert budget.pace() == Pace(0, 100.0, "Rate limit exceeded!")


def test_runs_share_turns_whenever_they_began(time: Time) -> None:
    turns = Turns(2.5, monotonic=time.monotonic, phase=lambda: 0.0)
    looks = set()
    for time.passed in (100.0, 101.3, 109.9, 114.9):
        looks.add(int(time.passed) + turns.seconds_to_next(State.RUNNING, 0))
    assert looks == {120.0, 150.0} and turns.seconds_to_next(State.RUNNING, 0) == 36.0


@pytest.mark.parametrize(
    ("state", "running", "most"),
    [
        (State.INITIALIZING, 10**6, 45),
        (State.RUNNING, 0, 45),
        (State.RUNNING, 599, 45),
        (State.RUNNING, 600, 60),
        (State.RUNNING, 3600, 120),
        (State.RUNNING, 21_600, 300),
    ],
)
def test_old_runs_are_looked_at_rarely(time: Time, state: State, running: float, most: float) -> None:
    turns = Turns(2.5, monotonic=time.monotonic)
    waits = []
    for time.passed in range(1000):
        waits.append(turns.seconds_to_next(state, running))
    assert min(waits) >= most / 3 and max(waits) <= most
    assert all(wait == int(wait) for wait in waits)


def test_many_runs_take_no_more_than_their_share_of_the_rate(time: Time) -> None:
    turns = Turns(2.5, monotonic=time.monotonic, phase=lambda: 0.0)
    ids = [str(number) for number in range(10_000)]
    due = dict.fromkeys(ids, 0.0)
    requests: Counter[str] = Counter()
    for time.passed in range(0, 1200):
        if now := [one for one in ids if due[one] <= time.passed]:
            turns.note(now)
            requests["later" if time.passed > 300 else "first"] += -(-len(now) // 100)
            wait = turns.seconds_to_next(State.RUNNING, 0)
            due |= dict.fromkeys(now, time.passed + wait)
    assert requests["later"] / 900 <= 2.5 / 2


def test_ended_runs_are_forgotten(time: Time) -> None:
    turns = Turns(0.1, monotonic=time.monotonic, phase=lambda: 0.0)
    turns.note([str(number) for number in range(10_000)])
    assert turns.seconds_to_next(State.RUNNING, 0) > 1900
    time.passed = 1000.0
    turns.note(["1"])
    assert turns.seconds_to_next(State.RUNNING, 0) <= 45
