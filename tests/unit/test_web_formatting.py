from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.formatting import (
    explain_exit,
    format_age,
    format_duration,
    format_iso,
    format_size,
    format_utc,
    plain_text,
    shorten,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (185, "3m 05s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (3780, "1h 03m"),
        (86_399, "23h 59m"),
        (86_400, "1d 00h"),
        (187_200, "2d 04h"),
    ],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-2, "just now"),
        (4.9, "just now"),
        (5, "5 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_400, "1 d ago"),
        (86_400 * 400, "400 d ago"),
    ],
)
def test_ages_have_their_largest_unit(seconds: float, words: str) -> None:
    assert format_age(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (23_400_000, "23 MB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_are_decimal_and_short(size: int, words: str) -> None:
    assert format_size(size) == words


def test_times_are_said_in_utc_whatever_their_zone() -> None:
    time = datetime(2026, 11, 20, 14, 5, 6, 789, tzinfo=timezone(timedelta(hours=2)))
    assert format_utc(time) == "2026-11-20 12:05:06 UTC"
    assert format_iso(time.astimezone(UTC)) == "2026-11-20T12:05:06Z"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, None),
        (1, None),
        (33, None),
        (126, "the command could not be executed"),
        (127, "the command was not found"),
        (128, None),
        (137, "ended by SIGKILL, often for lack of memory"),
        (143, "ended by SIGTERM"),
        (255, None),
        (-9, None),
    ],
)
def test_exit_codes_are_explained_where_convention_has_a_word(code: int, words: str | None) -> None:
    assert explain_exit(code) == words


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("plain\n\ttext\n", "plain\n\ttext\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2K\x1b[1Gdone", "done"),
        ("\x1b]8;;https://evil.example\x07click\x1b]8;;\x1b\\", "click"),
        ("\x1b]0;title\x07x", "x"),
        ("10%\r50%\r100%\nnext", "100%\nnext"),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
        ("bell\x07 null\x00 back\x08 c1\x9b", "bell null back c1"),
        ("safe\u202eevil\u2066x", "safeevilx"),
        ("ünïcödé 🧬\n", "ünïcödé 🧬\n"),
        ("\x1b", ""),
    ],
)
def test_logs_are_what_a_terminal_would_leave(log: str, text: str) -> None:
    assert plain_text(log) == text


def test_a_long_line_of_progress_takes_linear_time() -> None:
    assert plain_text("%\r" * 30_000 + "end") == "end"


@given(st.text("ab…参", max_size=40), st.integers(4, 30))
def test_a_short_name_begins_and_ends_as_the_whole(text: str, columns: int) -> None:
    short = shorten(text, columns)
    assert sum(2 if character == "参" else 1 for character in short) <= columns or short == text
    cuts = [cut for cut, character in enumerate(short) if character == "…"]
    assert short == text or any(text.startswith(short[:cut]) and text.endswith(short[cut + 1 :]) for cut in cuts)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("assemble", "assemble"),
        ("a" * 12, "a" * 12),
        ("assemble_sample_01", "assembl…e_01"),
        ("参考配列の前処理", "参考配…処理"),
        ("", ""),
    ],
)
def test_what_is_left_out_of_a_name_is_in_its_middle(text: str, short: str) -> None:
    assert shorten(text, 12) == short
