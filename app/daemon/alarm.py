"""What ends a loop's sleep: at once, or soon, so that what happens meanwhile is seen to in one go. Knows no loop."""

from __future__ import annotations

import math
import threading
import time


class Alarm:
    """One sleeps, any number of threads wake it. Times in seconds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at = math.inf  # of time.monotonic

    def ring(self, within: float = 0.0) -> None:
        """End the sleep that is under way, or the next one, in so many seconds at the latest."""
        with self._changed:
            self._at = min(self._at, time.monotonic() + within)
            self._changed.notify()

    def sleep(self, longest: float) -> None:
        """Until it rings. What has rung counts once."""
        end = time.monotonic() + longest
        with self._changed:
            while (left := min(end, self._at) - time.monotonic()) > 0:
                self._changed.wait(left)
            self._at = math.inf
