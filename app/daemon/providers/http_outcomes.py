"""What an HTTP answer, or the lack of one, says of a call: one of the three provider errors. Knows no platform.

For every provider that talks HTTP, also through an SDK that gives it a status. In doubt it is OutcomeUnknown: one more
look costs little, a second execution much.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

from app.errors import NotAccepted, OutcomeUnknown, ProviderError, Rejected

MAY_HEAL = frozenset({401, 402, 403, 429})
"""Expired or missing credentials, quota, throttling: refused before anything was done, and not for good."""
UNCLEAR = frozenset({408})
MAX_RETRY_AFTER_SECONDS = 3600.0


def error_of_status(
    status: int, words: str, retry_after: float | None = None, reason: str = "rejected"
) -> ProviderError:
    """What a status that is no success means. `words` are for the user; `reason` is for Rejected."""
    if status in MAY_HEAL:
        return NotAccepted(words, retry_after)
    if 400 <= status < 500 and status not in UNCLEAR:
        return Rejected(words, reason)
    return OutcomeUnknown(words)


def error_of_exception(error: Exception) -> ProviderError:
    """What it means that no whole answer came: only where no connection came to be, nothing was sent for certain."""
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    if isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError):
        return NotAccepted(f"{_host(error)} cannot be reached.")
    if isinstance(error, requests.Timeout) or "timed out" in str(cause):
        return OutcomeUnknown(f"{_host(error)} did not answer in time.")
    return OutcomeUnknown(f"{_host(error)} gave no whole answer ({type(error).__name__}).")


def _host(error: Exception) -> str:
    """Where it was sent, without a user or a password that the URL may hold."""
    url = getattr(getattr(error, "request", None), "url", None)
    return urlsplit(url).netloc.rpartition("@")[2] if url else "The platform"


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Either form of a Retry-After header as seconds from `now`, at most an hour; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdigit() else (parsedate_to_datetime(header) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
