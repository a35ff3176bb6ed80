"""What only the fake provider's platform can do: lie in its own words. And its clock may be a platform's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.daemon.providers.provider_interface import Absent
from app.errors import OutcomeUnknown, Rejected
from app.states import State
from tests.contract.fake_harness import FakeHarness, TwoPhaseFakeHarness


@pytest.fixture(params=[FakeHarness, TwoPhaseFakeHarness], ids=["fake", "fake-two-phase"])
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeHarness]:
    with request.param(tmp_path) as harness:
        yield harness


def test_a_search_that_ignores_its_question_finds_nothing(fake: FakeHarness) -> None:
    _, other = fake.running()
    view = fake.cloud.job(other).view(fake.now())
    run = fake.submission()
    fake.pass_time(fake.patience * 2)
    fake.fail(kind="reply", body=json.dumps({"jobs": [view]}))
    assert fake.provider.find_workflow(run) == Absent()


def test_another_jobs_status_is_not_believed(fake: FakeHarness) -> None:
    _, provider_id = fake.running()
    _, other = fake.ended()
    view = fake.cloud.job(other).view(fake.now())
    fake.fail(kind="reply", body=json.dumps({"jobs": [view]}))
    assert fake.provider.get_workflow_statuses([provider_id]) == {}
    fake.fail(kind="reply", body=json.dumps(view))
    with pytest.raises(OutcomeUnknown, match=other):
        fake.provider.get_workflow_status(provider_id)


def test_one_job_that_cannot_be_read_hides_no_others(fake: FakeHarness) -> None:
    _, provider_id = fake.running()
    view = fake.cloud.job(provider_id).view(fake.now())
    fake.fail(kind="reply", body=json.dumps({"jobs": [{**view, "status": None}, None, view]}))
    assert fake.provider.get_workflow_statuses([provider_id])[provider_id].state == State.RUNNING


@pytest.mark.parametrize("name", ["..", ".", "", "a%2Fb", "%2e%2e%2fetc", "a%00b"])
def test_an_output_file_is_not_put_anywhere_else(fake: FakeHarness, name: str) -> None:
    run, provider_id = fake.ended()
    location = f"{fake.url}/v1/jobs/{provider_id}/files/{name}"
    fake.fail(kind="reply", operation="outputs", body=json.dumps({"outputs": {"a": [{"location": location}]}}))
    with pytest.raises(Rejected) as refusal:
        fake.provider.get_outputs(provider_id, fake.output_sink(run))
    assert refusal.value.reason == "output_refused"


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "file:///etc/passwd", "/etc/passwd", 5, None])
def test_what_lies_elsewhere_is_not_fetched(fake: FakeHarness, location: Any) -> None:
    run, provider_id = fake.ended()
    outputs = {"a": {"class": "File", "location": location}}
    fake.fail(kind="reply", operation="outputs", body=json.dumps({"outputs": outputs}))
    assert fake.provider.get_outputs(provider_id, fake.output_sink(run)) == outputs
    assert fake.service.calls["file"] == 0


def test_a_log_of_many_pages_comes_whole(fake: FakeHarness) -> None:
    run = fake.submission()
    run.request["params"].update(steps=["talk"], log_lines=100_000)
    provider_id = fake.submit(run).provider_id
    fake.let_run(provider_id)
    fake.let_end(provider_id)
    fake.provider.get_logs(provider_id, fake.log_sink(run))
    lines = fake.log(run, "tasks/1/stdout").splitlines()
    assert lines == [f"talk: line {number}" for number in range(1, 100_001)]


def test_a_captive_portal_is_no_log(fake: FakeHarness) -> None:
    run, provider_id = fake.running()
    fake.fail(kind="html", operation="log")
    with pytest.raises(OutcomeUnknown, match="text/html"):
        fake.provider.get_logs(provider_id, fake.log_sink(run))
    assert fake.log(run, "stdout") == ""


def test_a_redirect_is_not_followed(fake: FakeHarness) -> None:
    fake.fail(kind="redirect")
    with pytest.raises(OutcomeUnknown):
        fake.provider.submit_workflow(fake.submission())
    assert fake.service.calls["find"] == 0


def test_offers_name_an_engine_and_its_types(fake: FakeHarness) -> None:
    (offer,) = fake.provider.offers()
    assert offer.engine == fake.provider.name and "CWL" in offer.workflow_types
