"""HealthOmics' run events, from EventBridge by way of an SQS queue, as hints. Knows no run's state and changes none.

Events come late, twice, in any order or not at all. So an event only says that somebody should look at a run now; what
is true is asked of the service, and the daemon's own looks find whatever no event told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from app.daemon.patience import backoff_seconds
from app.daemon.providers.healthomics_aws import AwsAccess, AwsApi
from app.errors import InvalidRequest, ProviderError
from app.strict import load_json

log = logging.getLogger(__name__)

MESSAGES_AT_ONCE = 10
STOP_SECONDS = 1.0
LONGEST_POLL_SECONDS = 20
SUBMIT_KEY_PREFIX = "wes-"


@dataclass(frozen=True, slots=True)
class RunChanged:
    """A run of ours that is said to have changed."""

    run_id: str
    provider_id: str
    provider_status: str


class _Detail(BaseModel):
    runId: str
    uuid: str
    status: str
    runName: str = ""


class _Event(BaseModel):
    source: Literal["aws.omics"]
    kind: Literal["Run Status Change"] = Field(alias="detail-type")
    detail: _Detail


class _Message(BaseModel):
    MessageId: str
    ReceiptHandle: str
    Body: str = ""


class _Messages(BaseModel):
    Messages: list[_Message] = []


def read_event(body: str) -> RunChanged | None:
    """What a message tells of a run of ours; None where it tells nothing of one."""
    try:
        detail = _Event.model_validate(load_json(body, "the event")).detail
    except (InvalidRequest, ValidationError):
        return None
    if not detail.runName.startswith(SUBMIT_KEY_PREFIX):
        return None
    run_id = detail.runName.removeprefix(SUBMIT_KEY_PREFIX)
    return RunChanged(run_id, f"{detail.runId}/{detail.uuid}", detail.status)


class EventQueue:
    """Reads one queue in a thread of its own. `tell` may be called for any event, also an old one; a message is deleted
    once it returned. One that it raised for comes again."""

    def __init__(self, access: AwsAccess, queue_url: str, tell: Callable[[RunChanged], object]) -> None:
        self._sqs, self._queue_url, self._tell = AwsApi(access.client("sqs"), "SQS"), queue_url, tell
        self._poll_seconds = min(LONGEST_POLL_SECONDS, int(access.timeout_seconds / 2))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="healthomics-events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns soon: what a poll under way still brings is left in the queue and comes again."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def poll(self) -> int:
        """Read once, waiting for something to come; returns how many messages were dealt with."""
        answer = self._sqs.read(
            _Messages,
            "ReceiveMessage",
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=MESSAGES_AT_ONCE,
            WaitTimeSeconds=self._poll_seconds,
        )
        done = [message for message in answer.Messages if not self._stopping.is_set() and self._is_told(message)]
        if done:
            entries: list[dict[str, Any]] = [
                {"Id": str(number), "ReceiptHandle": message.ReceiptHandle} for number, message in enumerate(done)
            ]
            self._sqs.call("DeleteMessageBatch", QueueUrl=self._queue_url, Entries=entries)
        return len(done)

    def _is_told(self, message: _Message) -> bool:
        event = read_event(message.Body)
        if event is None:
            log.info("an event that is none of ours", extra={"message_id": message.MessageId})
            return True
        try:
            self._tell(event)
        except Exception:
            log.exception("the event comes again", extra={"run_id": event.run_id})
            return False
        return True

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self.poll()
                failures = 0
            except ProviderError as error:
                failures += 1
                log.warning("no events", extra={"queue": self._queue_url, "error": str(error), "failures": failures})
                self._stopping.wait(backoff_seconds(failures))
            except Exception:
                failures += 1
                log.exception("no events")
                self._stopping.wait(backoff_seconds(failures))
