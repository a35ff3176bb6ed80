"""Somebody waits for a run's next state, or watches its log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from app.database import Database
from app.errors import InvalidRequest
from app.hints import Hinter
from app.runs import transitions
from app.states import State, is_terminal

LONGEST_WAIT_SECONDS = 60.0
PAUSE_SHARE = 0.1
"""A pause is a tenth of the time waited so far: what is late by that is not noticed, and looks stay few."""
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 1.0
LOG_WANTED_EVERY = timedelta(seconds=5)


class Waiters:
    """Requests that are held open, at most `room` at once in this process: each holds a thread of the server."""

    def __init__(self, room: int, pause: Callable[[float], None] = time.sleep) -> None:
        self._room = threading.Semaphore(room)
        self._pause = pause

    def wait(self, look: Callable[[], State], seconds: float, known: State | None = None) -> State:
        """The state once it is not the one that is `known` (now, unless given) or has ended, or after `seconds`; at
        once where there is no room."""
        state = look()
        known = known or state
        with self._seat() as seated:
            waited, longest = 0.0, min(seconds, LONGEST_WAIT_SECONDS) if seated else 0.0
            while waited < longest and state == known and not is_terminal(state):
                pause = min(max(waited * PAUSE_SHARE, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS, longest - waited)
                self._pause(pause)
                waited += pause
                state = look()
        return state

    @contextmanager
    def _seat(self) -> Iterator[bool]:
        seated = self._room.acquire(blocking=False)
        try:
            yield seated
        finally:
            if seated:
                self._room.release()


def read_seconds(text: str) -> float:
    """The parameter `wait`: how long the client would wait for a change; "" is 0. Raises InvalidRequest."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise InvalidRequest("wait must be a number of seconds.")
    return seconds


def want_log(database: Database, hinter: Hinter, run_id: str, now: datetime) -> None:
    """Ask the daemon, at most every few seconds, to bring this active run's logs up to date."""
    if database.transact(lambda session: transitions.want_logs(session, run_id, now, now - LOG_WANTED_EVERY)):
        hinter.hint(run_id)
