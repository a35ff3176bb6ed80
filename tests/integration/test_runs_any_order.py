"""Anything in any order: accepts, claims, hints, cancels, crashes, late writes, ends, a clock that jumps; held against a
model that knows the rules of DESIGN 4 and 5 and no SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import Conflict
from app.models import RunEvent, WorkflowRun
from app.runs import acceptance, claims, deletion, transitions
from app.runs.claims import SUSPECT_AFTER, Claimant
from app.runs.transitions import End
from app.states import TERMINAL, Actor, State, may_move
from tests.conftest import Clock
from tests.rows import new_run

T = TypeVar("T")
HOSTS = ("here", "there")
LEASES = (5.0, 60.0)
SECONDS = st.sampled_from([0.0, 1.0, 5.0, 60.0])
ANY = st.integers(0, 1000)  # which one of those there are


@dataclass
class Expected:
    """What a run should be. `woken`: somebody hinted since it was claimed."""

    state: State
    due: datetime | None
    claim: str | None = None
    host: str | None = None
    provider_id: str | None = None
    woken: bool = False
    unreleased: int = 0
    path: list[State] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL

    def go(self, to: State) -> None:
        self.state = to
        self.path.append(to)
        if to in TERMINAL:
            self.due, self.claim, self.unreleased = None, None, 0

    def wake(self, now: datetime) -> None:
        if self.claim is None:
            self.due = min(self.due, now) if self.due else None
        else:
            self.woken = True


class Runs(RuleBasedStateMachine):
    """`copies` are rows as a daemon once claimed them: some claims are still good, some were lost long ago."""

    database: Database
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.copies: list[WorkflowRun] = []
        self.ends: dict[str, dict[str, Any]] = {}
        self.numbers = iter(range(1, 10**9))
        self.transact(lambda session: (session.execute(delete(RunEvent)), session.execute(delete(WorkflowRun))))
        self.accept()
        self.accept()

    def transact(self, work: Callable[[Session], T]) -> T:
        return self.database.transact(work)

    def some_run(self, number: int) -> str:
        return list(self.expected)[number % len(self.expected)]

    def some_copy(self, number: int) -> WorkflowRun:
        """A late one; few runs and few copies make things meet."""
        return self.copies[-1 - number % min(len(self.copies), 3)]

    def some_state(self, copy: WorkflowRun, number: int) -> State:
        """One that a daemon may move it to, mostly."""
        likely = [to for to in State if may_move(Actor.DAEMON, copy.state, to)]
        return [*likely, *likely, *State][number % (2 * len(likely) + len(State))]

    def holds(self, copy: WorkflowRun) -> Expected | None:
        """What the run should be, if this copy's claim is still good."""
        run = self.expected.get(copy.run_id)
        return run if run and run.claim is not None and run.claim == copy.claim else None

    # Users and others outside

    @precondition(lambda self: len(self.expected) < 3)
    @rule()
    def accept(self) -> None:
        run_id = str(UUID(int=next(self.numbers)))
        self.transact(lambda session: acceptance.accept(session, new_run(run_id=run_id), self.clock()))
        self.expected[run_id] = Expected(State.QUEUED, self.clock(), path=[State.QUEUED])

    @precondition(lambda self: self.expected)
    @rule(which=ANY, actor=st.sampled_from([Actor.USER, Actor.PARENT]))
    def cancel(self, which: int, actor: Actor) -> None:
        run_id = self.some_run(which)
        self.transact(lambda session: transitions.cancel(session, run_id, self.clock(), by="ann", actor=actor))
        run = self.expected[run_id]
        if run.state == State.QUEUED:
            run.go(State.CANCELED)
        elif run.state in (State.INITIALIZING, State.RUNNING, State.PAUSED):
            run.go(State.CANCELING)
            run.wake(self.clock())

    @precondition(lambda self: self.expected)
    @rule(which=ANY)
    def hint(self, which: int) -> None:
        run_id = self.some_run(which)
        run = self.expected[run_id]
        waits = self.transact(lambda session: claims.waiting_at(session, run_id, self.clock()))
        assert (waits is None) == run.is_over
        self.transact(lambda session: claims.hint(session, [run_id], self.clock()))
        if not run.is_over:
            run.wake(self.clock())

    @precondition(lambda self: self.expected)
    @rule(which=ANY)
    def delete(self, which: int) -> None:
        run_id = self.some_run(which)
        try:
            self.transact(lambda session: deletion.delete_run(session, run_id, "ann"))
        except Conflict:
            assert not self.expected[run_id].is_over
        else:
            assert self.expected.pop(run_id).is_over
            self.ends.pop(run_id, None)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)

    # Daemons. A crash is a copy that nobody touches again, or only when it is too late.

    @rule(
        host=st.sampled_from(HOSTS),
        lease=st.sampled_from(LEASES),
        limit=st.sampled_from([3, 3, 1, 0]),
        kind=st.sampled_from(["new", "known", "suspect"]),
    )
    def claim(self, host: str, lease: float, limit: int, kind: str) -> None:
        self.claim_some(host, lease, limit, kind)

    def claim_some(self, host: str, lease: float, limit: int, kind: str) -> None:
        now = self.clock()
        who = Claimant("local", host, f"daemon:{next(self.numbers)}", timedelta(seconds=lease))
        function = {"new": claims.claim_new, "known": claims.claim_known, "suspect": claims.claim_suspect}[kind]
        taken = self.transact(lambda session: function(session, who, now, limit))
        due = {
            run_id: run
            for run_id, run in self.expected.items()
            if run.due is not None and run.due <= now and run.host in (None, host) and self._is(kind, run)
        }
        if kind == "suspect" and any(run.state != State.QUEUED for run in due.values()):
            due = {run_id: run for run_id, run in due.items() if run.state != State.QUEUED}
        assert {run.run_id for run in taken} <= set(due)
        assert len(taken) == min(limit, len(due))
        left = [due[run_id].due for run_id in set(due) - {run.run_id for run in taken}]
        assert all(due[run.run_id].due <= later for run in taken for later in left), "not the oldest due first"
        for copy in taken:
            run = due[copy.run_id]
            run.claim, run.due, run.woken = who.token, now + who.lease, False
            run.unreleased += 1
            assert (copy.state, copy.claim, copy.provider_id) == (run.state, run.claim, run.provider_id)
        self.copies += taken

    @rule(host=st.sampled_from(HOSTS))
    def a_daemon_takes_what_is_due(self, host: str) -> None:
        self.clock.advance(seconds=5)
        for kind in ("known", "new"):
            self.claim_some(host, 60.0, 3, kind)

    @staticmethod
    def _is(kind: str, run: Expected) -> bool:
        if kind == "suspect":
            return run.unreleased > SUSPECT_AFTER
        return run.unreleased <= SUSPECT_AFTER and (run.state == State.QUEUED) is (kind == "new")

    @precondition(lambda self: self.copies)
    @rule(which=ANY, state=ANY, host=st.sampled_from(HOSTS))
    def move(self, which: int, state: int, host: str) -> None:
        copy = self.some_copy(which)
        to = self.some_state(copy, state)
        run, seen = self.holds(copy), (copy.state, copy.provider_id)
        allowed = may_move(Actor.DAEMON, copy.state, to) and to not in TERMINAL
        expected = allowed and run is not None and seen == (run.state, run.provider_id)
        moved = self.transact(lambda session: transitions.move(session, copy, to, self.clock(), by="daemon", host=host))
        assert moved is expected
        if moved and run:
            run.go(to)
            run.host = None if to == State.QUEUED else host

    @precondition(lambda self: self.copies)
    @rule(which=ANY, state=ANY)
    def finish(self, which: int, state: int) -> None:
        copy = self.some_copy(which)
        to = self.some_state(copy, state)
        run, seen = self.holds(copy), (copy.state, copy.provider_id)
        allowed = may_move(Actor.DAEMON, copy.state, to) and to in TERMINAL
        expected = allowed and run is not None and seen == (run.state, run.provider_id)
        end = End(to, "over", reason="because")
        ended = self.transact(lambda session: transitions.finish(session, copy, end, self.clock(), by="daemon"))
        assert ended is expected
        if ended and run:
            run.go(to)

    @precondition(lambda self: self.copies)
    @rule(which=ANY, seconds=SECONDS)
    def release(self, which: int, seconds: float) -> None:
        copy = self.some_copy(which)
        run, now, delay = self.holds(copy), self.clock(), timedelta(seconds=seconds)
        freed = self.transact(lambda session: claims.release(session, copy.claim or "", [copy.run_id], now, delay))
        assert freed == (0 if run is None else 1)
        if run:
            run.due = now if run.woken else now + delay
            run.claim, run.unreleased = None, 0

    @precondition(lambda self: self.copies)
    @rule(which=ANY, lease=st.sampled_from(LEASES))
    def renew(self, which: int, lease: float) -> None:
        copy = self.some_copy(which)
        run, until = self.holds(copy), timedelta(seconds=lease)
        held = self.transact(
            lambda session: claims.renew(session, [copy.claim or ""], [copy.run_id], self.clock(), until)
        )
        assert held == (set() if run is None else {copy.run_id})
        if run:
            run.due = self.clock() + until

    @precondition(lambda self: self.copies)
    @rule(which=ANY, answer=st.integers(0, 2))
    def an_answer_comes(self, which: int, answer: int) -> None:
        """Of a submit, to whoever sent it, however long ago."""
        copy = self.some_copy(which)
        run, provider_id = self.expected.get(copy.run_id), f"{copy.run_id}/{answer}"
        known = self.transact(
            lambda session: transitions.record_provider_id(session, copy.run_id, provider_id, self.clock(), by="daemon")
        )
        if run and not run.is_over and run.provider_id is None:
            run.provider_id = provider_id
            if run.state == State.QUEUED:
                run.go(State.INITIALIZING)
        assert known == (run.provider_id if run else None)

    @precondition(lambda self: self.copies)
    @rule()
    def a_daemon_dies_and_is_replaced(self) -> None:
        """Its successor on the same data directory frees what it held."""
        self.transact(lambda session: claims.release_dead(session, ["daemon", "another"], self.clock()))
        for run in self.expected.values():
            if run.claim is not None:
                run.claim, run.due = None, self.clock()

    # What always holds

    @invariant()
    def the_database_is_as_expected(self) -> None:
        with self.database.reading() as session:
            rows = {run.run_id: run for run in session.scalars(select(WorkflowRun))}
            history = session.execute(
                select(RunEvent.run_id, RunEvent.from_state, RunEvent.to_state)
                .where(RunEvent.to_state.is_not(None))
                .order_by(RunEvent.id)
            ).all()
        assert set(rows) == set(self.expected)
        for run_id, run in self.expected.items():
            found = rows[run_id]
            stored = (found.state, found.due_at, found.claim, found.host, found.provider_id, found.unreleased_claims)
            assert stored == (run.state, run.due, run.claim, run.host, run.provider_id, run.unreleased)
            self._check_rules(found)
            moves = [(event.from_state, event.to_state) for event in history if event.run_id == run_id]
            assert moves == list(zip([None, *run.path], run.path, strict=False)), "not one event for each change"

    def _check_rules(self, found: WorkflowRun) -> None:
        """Independent of what was expected."""
        assert (found.due_at is None) is (found.state in TERMINAL)
        assert found.claim is None or found.due_at is not None
        if found.state in TERMINAL:
            columns = {name: value for name, value in vars(found).items() if not name.startswith("_")}
            assert self.ends.setdefault(found.run_id, columns) == columns, "an ended run changed"
        elif found.claim is None and found.hints:
            assert found.due_at is not None and found.due_at <= self.clock(), "a wake was lost"

    def teardown(self) -> None:
        """I9: when nobody interferes any more, one daemon brings every run to its end."""
        for run_id in self.expected:
            self.transact(lambda session, run_id=run_id: transitions.cancel(session, run_id, self.clock(), by="ann"))
        self.clock.advance(hours=2)
        for host in HOSTS:
            who = Claimant("local", host, f"last:{host}", timedelta(hours=1))
            for kind in (claims.claim_known, claims.claim_suspect):
                for copy in self.transact(lambda session, kind=kind, who=who: kind(session, who, self.clock(), 1000)):
                    end = End(State.CANCELED, "over")
                    assert self.transact(
                        lambda session, copy=copy, end=end: transitions.finish(session, copy, end, self.clock(), by="d")
                    )
        with self.database.reading() as session:
            assert set(session.scalars(select(WorkflowRun.state))) <= TERMINAL


def play(database: Database, clock: Clock, examples: int, steps: int) -> None:
    class Here(Runs):
        pass

    Here.database, Here.clock = database, clock
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order(database: Database, clock: Clock) -> None:
    play(database, clock, 100, 50)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_any_order_for_long(database: Database, clock: Clock) -> None:
    play(database, clock, 1000, 80)
