"""Every error of the API, from whatever layer, as `{"msg", "status_code"}`: the one place where that is decided."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable

from flask import Response, json
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from app.errors import Conflict, Forbidden, InvalidRequest, KeyReused, NotFound, OutcomeUnknown, TooLarge, WesError

log = logging.getLogger(__name__)

STATUSES: dict[type[WesError], int] = {
    InvalidRequest: 400,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    KeyReused: 422,
}
RETRY_AFTER_SECONDS = 5
_KEPT_HEADERS = frozenset({"Allow", "Content-Range", "Retry-After", "WWW-Authenticate"})
_AWAY = (OperationalError, InterfaceError, PoolTimeout, OutcomeUnknown)
"""The database or, behind a network, artifact storage does not answer."""
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def respond(error: Exception) -> Response:
    """The answer for any exception; what nobody foresaw is logged and told apart by nothing but 500."""
    if isinstance(error, WesError):
        return _answer(STATUSES.get(type(error), 400), str(error))
    if isinstance(error, HTTPException):
        headers = [(name, value) for name, value in error.get_headers() if name in _KEPT_HEADERS]
        return _answer(error.code or 500, error.description or error.name, headers)
    if isinstance(error, DataError):
        return _answer(400, "The request holds a value that cannot be stored or looked for.")
    if _is_disk_full(error):
        log.error("no space left", exc_info=error)
        return _answer(507, "There is no space left to store this. The administrator must make room.")
    if isinstance(error, _AWAY) or _is_out_of_descriptors(error):
        log.error("not available for a while", exc_info=error)
        words = "Not just now: the database, the storage or the machine is overloaded or away. Try again."
        return _answer(503, words, [("Retry-After", str(RETRY_AFTER_SECONDS))])
    log.error("unforeseen", exc_info=error)
    return _answer(500, "This failed for a reason that is in the server's log.")


def _answer(status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    body = json.dumps({"msg": message, "status_code": status})
    return Response(body, status, headers=list(headers), content_type="application/json")


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OperationalError):
        said = str(error.orig).lower()
        return getattr(error.orig, "sqlstate", None) == "53100" or "disk is full" in said
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def _is_out_of_descriptors(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
