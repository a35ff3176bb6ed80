"""BV-BRC tokens: what is one, when it expires, and that words are kept free of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.bvbrc_token import BvbrcToken, read_token, sent_token
from app.errors import InvalidRequest

TEXT = (
    "un=alice@patricbrc.org|tokenid=0d1f|expiry=1800000000|client_id=alice@patricbrc.org|token_type=Bearer"
    "|SigningSubject=https://user.patricbrc.org/public_key|sig=0123456789abcdef0123456789abcdef"
)
EXPIRES = datetime.fromtimestamp(1_800_000_000, UTC)
NO_TOKENS = [
    "",
    "Bearer abc",
    "Basic dXNlcjpwYXNz",
    "un=alice",
    "un=|expiry=1|sig=00",
    "xun=alice|sig=00",
    "un=alice|expiry=1 |sig=00",
    "un=alice|expiry=1\n|sig=00",
    "un=alice|sïg=00",
    "un=alice|" + "x" * 5000,
    "un=al\x07ice|sig=00",
]


def token(text: str = TEXT) -> BvbrcToken:
    found = read_token(text)
    assert found is not None
    return found


def test_what_a_token_says() -> None:
    assert (token().user, token().expires_at) == ("alice@patricbrc.org", EXPIRES)


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_is_no_token(text: str) -> None:
    assert read_token(text) is None


def test_a_token_expires_to_the_second() -> None:
    assert not token().is_expired(EXPIRES - timedelta(seconds=1))
    assert token().is_expired(EXPIRES)


@pytest.mark.parametrize("expiry", ["", "|expiry=", "|expiry=soon", "|expiry=999999999999", "|notexpiry=1"])
def test_a_token_that_does_not_say_when_never_expires_here(expiry: str) -> None:
    assert token(f"un=alice{expiry}|sig=0123").expires_at is None


def test_a_token_never_shows_itself() -> None:
    assert "sig" not in repr(token()) and "alice" in repr(token())


@pytest.mark.parametrize(
    "words",
    [
        f"Token validation failed: {TEXT}",
        f"cmd: p3x-submit-job {TEXT} Date",
        f"cut in the middle: {TEXT[:120]}",
        f"another one: {TEXT.replace('alice', 'bob')}!",
        f"only the end: |{TEXT.rpartition('|')[2]}",
        f'{{"Authorization": "OAuth {TEXT}"}}',
    ],
)
def test_words_are_kept_free_of_tokens(words: str) -> None:
    hidden = token().hidden_in(words)
    assert "[token]" in hidden
    assert not any(part in hidden for part in ("tokenid", "expiry=", "0123456789abcdef"))


def test_other_words_stay_as_they_are() -> None:
    words = "Could not find app for id Datee; run=7|8, assign=done"
    assert token().hidden_in(words) == words


def test_the_own_header_goes_first() -> None:
    other = TEXT.replace("alice", "bob")
    assert sent_token(TEXT, other) == TEXT


@pytest.mark.parametrize("value", [TEXT, f" {TEXT} "])
def test_authorization_counts_where_it_is_plainly_a_token(value: str) -> None:
    assert sent_token("", value) == TEXT


@pytest.mark.parametrize("value", NO_TOKENS)
def test_authorization_is_somebody_elses_otherwise(value: str) -> None:
    assert sent_token("", value) is None


@pytest.mark.parametrize("value", [value for value in NO_TOKENS if value])
def test_the_own_header_must_hold_a_token_and_is_not_echoed(value: str) -> None:
    with pytest.raises(InvalidRequest, match="X-BVBRC-Token") as refusal:
        sent_token(value, TEXT)
    assert value not in str(refusal.value).replace("un=<user>", "")


def test_no_header_is_no_token() -> None:
    assert sent_token("", "") is None
