"""Waiting for a run's end, with a scripted server and a clock that only moves when something waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest

from app.client.errors import Invalid, NotAuthenticated, Unreachable
from app.client.waiting import END_STATES, Pace, Watch


class Server:
    """Answers with a script of states and errors, the last one for ever. Moves the clock as far as it holds a call."""

    def __init__(self, script: Iterable[str | Exception], holds: bool = False) -> None:
        self.script = list(script)
        self.holds = holds
        self.now = 0.0
        self.waits: list[float | None] = []
        self.pauses: list[float] = []

    def get_run_status(self, run_id: str, wait: float | None = None) -> dict[str, Any]:
        self.waits.append(wait)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        if self.holds:
            self.now += wait or 0
        return {"run_id": run_id, "state": answer}

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def watch(self, jitter: Callable[[], float] = lambda: 1.0, **options: Any) -> Watch:
        return Watch(
            self, "r", pace=Pace(jitter=jitter), clock=lambda: self.now, sleep=self.sleep, **options
        )  # fmt: skip


def states(watch: Watch) -> list[str]:
    return [status["state"] for status in watch.statuses()]


@pytest.mark.parametrize("end", sorted(END_STATES))
def test_every_end_state_ends_the_wait_without_a_pause(end: str) -> None:
    server = Server([end])
    assert states(server.watch()) == [end]
    assert server.pauses == []


def test_the_first_question_is_answered_at_once_and_later_ones_may_be_held() -> None:
    server = Server(["QUEUED", "RUNNING", "COMPLETE"], holds=True)
    assert states(server.watch()) == ["QUEUED", "RUNNING", "COMPLETE"]
    assert server.waits[0] is None
    assert all(wait is not None and wait >= 20 for wait in server.waits[1:])


def test_a_server_that_holds_calls_is_asked_again_without_a_pause() -> None:
    server = Server(["RUNNING"] * 6 + ["COMPLETE"], holds=True)
    states(server.watch())
    assert server.pauses[1:] == [0.0] * 5


def test_pauses_grow_from_a_tenth_of_a_second_to_thirty_where_the_server_does_not_hold() -> None:
    server = Server(["RUNNING"] * 40 + ["COMPLETE"])
    states(server.watch())
    assert server.pauses[0] == pytest.approx(0.1)
    assert all(later > earlier - 1e-9 for earlier, later in pairwise(server.pauses))
    assert server.pauses[-1] == pytest.approx(30)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_takes_away_a_third_at_most(jitter: float) -> None:
    pace = Pace(first=3.0, growth=1.0, jitter=lambda: jitter)
    assert 2.0 <= pace.next() <= 3.0


def test_a_change_makes_the_pauses_short_again() -> None:
    server = Server(["QUEUED"] * 30 + ["RUNNING"] * 3 + ["COMPLETE"])
    states(server.watch())
    assert server.pauses[29] > 20
    assert server.pauses[30:] == pytest.approx([0.1, 0.1, 0.15])


def test_a_server_that_refuses_the_parameter_wait_is_polled() -> None:
    server = Server(["QUEUED", Invalid("unknown query parameter", 400), "QUEUED", "RUNNING", "COMPLETE"])
    assert states(server.watch()) == ["QUEUED", "QUEUED", "RUNNING", "COMPLETE"]
    assert [wait is None for wait in server.waits] == [True, False, True, True, True]


@pytest.mark.parametrize("holds", [True, False])
def test_the_time_out_is_kept_and_names_run_and_state(holds: bool) -> None:
    server = Server(["RUNNING"], holds=holds)
    with pytest.raises(TimeoutError, match="r is still RUNNING after 95 seconds"):
        states(server.watch(timeout=95))
    assert server.now == pytest.approx(95)


def test_no_time_at_all_still_looks_once() -> None:
    assert states(Server(["COMPLETE"]).watch(timeout=0)) == ["COMPLETE"]
    with pytest.raises(TimeoutError):
        states(Server(["RUNNING"]).watch(timeout=0))


def test_an_outage_is_sat_out_and_told() -> None:
    told: list[str] = []
    gone = Unreachable("connection refused")
    server = Server(["RUNNING", gone, gone, gone, "RUNNING", "COMPLETE"])
    assert states(server.watch(on_outage=lambda error: told.append(error.msg))) == ["RUNNING", "RUNNING", "COMPLETE"]
    assert told == ["connection refused"] * 3


def test_a_server_that_stays_away_is_given_up_after_the_patience() -> None:
    server = Server(["RUNNING", Unreachable("connection refused")])
    with pytest.raises(Unreachable):
        states(server.watch(patience=60))
    assert 60 < server.now < 120


def test_patience_counts_from_the_last_answer() -> None:
    gone = [Unreachable("connection refused")] * 5
    server = Server([*["RUNNING", *gone] * 8, "COMPLETE"])
    assert states(server.watch(patience=200))[-1] == "COMPLETE"


@pytest.mark.parametrize(("asked", "kept"), [(7.0, 7.0), (3600.0, 30.0)])
def test_retry_after_is_honoured_up_to_the_longest_pause(asked: float, kept: float) -> None:
    server = Server(["RUNNING", Unreachable("maintenance", 503, retry_after=asked), "COMPLETE"])
    states(server.watch())
    assert server.pauses[1] == pytest.approx(kept)


def test_other_errors_end_the_wait_at_once() -> None:
    server = Server(["RUNNING", NotAuthenticated("expired", 401)])
    with pytest.raises(NotAuthenticated):
        states(server.watch())
    assert len(server.waits) == 2
