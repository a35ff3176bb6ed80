"""Token buckets by a clock that a test moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.daemon.providers.pacing import MOST_ACCOUNTS, TokenBucket, TokenBuckets
from app.daemon.providers.provider_interface import Pace
from app.errors import NotReady


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def bucket(time: Time, per_second: float = 1.0, burst: int = 1, wait: float = 2.0) -> TokenBucket:
    return TokenBucket(
        per_second,
        "Not its turn.",
        burst=burst,
        longest_wait_seconds=wait,
        monotonic=time,
        sleep=time.sleep,
        jitter=lambda most: most,
    )


def test_calls_keep_their_distance(time: Time) -> None:
    starts = bucket(time)
    moments = []
    for _ in range(4):
        starts.take()
        moments.append(time.now)
    assert moments == [100, 101, 102, 103]


def test_a_burst_is_free_and_comes_back(time: Time) -> None:
    calls = bucket(time, per_second=2, burst=3)
    assert calls.pace() == Pace(3)
    for _ in range(3):
        calls.take()
    assert (time.slept, calls.pace()) == ([], Pace(0, 0.5))
    time.now += 1.0
    assert calls.pace() == Pace(2)
    time.now += 100.0
    assert calls.pace() == Pace(3)


def test_a_long_wait_is_not_waited_but_said(time: Time) -> None:
    starts = bucket(time, per_second=0.1)
    starts.take()
    time.now += 4
    with pytest.raises(NotReady, match="Not its turn") as refusal:
        starts.take()
    assert (refusal.value.retry_after, time.slept) == (6.0, [])
    time.now += 6
    starts.take()


def test_who_is_refused_takes_no_turn(time: Time) -> None:
    starts = bucket(time, wait=0.0)
    starts.take()
    for _ in range(5):
        with pytest.raises(NotReady):
            starts.take()
    assert starts.pace() == Pace(0, 1.0)


def test_a_pause_that_the_platform_asks_for(time: Time) -> None:
    starts = bucket(time, burst=5)
    starts.close(60, "Rate exceeded")
    starts.close(10, "a shorter one changes nothing")
    assert starts.pace() == Pace(0, 60.0, "Rate exceeded")
    with pytest.raises(NotReady, match="Rate exceeded") as refusal:
        starts.take()
    assert refusal.value.retry_after == 60.0
    time.now += 59
    with pytest.raises(NotReady):
        starts.take()
    assert time.slept == [], "a pause is not sat out"
    time.now += 1
    starts.take()
    assert starts.pace().problem is None


def test_refusals_in_a_row_make_longer_pauses(time: Time) -> None:
    starts = bucket(time)
    assert [starts.refused("Rate exceeded") for _ in range(10)] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    starts.served()
    assert starts.refused("Rate exceeded") == 2
    assert starts.refused("Come again in a minute", at_least=60) == 60


def test_pauses_are_jittered(time: Time) -> None:
    starts = TokenBucket(1, "", monotonic=time)
    pauses = [(starts.served(), starts.refused("Rate exceeded"))[1] for _ in range(50)]
    assert len(set(pauses)) > 40 and min(pauses) >= 0 and max(pauses) <= 2


def test_who_has_a_way_to_go_is_invited_early(time: Time) -> None:
    starts = TokenBucket(1, "", lead_seconds=0.2, monotonic=time, sleep=time.sleep)
    starts.take()
    assert starts.pace() == Pace(0, pytest.approx(0.8))
    time.now += 0.9
    assert starts.pace() == Pace(1)
    starts.take()
    assert time.now == pytest.approx(101.0)


def test_many_threads_take_turns(time: Time) -> None:
    waits: list[float] = []
    calls = TokenBucket(10, "", longest_wait_seconds=100, monotonic=lambda: 0.0, sleep=waits.append)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: calls.take(), range(50)))
    assert sorted(waits) == pytest.approx([number / 10 for number in range(1, 50)])


def test_accounts_have_buckets_of_their_own(time: Time) -> None:
    buckets = TokenBuckets(lambda: bucket(time))
    buckets.of("alice").take()
    assert (buckets.of("alice").pace().submits, buckets.of("bob").pace().submits) == (0, 1)


def test_idle_accounts_are_forgotten(time: Time) -> None:
    made = []
    buckets = TokenBuckets(lambda: made.append(1) or bucket(time))  # type: ignore[func-returns-value]
    busy = buckets.of("busy")
    busy.take()
    idle = [buckets.of(str(number)) for number in range(MOST_ACCOUNTS - 1)]
    assert buckets.of("one more").pace().submits == 1
    assert buckets.of("busy") is busy and buckets.of("0") is not idle[0]
