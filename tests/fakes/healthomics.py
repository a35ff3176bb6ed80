"""AWS HealthOmics as its own model describes it, with runs that live on a clock. Knows nothing of our service.

By hand: `python -m tests.fakes.healthomics --port 9100 --speed 10 --stores`; in tests see `tests.fakes.server`. Every request and every
answer is held against botocore's model: what the service would refuse is refused, and an answer that it would not give is a
500 with the header `x-fake-violation` and an entry in `control.problems()`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from botocore import xform_name

from tests.fakes.aws_model import AwsModel, ModelViolated, Refused, error_reply
from tests.fakes.aws_stores import AwsStores
from tests.fakes.faults import Reply, Request
from tests.fakes.omics_account import Account, Members, Options
from tests.fakes.omics_exports import Exports
from tests.fakes.omics_runs import Runs
from tests.fakes.omics_workflows import Workflows
from tests.fakes.server import Service, serve, verb

SLOW = ("CreateWorkflow", "CreateWorkflowVersion", "TagResource", "ListTagsForResource")
QUOTAS = defaultdict(lambda: 10, {"StartRun": 1, **dict.fromkeys(SLOW, 5)})
"""Calls a second as documented."""

SETTINGS = {
    "PROVIDERS": "local,healthomics",
    "AWS_ACCESS_KEY_ID": "fake",
    "AWS_SECRET_ACCESS_KEY": "fake",
    "HEALTHOMICS_ROLE_ARN": "arn:aws:iam::123456789012:role/fake",
    "HEALTHOMICS_OUTPUT_BUCKET": "wes-outputs",
}
"""Of our service, for a fake that is started by hand."""

REFUSALS = {
    "throttle": (429, "ThrottlingException", "Rate exceeded"),
    "quota": (402, "ServiceQuotaExceededException", "Maximum number of runs reached"),
    "error": (500, "InternalServerException", "Internal error"),
    "unavailable": (503, "ServiceUnavailableException", "Service is unavailable"),
    "expired": (403, "ExpiredTokenException", "The security token included in the request is expired"),
    "denied": (403, "AccessDeniedException", "Not authorized to perform this operation"),
    "missing": (404, "ResourceNotFoundException", "The resource does not exist"),
}


class HealthOmics(Service):
    """One account in one region, with a private workflow 1000001 and a Ready2Run one 1000002.

    Keywords: `frozen`, `speed` and `seed` of `Service`, and those of `Options`.
    """

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        account: str = "123456789012",
        s3_endpoint: str | None = None,
        logs_endpoint: str | None = None,
        frozen: bool = False,
        speed: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(frozen, speed, seed)
        self.region, self.options = region, Options(**options)
        self._model = AwsModel("omics")
        self._account = Account(region, account, self.timeline, self.options)
        workflows = Workflows(self._account)
        self._runs = Runs(self._account, workflows, self.plans, Exports(region, s3_endpoint, logs_endpoint))
        self._parts = (self._runs, workflows, self._account)
        self._recent: dict[str, deque[datetime]] = defaultdict(deque)

    def operation(self, request: Request) -> str:
        found = self._model.find(request)
        return found[0].name if found else "unknown"

    def handle(self, request: Request) -> Reply:
        found = self._model.find(request)
        if found is None:
            return error_reply(404, "UnknownOperationException", f"{request.method} {request.path}")
        operation, labels = found
        method = self._method(operation.name)
        if method is None:
            return self.broken(f"{operation.name} is not in this fake")
        try:
            try:
                return (
                    self._unsigned(request)
                    or self._throttled(operation.name)
                    or self._model.write(operation, method(self._model.read(operation, labels, request)))
                )
            except Refused as refused:
                return self._model.error(operation, refused)
        except ModelViolated as violation:
            return self.broken(str(violation))

    def refusal(self, kind: str, seconds: float | None) -> Reply:
        return error_reply(*REFUSALS[kind], {} if seconds is None else {"Retry-After": f"{seconds:.0f}"})

    def _method(self, operation: str) -> Callable[[Members], Members | None] | None:
        name = xform_name(operation)
        return next((getattr(part, name) for part in self._parts if hasattr(part, name)), None)

    def _unsigned(self, request: Request) -> Reply | None:
        """Refusal of what is not signed for this service in this region. The signature itself is not recomputed."""
        signed = request.headers.get("Authorization") or ""
        if not signed.startswith("AWS4-HMAC-SHA256 "):
            return error_reply(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        if f"/{self.region}/omics/aws4_request" not in signed:
            return error_reply(403, "InvalidSignatureException", f"Credential should be scoped to {self.region}/omics")
        if f"Credential={self.options.expired_key}/" in signed:
            return self.refusal("expired", None)
        return None

    def _throttled(self, operation: str) -> Reply | None:
        now, recent = self.timeline.now(), self._recent[operation]
        while recent and recent[0] <= now - timedelta(seconds=1):
            recent.popleft()
        if self.options.quotas and len(recent) >= QUOTAS[operation]:
            return self.refusal("throttle", None)
        recent.append(now)
        return None

    @verb
    def set_run(self, id: str, status: str, reason: str | None = None, message: str | None = None) -> None:
        """Put a run into a state; it stays there until it is told, cancelled or deleted."""
        self._runs.put(id, status, reason, message)

    @verb
    def runs(self) -> list[Members]:
        """Every run there is: number, id, uuid, name, requestId, status."""
        return [
            {"number": run.number, "id": run.id, "uuid": run.uuid, "status": run.status}
            | {"name": run.asked.get("name"), "requestId": run.asked["requestId"]}
            for run in self._runs.runs.values()
        ]

    @verb
    def events(self, since: int = 0) -> list[Members]:
        """EventBridge events from the `since`-th on, oldest first."""
        return self._runs.events[since:]

    @verb
    def configure(self, **options: Any) -> None:
        """Change `Options` of a running fake."""
        names = [field.name for field in fields(Options)]
        for name, value in options.items():
            if name not in names:
                raise TypeError(f"no such option: {name}, only {', '.join(names)}")
            setattr(self.options, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake of AWS HealthOmics")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the seconds of every state")
    parser.add_argument("--frozen", action="store_true", help="only the control API moves the clock")
    parser.add_argument("--duplicates", choices=("same", "conflict"), default="same")
    parser.add_argument("--quotas", action="store_true", help="throttle as documented")
    parser.add_argument("--s3-endpoint", help="write outputs here, e.g. a moto server")
    parser.add_argument("--logs-endpoint", help="write CloudWatch logs here")
    parser.add_argument("--stores", action="store_true", help="bring S3, CloudWatch Logs and SQS along, by moto")
    arguments = vars(parser.parse_args())
    port, settings = arguments.pop("port"), {**SETTINGS, "AWS_REGION": arguments["region"]}
    with ExitStack() as stack:
        if arguments.pop("stores"):
            url = stack.enter_context(AwsStores(SETTINGS["HEALTHOMICS_OUTPUT_BUCKET"])).url
            arguments["s3_endpoint"] = arguments["logs_endpoint"] = settings["HEALTHOMICS_AWS_ENDPOINT"] = url
        serve(HealthOmics(**arguments), port, lambda url: {"HEALTHOMICS_ENDPOINT": url, **settings})


if __name__ == "__main__":
    main()
