"""Ending provider runs that are one too many: asked for again until the provider says that they are over.

What becomes of it is no concern of the run's own execution: it neither waits for this nor counts its failures.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from app.daemon.claimed_runs import ClaimedRuns
from app.daemon.following import CANCELED_UNSEEN_SECONDS
from app.daemon.patience import backoff_seconds
from app.daemon.providers.provider_interface import WorkflowProviderInterface
from app.errors import ProviderError, Rejected
from app.models import OwedCancel
from app.runs import owed_cancels
from app.states import is_terminal

log = logging.getLogger(__name__)


class OwedCancels:
    """Those of one provider."""

    def __init__(self, provider: WorkflowProviderInterface, runs: ClaimedRuns) -> None:
        self._provider, self._runs = provider, runs

    def take(self, limit: int) -> Sequence[OwedCancel]:
        """Some that are due, for `end`; a lease later they are anybody's again."""
        name, runs, now = self._provider.name, self._runs, self._runs.now()
        return runs.database.transact(
            lambda session: owed_cancels.take_due(session, name, runs.host, now, runs.holds.lease, max(0, limit))
        )

    def end(self, owed: OwedCancel) -> None:
        """Ask once more, and look. Whatever the provider raises, it is tried again later."""
        try:
            is_over = self._ask_and_look(owed)
        except Exception as error:
            defect = None if isinstance(error, ProviderError) else error
            said = _named(owed) | {"error": str(error)}
            log.warning("a second provider run cannot be cancelled now", exc_info=defect, extra=said)
            self._put_off(owed, getattr(error, "retry_after", None))
            return
        if is_over:
            now = self._runs.now()
            self._runs.database.transact(lambda session: owed_cancels.settle(session, owed, now))
            log.info("a second provider run is over", extra=_named(owed))
        else:
            self._put_off(owed)

    def _ask_and_look(self, owed: OwedCancel) -> bool:
        """True where it has ended, or has not been known for long enough."""
        with suppress(Rejected):  # perhaps as it is over: the look tells
            self._provider.cancel_duplicate(owed.provider_id)
        status = self._provider.get_workflow_status(owed.provider_id)
        if status is None:
            return self._runs.now() - owed.since >= timedelta(seconds=CANCELED_UNSEEN_SECONDS)
        return status.state is not None and is_terminal(status.state)

    def _put_off(self, owed: OwedCancel, retry_after: float | None = None) -> None:
        until = self._runs.now() + timedelta(seconds=backoff_seconds(owed.tries + 2, retry_after))
        self._runs.database.transact(lambda session: owed_cancels.put_off(session, owed, until))


def _named(owed: OwedCancel) -> dict[str, str]:
    return {"run_id": owed.run_id, "provider": owed.provider_type, "provider_id": owed.provider_id}
