"""Page tokens: where a next page begins, signed, and bound to the query and the user that they were made for."""

from __future__ import annotations

import hashlib
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from app.errors import InvalidRequest


class PageTokens:
    """`scope` is everything that must not change between pages: anything with a stable `repr`."""

    def __init__(self, key: str) -> None:
        self._serializer = URLSafeSerializer(key, salt="page-token")

    def make(self, scope: object, position: list[Any]) -> str:
        """`position` is JSON."""
        return str(self._serializer.dumps([_digest(scope), position]))

    def read(self, scope: object, token: str) -> list[Any]:
        """Raises InvalidRequest for a token that we did not make, or made for another scope."""
        try:
            digest, position = self._serializer.loads(token)
        except (BadData, UnicodeError):
            digest, position = None, []
        if digest != _digest(scope):
            raise InvalidRequest("page_token is not one of this list's: leave it out to begin at the first page.")
        return list(position)


def _digest(scope: object) -> str:
    return hashlib.sha256(repr(scope).encode(errors="replace")).hexdigest()[:32]
