"""Metrics of a service that has worked, as Prometheus reads them: API and daemon as real processes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.bvbrc import Bvbrc, addresses
from tests.fakes.server import InThread
from tests.services import Services

ROOT = Path(__file__).parents[2]
SEED = ROOT.parent / "shared" / "seeds" / "3-dag-workflow-engine.md"
SEED_DOCUMENT = ROOT / "examples" / "pipelines" / "assemble-annotate.json"
END_SECONDS = 300.0
FAMILIES: dict[str, set[str]] = {
    "workflows_submitted_total": set(),
    "workflows_completed_total": {"status"},
    "active_workflows_count": set(),
    "workflow_execution_duration_seconds": set(),
    "steps_submitted_total": {"app"},
    "steps_completed_total": {"app", "status"},
    "step_execution_duration_seconds": {"app"},
    "executor_poll_cycles_total": set(),
    "executor_poll_duration_seconds": set(),
    "executor_errors_total": {"error_type"},
    "scheduler_query_duration_seconds": set(),
    "scheduler_query_errors_total": set(),
    "scheduler_submit_errors_total": {"app"},
}
"""The metrics of the pipeline engine, with their labels: all that dashboards of it may ask for."""

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""Name of a sample -> its labels -> its value."""


def scrape(url: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(requests.get(url, timeout=60).text):
        found.setdefault(family.name, {})
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


@pytest.fixture
def services(engine_environment: Path) -> Iterator[Services]:
    with InThread(Bvbrc(speed=30.0)) as bvbrc:
        settings = {
            "PROVIDERS": "local,bvbrc,dag",
            **addresses(bvbrc.url),
            "DAEMON_POLL_INTERVAL": "1",
            "DAEMON_STATUS_CHECK_INTERVAL": "1",
        }
        with Services(settings) as services:
            services.environment["TEST_TOKEN"] = bvbrc.control.token(user="user")
            yield services


def run_a_pipeline(services: Services) -> str:
    headers = {"Content-Type": "application/json", "Authorization": services.environment["TEST_TOKEN"]}
    submit = f"{services.origin}/api/v1/workflows/submit"
    return str(requests.post(submit, SEED_DOCUMENT.read_bytes(), headers=headers, timeout=60).json()["run_id"])


def run_what_fails(services: Services) -> str:
    text = (ROOT / "tests/workflows/cwl/fails.cwl").read_text()
    accepted = services.client().run_workflow(
        workflow_url="fails.cwl",
        workflow_type="CWL",
        workflow_type_version="v1.2",
        workflow_params={},
        workflow_attachment=[("fails.cwl", text, "text/plain")],
    )
    return str(accepted["run_id"])


def test_every_metric_tells_what_has_happened(services: Services) -> None:
    client = services.client()
    runs = {"succeeded": run_a_pipeline(services), "failed": run_what_fails(services)}
    ends = {word: client.wait_for_run_completion(run_id, timeout=END_SECONDS) for word, run_id in runs.items()}
    assert [end["state"] for end in ends.values()] == ["COMPLETE", "EXECUTOR_ERROR"]
    for _ in range(40):  # each on a connection of its own, so that every worker gets some
        assert requests.get(f"{services.origin}/auth-instructions", timeout=60).ok
    api, daemon = scrape(f"{services.origin}/metrics"), scrape(f"http://127.0.0.1:{services.notification_port}/metrics")

    assert value(api, "workflows_submitted_total") == 2
    assert value(api, "wes_http_requests_total", method="GET", route="/auth-instructions", status="200") == 40
    for status in runs:
        assert value(daemon, "workflows_completed_total", status=status) == 1
    for app in ("GenomeAssembly2", "GenomeAnnotation"):
        assert value(daemon, "steps_submitted_total", app=app) == 1
        assert value(daemon, "steps_completed_total", app=app, status="succeeded") == 1
        assert value(daemon, "step_execution_duration_seconds_count", app=app) == 1
    assert value(daemon, "workflow_execution_duration_seconds_count") == 2
    assert value(daemon, "wes_run_duration_seconds_count", provider="local", state="EXECUTOR_ERROR") == 1
    assert value(daemon, "wes_provider_calls_total", provider="bvbrc", verb="submit_workflow", outcome="ok") == 2
    assert value(daemon, "wes_poll_lag_seconds_count", provider="bvbrc", run="new") >= 1
    assert value(daemon, "executor_poll_cycles_total") > 0
    assert value(daemon, "scheduler_query_duration_seconds_count") > 0
    assert value(daemon, "active_workflows_count") == 0
    assert_named_as_promised({**api, **daemon})
    assert_logged(services, runs["succeeded"])


def assert_named_as_promised(samples: Samples) -> None:
    for name, labels in FAMILIES.items():
        found = samples[name.removesuffix("_total")] | samples.get(name, {}) | samples.get(f"{name}_count", {})
        assert all({label for label, _ in place} == labels for place in found), name


def assert_logged(services: Services, run_id: str) -> None:
    """The daemon is asked to end, as it writes logs when it has time."""
    services.stop("daemon")
    (log,) = services.data_dir.glob(f"artifacts/runs/{run_id}/logs/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["to"] for event in events if "to" in event] == ["QUEUED", "INITIALIZING", "RUNNING", "COMPLETE"]
    assert [event["name"] for event in events if "task" in event] == ["assemble", "annotate"]
    assert services.environment["TEST_TOKEN"] not in log.read_text()


@pytest.mark.skipif(not SEED.exists(), reason="the pipeline engine's own page is not beside this checkout")
def test_the_list_of_metrics_is_the_pipeline_engines() -> None:
    text = SEED.read_text().partition("### Prometheus Metrics")[2].partition("\n## ")[0]
    told = re.findall(r"^- `(\w+)(?:\{([\w,]+)\})?`: ", text, re.M)
    assert {name: set(labels.split(",")) - {""} for name, labels in told} == FAMILIES
