"""The WES states, and who may move a run from which to which. Pure.

            +--------------------- QUEUED ------------------+
            | user/parent: CANCELED      daemon: refused    |
            v                                               v
    CANCELED   QUEUED <-> INITIALIZING -> RUNNING <-> PAUSED   SYSTEM_ERROR
                              |              |          |
                              +--- user/parent: CANCELING ---> any terminal state (the truth wins)

A step of a pipeline may end in QUEUED: COMPLETE where an earlier run did it, SYSTEM_ERROR where nothing would run it.
Past QUEUED every state may reach every terminal one, since a fast or reordered report must not leave a run stuck.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """A run's state, spelled as WES 1.1.0 spells it. UNKNOWN and PREEMPTED are never stored."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELING = "CANCELING"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"


class Actor(StrEnum):
    """Who moves a run."""

    USER = "user"
    PARENT = "parent"
    DAEMON = "daemon"


TERMINAL = frozenset({State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED})
ACTIVE = frozenset({State.INITIALIZING, State.RUNNING, State.PAUSED, State.CANCELING})
"""Claimed by a provider at least once and not over: what counts against a provider's room."""
CANCELABLE_REMOTELY = frozenset({State.INITIALIZING, State.RUNNING, State.PAUSED})

_OUTSIDERS = frozenset({Actor.USER, Actor.PARENT})
_DAEMON = frozenset({Actor.DAEMON})

MOVES: dict[tuple[State, State], frozenset[Actor]] = {
    (State.QUEUED, State.INITIALIZING): _DAEMON,
    (State.QUEUED, State.SYSTEM_ERROR): _DAEMON | {Actor.PARENT},  # a step that cannot be run here
    (State.QUEUED, State.COMPLETE): frozenset({Actor.PARENT}),  # a step that an earlier run did
    (State.QUEUED, State.CANCELED): _OUTSIDERS,
    (State.INITIALIZING, State.QUEUED): _DAEMON,
    (State.INITIALIZING, State.RUNNING): _DAEMON,
    (State.INITIALIZING, State.PAUSED): _DAEMON,
    (State.RUNNING, State.PAUSED): _DAEMON,
    (State.PAUSED, State.RUNNING): _DAEMON,
    **{(start, State.CANCELING): _OUTSIDERS for start in CANCELABLE_REMOTELY},
    **{(start, end): _DAEMON for start in ACTIVE for end in TERMINAL},
}


def may_move(actor: Actor, from_state: State, to_state: State) -> bool:
    """True where the table lets `actor` move a run so."""
    return actor in MOVES.get((from_state, to_state), frozenset())


def is_terminal(state: State) -> bool:
    """True for the four end states: such a run never changes again."""
    return state in TERMINAL
