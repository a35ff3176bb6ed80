"""Every edge of the state table, written out once more by hand, and nothing beside it."""

from __future__ import annotations

from itertools import product

import pytest

from app.states import TERMINAL, Actor, State, is_terminal, may_move

STATES = [
    "QUEUED",
    "INITIALIZING",
    "RUNNING",
    "PAUSED",
    "CANCELING",
    "COMPLETE",
    "EXECUTOR_ERROR",
    "SYSTEM_ERROR",
    "CANCELED",
]
ACTORS = ["user", "parent", "daemon"]

# One letter an actor: u user, p parent, d daemon; "-" nobody. Columns in the order of STATES.
TABLE = """
QUEUED          -   d   -   -   -   p   -   dp  up
INITIALIZING    d   -   d   d   up  d   d   d   d
RUNNING         -   -   -   d   up  d   d   d   d
PAUSED          -   -   d   -   up  d   d   d   d
CANCELING       -   -   -   -   -   d   d   d   d
COMPLETE        -   -   -   -   -   -   -   -   -
EXECUTOR_ERROR  -   -   -   -   -   -   -   -   -
SYSTEM_ERROR    -   -   -   -   -   -   -   -   -
CANCELED        -   -   -   -   -   -   -   -   -
"""
ALLOWED = {
    (actor, start, to)
    for start, *cells in (line.split() for line in TABLE.strip().splitlines())
    for to, cell in zip(STATES, cells, strict=True)
    for actor in ACTORS
    if actor[0] in cell
}


@pytest.mark.parametrize(("actor", "start", "to"), list(product(ACTORS, STATES, STATES)))
def test_table(actor: str, start: str, to: str) -> None:
    assert may_move(Actor(actor), State(start), State(to)) is ((actor, start, to) in ALLOWED)


def test_table_has_all_states() -> None:
    assert [line.split()[0] for line in TABLE.strip().splitlines()] == STATES == [str(state) for state in State]
    assert sorted(ACTORS) == sorted(str(actor) for actor in Actor)
    assert len(ALLOWED) == 33


def test_end_states() -> None:
    assert [state for state in STATES if is_terminal(State(state))] == STATES[5:]
    assert {str(state) for state in TERMINAL} == set(STATES[5:])


def test_state_from_the_database_is_plain_text_and_as_good() -> None:
    """Rows hold str; sets and tables of State must find it."""
    assert is_terminal("COMPLETE") and not is_terminal("RUNNING")  # type: ignore[arg-type]
    assert may_move(Actor.DAEMON, "RUNNING", "COMPLETE")  # type: ignore[arg-type]
