from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from werkzeug.datastructures import MultiDict

from app.runs.listing import RunFilter
from app.states import State
from app.web.run_query import RunQuery, format_cursor, parse_query

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def parse(words: str) -> RunQuery:
    return parse_query(MultiDict(parse_qsl(words, keep_blank_values=True)), NOW)


@pytest.mark.parametrize(
    ("words", "which"),
    [
        ("", RunFilter()),
        ("name=&tag=&state=&since=&workflow_type=", RunFilter()),
        ("state=RUNNING", RunFilter(states=(State.RUNNING,))),
        ("state=running,QUEUED,", RunFilter(states=(State.RUNNING, State.QUEUED))),
        ("state=RUNNING&state=RUNNING", RunFilter(states=(State.RUNNING,))),
        ("name=wgs", RunFilter(name="*wgs*")),
        ("name=wgs*", RunFilter(name="wgs*")),
        ("tag=project=X", RunFilter(tags=(("project", "X"),))),
        ("tag=k=&tag=e=a=b", RunFilter(tags=(("k", ""), ("e", "a=b")))),
        ("workflow_type=nextflow", RunFilter(workflow_type="NFL")),
        ("since=90m", RunFilter(since=NOW - timedelta(minutes=90))),
        ("since=2w", RunFilter(since=NOW - timedelta(days=14))),
        ("since=2026-11-19", RunFilter(since=datetime(2026, 11, 19, tzinfo=UTC))),
        ("since=2026-11-19T10:00:00%2B02:00", RunFilter(since=datetime(2026, 11, 19, 8, tzinfo=UTC))),
    ],
)
def test_words_become_a_filter(words: str, which: RunFilter) -> None:
    query = parse(words)
    assert query.problems == {}
    assert query.which == which


@pytest.mark.parametrize(
    ("words", "parameter", "said"),
    [
        ("state=DONE", "state", "'DONE' is not a state"),
        ("state=RUNNING,DONE", "state", "QUEUED"),
        ("tag=project", "tag", "key=value"),
        ("tag==X", "tag", "key=value"),
        ("workflow_type=perl", "workflow_type", "CWL"),
        ("since=yesterday", "since", "24h"),
        ("since=999999w", "since", "no time"),
        ("since=0001-01-01T00:00:00%2B14:00", "since", "no time"),
        ("since=5", "since", "no time"),
        ("name=a&name=b", "name", "once"),
        ("name=" + "x" * 256, "name", "255"),
        ("name=a%00b", "name", "NUL"),
        ("stat=RUNNING", "stat", "There is no filter 'stat'"),
        ("older=zzz", "older", "not one of ours"),
        ("older=2026-11-19T10:00:00~a&newer=2026-11-19T10:00:00~a", "newer", "not both"),
    ],
)
def test_what_is_wrong_is_said_never_ignored(words: str, parameter: str, said: str) -> None:
    assert said in parse(words).problems[parameter]


def test_a_cursor_survives_its_way_through_an_address() -> None:
    cursor = (datetime(2026, 11, 20, 11, 59, 59, 123456, tzinfo=UTC), "b9f1")
    query = parse_query(MultiDict({"older": format_cursor(cursor)}), NOW)
    assert query.older_than == cursor
    assert query.newer_than is None


def test_links_keep_the_filter_and_drop_the_page() -> None:
    query = parse("name=x&tag=a=1&state=QUEUED&older=2026-11-19T10:00:00~a")
    assert query.with_state((State.COMPLETE,)) == {"name": ["x"], "tag": ["a=1"], "state": ["COMPLETE"]}
    assert query.with_state(()) == {"name": ["x"], "tag": ["a=1"]}
    assert query.with_tag("b", "2")["tag"] == ["a=1", "b=2"]
    assert query.with_tag("a", "1")["tag"] == ["a=1"]
    assert query.without_tag("a=1")["tag"] == []


def test_the_chosen_states_are_among_the_choices() -> None:
    query = parse("state=QUEUED,COMPLETE")
    assert query.state_choices()[query.chosen_states] == "QUEUED, COMPLETE"
    assert parse("state=RUNNING").state_choices()["RUNNING"] == "RUNNING"
    assert parse("").state_choices()[""] == "Any"
