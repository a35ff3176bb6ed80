"""What daemons offered a moment ago, so that not every request has to ask the database. One for each process."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.routing import Offers

LASTS_SECONDS = 1.0


class RecentOffers:
    """The last answer, for a second. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: tuple[float, Offers] | None = None

    def get(self) -> Offers | None:
        """None where nothing was offered, or too long ago."""
        kept = self._kept
        return kept[1] if kept and self._now() - kept[0] < LASTS_SECONDS else None

    def set(self, offers: Offers) -> None:
        self._kept = (self._now(), offers)
