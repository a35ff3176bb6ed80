"""wesctl's exit codes: the end of a run, or the reason why there is none. Pure."""

from __future__ import annotations

from enum import IntEnum

from app.client.errors import Invalid, NotAuthenticated, RunNotFound, WesClientError


class Exit(IntEnum):
    """130 is what shells give a program that Ctrl-C ended: the run itself goes on."""

    COMPLETE = 0
    EXECUTOR_ERROR = 1
    USAGE = 2
    SYSTEM_ERROR = 3
    CANCELED = 4
    TIMEOUT = 5
    NOT_FOUND = 6
    NOT_AUTHENTICATED = 7
    UNREACHABLE = 8
    INVALID = 9
    DETACHED = 130


def exit_of_state(state: str) -> Exit:
    """For an end state; another server's PREEMPTED counts as SYSTEM_ERROR."""
    return Exit.__members__.get(state, Exit.SYSTEM_ERROR)


def exit_of_error(error: WesClientError) -> Exit:
    """A server that fails or makes no sense counts as unreachable."""
    kinds = {RunNotFound: Exit.NOT_FOUND, NotAuthenticated: Exit.NOT_AUTHENTICATED, Invalid: Exit.INVALID}
    return kinds.get(type(error), Exit.UNREACHABLE)
