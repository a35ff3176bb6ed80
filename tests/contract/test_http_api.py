"""The client that HTTP providers stand on: whole answers within bounds, or an error that says what that means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.daemon.providers.http_api import HttpApi
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.fake_service.cloud import FakeCloud
from app.fake_service.faults import Fault
from app.fake_service.ledger import Ledger
from app.fake_service.server import FakeService


class Jobs(BaseModel):
    jobs: list[int]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(FakeCloud(Ledger(tmp_path / "ledger.jsonl"))) as service:
        yield service


@pytest.fixture
def api(service: FakeService) -> HttpApi:
    return HttpApi(f"{service.url}/v1", 10.0, max_bytes=1000)


def test_an_answer_is_read_as_what_it_should_be(api: HttpApi) -> None:
    answer = api.call("GET", "/jobs", params={"name": "nobody's"})
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.read(Jobs) == Jobs(jobs=[])


@pytest.mark.parametrize(
    "body", ["", "{", '{"jobs": 1}', '{"jobs": ["x"]}', '{"jobs": [NaN]}', '{"jobs": [], "jobs": []}']
)
def test_anything_else_is_an_unknown_outcome(service: FakeService, api: HttpApi, body: str) -> None:
    service.faults.add(Fault("reply", body=body))
    with pytest.raises(OutcomeUnknown, match="something else"):
        api.call("GET", "/jobs").read(Jobs)


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False), (100_000, False)])
def test_bodies_are_bounded(service: FakeService, api: HttpApi, size: int, fits: bool) -> None:
    service.faults.add(Fault("reply", body="x" * size))
    if fits:
        assert len(api.call("GET", "/jobs").body) == size
    else:
        with pytest.raises(OutcomeUnknown, match="larger than 1000 bytes"):
            api.call("GET", "/jobs")


def test_the_platforms_words_are_kept_short(service: FakeService, api: HttpApi) -> None:
    service.faults.add(Fault("reply", status=422, body='{"message": "%s"}' % ("no " * 300)))
    with pytest.raises(Rejected) as refusal:
        api.call("GET", "/jobs")
    assert str(refusal.value).startswith("HTTP 422 Unprocessable Entity: no no")
    assert len(str(refusal.value)) < 300


def test_words_that_nobody_can_read_are_left_out(service: FakeService, api: HttpApi) -> None:
    service.faults.add(Fault("reply", status=400, body="\x1b[31mred\n"))
    with pytest.raises(Rejected, match=r"^HTTP 400 Bad Request$"):
        api.call("GET", "/jobs")


def test_an_expected_refusal_is_an_answer(api: HttpApi) -> None:
    assert api.call("GET", "/jobs/nobody", (200, 404)).status == 404


def test_nothing_is_sent_twice(service: FakeService, api: HttpApi) -> None:
    service.faults.add(Fault("drop", times=None))
    with pytest.raises(OutcomeUnknown):
        api.call("POST", "/drafts", json={"name": "one", "params": {}})
    assert service.calls["draft"] == 1


def test_a_proxy_of_the_environment_is_not_asked(api: HttpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert api.call("GET", "/jobs").status == 200


def test_a_long_answer_is_read_as_it_comes(service: FakeService, api: HttpApi) -> None:
    service.faults.add(Fault("reply", body="x" * 100_000))
    with api.open("/jobs", seconds=5) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert [answer.body.read(7), len(answer.body.read()), answer.body.read()] == [b"xxxxxxx", 99_993, b""]


def test_an_open_answer_that_breaks_off_says_so(service: FakeService, api: HttpApi) -> None:
    service.faults.add(Fault("drip", seconds=0.2))
    with pytest.raises(OutcomeUnknown), api.open("/jobs", seconds=0.3) as answer:
        answer.body.read()


@pytest.mark.parametrize(("status", "error"), [(500, OutcomeUnknown), (404, Rejected)])
def test_an_open_answer_has_a_status_that_is_expected(
    service: FakeService, api: HttpApi, status: int, error: type[Exception]
) -> None:
    service.faults.add(Fault("reply", status=status, body="x"))
    with pytest.raises(error), api.open("/jobs"):
        raise AssertionError("it was opened")


def test_nobody_to_open_an_answer() -> None:
    with pytest.raises(NotAccepted), HttpApi("http://127.0.0.1:1", 1.0).open("/jobs"):
        raise AssertionError("it was opened")
