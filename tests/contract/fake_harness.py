"""The two modes of the shipped fake provider, on a fake cloud whose time a test moves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from app.daemon.providers.fake import FakeProvider, TwoPhaseFakeProvider
from app.daemon.providers.provider_interface import Submission
from app.fake_service.cloud import Clock, FakeCloud
from app.fake_service.faults import Fault
from app.fake_service.ledger import Ledger, read_ledger
from app.fake_service.server import FakeService
from tests.contract.harness import CloudHarness, Fate, Harness

OUTCOMES = {
    Fate.SUCCEED: "ok",
    Fate.FAIL: "fail",
    Fate.LONG: "hang",
    Fate.REFUSED: "reject",
    Fate.PREEMPTED: "preempt",
}


class FakeHarness(CloudHarness):
    """The mode with an idempotency key."""

    provider_class = FakeProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {"drafts": "a submit with a key starts the run at once"}
    failure_exit_code = 3
    output_text = "ACGT\n"
    early_word = "PENDING"
    visibility_seconds = 0.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ledger = folder / "ledger.jsonl"
        self.cloud = FakeCloud(
            Ledger(self._ledger), Clock(stepped=True), visibility_seconds=self.visibility_seconds, max_ids=100
        )
        self.service = FakeService(self.cloud)

    def __enter__(self) -> Harness:
        self.service.__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.service.__exit__()

    @property
    def url(self) -> str:
        return self.service.url

    def provider_at(self, url: str, timeout_seconds: float = 10.0) -> FakeProvider:
        return self.provider_class(
            url, timeout_seconds=timeout_seconds, visibility_grace_seconds=self.visibility_seconds, now=self.now
        )

    def params(self, fate: Fate) -> dict[str, Any]:
        return {
            "outcome": OUTCOMES[fate],
            "queue_seconds": 5,
            "seconds": 10,
            "exit_code": self.failure_exit_code,
            "outputs": {"answer": 42},
            "files": {"reads.txt": self.output_text},
        }

    def let_run(self, provider_id: str) -> None:
        self.cloud.advance(6)

    def let_end(self, provider_id: str) -> None:
        self.cloud.advance(10)

    def starts(self, run: Submission) -> int:
        events = read_ledger(self._ledger)
        return sum(event["event"] == "started" and event["name"] == run.submit_key for event in events)

    def lose(self, provider_id: str) -> None:
        self.cloud.finish(provider_id, "GONE")

    def now(self) -> datetime:
        return self.cloud.clock.now()

    def pass_time(self, seconds: float) -> None:
        self.cloud.advance(seconds)

    def fail(self, **fault: Any) -> None:
        self.service.faults.add(Fault(**fault))

    def heal(self) -> None:
        self.service.faults.clear()
        self.service.release()

    def say(self, provider_id: str, word: str) -> None:
        self.fail(kind="alter", times=None, alter={"status": word})


class TwoPhaseFakeHarness(FakeHarness):
    """The mode with drafts, which searches show late."""

    provider_class = TwoPhaseFakeProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {}
    visibility_seconds = 5.0
