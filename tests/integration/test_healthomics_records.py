"""What a run of HealthOmics leaves: tasks, logs in CloudWatch, outputs in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.daemon.providers import healthomics_files
from app.daemon.providers.healthomics_logs import GROUP
from app.daemon.providers.healthomics_tasks import MOST_EXPLAINED
from app.daemon.providers.provider_interface import Submission
from app.errors import Rejected
from tests.contract.harness import Fate
from tests.contract.healthomics_harness import BUCKET, HealthOmicsHarness

TASKS = [
    {"name": "fetch", "log": ["fetching", "fetched"]},
    {
        "name": "align",
        "log": ["aligning"],
        "memory": 64,
        "failureReason": "OUT_OF_MEMORY_ERROR",
        "statusMessage": "OOM",
    },
]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[HealthOmicsHarness]:
    with HealthOmicsHarness(tmp_path) as entered:
        assert isinstance(entered, HealthOmicsHarness)
        yield entered


def planned(harness: HealthOmicsHarness, **plan: Any) -> tuple[Submission, str]:
    """A run that goes so, started and running."""
    run = replace(harness.submission(Fate.REFUSED), workflow_params={"fake-plan": json.dumps(plan)})
    provider_id = harness.submit(run).provider_id
    harness.let_run(provider_id)
    return run, provider_id


def ended(harness: HealthOmicsHarness, **plan: Any) -> tuple[Submission, str]:
    run, provider_id = planned(harness, **plan)
    harness.let_end(provider_id)
    return run, provider_id


def outputs(harness: HealthOmicsHarness, provider_id: str) -> dict[str, Any]:
    return harness.provider.get_outputs(provider_id, harness.output_sink(harness.submission()))


def place(harness: HealthOmicsHarness, provider_id: str) -> str:
    status = harness.provider.get_workflow_status(provider_id)
    assert status
    return str(status.metadata["runOutputUri"])


# Tasks


def test_tasks_say_how_they_ended_and_why(harness: HealthOmicsHarness) -> None:
    _, provider_id = ended(harness, outcome="FAILED", tasks=TASKS)
    fetch, align = harness.provider.get_tasks(provider_id)
    assert (fetch.name, fetch.exit_code, fetch.cmd) == ("fetch", 0, ())
    assert fetch.system_logs == ("COMPLETED", "omics.m.large, 2 vCPU, 4 GiB")
    assert (align.name, align.exit_code) == ("align", None)
    assert align.system_logs == ("FAILED", "omics.m.large, 2 vCPU, 64 GiB", "OUT_OF_MEMORY_ERROR: OOM")
    assert align.start_time and align.end_time and align.end_time - align.start_time == timedelta(seconds=60)


def test_a_task_that_runs_has_no_end(harness: HealthOmicsHarness) -> None:
    _, provider_id = planned(harness, tasks=TASKS)
    assert [(task.end_time, task.exit_code) for task in harness.provider.get_tasks(provider_id)] == [(None, None)] * 2


def test_reasons_are_asked_for_once_and_not_without_end(harness: HealthOmicsHarness) -> None:
    _, provider_id = ended(harness, tasks=[{"name": f"t{n}", "status": "FAILED"} for n in range(150)])
    harness.fake.control.reset()
    for _ in range(2):
        assert len(harness.provider.get_tasks(provider_id)) == 150
    made = harness.fake.control.calls()
    assert (made["ListRunTasks"], made["GetRunTask"]) == (4, MOST_EXPLAINED)


# Logs


def test_every_log_has_its_place(harness: HealthOmicsHarness) -> None:
    run, provider_id = ended(harness, tasks=TASKS, log=["hello", "bye"])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, "stdout") == "hello\nbye\n"
    assert harness.log(run, "stderr") == "PENDING\nSTARTING\nRUNNING\nSTOPPING\nCOMPLETED\n"
    fetch, align = harness.provider.get_tasks(provider_id)
    assert harness.log(run, f"tasks/{fetch.task_id}/stdout") == "fetching\nfetched\n"
    assert harness.log(run, f"tasks/{align.task_id}/stdout") == "aligning\n"


def test_a_log_that_nobody_has_written_yet_is_empty(harness: HealthOmicsHarness) -> None:
    run = harness.submission(Fate.LONG)
    provider_id = harness.submit(run).provider_id
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, "stdout") == ""


def test_a_long_log_comes_whole_and_once(harness: HealthOmicsHarness) -> None:
    lines = [f"line {number} ü" for number in range(25_000)]
    run, provider_id = planned(harness, log=[])
    write(harness, f"run/{provider_id.split('/')[0]}", lines[:9000])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    write(harness, f"run/{provider_id.split('/')[0]}", lines[9000:18_000])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    write(harness, f"run/{provider_id.split('/')[0]}", lines[18_000:])
    harness.new_provider().get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, "stdout").splitlines() == lines


def test_a_token_that_cloudwatch_forgot_costs_nothing(harness: HealthOmicsHarness) -> None:
    run, provider_id = planned(harness, log=["a", "b"])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    cursors = harness.provider._logs._cursors
    for key, cursor in cursors.items():
        cursors[key] = replace(cursor, token="f/forgotten")
    write(harness, f"run/{provider_id.split('/')[0]}", ["c"])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, "stdout") == "a\nb\nc\n"


def test_the_log_of_a_task_that_is_over_is_read_again_only_at_the_end(harness: HealthOmicsHarness) -> None:
    run, provider_id = planned(harness, tasks=[{"name": "a", "log": ["a1"]}], seconds={"STOPPING": None})
    harness.pass_time(61)
    (task,) = harness.provider.get_tasks(provider_id)
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    run_number = provider_id.split("/")[0]
    write(harness, f"run/{run_number}/task/{task.task_id}", ["a2, late"])
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, f"tasks/{task.task_id}/stdout") == "a1\n"
    harness.fake.control.set_run(id=run_number, status="COMPLETED")
    harness.provider.get_logs(provider_id, harness.log_sink(run))
    assert harness.log(run, f"tasks/{task.task_id}/stdout") == "a1\na2, late\n"


def write(harness: HealthOmicsHarness, stream: str, lines: list[str]) -> None:
    harness.service._runs._exports.log(stream, lines)


def test_lines_of_an_earlier_run_with_the_same_id_are_not_shown(harness: HealthOmicsHarness) -> None:
    _, first = ended(harness, log=["of the first"])
    harness.lose(first)
    logs = harness.stores.client("logs")
    stream = f"run/{first.split('/')[0]}"
    logs.delete_log_stream(logGroupName=GROUP, logStreamName=stream)
    logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    an_hour_ago = int((harness.now() - timedelta(hours=1)).timestamp() * 1000)
    events = [{"timestamp": an_hour_ago, "message": "of the first"}]
    logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)
    logs.close()
    run, second = ended(harness, log=["of the second"])
    assert second.split("/")[0] == first.split("/")[0]
    harness.provider.get_logs(second, harness.log_sink(run))
    assert harness.log(run, "stdout") == "of the second\n"


# Outputs


@pytest.mark.parametrize("name", ["logs/outputs.json", "logs/output.json"])
def test_the_output_document_under_either_name(harness: HealthOmicsHarness, name: str) -> None:
    harness.fake.control.configure(outputs_name=name)
    _, provider_id = ended(harness, outputs={"wf.n": 3, "wf.out": "{runOutputUri}/out/a.txt"})
    uri = place(harness, provider_id)
    assert outputs(harness, provider_id) == {"wf.n": 3, "wf.out": f"{uri}/out/a.txt", "output_location": uri}


def test_a_listing_where_there_is_no_document(harness: HealthOmicsHarness) -> None:
    harness.fake.control.configure(outputs_name="elsewhere/outputs.json")
    _, provider_id = ended(harness, outputs={}, files={"a.txt": "A", "deep/b.txt": "BB", "logs/engine.log": "x"})
    uri = place(harness, provider_id)
    assert outputs(harness, provider_id) == {
        "a.txt": {"class": "File", "location": f"{uri}/a.txt", "basename": "a.txt", "size": 1},
        "deep/b.txt": {"class": "File", "location": f"{uri}/deep/b.txt", "basename": "b.txt", "size": 2},
        "elsewhere/outputs.json": {
            "class": "File",
            "location": f"{uri}/elsewhere/outputs.json",
            "basename": "outputs.json",
            "size": 2,
        },
        "output_location": uri,
    }


def test_a_listing_of_many_pages_is_bounded(harness: HealthOmicsHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthomics_files, "MOST_LISTED", 5)
    harness.fake.control.configure(outputs_name="none")
    _, provider_id = ended(harness, files={f"{number}.txt": "x" for number in range(9)})
    assert len(outputs(harness, provider_id)) == 5 + 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', "[" * 5000, '"text"', '{"a": "\\u0000"}'])
def test_a_document_that_is_none_is_no_loss(harness: HealthOmicsHarness, text: str) -> None:
    _, provider_id = ended(harness)
    uri = place(harness, provider_id)
    harness.stores.write(BUCKET, f"{uri.removeprefix(f's3://{BUCKET}/')}/logs/outputs.json", text)
    assert outputs(harness, provider_id).keys() == {"out/result.txt", "output_location"}


def test_outputs_that_may_not_be_had_are_definite(harness: HealthOmicsHarness) -> None:
    _, provider_id = ended(harness)
    s3 = harness.stores.client("s3")
    for key in harness.stores.keys(BUCKET):
        s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_bucket(Bucket=BUCKET)
    s3.close()
    with pytest.raises(Rejected, match="NoSuchBucket"):
        outputs(harness, provider_id)
    assert harness.provider.outputs_tries > 1, "somebody may give the right back"


def test_a_run_without_a_place_of_its_own_tells_where_it_was_sent(harness: HealthOmicsHarness) -> None:
    run, provider_id = ended(harness)
    harness.fail(kind="alter", operation="GetRun", alter={"runOutputUri": None}, times=None)
    assert outputs(harness, provider_id) == {"output_location": f"s3://{BUCKET}/runs/{run.run_id}/outputs"}


def test_facts_of_the_run_are_kept_with_it(harness: HealthOmicsHarness) -> None:
    run, provider_id = ended(harness)
    status = harness.provider.get_workflow_status(provider_id)
    assert status
    facts = dict(status.metadata)
    assert facts["runOutputUri"].startswith(f"s3://{BUCKET}/runs/{run.run_id}/outputs/")
    assert (facts["workflowId"], facts["storageType"]) == ("1000001", "DYNAMIC")
    json.dumps(facts)
