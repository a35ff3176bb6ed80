"""The HealthOmics fake under the real boto3 client, over HTTP: it lives as the service does and refuses as its model says."""

from __future__ import annotations

import io
import json
import threading
import uuid
import zipfile
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ParamValidationError, ReadTimeoutError

from tests.fakes.aws_stores import AwsStores
from tests.fakes.healthomics import HealthOmics
from tests.fakes.server import InProcess, InThread

ROLE = "arn:aws:iam::123456789012:role/omics"
KEYS = {"aws_access_key_id": "fake", "aws_secret_access_key": "fake"}


@pytest.fixture
def fake() -> Iterator[InThread]:
    with InThread(HealthOmics(frozen=True)) as running:
        yield running
        assert running.control.problems() == []


@pytest.fixture
def omics(fake: InThread) -> Iterator[Any]:
    client = connect(fake)
    yield client
    client.close()


def connect(fake: Any, attempts: int = 1, region: str = "us-east-1", **config: Any) -> Any:
    settings = Config(inject_host_prefix=False, retries={"total_max_attempts": attempts}, **config)
    return boto3.client("omics", endpoint_url=fake.url, region_name=region, config=settings, **KEYS)


def start(omics: Any, sender: Any = None, **members: Any) -> Any:
    """`sender`: another client, for StartRun alone."""
    workflow = next(item["id"] for item in omics.list_workflows()["items"] if item["name"] == "hello")
    defaults = {"roleArn": ROLE, "outputUri": "s3://bucket/out", "workflowId": workflow, "storageType": "DYNAMIC"}
    return (sender or omics).start_run(**{**defaults, "requestId": str(uuid.uuid4()), **members})


def refusal(call: Any, **members: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**members)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def status(omics: Any, run_id: str) -> str:
    return str(omics.get_run(id=run_id)["status"])


# It lives


def test_a_run_goes_through_its_states(fake: InThread, omics: Any) -> None:
    run_id = start(omics, name="wes-1-1", tags={"WESRunId": "1"})["id"]
    seen = [status(omics, run_id)]
    for seconds in (5, 20, 60, 10):
        fake.control.advance(seconds=seconds)
        seen.append(status(omics, run_id))
    assert seen == ["PENDING", "STARTING", "RUNNING", "STOPPING", "COMPLETED"]
    run = omics.get_run(id=run_id)
    assert (run["stopTime"] - run["startTime"]).total_seconds() == 70
    assert run["tags"] == {"WESRunId": "1"}
    assert run["runOutputUri"] == f"s3://bucket/out/{run_id}"


def test_a_failed_run_says_why_and_its_task_too(fake: InThread, omics: Any) -> None:
    fake.control.plan(
        match="wes-2",
        outcome="FAILED",
        reason="OUT_OF_MEMORY_ERROR",
        message="Task align ran out of memory",
        tasks=[{"name": "fetch"}, {"name": "align", "failureReason": "OUT_OF_MEMORY_ERROR", "memory": 64}],
    )
    run_id = start(omics, name="wes-2")["id"]
    fake.control.advance(seconds=95)
    run = omics.get_run(id=run_id)
    assert (run["status"], run["failureReason"]) == ("FAILED", "OUT_OF_MEMORY_ERROR")
    tasks = omics.list_run_tasks(id=run_id)["items"]
    assert [(task["name"], task["status"]) for task in tasks] == [("fetch", "COMPLETED"), ("align", "FAILED")]
    task = omics.get_run_task(id=run_id, taskId=tasks[1]["taskId"])
    assert task["failureReason"] == "OUT_OF_MEMORY_ERROR"
    assert task["logStream"].endswith(
        f":log-group:/aws/omics/WorkflowLog:log-stream:run/{run_id}/task/{task['taskId']}"
    )


def test_a_run_brings_its_own_plan(fake: InThread, omics: Any) -> None:
    run_id = start(omics, tags={"fake-plan": json.dumps({"seconds": {"PENDING": None}})})["id"]
    fake.control.advance(seconds=10**6)
    assert status(omics, run_id) == "PENDING"


def test_cancelling_passes_through_stopping(fake: InThread, omics: Any) -> None:
    run_id = start(omics)["id"]
    omics.cancel_run(id=run_id)
    assert status(omics, run_id) == "STOPPING"
    fake.control.advance(seconds=10)
    assert status(omics, run_id) == "CANCELLED"
    assert refusal(omics.cancel_run, id=run_id) == (409, "ConflictException")


def test_a_cancel_that_comes_too_late_changes_nothing(fake: InThread, omics: Any) -> None:
    run_id = start(omics)["id"]
    fake.control.advance(seconds=85)
    assert status(omics, run_id) == "STOPPING"
    omics.cancel_run(id=run_id)
    fake.control.advance(seconds=10)
    assert status(omics, run_id) == "COMPLETED"


def test_ids_come_again_with_another_uuid(fake: InThread, omics: Any) -> None:
    first = start(omics)
    assert refusal(omics.delete_run, id=first["id"]) == (409, "ConflictException")
    fake.control.advance(seconds=95)
    omics.delete_run(id=first["id"])
    assert refusal(omics.get_run, id=first["id"]) == (404, "ResourceNotFoundException")
    second = start(omics)
    assert second["id"] == first["id"]
    assert second["uuid"] != first["uuid"]


def test_events_tell_every_change(fake: InThread, omics: Any) -> None:
    run = start(omics, name="wes-3")
    fake.control.advance(seconds=95)
    events = fake.control.events()
    assert [event["detail"]["status"] for event in events] == [
        "PENDING",
        "STARTING",
        "RUNNING",
        "STOPPING",
        "COMPLETED",
    ]
    assert {event["detail"]["uuid"] for event in events} == {run["uuid"]}
    assert "tags" not in events[0]["detail"]
    assert len(fake.control.events(since=3)) == 2


def test_a_test_can_put_a_run_anywhere(fake: InThread, omics: Any) -> None:
    run_id = start(omics)["id"]
    fake.control.set_run(id=run_id, status="RUNNING")
    fake.control.advance(seconds=10**6)
    assert status(omics, run_id) == "RUNNING"
    fake.control.set_run(id=run_id, status="FAILED", reason="SERVICE_ERROR", message="Try again")
    assert omics.get_run(id=run_id)["failureReason"] == "SERVICE_ERROR"


# Lists


def test_lists_come_in_pages_by_status(fake: InThread, omics: Any) -> None:
    fake.control.plan(match="held", seconds={"PENDING": None})
    for number in range(255):
        start(omics, name=f"held-{number}")
    run_id = start(omics, name="moving")["id"]
    fake.control.advance(seconds=5)
    fake.control.reset()
    pages = list(omics.get_paginator("list_runs").paginate(status="PENDING", PaginationConfig={"PageSize": 100}))
    assert [len(page["items"]) for page in pages] == [100, 100, 55]
    assert len({run["id"] for page in pages for run in page["items"]}) == 255
    assert fake.control.calls() == {"ListRuns": 3}
    assert [run["id"] for run in omics.list_runs(status="STARTING")["items"]] == [run_id]
    assert "uuid" not in omics.list_runs(status="STARTING")["items"][0]


def test_lists_filter_by_group_and_name(fake: InThread, omics: Any) -> None:
    group = omics.create_run_group(requestId="g", name="wes", maxRuns=10)["id"]
    inside = start(omics, name="wes-1", runGroupId=group)["id"]
    start(omics, name="wes-10")
    assert [run["id"] for run in omics.list_runs(runGroupId=group)["items"]] == [inside]
    assert len(omics.list_runs(name="wes-1")["items"]) == 2, "a client has to compare names itself"
    fake.control.configure(name_match="whole")
    assert [run["id"] for run in omics.list_runs(name="wes-1")["items"]] == [inside]
    assert [found["id"] for found in omics.list_run_groups(name="wes")["items"]] == [group]


def test_a_new_run_may_be_missing_from_lists(fake: InThread, omics: Any) -> None:
    fake.control.configure(list_lag_seconds=3)
    run_id = start(omics)["id"]
    assert omics.list_runs()["items"] == []
    assert status(omics, run_id) == "PENDING"
    fake.control.advance(seconds=3)
    assert len(omics.list_runs()["items"]) == 1


def test_a_page_token_of_another_kind_is_refused(omics: Any) -> None:
    assert refusal(omics.list_runs, startingToken="12") == (400, "ValidationException")


# Tokens


def test_a_repeated_request_id_is_the_same_run(fake: InThread, omics: Any) -> None:
    first = start(omics, requestId="token", name="wes")
    fake.control.advance(seconds=5)
    again = start(omics, requestId="token", name="wes")
    assert (again["id"], again["uuid"], again["status"]) == (first["id"], first["uuid"], "STARTING")
    assert len(fake.control.runs()) == 1


def test_a_request_id_does_not_serve_another_request(fake: InThread, omics: Any) -> None:
    start(omics, requestId="token", name="one")
    other = {"requestId": "token", "name": "two"}
    assert refusal(start, omics=omics, **other) == (409, "ConflictException")
    fake.control.configure(reuse="ValidationException")
    assert refusal(start, omics=omics, **other) == (400, "ValidationException")


def test_a_repeated_request_id_may_also_be_a_conflict(fake: InThread, omics: Any) -> None:
    fake.control.configure(duplicates="conflict")
    start(omics, requestId="token")
    assert refusal(start, omics=omics, requestId="token") == (409, "ConflictException")
    assert len(fake.control.runs()) == 1


def test_a_request_id_may_be_forgotten(fake: InThread, omics: Any) -> None:
    fake.control.configure(token_seconds=3600)
    first = start(omics, requestId="token")
    fake.control.advance(seconds=3601)
    assert start(omics, requestId="token")["id"] != first["id"]


# It refuses


@pytest.mark.parametrize(
    "members",
    [
        {"logLevel": "LOUD"},
        {"roleArn": "role/omics"},
        {"name": "tab\tbed"},
        {"name": "n" * 129},
        {"workflowId": "12a"},
        {"workflowId": "1" * 19},
        {"priority": 100_001},
        {"workflowVersionName": "-first"},
        {"tags": {"k" * 129: ""}},
        {"tags": {"k": "v" * 257}},
        {"outputUri": "/tmp/out"},
        {"roleArn": "arn:aws:s3:::bucket"},
        {"storageType": "STATIC"},
        {"parameters": {"text": "x" * 50_000}},
        {"tags": {str(number): "" for number in range(51)}},
    ],
)
def test_what_botocore_lets_through_is_refused(fake: InThread, omics: Any, members: dict[str, Any]) -> None:
    assert refusal(start, omics=omics, **members) == (400, "ValidationException")
    assert fake.control.runs() == []


@pytest.mark.parametrize("members", [{"roleArn": None}, {"accelerators": "GPU"}, {"priority": "1"}])
def test_what_botocore_refuses_never_arrives(fake: InThread, omics: Any, members: dict[str, Any]) -> None:
    with pytest.raises(ParamValidationError):
        start(omics, **members)
    assert "StartRun" not in fake.control.calls()


SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=fake/20261120/us-east-1/omics/aws4_request"}


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("POST", "/run", {"outputUri": "s3://bucket/out", "requestId": "r"}, "roleArn: missing"),
        ("POST", "/run", {"accelerators": "GPU"}, "accelerators: unknown member"),
        ("POST", "/run", {"priority": "1"}, "priority: not an integer"),
        ("POST", "/run", {"priority": True}, "priority: not an integer"),
        ("POST", "/run", {"tags": {"a": None}}, "not a string"),
        ("POST", "/run", [], "body: not an object"),
        ("POST", "/run", {"parameters": {"n": float("nan")}}, "NaN is not JSON"),
        ("GET", "/run?maxResults=101", None, "101 is not within 1..100"),
        ("GET", "/run?maxResults=ten", None, "maxResults: not an integer"),
        ("GET", "/run?status=RUNNING&status=PENDING", None, "status: not a string"),
        ("GET", "/run?tag=a", None, "tag: unknown query parameter"),
        ("POST", "/workflow/1/version", {"workflowId": "2"}, "belongs in the uri, not in the body"),
    ],
)
def test_a_client_that_checks_nothing_is_refused(fake: InThread, method: str, path: str, body: Any, says: str) -> None:
    headers = {**SIGNED, "Content-Type": "application/json"}
    answer = requests.request(
        method, fake.url + path, data=None if body is None else json.dumps(body), headers=headers, timeout=5
    )
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert says in answer.json()["message"]


def test_a_request_without_a_signature_is_refused(fake: InThread) -> None:
    assert requests.get(fake.url + "/run", timeout=5).status_code == 403


def test_workflows_that_cannot_run_are_refused(fake: InThread, omics: Any) -> None:
    assert refusal(start, omics=omics, workflowId="99") == (404, "ResourceNotFoundException")
    ready = omics.list_workflows(type="READY2RUN")["items"][0]["id"]
    assert refusal(start, omics=omics, workflowId=ready) == (404, "ResourceNotFoundException")
    assert start(omics, workflowId=ready, workflowType="READY2RUN")["status"] == "PENDING"
    new = omics.create_workflow(requestId="w", name="new", definitionZip=archive("main.wdl"))["id"]
    assert refusal(start, omics=omics, workflowId=new) == (400, "ValidationException")
    fake.control.advance(seconds=3)
    assert start(omics, workflowId=new)["status"] == "PENDING"


def test_parameters_are_held_against_the_template(fake: InThread, omics: Any) -> None:
    template = {"sample": {"description": "a file"}, "depth": {"optional": True}}
    made = {"requestId": "w", "name": "t", "definitionZip": archive("main.cwl"), "parameterTemplate": template}
    workflow = omics.create_workflow(**made)["id"]
    fake.control.advance(seconds=3)
    assert omics.get_workflow(id=workflow)["parameterTemplate"] == template
    for parameters in ({}, {"depth": 1}, {"sample": "s3://b/k", "colour": "red"}):
        assert refusal(start, omics=omics, workflowId=workflow, parameters=parameters) == (400, "ValidationException")
    assert start(omics, workflowId=workflow, parameters={"sample": "s3://b/k"})["status"] == "PENDING"


def test_quotas_throttle_and_fill_up(fake: InThread, omics: Any) -> None:
    fake.control.configure(quotas=True, max_runs=2)
    start(omics)
    assert refusal(start, omics=omics) == (429, "ThrottlingException")
    fake.control.advance(seconds=1)
    start(omics)
    fake.control.advance(seconds=1)
    assert refusal(start, omics=omics) == (402, "ServiceQuotaExceededException")


def test_a_request_for_another_region_is_refused(fake: InThread) -> None:
    elsewhere = connect(fake, region="eu-west-1")
    assert refusal(elsewhere.list_runs) == (403, "InvalidSignatureException")
    elsewhere.close()


# The rest of the account


def archive(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return packed.getvalue()


def test_workflows_are_made_in_a_while(fake: InThread, omics: Any) -> None:
    good = omics.create_workflow(requestId="1", name="good", definitionZip=archive("main.nf"))
    bad = omics.create_workflow(requestId="2", name="bad", definitionZip=b"not a zip")
    lost = omics.create_workflow(requestId="3", name="lost", main="x.wdl", definitionZip=archive("main.wdl"))
    assert good["status"] == omics.get_workflow(id=good["id"])["status"] == "CREATING"
    fake.control.advance(seconds=3)
    assert (omics.get_workflow(id=good["id"])["status"], omics.get_workflow(id=good["id"])["engine"]) == (
        "ACTIVE",
        "NEXTFLOW",
    )
    assert "zip" in omics.get_workflow(id=bad["id"])["statusMessage"]
    assert omics.get_workflow(id=lost["id"])["status"] == "FAILED"
    assert refusal(omics.create_workflow, requestId="4", name="none") == (400, "ValidationException")


def test_versions_belong_to_a_workflow(fake: InThread, omics: Any) -> None:
    workflow = omics.create_workflow(requestId="1", name="w", definitionZip=archive("main.wdl"))["id"]
    asked = {"workflowId": workflow, "versionName": "v2", "definitionZip": archive("main.wdl"), "requestId": "2"}
    version = omics.create_workflow_version(**asked)
    assert omics.create_workflow_version(**asked)["uuid"] == version["uuid"]
    assert refusal(omics.create_workflow_version, **{**asked, "requestId": "3"}) == (409, "ConflictException")
    fake.control.advance(seconds=3)
    assert omics.get_workflow_version(workflowId=workflow, versionName="v2")["status"] == "ACTIVE"
    run_id = start(omics, workflowId=workflow, workflowVersionName="v2")["id"]
    assert omics.get_run(id=run_id)["workflowVersionName"] == "v2"
    assert refusal(start, omics=omics, workflowId=workflow, workflowVersionName="v3")[0] == 404


def test_tags_live_under_an_arn_with_slashes(fake: InThread, omics: Any) -> None:
    cache = omics.create_run_cache(requestId="c", cacheS3Location="s3://bucket/cache", tags={"a": "1"})
    omics.tag_resource(resourceArn=cache["arn"], tags={"b": "2"})
    assert omics.list_tags_for_resource(resourceArn=cache["arn"])["tags"] == {"a": "1", "b": "2"}
    assert refusal(omics.list_tags_for_resource, resourceArn="arn:aws:omics:x")[0] == 404
    assert start(omics, cacheId=cache["id"])["status"] == "PENDING"


# Faults


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("throttle", (429, "ThrottlingException")),
        ("quota", (402, "ServiceQuotaExceededException")),
        ("error", (500, "InternalServerException")),
        ("expired", (403, "ExpiredTokenException")),
        ("denied", (403, "AccessDeniedException")),
        ("missing", (404, "ResourceNotFoundException")),
    ],
)
def test_refusals_on_command_do_nothing_and_end(fake: InThread, omics: Any, kind: str, answer: tuple[int, str]) -> None:
    fake.control.fail(kind=kind, operation="StartRun", times=2)
    assert refusal(start, omics=omics) == refusal(start, omics=omics) == answer
    assert fake.control.runs() == []
    assert start(omics)["status"] == "PENDING"


def test_an_answer_lost_after_the_work_is_found_again(fake: InThread, omics: Any) -> None:
    fake.control.fail(kind="drop", operation="StartRun", commit=True)
    with pytest.raises(ConnectionClosedError):
        start(omics, requestId="token", name="wes-4")
    [run] = fake.control.runs()
    assert start(omics, requestId="token", name="wes-4")["id"] == run["id"]
    fake.control.fail(kind="error", operation="StartRun", commit=True)
    assert refusal(start, omics=omics, requestId="other")[0] == 500
    assert len(fake.control.runs()) == 2


def test_an_answer_lost_before_the_work_leaves_nothing(fake: InThread, omics: Any) -> None:
    fake.control.fail(kind="drop", operation="StartRun")
    with pytest.raises(ConnectionClosedError):
        start(omics)
    assert fake.control.runs() == []


def test_botocore_repeats_a_lost_answer_with_the_same_token(fake: InThread) -> None:
    patient = connect(fake, attempts=3)
    fake.control.fail(kind="drop", operation="StartRun", commit=True, times=2)
    start(patient)
    bodies = {request["body"] for request in fake.control.requests(operation="StartRun")}
    assert (len(bodies), len(fake.control.runs()), fake.control.calls()["StartRun"]) == (1, 1, 3)
    patient.close()


def test_a_hang_outlasts_the_client_and_still_commits(fake: InThread, omics: Any) -> None:
    hasty = connect(fake, read_timeout=0.2)
    fake.control.fail(kind="hang", operation="StartRun")
    with pytest.raises(ReadTimeoutError):
        start(omics, hasty)
    hasty.close()
    while not fake.control.hanging():
        continue
    assert (fake.control.hanging(), fake.control.runs()) == (1, [])
    fake.control.release()
    while fake.control.hanging():
        continue
    fake.control.fail(kind="hang", operation="GetRun", seconds=0)
    [run] = fake.control.runs()
    assert status(omics, run["id"]) == "PENDING"


@pytest.mark.parametrize("kind", ["garbage", "html", "empty"])
def test_botocore_takes_nonsense_for_an_answer_without_members(fake: InThread, omics: Any, kind: str) -> None:
    fake.control.fail(kind=kind, operation="StartRun")
    answer = start(omics)
    assert answer.keys() == {"ResponseMetadata"}, "a client has to look whether there is an id"
    assert len(fake.control.runs()) == 1


def test_a_slow_answer_is_still_the_true_one(fake: InThread, omics: Any) -> None:
    fake.control.fail(kind="drip", operation="StartRun", seconds=0.001)
    run = start(omics)
    assert [row["id"] for row in fake.control.runs()] == [run["id"]]


def test_botocore_breaks_on_megabytes_of_another_shape(fake: InThread, omics: Any) -> None:
    fake.control.fail(kind="huge", operation="StartRun")
    with pytest.raises(AttributeError, match="'list' object"):
        start(omics)
    assert len(fake.control.runs()) == 1, "a client has to take any error of the SDK's parser for an unknown outcome"


def test_lies_on_command_are_not_checked(fake: InThread, omics: Any) -> None:
    run_id = start(omics)["id"]
    fake.control.fail(kind="alter", operation="GetRun", alter={"status": "BANANA", "uuid": None})
    run = omics.get_run(id=run_id)
    assert (run["status"], "uuid" in run) == ("BANANA", False)
    fake.control.fail(kind="alter", operation="ListRuns", alter={"items": {"status": "PAUSED"}})
    assert [item["status"] for item in omics.list_runs()["items"]] == ["PAUSED"]
    assert omics.get_run(id=run_id)["status"] == "PENDING"


def test_a_fault_can_be_meant_for_one_run_for_ever(fake: InThread, omics: Any) -> None:
    unlucky, lucky = start(omics)["id"], start(omics)["id"]
    fake.control.fail(kind="missing", operation="GetRun", match=unlucky, times=None)
    for _ in range(3):
        assert refusal(omics.get_run, id=unlucky)[0] == 404
        assert status(omics, lucky) == "PENDING"
    fake.control.clear()
    assert status(omics, unlucky) == "PENDING"


def test_a_mistaken_command_is_said(fake: InThread) -> None:
    for call in (
        lambda: fake.control.fail(kind="trottle"),
        lambda: fake.control.plan(outcomes="FAILED"),
        lambda: fake.control.configure(duplicate="same"),
        lambda: fake.control.command(name="advance"),
    ):
        with pytest.raises(ValueError, match=r"trottle|outcomes|duplicate|no such verb"):
            call()


# It cannot say what its model does not allow


@pytest.mark.parametrize(
    "wrong", [{"status": "ENDED"}, {"uuid": 5}, {"cost": "1.20"}, {"id": "x"}, {"startTime": "noon"}]
)
def test_a_broken_answer_is_loud(wrong: dict[str, Any]) -> None:
    service = HealthOmics(frozen=True)
    with InThread(service) as fake:
        omics = connect(fake)
        run_id = start(omics)["id"]
        honest = service._runs.get_run
        service._runs.get_run = lambda asked: {**honest(asked), **wrong}  # type: ignore[method-assign]
        with pytest.raises(ClientError) as caught:
            omics.get_run(id=run_id)
        assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-fake-violation"] == "1"
        assert next(iter(wrong)) in fake.control.problems()[0]
        omics.close()


def test_what_the_fake_does_not_do_is_loud() -> None:
    with InThread(HealthOmics()) as fake:
        omics = connect(fake)
        assert refusal(omics.list_shares, resourceOwner="SELF")[0] == 500
        assert fake.control.problems() == ["ListShares is not in this fake"]
        omics.close()


# Where else it leaves traces, and how else it runs


def test_outputs_and_logs_go_where_the_service_puts_them() -> None:
    with (
        AwsStores("bucket") as stores,
        InThread(HealthOmics(frozen=True, s3_endpoint=stores.url, logs_endpoint=stores.url)) as fake,
    ):
        logs = stores.client("logs")
        omics = connect(fake)
        fake.control.plan(match="planned", outputs={"out": "{runOutputUri}/a.txt"}, files={"a.txt": "A"})
        plain, planned = start(omics), start(omics, name="planned")
        lost = start(omics, outputUri="s3://nowhere/out")["id"]
        fake.control.advance(seconds=95)
        assert json.loads(stores.read("bucket", f"out/{plain['id']}/logs/outputs.json")) == {
            "hello.result": f"s3://bucket/out/{plain['id']}/out/result.txt"
        }
        document = json.loads(stores.read("bucket", f"out/{planned['id']}/logs/outputs.json"))
        assert document == {"out": f"{planned['runOutputUri']}/a.txt"}
        assert stores.read("bucket", f"out/{planned['id']}/a.txt") == "A"
        assert omics.get_run(id=lost)["failureReason"] == "EXPORT_FAILED"
        group, _, stream = omics.get_run(id=plain["id"])["logLocation"]["runLogStream"].partition(":log-stream:")
        events = logs.get_log_events(logGroupName=group.partition(":log-group:")[2], logStreamName=stream)["events"]
        assert [event["message"] for event in events] == ["started", "done"]
        names = [
            found["logStreamName"]
            for found in logs.describe_log_streams(logGroupName="/aws/omics/WorkflowLog")["logStreams"]
        ]
        assert {f"run/{plain['id']}/engine", f"manifest/run/{plain['id']}/{plain['uuid']}"} <= set(names)
        assert any(name.startswith(f"run/{plain['id']}/task/") for name in names)
        assert fake.control.problems() == []
        omics.close()
        logs.close()


def test_it_runs_as_a_process() -> None:
    with InProcess("tests.fakes.healthomics", "--frozen") as fake:
        omics = connect(fake)
        run_id = start(omics)["id"]
        fake.control.advance(seconds=95)
        assert status(omics, run_id) == "COMPLETED"
        omics.close()


def test_by_hand_it_brings_its_stores_along() -> None:
    with InProcess("tests.fakes.healthomics", "--frozen", "--stores") as fake:
        omics = connect(fake)
        run_id = start(omics, outputUri="s3://wes-outputs/x")["id"]
        fake.control.advance(seconds=95)
        assert status(omics, run_id) == "COMPLETED"  # else the export fails
        omics.close()


def test_clients_at_once_get_one_run_a_token(fake: InThread) -> None:
    client = connect(fake, attempts=3)
    workflow = client.list_workflows()["items"][0]["id"]
    found: list[str] = []

    def submit() -> None:
        found.extend(start(client, requestId=str(number), workflowId=workflow)["id"] for number in range(20))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), len(fake.control.runs())) == (80, 20, 20)
    client.close()
