"""HealthOmics with real processes: API and daemon here, the service's fake and moto's stores there, `curl` in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.curl import curl, wait_for, wait_for_state
from tests.fakes.aws_stores import AwsStores
from tests.fakes.server import InProcess
from tests.services import ROOT, Services

BUCKET = "wes-outputs"
WORKFLOW = "1000001"
LONG = json.dumps({"seconds": {"RUNNING": None}})

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH"),
    pytest.mark.timeout(600),
]


@dataclass
class Cloud:
    """One account: HealthOmics, S3, CloudWatch Logs, SQS."""

    omics: InProcess
    stores: AwsStores

    def settings(self, **more: str) -> dict[str, str]:
        """As docs/providers/healthomics.md has them for the fake."""
        return {
            "DEFAULT_WES_PROVIDER": "local",
            "PROVIDERS": "local,healthomics",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "fake",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
            "HEALTHOMICS_ROLE_ARN": "arn:aws:iam::123456789012:role/wes",
            "HEALTHOMICS_OUTPUT_BUCKET": BUCKET,
            "HEALTHOMICS_ENDPOINT": self.omics.url,
            "HEALTHOMICS_AWS_ENDPOINT": self.stores.url,
            "HEALTHOMICS_TIMEOUT_SECONDS": "5",
            "HEALTHOMICS_VISIBILITY_SECONDS": "1",
            "DAEMON_POLL_INTERVAL": "1",
            "DAEMON_STATUS_CHECK_INTERVAL": "1",
            **more,
        }


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with ExitStack() as stack:
        stores = stack.enter_context(AwsStores(BUCKET))
        endpoints = "--s3-endpoint", stores.url, "--logs-endpoint", stores.url
        omics = stack.enter_context(InProcess("tests.fakes.healthomics", "--speed", "30", *endpoints))
        yield Cloud(omics, stores)
        assert omics.control.problems() == []


def submit(services: Services, **params: Any) -> str:
    """As docs/aws_healthomics_usage.md has it."""
    accepted = curl(
        *("-X", "POST", f"{services.url}/runs"),
        *("-F", "workflow_type=WDL", "-F", "workflow_type_version=1.0"),
        *("-F", f"workflow_url=healthomics:{WORKFLOW}", "-F", f"workflow_params={json.dumps(params)}"),
    )
    return str(accepted["run_id"])


def test_from_post_to_complete(cloud: Cloud) -> None:
    with Services(cloud.settings()) as services:
        cloud.omics.control.plan(
            outputs={"hello.out": "{runOutputUri}/hello.txt"},
            files={"hello.txt": "Hello, world\n"},
            tasks=[{"name": "say_hello", "log": ["saying hello"]}],
            log=["workflow started", "workflow done"],
        )
        run_id = submit(services, name="world", outputUri=f"s3://{BUCKET}/mine")
        wait_for_state(services, run_id, "COMPLETE")
        run = curl(f"{services.url}/runs/{run_id}")

        (started,) = cloud.omics.control.requests(operation="StartRun")
        assert json.loads(started["body"])["parameters"] == {"name": "world"}
        location = run["outputs"]["output_location"]
        assert location.startswith(f"s3://{BUCKET}/mine/")
        assert run["outputs"]["hello.out"] == f"{location}/hello.txt"
        key = f"{location}/hello.txt".removeprefix(f"s3://{BUCKET}/")
        assert cloud.stores.read(BUCKET, key) == "Hello, world\n"
        assert curl(run["run_log"]["stdout"]) == "workflow started\nworkflow done\n"
        assert curl(run["run_log"]["stderr"]).splitlines()[-1] == "COMPLETED"
        assert run["run_log"]["exit_code"] == 0
        (task,) = curl(f"{services.url}/runs/{run_id}/tasks")["task_logs"]
        assert (task["name"], task["exit_code"]) == ("say_hello", 0)
        assert curl(task["stdout"]) == "saying hello\n"
        assert "not-to-be-seen" not in services.log("daemon") + services.log("api") + json.dumps(run)


def test_a_definition_that_is_sent_along(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "hello.wdl").write_text("version 1.0\nworkflow hello {}\n")
    (tmp_path / "samples.csv").write_text("a,b\n")
    with Services(cloud.settings()) as services:
        fields = {
            "workflow_type": "WDL",
            "workflow_url": "hello.wdl",
            "workflow_params": '{"sheet": "samples.csv"}',
            "workflow_engine_parameters": '{"provider": "healthomics"}',
        }
        files = [f"workflow_attachment=@{tmp_path / name};filename={name}" for name in ("hello.wdl", "samples.csv")]
        form = [word for field in (*(f"{k}={v}" for k, v in fields.items()), *files) for word in ("-F", field)]
        run_id = curl("-X", "POST", f"{services.url}/runs", *form)["run_id"]
        wait_for_state(services, run_id, "COMPLETE")
        (started,) = cloud.omics.control.requests(operation="StartRun")
        sheet = json.loads(started["body"])["parameters"]["sheet"]
        assert cloud.stores.read(BUCKET, sheet.removeprefix(f"s3://{BUCKET}/")) == "a,b\n"
        assert curl(f"{services.url}/runs/{run_id}")["request"]["workflow_params"] == {"sheet": "samples.csv"}


def test_a_failure_says_what_the_service_says(cloud: Cloud) -> None:
    with Services(cloud.settings()) as services:
        cloud.omics.control.plan(outcome="FAILED", reason="OUT_OF_MEMORY_ERROR", message="Task align ran out of memory")
        run_id = submit(services)
        wait_for_state(services, run_id, "EXECUTOR_ERROR")
        logs = curl(f"{services.url}/runs/{run_id}")["run_log"]["system_logs"]
        assert any("OUT_OF_MEMORY_ERROR: Task align ran out of memory" in line for line in logs)
        refused = submit(services, workflow_id=WORKFLOW, x="y" * 50_000)
        wait_for_state(services, refused, "SYSTEM_ERROR")
        logs = curl(f"{services.url}/runs/{refused}")["run_log"]["system_logs"]
        assert any("HealthOmics takes at most 50,000" in line for line in logs)


def test_a_daemon_killed_between_call_and_commit_starts_nothing_twice(cloud: Cloud) -> None:
    with Services(cloud.settings()) as services:
        cloud.omics.control.plan(seconds={"RUNNING": None})
        cloud.omics.control.fail(kind="hang", operation="StartRun", commit=True)
        run_id = submit(services)
        wait_for("StartRun does not hang", lambda: cloud.omics.control.hanging() == 1)
        services.kill_daemon()
        cloud.omics.control.clear()
        wait_for("the run was not made", lambda: len(cloud.omics.control.runs()) == 1)
        services.start_daemon()
        wait_for_state(services, run_id, "RUNNING")
        curl("-X", "POST", f"{services.url}/runs/{run_id}/cancel")
        wait_for_state(services, run_id, "CANCELED")
        assert [(one["name"], one["status"]) for one in cloud.omics.control.runs()] == [(f"wes-{run_id}", "CANCELLED")]


def test_events_show_an_end_long_before_the_next_look(cloud: Cloud) -> None:
    sqs = cloud.stores.client("sqs")
    queue_url = sqs.create_queue(QueueName="runs")["QueueUrl"]
    settings = cloud.settings(HEALTHOMICS_EVENT_QUEUE_URL=queue_url, DAEMON_STATUS_CHECK_INTERVAL="3600")
    with Services(settings) as services, delivery(cloud, sqs, queue_url):
        run_id = submit(services)
        wait_for_state(services, run_id, "COMPLETE")  # without events the first look is after 285 seconds
    sqs.close()


@pytest.mark.long
def test_the_benchmark_of_sweeps_runs() -> None:
    command = [sys.executable, "-m", "benchmarks.provider_sweeps", "--runs", "300", "--queued", "50", "--seconds", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a sweep: calls for 300 runs" in done.stdout


@contextmanager
def delivery(cloud: Cloud, sqs: Any, queue_url: str) -> Iterator[None]:
    """What an EventBridge rule does: every event of the service goes into the queue."""
    stopped = threading.Event()

    def deliver() -> None:
        sent = 0
        while not stopped.wait(0.1):
            for event in cloud.omics.control.events(since=sent):
                sqs.send_message(QueueUrl=queue_url, MessageBody=json.dumps(event))
                sent += 1

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
