"""A BV-BRC token: where a request carries it, what it says of itself, and how words are kept free of it. Pure.

A token is `un=<user>|tokenid=…|expiry=<Unix time>|…|sig=<hex>`; whoever has its text may act as that user until it
expires (BV-BRC's P3AuthToken and P3TokenValidator).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app.errors import InvalidRequest

HEADER = "X-BVBRC-Token"
MAX_CHARACTERS = 4096
_TOKEN = re.compile(r"un=([^|\s]{1,255})\|[!-~]+", re.ASCII)
_EXPIRY = re.compile(r"\|expiry=(\d{1,11})(?=\||$)", re.ASCII)
_SECRETS = re.compile(r"\bun=[^|\s]+\|\S*|\bsig=[0-9A-Fa-f]{8,}", re.ASCII)
_HIDDEN = "[token]"


@dataclass(frozen=True, slots=True)
class BvbrcToken:
    """`expires_at` is aware UTC; None where the token does not say."""

    text: str = field(repr=False)
    user: str
    expires_at: datetime | None

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def hidden_in(self, words: str) -> str:
        """The words without this token, and without anything else that looks like one."""
        return _SECRETS.sub(_HIDDEN, words.replace(self.text, _HIDDEN))


def read_token(text: str) -> BvbrcToken | None:
    """None where this is no token."""
    found = _TOKEN.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if found is None or not found[1].isprintable():
        return None
    expiry = _EXPIRY.search(text)
    return BvbrcToken(text, found[1], datetime.fromtimestamp(int(expiry[1]), UTC) if expiry else None)


def sent_token(own: str, general: str) -> str | None:
    """The token that came with a request: in its own header, else in Authorization where that is plainly one.

    Takes the values of both, empty where they were not sent. Raises InvalidRequest, without the value, where the own
    header holds something else.
    """
    own, general = own.strip(), general.strip()
    if own:
        if read_token(own) is None:
            raise InvalidRequest(f"{HEADER} is not a BV-BRC token: it must read un=<user>|…|expiry=…|sig=….")
        return own
    return general if read_token(general) else None
