"""Who gets which run when, and what release, renewal and hints do to the one column that is queue, lease and timer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.database import Database
from app.models import WorkflowRun
from app.runs import claims
from app.runs.claims import SUSPECT_AFTER
from app.states import ACTIVE, State
from tests.conftest import Clock
from tests.rows import LEASE, accept, bring_to, claim_known, claim_new, move, release, row, who


def ids(runs: list[WorkflowRun]) -> list[str]:
    return [run.run_id for run in runs]


def hint(database: Database, clock: Clock, *run_ids: str) -> None:
    database.transact(lambda session: claims.hint(session, run_ids, clock()))


def waiting_at(database: Database, clock: Clock, run_id: str) -> tuple[str, bool] | None:
    with database.reading() as session:
        return claims.waiting_at(session, run_id, clock())


def renew(
    database: Database, clock: Clock, tokens: list[str], run_ids: list[str], lease: timedelta = LEASE
) -> set[str]:
    return database.transact(lambda session: claims.renew(session, tokens, run_ids, clock(), lease))


def change(database: Database, run_id: str, **values: Any) -> None:
    database.transact(lambda session: session.execute(update(WorkflowRun).filter_by(run_id=run_id).values(values)))


# Taking


def test_claim(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    (run,) = claim_new(database, clock(), who("daemon:7"))
    assert (run.run_id, run.claim, run.unreleased_claims) == (run_id, "daemon:7", 1)
    stored = row(database, run_id)
    assert (stored.claim, stored.due_at, stored.unreleased_claims) == ("daemon:7", clock() + LEASE, 1)
    assert stored.hints == 0
    assert claim_new(database, clock(), who("daemon:8")) == []


def test_oldest_due_first(database: Database, clock: Clock) -> None:
    due = {accept(database, clock(), name=f"{minutes}"): minutes for minutes in (5, 1, 4, 2, 3)}
    for run_id, minutes in due.items():
        change(database, run_id, due_at=clock() + timedelta(minutes=minutes))
    clock.advance(minutes=10)
    order = [due[found] for _ in due for found in ids(claim_new(database, clock(), limit=1))]
    assert order == [1, 2, 3, 4, 5]


def test_limit(database: Database, clock: Clock) -> None:
    runs = {accept(database, clock.advance(seconds=1)) for _ in range(5)}
    assert claim_new(database, clock(), limit=0) == claim_new(database, clock(), limit=-1) == []
    first, rest = claim_new(database, clock(), limit=3), claim_new(database, clock(), limit=3)
    assert (len(first), len(rest)) == (3, 2)
    assert {*ids(first), *ids(rest)} == runs


def test_batch_is_in_order_of_submission(database: Database, clock: Clock) -> None:
    runs = [accept(database, clock.advance(seconds=1)) for _ in range(6)]
    assert ids(claim_new(database, clock())) == runs


def test_only_what_is_due(database: Database, clock: Clock) -> None:
    run_id = accept(database, clock())
    change(database, run_id, due_at=clock() + timedelta(microseconds=1))
    assert claim_new(database, clock()) == []
    assert ids(claim_new(database, clock.advance(microseconds=1))) == [run_id]


def test_new_and_known_are_apart(database: Database, clock: Clock) -> None:
    known = {state: bring_to(database, state, clock()) for state in ACTIVE}
    for run in known.values():
        release(database, run, clock())
    new = accept(database, clock())
    assert ids(claim_new(database, clock())) == [new]
    assert {run.state for run in claim_known(database, clock())} == ACTIVE


@pytest.mark.parametrize("end", [State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED])
def test_ended_run_is_never_claimed(database: Database, clock: Clock, end: State) -> None:
    bring_to(database, end, clock())
    clock.advance(days=999)
    claimed = database.transact(lambda session: claims.claim_suspect(session, who(), clock()))
    assert [claimed, claim_known(database, clock()), claim_new(database, clock())] == [[], [], []]


def test_other_providers_runs(database: Database, clock: Clock) -> None:
    accept(database, clock(), provider_type="cloud")
    assert claim_new(database, clock(), who(provider="local")) == []
    assert len(claim_new(database, clock(), who(provider="cloud"))) == 1


def test_host_binding(database: Database, clock: Clock) -> None:
    """A run that lives on one machine is for the daemon there; a run without a host is for anybody."""
    bound, free = bring_to(database, State.RUNNING, clock()), bring_to(database, State.RUNNING, clock())
    change(database, bound.run_id, host="there")
    for run in (bound, free):
        release(database, run, clock())
    assert ids(claim_known(database, clock(), who(host="here"))) == [free.run_id]
    assert ids(claim_known(database, clock(), who(host="there"))) == [bound.run_id]


# Holding


def test_lease_that_runs_out_is_taken_over(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert claim_known(database, clock.advance(seconds=59.999999), who("other:1")) == []
    (taken,) = claim_known(database, clock.advance(microseconds=1), who("other:1"))
    assert (taken.run_id, taken.claim, taken.unreleased_claims) == (run.run_id, "other:1", 2)
    assert release(database, run, clock()) == 0
    assert row(database, run.run_id).claim == "other:1"


def test_renewal(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert renew(database, clock, ["daemon:1"], [run.run_id]) == {run.run_id}
    clock.advance(seconds=50)
    assert renew(database, clock, ["daemon:1"], [run.run_id], timedelta(seconds=30)) == {run.run_id}
    assert claim_known(database, clock.advance(seconds=29), who("other:1")) == []
    assert ids(claim_known(database, clock.advance(seconds=1), who("other:1"))) == [run.run_id]


def test_renewal_of_claims_that_are_partly_lost(database: Database, clock: Clock) -> None:
    runs = [bring_to(database, State.RUNNING, clock(), who(f"daemon:{number}")) for number in range(4)]
    kept, released, ended, taken = runs
    release(database, released, clock(), 5)
    change(database, ended.run_id, state="COMPLETE", due_at=None, claim=None)
    change(database, taken.run_id, claim="other:1", due_at=clock() + timedelta(hours=1))
    tokens = [f"daemon:{number}" for number in range(4)]
    assert renew(database, clock, tokens, ids(runs)) == {kept.run_id}
    assert row(database, taken.run_id).due_at == clock() + timedelta(hours=1)
    assert row(database, ended.run_id).due_at is None
    assert row(database, released.run_id).due_at == clock() + timedelta(seconds=5)


def test_expired_claim_that_nobody_took_may_be_renewed(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    clock.advance(hours=1)
    assert renew(database, clock, ["daemon:1"], [run.run_id]) == {run.run_id}
    assert claim_known(database, clock(), who("other:1")) == []


# Giving back


def test_release(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert release(database, run, clock(), 7, waiting_for="a reason") == 1
    stored = row(database, run.run_id)
    assert (stored.claim, stored.due_at) == (None, clock() + timedelta(seconds=7))
    assert (stored.unreleased_claims, stored.waiting_for, stored.observed_at) == (0, "a reason", None)
    assert release(database, run, clock(), 7) == 0
    assert claim_known(database, clock.advance(seconds=6)) == []
    assert ids(claim_known(database, clock.advance(seconds=1))) == [run.run_id]


def test_release_of_many(database: Database, clock: Clock) -> None:
    for _ in range(5):
        accept(database, clock())
    runs = claim_new(database, clock(), limit=4)
    lost = runs.pop()
    change(database, lost.run_id, claim="other:1")
    run_ids = [*ids(runs), lost.run_id]
    freed = database.transact(lambda session: claims.release(session, "daemon:1", run_ids, clock(), timedelta(0)))
    assert freed == 3
    assert row(database, lost.run_id).claim == "other:1"


def test_observed_release_forgets_what_was_wrong(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    change(database, run.run_id, failures=4, misses=3, refusals=2, missing_since=clock())
    release(database, run, clock(), observed=True)
    stored = row(database, run.run_id)
    assert (stored.failures, stored.misses, stored.refusals, stored.missing_since) == (0, 0, 0, None)
    assert stored.observed_at == clock()


def test_plain_release_remembers_it(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    change(database, run.run_id, failures=4, missing_since=clock())
    release(database, run, clock())
    assert (row(database, run.run_id).failures, row(database, run.run_id).missing_since) == (4, clock())


# Hints


def test_hint_before_the_claim(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    release(database, run, clock(), 3600)
    hint(database, clock, run.run_id)
    (claimed,) = claim_known(database, clock())
    release(database, claimed, clock(), 3600)
    assert row(database, run.run_id).due_at == clock() + timedelta(hours=1)


def test_hint_during_the_claim(database: Database, clock: Clock) -> None:
    """The lease stays as it is; the wake comes when the claim is released."""
    run = bring_to(database, State.RUNNING, clock())
    clock.advance(seconds=5)
    hint(database, clock, run.run_id)
    stored = row(database, run.run_id)
    assert (stored.claim, stored.due_at) == ("daemon:1", clock() + timedelta(seconds=55))
    assert claim_known(database, clock(), who("other:1")) == []
    release(database, run, clock.advance(seconds=5), 3600)
    assert row(database, run.run_id).due_at == clock()


def test_hint_during_a_claim_that_is_lost(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    hint(database, clock, run.run_id)
    (taken,) = claim_known(database, clock.advance(seconds=60), who("other:1"))
    assert row(database, run.run_id).hints == 0
    release(database, taken, clock(), 3600)
    assert row(database, run.run_id).due_at == clock() + timedelta(hours=1)


def test_flood_of_hints_does_not_push_a_run_back(database: Database, clock: Clock) -> None:
    """A run that is due keeps its place however often it is hinted: nobody can starve another's run, or his own."""
    first, second = accept(database, clock()), accept(database, clock.advance(seconds=1))
    for _ in range(5):
        clock.advance(seconds=1)
        hint(database, clock, first)
    assert ids(claim_new(database, clock(), limit=1)) == [first]
    assert ids(claim_new(database, clock(), limit=1)) == [second]


def test_hint_for_many(database: Database, clock: Clock) -> None:
    runs = [bring_to(database, State.RUNNING, clock()) for _ in range(3)]
    for run in runs:
        release(database, run, clock(), 3600)
    hint(database, clock, *(run.run_id for run in runs[:2]))
    hint(database, clock)
    assert set(ids(claim_known(database, clock()))) == {run.run_id for run in runs[:2]}


def test_where_a_run_waits(database: Database, clock: Clock) -> None:
    new = accept(database, clock(), provider_type="cloud")
    assert waiting_at(database, clock, new) == ("cloud", True)
    running = bring_to(database, State.RUNNING, clock())
    assert waiting_at(database, clock, running.run_id) == ("local", False)
    release(database, running, clock(), 3600)
    assert waiting_at(database, clock, running.run_id) == ("local", False)
    ended = bring_to(database, State.CANCELED, clock())
    assert [waiting_at(database, clock, run_id) for run_id in (ended.run_id, "", "no-such-run")] == [None] * 3


# Runs that kill whoever works on them


def crash(database: Database, clock: Clock, run_id: str, claim: Any = claim_new) -> None:
    assert ids(claim(database, clock(), who(f"dying:{clock().timestamp()}"))) == [run_id]
    clock.advance(seconds=60)


@pytest.mark.parametrize("claim", [claim_new, claim_known])
def test_suspects_are_claimed_apart(database: Database, clock: Clock, claim: Any) -> None:
    state = State.QUEUED if claim is claim_new else State.RUNNING
    run = bring_to(database, state, clock())
    release(database, run, clock())
    for _ in range(SUSPECT_AFTER + 1):
        crash(database, clock, run.run_id, claim)
    other = bring_to(database, state, clock())
    release(database, other, clock())
    assert ids(claim(database, clock())) == [other.run_id]
    (suspect,) = database.transact(lambda session: claims.claim_suspect(session, who("careful:1"), clock()))
    assert (suspect.run_id, suspect.unreleased_claims) == (run.run_id, SUSPECT_AFTER + 2)
    assert database.transact(lambda session: claims.claim_suspect(session, who("careful:2"), clock())) == []
    release(database, suspect, clock())
    assert ids(claim(database, clock())) == [run.run_id]


def test_known_suspects_come_before_new_ones(database: Database, clock: Clock) -> None:
    new, known = accept(database, clock()), bring_to(database, State.RUNNING, clock())
    for run_id in (new, known.run_id):
        change(database, run_id, unreleased_claims=SUSPECT_AFTER + 1, claim=None, due_at=clock())
    taken = [database.transact(lambda session: claims.claim_suspect(session, who(), clock())) for _ in range(3)]
    assert [ids(runs) for runs in taken] == [[known.run_id], [new], []]


# Dead daemons


def test_runs_of_a_dead_daemon_are_due_at_once(database: Database, clock: Clock) -> None:
    theirs = bring_to(database, State.RUNNING, clock(), who("dead:12"))
    queued = bring_to(database, State.QUEUED, clock(), who("dead:13"))
    others = bring_to(database, State.RUNNING, clock(), who("deadly:1"))
    waiting = bring_to(database, State.RUNNING, clock(), who("dead:14"))
    release(database, waiting, clock(), 3600)
    clock.advance(seconds=1)
    assert database.transact(lambda session: claims.release_dead(session, ["dead", "long dead"], clock())) == 2
    for run in (theirs, queued):
        stored = row(database, run.run_id)
        assert (stored.claim, stored.due_at, stored.unreleased_claims) == (None, clock(), 1)
    assert row(database, others.run_id).claim == "deadly:1"
    assert row(database, waiting.run_id).due_at == clock() + timedelta(seconds=3599)
    assert not move(database, theirs, State.PAUSED, clock())


def test_no_dead_daemon_frees_nothing(database: Database, clock: Clock) -> None:
    run = bring_to(database, State.RUNNING, clock())
    assert database.transact(lambda session: claims.release_dead(session, [], clock())) == 0
    assert row(database, run.run_id).claim == run.claim


def test_what_a_wrong_clock_put_off_for_days_is_due_again(database: Database, clock: Clock) -> None:
    known, held = (bring_to(database, State.RUNNING, clock()) for _ in range(2))
    queued, later = (accept(database, clock()) for _ in range(2))
    for run_id in (known.run_id, held.run_id, queued):
        change(database, run_id, due_at=clock() + timedelta(days=5))
    release(database, known, clock(), 5 * 86_400)
    change(database, later, due_at=clock() + claims.LONGEST_WAIT)
    assert database.transact(lambda session: claims.bring_back(session, clock())) == 3
    assert [row(database, run_id).due_at for run_id in (known.run_id, held.run_id, queued)] == [clock()] * 3
    assert row(database, later).due_at == clock() + claims.LONGEST_WAIT
    assert row(database, held.run_id).claim == held.claim


def test_runs_of_a_lost_host(database: Database, clock: Clock) -> None:
    lost, living, queued = (
        bring_to(database, state, clock()) for state in (State.RUNNING, State.RUNNING, State.QUEUED)
    )
    for run, host in ((lost, "gone"), (living, "here"), (queued, None)):
        change(database, run.run_id, host=host)

    def claim_lost(token: str) -> list[str]:
        return ids(
            database.transact(lambda session: claims.claim_lost(session, token, ["gone", "older"], clock(), LEASE))
        )

    assert claim_lost("other:lost") == []
    clock.advance(seconds=60)
    assert claim_lost("other:lost") == [lost.run_id]
    assert claim_lost("another:lost") == []
    assert row(database, lost.run_id).claim == "other:lost"


# Numbers


def test_active_runs_are_counted(database: Database, clock: Clock) -> None:
    for state in State:
        run = bring_to(database, state, clock())
        if state == State.RUNNING:
            change(database, run.run_id, host="here")
    assert bring_to(database, State.RUNNING, clock(), who(provider="cloud"), provider_type="cloud")
    with database.reading() as session:
        assert claims.count_active(session, "local", None) == len(ACTIVE)
        assert claims.count_active(session, "local", "here") == 1
        assert claims.count_active(session, "cloud", "elsewhere") == 0


def test_the_outlook(database: Database, clock: Clock) -> None:
    def look() -> tuple[bool, bool, Any]:
        with database.reading() as session:
            outlook = claims.look_ahead(session, "local", "here", clock())
            return outlook.known, outlook.new, outlook.next_known

    assert look() == (False, False, None)
    accept(database, clock(), provider_type="cloud")
    assert look() == (False, False, None)
    queued = accept(database, clock())
    assert look() == (False, True, None)  # a QUEUED run has no time of its own: it waits for room
    change(database, queued, due_at=clock() + timedelta(minutes=1))
    for minutes, host in ((9, None), (5, "here"), (1, "there")):
        run = bring_to(database, State.RUNNING, clock())
        change(database, run.run_id, claim=None, host=host, due_at=clock() + timedelta(minutes=minutes))
    due = clock() + timedelta(minutes=5)
    assert look() == (False, False, due)
    clock.advance(minutes=5)
    assert look() == (True, True, due)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_suspects_are_seen_where_they_can_be_claimed(database: Database, clock: Clock, state: State) -> None:
    def is_seen() -> bool:
        with database.reading() as session:
            return claims.has_suspect(session, "local", "here", clock())

    run_id = accept(database, clock()) if state == State.QUEUED else bring_to(database, state, clock()).run_id
    change(database, run_id, claim=None, due_at=clock(), unreleased_claims=SUSPECT_AFTER)
    assert not is_seen()
    change(database, run_id, unreleased_claims=SUSPECT_AFTER + 1)
    assert is_seen()
    change(database, run_id, host="there")
    assert not is_seen()
    change(database, run_id, host="here", due_at=clock() + timedelta(seconds=1))
    assert not is_seen()


def test_claimed_rows_leave_large_columns_in_the_database(database: Database, clock: Clock) -> None:
    accept(database, clock())
    (run,) = claim_new(database, clock())
    assert not any(hasattr(run, name) for name in ("workflow_params", "outputs", "submit_request"))
