"""Statuses and exceptions of HTTP, and what they mean for a run."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from app.daemon.providers.http_outcomes import error_of_exception, error_of_status, retry_after_seconds
from app.errors import NotAccepted, OutcomeUnknown, ProviderError, Rejected

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        ((401, 402, 403, 429), NotAccepted),
        ((400, 404, 405, 409, 410, 413, 415, 422, 451), Rejected),
        ((301, 302, 307, 408, 500, 501, 502, 503, 504, 599, 204, 304, 999), OutcomeUnknown),
    ],
)
def test_statuses(statuses: tuple[int, ...], error: type[ProviderError]) -> None:
    assert {type(error_of_status(status, "words")) for status in statuses} == {error}


def test_what_an_error_carries() -> None:
    throttled, refused = error_of_status(429, "slow down", 7.0), error_of_status(400, "no", reason="bad_input")
    assert isinstance(throttled, NotAccepted) and (str(throttled), throttled.retry_after) == ("slow down", 7.0)
    assert isinstance(refused, Rejected) and (str(refused), refused.reason) == ("no", "bad_input")


def test_only_a_connection_that_never_was_sent_nothing() -> None:
    refused = MaxRetryError(None, "/", NewConnectionError(None, "refused"))  # type: ignore[arg-type]
    assert type(error_of_exception(requests.ConnectionError(refused))) is NotAccepted
    assert type(error_of_exception(requests.ConnectTimeout("slow"))) is NotAccepted
    for error in (
        requests.ConnectionError(ProtocolError("Connection aborted.")),
        requests.ConnectionError(),
        requests.ReadTimeout("slow"),
        requests.exceptions.SSLError("bad certificate"),
        requests.exceptions.ChunkedEncodingError("broken"),
        ConnectionResetError(),
    ):
        assert type(error_of_exception(error)) is OutcomeUnknown


def test_words_name_the_host_and_nothing_secret() -> None:
    request = requests.Request("GET", "https://user:pass@cloud.example:8443/v1?token=secret").prepare()
    assert (
        str(error_of_exception(requests.ReadTimeout(request=request))) == "cloud.example:8443 did not answer in time."
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 12:00:30 -0000", None),
        ("99999999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds
