"""The Seven Bridges provider and the real sevenbridges-python, on the fake that the library's own fields keep honest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from app.daemon.providers.provider_interface import Submission
from app.daemon.providers.sevenbridges import SevenBridgesOptions, SevenBridgesProvider
from app.daemon.providers.sevenbridges_api import SevenBridgesAccess
from tests.contract.harness import CloudHarness, Fate, Harness
from tests.fakes.server import InThread
from tests.fakes.sevenbridges import SevenBridges

PROJECT = "fake-user/wes"
PLANS: Mapping[Fate, Mapping[str, Any]] = {
    Fate.SUCCEED: {},
    Fate.FAIL: {"outcome": "FAILED", "message": "Job hello failed"},
    Fate.LONG: {"seconds": {"RUNNING": None}},
    Fate.PREEMPTED: {"outcome": "FAILED", "message": "The spot instance was taken away"},
}
CREATING_AND_QUEUED = 21
RUNNING = 60
ANY_PAUSE = 600


class SevenBridgesHarness(CloudHarness):
    """Time stands still at the fake until a test moves it; the provider's waits go by the same clock, but faster."""

    provider_class = SevenBridgesProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {}
    output_text = "ACGT\n"
    early_word = "QUEUED"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.service = SevenBridges(frozen=True, rate_limit=10**9)
        self._waited = 0.0

    def __enter__(self) -> Harness:
        self.fake = InThread(self.service).__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        problems = self.fake.control.problems()
        self.fake.__exit__()
        assert problems == []

    @property
    def url(self) -> str:
        return self.fake.url

    def provider_at(self, url: str, timeout_seconds: float = 10.0, **options: Any) -> SevenBridgesProvider:
        options = {"project": PROJECT, "calls_per_second": 1000.0} | options
        return SevenBridgesProvider(
            SevenBridgesAccess(f"{url}/v2", "fake-token", timeout_seconds),
            SevenBridgesOptions(**options),
            fetch=self.fetch,
            now=self.now,
            monotonic=lambda: self.now().timestamp() + self._waited,
            sleep=self._wait,
        )

    def fetch(self, url: str) -> bytes:
        raise AssertionError(f"nothing is fetched from {url}")

    def workflow(self) -> dict[str, str]:
        url = f"sevenbridges:{PROJECT}/hello"
        return {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": url}

    def params(self, fate: Fate) -> dict[str, Any]:
        if fate == Fate.REFUSED:
            return {"message": 7}
        outputs = {"answer": 42, "reads.txt": {"class": "File", "path": "reads.txt"}}
        plan = {"outputs": outputs, "files": {"reads.txt": self.output_text}, **PLANS[fate]}
        return {"message": "hello", "fake_plan": json.dumps(plan)}

    def let_run(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=CREATING_AND_QUEUED)

    def let_end(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=RUNNING)

    def starts(self, run: Submission) -> int:
        return sum(task["starts"] for task in self.fake.control.tasks() if task["name"] == run.submit_key)

    def lose(self, provider_id: str) -> None:
        self.fake.control.lose_task(id=provider_id)

    def now(self) -> datetime:
        return self.service.timeline.now()

    def pass_time(self, seconds: float) -> None:
        self.fake.control.advance(seconds=seconds)

    def fail(self, **fault: Any) -> None:
        self.fake.control.fail(**fault)

    def heal(self) -> None:
        """Any pause that the platform asked for is over, too."""
        self.fake.control.heal()
        self._wait(ANY_PAUSE)

    def say(self, provider_id: str, word: str) -> None:
        self.fail(kind="alter", operation="tasks.get", times=None, alter={"status": word})
        self.fail(kind="alter", operation="tasks.bulk_get", times=None, alter={"items": {"resource": {"status": word}}})

    def _wait(self, seconds: float) -> None:
        self._waited += seconds
