"""The HealthOmics provider, on the fake that its own model keeps honest, with moto for S3 and CloudWatch Logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from app.daemon.engines.fetcher import FetchPolicy
from app.daemon.providers.healthomics import HealthOmicsProvider, HealthOmicsSettings
from app.daemon.providers.healthomics_aws import AwsAccess
from app.daemon.providers.healthomics_status import run_id_of
from app.daemon.providers.pacing import LONGEST_PAUSE_SECONDS
from app.daemon.providers.provider_interface import Submission
from app.errors import Rejected
from tests.contract.harness import CloudHarness, Fate, Harness
from tests.fakes.aws_stores import AwsStores
from tests.fakes.healthomics import HealthOmics
from tests.fakes.server import InThread

ROLE = "arn:aws:iam::123456789012:role/wes"
BUCKET = "wes-outputs"
PRIVATE_WORKFLOW = "1000001"  # of the fake, without a parameter template
PLANS: Mapping[Fate, Mapping[str, Any]] = {
    Fate.SUCCEED: {},
    Fate.FAIL: {"outcome": "FAILED", "message": "Task main failed"},
    Fate.LONG: {"seconds": {"RUNNING": None}},
    Fate.PREEMPTED: {"outcome": "FAILED", "reason": "INSTANCE_RESERVATION_FAILED"},
}
PENDING_AND_STARTING = 26
RUNNING_AND_STOPPING = 70


class HealthOmicsHarness(CloudHarness):
    """Time stands still at the fake until a test moves it; the provider's waits go by the same clock."""

    provider_class = HealthOmicsProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {"drafts": "a requestId makes StartRun one execution at once"}
    output_text = "ACGT\n"
    kept_outputs = 0
    early_word = "PENDING"
    exports: ClassVar[bool] = True  # do runs write outputs and logs? It takes most of the time of many runs

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stores = AwsStores(BUCKET)
        self._clients: list[Any] = []
        self._healed = 0.0  # seconds by which the clock of pauses is ahead

    def __enter__(self) -> Harness:
        self.stores.__enter__()
        stores = self.stores.url if self.exports else None
        self.service = HealthOmics(frozen=True, s3_endpoint=stores, logs_endpoint=stores)
        self.fake = InThread(self.service).__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        problems = self.fake.control.problems()
        for client in self._clients:
            client.close()
        self.fake.__exit__()
        self.stores.__exit__()
        assert problems == []

    @property
    def url(self) -> str:
        return self.fake.url

    def provider_at(
        self, url: str, timeout_seconds: float = 10.0, policy: FetchPolicy | None = None, **settings: Any
    ) -> HealthOmicsProvider:
        settings = {"output_uri": f"s3://{BUCKET}", "starts_per_second": 1000, "reads_per_second": 1000} | settings
        return HealthOmicsProvider(
            AwsAccess("us-east-1", "fake", "fake", "", url, self.stores.url, timeout_seconds),
            HealthOmicsSettings(ROLE, **settings),
            policy,
            now=self.now,
            monotonic=lambda: self.now().timestamp() + self._healed,
        )

    def workflow(self) -> dict[str, str]:
        return {
            "workflow_type": "WDL",
            "workflow_type_version": "1.0",
            "workflow_url": f"healthomics:{PRIVATE_WORKFLOW}",
        }

    def params(self, fate: Fate) -> dict[str, Any]:
        if fate == Fate.REFUSED:
            return {"workflow_id": "7", "x" * 50_000: 1}
        outputs = {"answer": 42, "reads.txt": {"class": "File", "location": "{runOutputUri}/reads.txt"}}
        plan = {"outputs": outputs, "files": {"reads.txt": self.output_text}, **PLANS[fate]}
        return {"fake-plan": json.dumps(plan)}

    def let_run(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=PENDING_AND_STARTING)

    def let_end(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=RUNNING_AND_STOPPING)

    def starts(self, run: Submission) -> int:
        events = [event["detail"] for event in self.fake.control.events()]
        return len({e["uuid"] for e in events if e["runName"] == run.submit_key and e["status"] == "RUNNING"})

    def lose(self, provider_id: str) -> None:
        self.omics().delete_run(id=run_id_of(provider_id))

    def omics(self) -> Any:
        """A client of somebody else."""
        self._clients.append(AwsAccess("us-east-1", "fake", "fake", "", self.url).client("omics"))
        return self._clients[-1]

    def now(self) -> datetime:
        return self.service.timeline.now()

    def pass_time(self, seconds: float) -> None:
        self.fake.control.advance(seconds=seconds)

    def read_output(self, run: Submission, location: str) -> str:
        place = urlsplit(location)
        if place.scheme != "s3":
            raise Rejected(f"{location} is not in S3")
        return self.stores.read(place.netloc, place.path.lstrip("/"))

    def fail(self, **fault: Any) -> None:
        self.fake.control.fail(**fault)

    def heal(self) -> None:
        """The pauses that the platform asked for are over as well."""
        self.fake.control.heal()
        self._healed += LONGEST_PAUSE_SECONDS

    def say(self, provider_id: str, word: str) -> None:
        self.fail(kind="alter", times=None, alter={"status": word})
