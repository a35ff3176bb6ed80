"""Exceptions, named by what the caller does next. Pure: knows neither HTTP nor the database.

WesError                    what a request ran into; the API turns it into {"msg", "status_code"}
    InvalidRequest          the request is malformed: mend it and send again (400)
    Forbidden               known user, not allowed (403)
    NotFound                no such thing, or not yours (404)
    Conflict                the request contradicts what is stored (409)
    KeyReused               Idempotency-Key used before for another request (422)
    TooLarge                over a configured limit (413)
ProviderError               what a provider call ran into
    NotAccepted             it certainly did not happen: try again later
        NotReady            nothing is wrong with the provider: something is being made, it is not its turn, or
                            the run's own user has to do something first
    OutcomeUnknown          it may have happened: look before trying again
        StorageUnavailable  artifact storage does not answer, for a provider or for the API: try again later (503)
    Rejected                it was understood and refused for good: end the run with these words
"""

from __future__ import annotations


class WesError(Exception):
    """A request that cannot be served; `str(error)` is for the user."""


class InvalidRequest(WesError):
    """The request is malformed."""


class Forbidden(WesError):
    """The user is known and may not do this."""


class NotFound(WesError):
    """No such thing, or not this user's."""


class Conflict(WesError):
    """The request contradicts what is stored, e.g. deleting a run that has not ended."""


class KeyReused(WesError):
    """An Idempotency-Key came again with a different request."""


class TooLarge(WesError):
    """The request is over a configured limit; the words name it."""


class ProviderError(Exception):
    """A provider call that did not succeed."""


class NotAccepted(ProviderError):
    """It certainly did not happen (throttled, quota, credentials, refused connection).

    `retry_after`: seconds the provider asked for, None where it named none.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(NotAccepted):
    """Nothing was done and nothing is wrong with the provider: something that the run needs is being made, it is not
    its turn yet, or its own user has to do something first.

    `retry_after`: seconds after which it is worth coming again. It does not count as a failure of the provider.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, retry_after)


class OutcomeUnknown(ProviderError):
    """A time-out, a reset or a 5xx after sending: it may or may not have happened."""


class StorageUnavailable(OutcomeUnknown):
    """Artifact storage did not answer, refused for a reason that may pass, or changed under our hands."""


class Rejected(ProviderError):
    """The provider understood and said no, for good.

    `reason`: a machine-readable word for the run's system logs.
    """

    def __init__(self, message: str, reason: str = "rejected") -> None:
        super().__init__(message)
        self.reason = reason
