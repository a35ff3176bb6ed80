"""Events of HealthOmics through a real queue (moto's SQS): each becomes a hint, and what failed comes again."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.daemon.event_queue import EventQueue, RunChanged
from app.daemon.providers.healthomics_aws import AwsAccess
from app.errors import OutcomeUnknown, ProviderError
from tests.fakes.aws_stores import AwsStores
from tests.fakes.healthomics import HealthOmics
from tests.fakes.server import InThread
from tests.unit.test_healthomics_words import EVENT

PAGE = Path(__file__).parents[2] / "docs/providers/healthomics.md"
OURS = RunChanged("abc", "77/u-1", "COMPLETED")


@pytest.fixture(scope="module")
def stores() -> Iterator[AwsStores]:
    with AwsStores() as running:
        yield running


class Queue:
    """A new queue, and what its events were told as."""

    def __init__(self, stores: AwsStores, name: str, tell: Callable[[RunChanged], object] | None = None) -> None:
        self._sqs = stores.client("sqs")
        visible = {"VisibilityTimeout": "0"}  # what is not deleted comes again at once
        self.url = self._sqs.create_queue(QueueName=name, Attributes=visible)["QueueUrl"]
        self.told: list[RunChanged] = []
        access = AwsAccess("us-east-1", "fake", "fake", endpoint=stores.url, timeout_seconds=30.0)
        self.events = EventQueue(access, self.url, tell or self.told.append)
        self.events._poll_seconds = 1

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> int:
        attributes = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(attributes["Attributes"]["ApproximateNumberOfMessages"])


@pytest.fixture
def queue(stores: AwsStores, request: pytest.FixtureRequest) -> Queue:
    return Queue(stores, f"q{abs(hash(request.node.name))}")


def test_an_event_is_told_once(queue: Queue) -> None:
    queue.send(json.dumps(EVENT))
    assert queue.events.poll() == 1
    assert (queue.told, queue.left()) == ([OURS], 0)
    assert queue.events.poll() == 0


def test_what_is_none_of_ours_does_not_pile_up(queue: Queue) -> None:
    queue.send("nonsense", json.dumps({**EVENT, "source": "aws.s3"}), json.dumps(EVENT))
    while queue.left():
        queue.events.poll()
    assert queue.told == [OURS]


def test_what_could_not_be_told_comes_again(stores: AwsStores) -> None:
    told: list[RunChanged] = []

    def tell(event: RunChanged) -> None:
        told.append(event)
        if len(told) == 1:
            raise OSError("the database is away")

    queue = Queue(stores, "again", tell)
    queue.send(json.dumps(EVENT))
    assert queue.events.poll() == 0
    assert queue.events.poll() == 1
    assert (told, queue.left()) == ([OURS, OURS], 0)


def test_many_come_in_batches(queue: Queue) -> None:
    queue.send(*[json.dumps({**EVENT, "id": f"e-{number}"}) for number in range(25)])
    while queue.left():
        queue.events.poll()
    assert queue.told == [OURS] * 25


def test_a_queue_that_is_not_there_is_an_error_of_ours(stores: AwsStores) -> None:
    queue = Queue(stores, "gone")
    queue._sqs.delete_queue(QueueUrl=queue.url)
    with pytest.raises(ProviderError):
        queue.events.poll()


def test_it_reads_in_its_own_thread_and_survives_trouble(stores: AwsStores) -> None:
    told = threading.Event()
    queue = Queue(stores, "thread", lambda event: told.set())
    honest, troubles = queue.events.poll, [OutcomeUnknown("reset"), ValueError("a defect of ours")]

    def poll() -> int:
        if troubles:
            raise troubles.pop()
        return honest()

    queue.events.poll = poll  # type: ignore[method-assign]
    queue.send(json.dumps(EVENT))
    with queue.events:
        assert told.wait(60)
    assert not troubles


def test_after_the_stop_nothing_is_told(queue: Queue) -> None:
    queue.events.__enter__()
    queue.events.__exit__()
    queue.send(json.dumps(EVENT))
    with suppress(ProviderError):
        queue.events.poll()
    assert (queue.told, queue.left()) == ([], 1)


def test_the_rule_of_the_documentation_brings_runs_events_and_no_others(stores: AwsStores, queue: Queue) -> None:
    """moto lets anybody send as aws.omics, which at AWS only the service can."""
    rule = re.search(r"pattern `(\{.*\})` sends to an SQS queue", PAGE.read_text())
    bridge, arn = stores.client("events"), f"arn:aws:sqs:us-east-1:123456789012:{queue.url.rpartition('/')[2]}"
    assert rule is not None
    bridge.put_rule(Name="runs", EventPattern=rule[1])
    bridge.put_targets(Rule="runs", Targets=[{"Id": "queue", "Arn": arn}])
    event = {"Source": "aws.omics", "DetailType": "Run Status Change", "Detail": json.dumps(EVENT["detail"])}
    others = {**event, "DetailType": "Task Status Change"}, {**event, "Source": "aws.s3"}
    bridge.put_events(Entries=[*others, event])
    bridge.close()
    assert queue.left() == 1
    assert queue.events.poll() == 1
    assert queue.told == [OURS]


def test_the_events_of_the_fake_are_as_eventbridge_sends_them(queue: Queue) -> None:
    with InThread(HealthOmics(frozen=True)) as fake:
        omics = AwsAccess("us-east-1", "fake", "fake", "", fake.url).client("omics")
        members: dict[str, Any] = {"roleArn": "arn:aws:iam::123456789012:role/r", "outputUri": "s3://bucket/x"}
        run = omics.start_run(workflowId="1000001", name="wes-run-7", storageType="DYNAMIC", **members)
        fake.control.advance(seconds=100)
        queue.send(*map(json.dumps, fake.control.events()))
        omics.close()
    while queue.left():
        queue.events.poll()
    words = [event.provider_status for event in queue.told]
    assert sorted(words) == sorted(["PENDING", "STARTING", "RUNNING", "STOPPING", "COMPLETED"])
    assert {(event.run_id, event.provider_id) for event in queue.told} == {("run-7", f"{run['id']}/{run['uuid']}")}
