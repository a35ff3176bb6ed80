"""The state table in the database: guarded moves, whole ends, cancels, provider ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from app.database import PROSE_CHARACTERS, Database
from app.models import WorkflowRun
from app.runs import claims, deletion, listing, transitions
from app.runs.transitions import End
from app.states import ACTIVE, TERMINAL, Actor, State, may_move
from tests.conftest import Clock
from tests.rows import accept, bring_to, changes, claim_known, claim_new, events, move, release, row, who

LIVING = sorted(set(State) - TERMINAL)
ENDS = sorted(TERMINAL)
TASK = {
    "task_id": "t1", "name": "align", "cmd": ["bwa", "mem"], "start_time": None, "end_time": None, "exit_code": 0,
    "system_logs": [], "has_stdout": True, "has_stderr": False,
}  # fmt: skip


def an_end(state: State, **more: Any) -> End:
    return End(state, "over", reason="because" if state == State.SYSTEM_ERROR else None, **more)


def finish(database: Database, run: WorkflowRun, end: End, clock: Clock) -> bool:
    return database.transact(lambda session: transitions.finish(session, run, end, clock(), by="daemon"))


def cancel(database: Database, run_id: str, clock: Clock, actor: Actor = Actor.USER) -> None:
    database.transact(lambda session: transitions.cancel(session, run_id, clock(), by="ann", actor=actor))


def record(database: Database, run_id: str, provider_id: str, clock: Clock, **values: Any) -> str | None:
    return database.transact(
        lambda session: transitions.record_provider_id(session, run_id, provider_id, clock(), by="daemon", **values)
    )


def snapshot(database: Database, run_id: str) -> tuple[dict[str, Any], int]:
    run = row(database, run_id)
    return {key: value for key, value in vars(run).items() if not key.startswith("_")}, len(events(database, run_id))


# move


@pytest.mark.parametrize("start", LIVING)
def test_daemon_moves_exactly_what_the_table_allows(database: Database, clock: Clock, start: State) -> None:
    for to in State:
        run = bring_to(database, start, clock())
        before = snapshot(database, run.run_id)
        allowed = may_move(Actor.DAEMON, start, to) and to not in TERMINAL
        assert move(database, run, to, clock.advance(seconds=1), note="why") is allowed
        if not allowed:
            assert snapshot(database, run.run_id) == before
            continue
        assert (run.state, row(database, run.run_id).state) == (to, to)
        event = events(database, run.run_id)[-1]
        assert (event.from_state, event.to_state, event.by, event.note, event.at) == (
            start,
            to,
            "daemon",
            "why",
            clock(),
        )


def test_move_writes_further_columns_and_keeps_the_claim(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.INITIALIZING, clock())
    assert move(database, run, State.RUNNING, clock(), start_time=clock(), provider_status="RUNNING")
    stored = row(database, run.run_id)
    assert (stored.start_time, stored.provider_status, stored.claim) == (clock(), "RUNNING", run.claim)
    assert stored.due_at == clock() + timedelta(seconds=60)
    assert run.provider_status == "RUNNING"


def test_back_in_the_queue_a_run_belongs_to_no_host(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.QUEUED, clock())
    assert move(database, run, State.INITIALIZING, clock(), host="here")
    assert move(database, run, State.QUEUED, clock())
    release(database, run, clock())
    assert [found.run_id for found in claim_new(database, clock(), who(host="elsewhere"))] == [run.run_id]


def test_accepted_run_never_goes_back_to_the_queue(database: Database, clock: Clock) -> None:
    """A late answer brought an id after the holder read the row."""
    run = bring_to(database, State.INITIALIZING, clock())
    record(database, run.run_id, "p-1", clock)
    assert not move(database, run, State.QUEUED, clock())
    assert row(database, run.run_id).state == State.INITIALIZING


LATE: dict[str, Any] = {
    "claimed by another": lambda database, run, clock: claim_known(
        database, clock.advance(minutes=2), who("other:1", lease=timedelta(hours=1))
    ),
    "released": lambda database, run, clock: release(database, run, clock(), 5),
    "canceled": lambda database, run, clock: cancel(database, run.run_id, clock),
    "ended": lambda database, run, clock: finish(
        database, row(database, run.run_id), an_end(State.EXECUTOR_ERROR), clock
    ),
    "deleted": lambda database, run, clock: _end_and_delete(database, run, clock),
}


def _end_and_delete(database: Database, run: WorkflowRun, clock: Clock) -> None:
    LATE["ended"](database, run, clock)
    database.transact(lambda session: deletion.delete_run(session, run.run_id, None))


@pytest.mark.parametrize("what", LATE)
def test_late_writer_changes_nothing(database: Database, clock: Clock, what: str) -> None:
    run = bring_to(database, State.RUNNING, clock())
    LATE[what](database, run, clock)
    if what == "deleted":
        with database.reading() as session:
            assert session.get(WorkflowRun, run.run_id) is None
    before = None if what == "deleted" else snapshot(database, run.run_id)
    assert not move(database, run, State.PAUSED, clock(), provider_status="late")
    assert not finish(database, run, an_end(State.COMPLETE, outputs={"late": 1}, tasks=[TASK]), clock)
    if what != "canceled":  # which leaves the claim, and with it the right to note what is not the state
        assert not database.transact(lambda session: transitions.note_run(session, run, provider_status="late"))
        assert not database.transact(lambda session: transitions.note_tasks(session, run, [TASK]))
    assert release(database, run, clock(), 3) == (1 if what == "canceled" else 0)
    if before and what != "canceled":
        assert snapshot(database, run.run_id) == before
    with database.reading() as session:
        assert not listing.get_tasks(session, run.run_id)


def test_what_is_no_column_is_no_news(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    with pytest.raises(KeyError, match="mising_since"):
        database.transact(lambda session: transitions.note_run(session, run, misses=4, mising_since=clock()))
    assert row(database, run.run_id).misses == 0


# finish


@pytest.mark.parametrize(("start", "end"), list(product(LIVING, ENDS)))
def test_end_from_every_state(database: Database, clock: Clock, start: State, end: State) -> None:
    run = bring_to(database, start, clock())
    allowed = may_move(Actor.DAEMON, start, end)
    assert finish(database, run, an_end(end), clock) is allowed
    stored = row(database, run.run_id)
    assert stored.state == (end if allowed else start)
    assert (stored.due_at is None) is allowed
    if allowed:
        assert changes(database, run.run_id)[-1] == (start, end)


def test_end_brings_everything_at_once(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    began, ended = clock() - timedelta(minutes=5), clock() - timedelta(seconds=3)
    end = an_end(
        State.COMPLETE,
        exit_code=0,
        start_time=began,
        end_time=ended,
        outputs={"out": [1, float("nan")]},
        tasks=[TASK, TASK | {"task_id": "t2", "name": "sort"}],
        values={"provider_status": "DONE"},
    )
    assert finish(database, run, end, clock)
    stored = row(database, run.run_id)
    assert (stored.state, stored.exit_code, stored.start_time, stored.end_time) == (State.COMPLETE, 0, began, ended)
    assert (stored.outputs, stored.provider_status, stored.error_message) == ({"out": [1, None]}, "DONE", None)
    assert (stored.due_at, stored.claim, stored.hints, stored.unreleased_claims) == (None, None, 0, 0)
    with database.reading() as session:
        tasks = listing.get_tasks(session, run.run_id)
        assert [(task.task_id, task.name, task.cmd) for task in tasks] == [
            ("t1", "align", ["bwa", "mem"]),
            ("t2", "sort", ["bwa", "mem"]),
        ]


def test_end_is_whole_or_not_at_all(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    before = snapshot(database, run.run_id)
    with pytest.raises(IntegrityError):
        finish(database, run, an_end(State.COMPLETE, outputs={"a": 1}, tasks=[TASK | {"name": None}]), clock)
    assert snapshot(database, run.run_id) == before
    assert finish(database, run, an_end(State.COMPLETE), clock)


@pytest.mark.parametrize(("end", "message"), [(State.EXECUTOR_ERROR, "over"), (State.SYSTEM_ERROR, "over")])
def test_failed_end_says_why(database: Database, clock: Clock, end: State, message: str) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert finish(database, run, an_end(end), clock)
    assert row(database, run.run_id).error_message == message
    assert events(database, run.run_id)[-1].note == ("because: over" if end == State.SYSTEM_ERROR else "over")


def test_system_error_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        End(State.SYSTEM_ERROR, "something happened")


@pytest.mark.parametrize("state", LIVING)
def test_end_in_a_state_that_is_none_is_refused(database: Database, clock: Clock, state: State) -> None:
    run = bring_to(database, State.INITIALIZING, clock())
    assert not finish(database, run, an_end(state), clock)
    assert row(database, run.run_id).state == State.INITIALIZING


def test_end_decided_without_the_provider_id_is_void(database: Database, clock: Clock) -> None:
    """find said Absent, the holder ends the run, and a stopped daemon's answer comes in between."""
    run = bring_to(database, State.CANCELING, clock())
    record(database, run.run_id, "p-1", clock)
    assert not finish(database, run, an_end(State.CANCELED), clock)
    assert row(database, run.run_id).state == State.CANCELING


@pytest.mark.parametrize("end", ENDS)
def test_ended_run_never_changes(database: Database, clock: Clock, end: State) -> None:
    run = bring_to(database, end, clock())
    before = snapshot(database, run.run_id)
    claimed = row(database, run.run_id)
    claimed.claim = "daemon:1"
    for to in State:
        assert not move(database, claimed, to, clock())
        assert not finish(database, claimed, an_end(to), clock)
    for actor in Actor:
        cancel(database, run.run_id, clock, actor)
    assert record(database, run.run_id, "p-1", clock) is None
    database.transact(lambda session: claims.hint(session, [run.run_id], clock()))
    later = clock.advance(days=1)
    assert not database.transact(lambda session: transitions.want_logs(session, run.run_id, later, later))
    assert claim_known(database, later) == claim_new(database, later) == []
    stored, number = snapshot(database, run.run_id)
    assert (stored, number - 1) == before  # one line of history: the second provider run that is being cancelled
    assert "p-1" in (events(database, run.run_id)[-1].note or "")


def test_repeated_task_id_means_the_later(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    tasks = [TASK | {"name": "first"}, TASK | {"task_id": "t2"}, TASK | {"name": "later"}]
    assert database.transact(lambda session: transitions.note_tasks(session, run, tasks))
    with database.reading() as session:
        assert [(task.task_id, task.name) for task in listing.get_tasks(session, run.run_id)] == [
            ("t1", "later"),
            ("t2", "align"),
        ]


def test_tasks_are_replaced(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    for tasks in ([TASK], [TASK | {"task_id": "t2"}], []):
        assert database.transact(lambda session, tasks=tasks: transitions.note_tasks(session, run, tasks))
        with database.reading() as session:
            assert [task.task_id for task in listing.get_tasks(session, run.run_id)] == [
                task["task_id"] for task in tasks
            ]


def test_words_from_elsewhere_fit(database: Database, clock: Clock) -> None:
    """NUL, a lone surrogate and a whole web page: PostgreSQL refuses the first two, and nobody wants the third."""
    words = "bad\0word\ud800" + "x" * 100_000
    run = bring_to(database, State.INITIALIZING, clock())
    assert move(database, run, State.RUNNING, clock(), provider_status=words, note=words)
    release(database, run, clock(), waiting_for=words)
    (run,) = claim_known(database, clock())
    end = End(State.SYSTEM_ERROR, words, "because", tasks=[TASK | {"name": words}], outputs={"a\0": "\ud800"})
    assert finish(database, run, end, clock)
    stored = row(database, run.run_id)
    for kept in (stored.provider_status, stored.error_message, events(database, run.run_id)[-1].note):
        assert kept is not None and len(kept) == PROSE_CHARACTERS and "\0" not in kept
    assert stored.outputs == {"a\0": "\ud800"}


# cancel


@pytest.mark.parametrize("actor", [Actor.USER, Actor.PARENT])
@pytest.mark.parametrize("start", LIVING)
def test_cancel_in_each_state(database: Database, clock: Clock, start: State, actor: Actor) -> None:
    run = bring_to(database, start, clock())
    release(database, run, clock(), 3600)
    history = changes(database, run.run_id)
    cancel(database, run.run_id, clock, actor)
    stored = row(database, run.run_id)
    if start == State.QUEUED:
        assert (stored.state, stored.due_at, stored.end_time) == (State.CANCELED, None, clock())
        assert changes(database, run.run_id) == [*history, ("QUEUED", "CANCELED")]
    elif start == State.CANCELING:
        assert changes(database, run.run_id) == history
    else:
        assert (stored.state, stored.due_at) == (State.CANCELING, clock())
        assert changes(database, run.run_id) == [*history, (start, "CANCELING")]


def test_daemon_does_not_cancel(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    cancel(database, run.run_id, clock, Actor.DAEMON)
    assert row(database, run.run_id).state == State.RUNNING


def test_cancel_of_an_unknown_run_does_nothing(database: Database, clock: Clock) -> None:
    cancel(database, "no-such-run", clock)


def test_cancel_under_a_claim(database: Database, clock: Clock) -> None:
    """The lease is not shortened, the holder's next move is refused, and after its release the cancel is due."""
    run = bring_to(database, State.RUNNING, clock())
    cancel(database, run.run_id, clock)
    stored = row(database, run.run_id)
    assert (stored.claim, stored.due_at) == (run.claim, clock() + timedelta(seconds=60))
    assert not move(database, run, State.PAUSED, clock())
    release(database, run, clock.advance(seconds=1), 3600)
    assert [found.state for found in claim_known(database, clock())] == [State.CANCELING]


def test_canceled_unstarted_run_is_never_submitted(database: Database, clock: Clock) -> None:
    """I12: a daemon has claimed it and is about to submit."""
    (run,) = [run for _ in [accept(database, clock())] for run in claim_new(database, clock())]
    cancel(database, run.run_id, clock)
    assert not move(database, run, State.INITIALIZING, clock(), submit_sent_at=clock())
    stored = row(database, run.run_id)
    assert (stored.state, stored.claim, stored.submit_sent_at, stored.observed_at) == (State.CANCELED, None, None, None)


def test_cancel_races_the_submit(database: Database, clock: Clock) -> None:
    """Whatever comes first: CANCELED and never about to be sent, or about to be sent and CANCELING."""
    for _ in range(10):
        accept(database, clock())
        (run,) = claim_new(database, clock())
        barrier = Barrier(2)

        def submit(run: WorkflowRun = run, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            return move(database, run, State.INITIALIZING, clock(), submit_sent_at=clock())

        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(submit)
            barrier.wait()
            cancel(database, run.run_id, clock)
        stored = row(database, run.run_id)
        assert stored.state == (State.CANCELING if sent.result() else State.CANCELED)
        assert (stored.submit_sent_at is not None) is sent.result()


# The provider's id


@pytest.mark.parametrize("start", sorted(ACTIVE))
def test_first_provider_id_wins_without_a_claim(database: Database, clock: Clock, start: State) -> None:
    run = bring_to(database, start, clock())
    release(database, run, clock(), 5)
    due = row(database, run.run_id).due_at
    assert record(database, run.run_id, "p-1", clock, provider_status="PENDING") == "p-1"
    assert record(database, run.run_id, "p-1", clock) == "p-1"
    assert record(database, run.run_id, "p-2", clock, provider_status="late") == "p-1"
    stored = row(database, run.run_id)
    assert (stored.provider_id, stored.processed_at, stored.provider_status) == ("p-1", clock(), "PENDING")
    assert (stored.state, stored.due_at) == (start, due)
    notes = [event.note or "" for event in events(database, run.run_id) if event.to_state is None]
    assert ["p-1" in notes[0], "p-2" in notes[1], len(notes)] == [True, True, 2]


def test_late_answer_for_a_run_that_is_queued_again(database: Database, clock: Clock) -> None:
    """A stopped daemon's submit arrives after all: the run must not be submitted anew, and a cancel must reach it."""
    run = bring_to(database, State.INITIALIZING, clock())
    assert move(database, run, State.QUEUED, clock())
    release(database, run, clock())
    (next_holder,) = claim_new(database, clock(), who("other:1"))
    assert record(database, run.run_id, "p-1", clock) == "p-1"
    assert not move(database, next_holder, State.INITIALIZING, clock(), submit_sent_at=clock())
    assert row(database, run.run_id).state == State.INITIALIZING
    assert changes(database, run.run_id)[-1] == ("QUEUED", "INITIALIZING")
    cancel(database, run.run_id, clock)
    assert row(database, run.run_id).state == State.CANCELING


def test_provider_id_of_another_run(database: Database, clock: Clock) -> None:
    one, two = (bring_to(database, State.INITIALIZING, clock()) for _ in range(2))
    elsewhere = bring_to(database, State.INITIALIZING, clock(), who(provider="cloud"), provider_type="cloud")
    assert record(database, one.run_id, "p-1", clock) == "p-1"
    with pytest.raises(IntegrityError):
        record(database, two.run_id, "p-1", clock)
    assert row(database, two.run_id).provider_id is None
    assert record(database, elsewhere.run_id, "p-1", clock) == "p-1"


@pytest.mark.parametrize("end", ENDS)
def test_provider_id_for_a_run_that_has_ended(database: Database, clock: Clock, end: State) -> None:
    """None tells the caller to cancel it at the provider."""
    run = bring_to(database, end, clock())
    assert record(database, run.run_id, "p-1", clock) is None
    assert row(database, run.run_id).provider_id is None


def test_provider_id_for_a_run_that_was_deleted(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.CANCELED, clock())
    database.transact(lambda session: deletion.delete_run(session, run.run_id, None))
    assert record(database, run.run_id, "p-1", clock) is None


def test_race_of_provider_ids(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.INITIALIZING, clock())
    barrier = Barrier(6)

    def answer(number: int) -> str | None:
        barrier.wait()
        return record(database, run.run_id, f"p-{number}", clock)

    with ThreadPoolExecutor(6) as pool:
        answers = set(pool.map(answer, range(6)))
    assert answers == {row(database, run.run_id).provider_id}


# Notes, watched logs, parents


def test_note_is_written_for_the_holder(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert database.transact(lambda session: transitions.note_run(session, run, failures=3))
    assert (run.failures, row(database, run.run_id).failures) == (3, 3)


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_watching_a_log_wakes_the_run_once_in_a_while(database: Database, clock: Clock, state: State) -> None:
    run = bring_to(database, state, clock())
    release(database, run, clock(), 3600)

    def want() -> bool:
        before = clock() - timedelta(seconds=10)
        return database.transact(lambda session: transitions.want_logs(session, run.run_id, clock(), before))

    assert want()
    assert (row(database, run.run_id).log_wanted_at, row(database, run.run_id).due_at) == (clock(), clock())
    clock.advance(seconds=9)
    assert not want()
    clock.advance(seconds=2)
    assert want()


def test_queued_run_has_no_log_to_watch(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    assert not database.transact(lambda session: transitions.want_logs(session, run_id, clock(), clock()))


def family(database: Database, clock: Clock, children: int = 1) -> tuple[WorkflowRun, list[str]]:
    parent = bring_to(database, State.RUNNING, clock(), who("dag:1", provider="dag"), provider_type="dag")
    steps = [accept(database, clock(), parent_id=parent.run_id, step=f"s{number}") for number in range(children)]
    return parent, steps


def test_end_of_a_step_wakes_its_parent(database: Database, clock: Clock) -> None:
    parent, (step,) = family(database, clock)
    release(database, parent, clock(), 3600)
    (child,) = claim_new(database, clock())
    assert move(database, child, State.INITIALIZING, clock())
    assert row(database, parent.run_id).due_at == clock() + timedelta(hours=1)
    assert finish(database, child, an_end(State.COMPLETE), clock)
    assert row(database, parent.run_id).due_at == clock()
    assert row(database, step).state == State.COMPLETE


def test_canceled_step_wakes_its_parent_after_its_claim(database: Database, clock: Clock) -> None:
    parent, (step,) = family(database, clock)
    cancel(database, step, clock, Actor.PARENT)
    assert row(database, parent.run_id).due_at == clock() + timedelta(seconds=60)
    release(database, parent, clock(), 3600)
    assert row(database, parent.run_id).due_at == clock()


def test_refused_end_of_a_step_wakes_nobody(database: Database, clock: Clock) -> None:
    parent, _ = family(database, clock)
    (child,) = claim_new(database, clock())
    release(database, child, clock(), 3600)
    release(database, parent, clock(), 3600)
    assert not finish(database, child, an_end(State.SYSTEM_ERROR), clock)
    assert row(database, parent.run_id).hints == 0


def test_end_of_a_step_leaves_an_ended_parent_alone(database: Database, clock: Clock) -> None:
    parent, (step,) = family(database, clock)
    assert finish(database, parent, an_end(State.EXECUTOR_ERROR), clock)
    before = snapshot(database, parent.run_id)
    cancel(database, step, clock)
    assert snapshot(database, parent.run_id) == before


def test_steps_that_end_at_once_do_not_block_each_other(database: Database, clock: Clock) -> None:
    """Ends and cancels of siblings take the parent first, so no two of them wait for each other."""
    parent, steps = family(database, clock, 24)
    for number, child in enumerate(claimed := claim_new(database, clock(), limit=24)):
        if number % 2:
            assert move(database, child, State.INITIALIZING, clock())
    barrier = Barrier(8)

    def end(part: int) -> None:
        barrier.wait()
        for child in claimed[part::8]:
            if child.state == State.QUEUED:
                cancel(database, child.run_id, clock, Actor.PARENT)
            else:
                assert finish(database, child, an_end(State.COMPLETE), clock)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, range(8)))
    assert {row(database, step).state for step in steps} == {State.COMPLETE, State.CANCELED}
    assert row(database, parent.run_id).hints == 24


# What the database itself refuses


@pytest.mark.parametrize(
    "values",
    [
        {"state": "UNKNOWN"},
        {"state": "PREEMPTED"},
        {"due_at": None},
        {"state": "COMPLETE"},
        {"state": None},
        {"owner": None},
    ],
    ids=str,
)
def test_constraints(database: Database, clock: Clock, values: dict[str, Any]) -> None:
    run_id = accept(database, clock())
    with pytest.raises(IntegrityError):
        database.transact(
            lambda session: session.execute(update(WorkflowRun).where(WorkflowRun.run_id == run_id).values(values))
        )
