"""HealthOmics' words as ours: workflow ids and ARNs, statuses and reasons, events, AWS errors, places of inputs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)

from app.daemon.event_queue import RunChanged, read_event
from app.daemon.providers.healthomics_aws import AwsApi, Conflicting, Denied, Missing
from app.daemon.providers.healthomics_files import Inputs, check_base
from app.daemon.providers.healthomics_logs import GROUP, LogStream
from app.daemon.providers.healthomics_status import PLATFORM_REASONS, Run, status_of
from app.daemon.providers.healthomics_workflows import Target, target_of
from app.daemon.providers.pacing import TokenBucket
from app.errors import NotAccepted, OutcomeUnknown, Rejected
from app.states import State
from tests.fakes.attached import Attached

# Which workflow is meant


@pytest.mark.parametrize(
    ("url", "params", "target"),
    [
        ("healthomics:1234567", {}, Target("1234567")),
        ("HealthOmics:1234567", {}, Target("1234567")),
        ("healthomics:1234567/version/v1.2", {}, Target("1234567", "v1.2")),
        ("1234567", {}, Target("1234567")),
        ("arn:aws:omics:us-east-1:123456789012:workflow/77", {}, Target("77", kind="PRIVATE")),
        ("arn:aws:omics:us-east-1:123456789012:workflow/77/version/a_b", {}, Target("77", "a_b", kind="PRIVATE")),
        ("arn:aws:omics:us-east-1:999999999999:workflow/77", {}, Target("77", None, "999999999999", "PRIVATE")),
        ("arn:aws:omics:us-east-1::workflow/9500764", {}, Target("9500764", kind="READY2RUN")),
        ("arn:aws-cn:omics:us-east-1:123456789012:workflow/77", {}, Target("77", kind="PRIVATE")),
        ("https://example.org/wf.wdl", {"workflow_id": "5"}, Target("5")),
        ("wf.wdl", {"workflow_id": 5}, Target("5")),
        ("healthomics:6", {"workflow_id": "5"}, Target("6")),
        ("https://example.org/wf.wdl", {}, None),
        ("wf.cwl", {}, None),
        ("123/wf.cwl", {}, None),
    ],
)
def test_the_workflow_that_is_meant(url: str, params: dict[str, Any], target: Target | None) -> None:
    assert target_of(url, params, "us-east-1", "123456789012") == target


@pytest.mark.parametrize(
    ("url", "params"),
    [
        ("healthomics:wf-12345", {}),
        ("wf-abcdef", {}),
        ("healthomics:", {}),
        ("healthomics:1/version/", {}),
        ("healthomics:1 ", {}),
        ("1" * 19, {}),
        ("wf.cwl", {"workflow_id": "../1"}),
        ("wf.cwl", {"workflow_id": [1]}),
        ("arn:aws:omics:us-east-1:123456789012:run/77", {}),
        ("arn:aws:omics:eu-west-1:123456789012:workflow/77", {}),
        ("arn:aws:s3:::bucket", {}),
    ],
)
def test_what_can_be_no_workflow_is_said(url: str, params: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refusal:
        target_of(url, params, "us-east-1", "123456789012")
    assert refusal.value.reason == "workflow_not_found"


# Statuses


def run(status: str, **members: Any) -> Run:
    return Run(id="1", uuid="u", status=status, **members)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", State.INITIALIZING),
        ("STARTING", State.INITIALIZING),
        ("RUNNING", State.RUNNING),
        ("STOPPING", State.RUNNING),
        ("COMPLETED", State.COMPLETE),
        ("CANCELLED", State.CANCELED),
        ("FAILED", State.EXECUTOR_ERROR),
        ("REFLECTING", None),
    ],
)
def test_status_words(word: str, state: State | None) -> None:
    status = status_of(run(word))
    assert (status.state, status.provider_status) == (state, word)


@pytest.mark.parametrize("reason", sorted(PLATFORM_REASONS))
def test_failures_of_the_platform(reason: str) -> None:
    status = status_of(run("FAILED", failureReason=reason, statusMessage="words"))
    assert (status.state, status.reason, status.message) == (State.SYSTEM_ERROR, reason, "words")


@pytest.mark.parametrize("reason", ["RUN_TASK_FAILED", "OUT_OF_MEMORY_ERROR", "IMPORT_FAILED", "NEW_REASON", None])
def test_failures_of_the_workflow(reason: str | None) -> None:
    status = status_of(run("FAILED", failureReason=reason))
    assert (status.state, status.reason, status.exit_code) == (State.EXECUTOR_ERROR, reason, None)


def test_only_an_end_has_an_end_and_only_success_an_exit_code() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    stopping, completed = (status_of(run(word, stopTime=at)) for word in ("STOPPING", "COMPLETED"))
    assert (stopping.end_time, stopping.exit_code) == (None, None)
    assert (completed.end_time, completed.exit_code) == (at, 0)


# Events

EVENT: dict[str, Any] = {
    "version": "0",
    "id": "e-1",
    "detail-type": "Run Status Change",
    "source": "aws.omics",
    "region": "us-east-1",
    "detail": {"omicsVersion": "1.0.0", "status": "COMPLETED", "uuid": "u-1", "runId": "77", "runName": "wes-abc"},
}


def test_an_event_of_a_run_of_ours() -> None:
    assert read_event(json.dumps(EVENT)) == RunChanged("abc", "77/u-1", "COMPLETED")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "{",
        "NaN",
        json.dumps({**EVENT, "source": "mine"}),
        json.dumps({**EVENT, "detail-type": "Task Status Change"}),
        json.dumps({**EVENT, "detail": None}),
        json.dumps({**EVENT, "detail": {**EVENT["detail"], "runName": "someone else's"}}),
        json.dumps({**EVENT, "detail": {"status": "COMPLETED"}}),
    ],
)
def test_an_event_of_nothing_of_ours(body: str) -> None:
    assert read_event(body) is None


# What AWS says, or does not


def refusal(status: int, code: str, **headers: str) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "words\nof AWS"}, "ResponseMetadata": metadata}, "StartRun")


def meet(error: Exception, bucket: TokenBucket | None = None) -> Exception:
    def fail() -> None:
        raise error

    try:
        AwsApi(None, "HealthOmics", {"StartRun": bucket} if bucket else {}).attempt("StartRun", fail)
    except Exception as met:
        return met
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "ThrottlingException", NotAccepted),
        (503, "SlowDown", NotAccepted),
        (402, "ServiceQuotaExceededException", NotAccepted),
        (403, "ExpiredTokenException", NotAccepted),
        (400, "ExpiredToken", NotAccepted),
        (403, "AccessDeniedException", Denied),
        (403, "403", Denied),
        (401, "Unauthorized", Denied),
        (404, "ResourceNotFoundException", Missing),
        (404, "NoSuchKey", Missing),
        (404, "UnknownOperationException", Rejected),
        (409, "ConflictException", Conflicting),
        (400, "ValidationException", Rejected),
        (408, "RequestTimeoutException", OutcomeUnknown),
        (500, "InternalServerException", OutcomeUnknown),
        (503, "ServiceUnavailableException", OutcomeUnknown),
        (504, "", OutcomeUnknown),
        (0, "", OutcomeUnknown),
    ],
)
def test_what_a_refusal_means(status: int, code: str, kind: type[Exception]) -> None:
    met = meet(refusal(status, code))
    assert type(met) is kind
    assert f"HealthOmics StartRun: {code}: words of AWS." in str(met)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), NotAccepted),
        (ConnectTimeoutError(endpoint_url="http://x"), NotAccepted),
        (NoCredentialsError(), NotAccepted),
        (ReadTimeoutError(endpoint_url="http://x"), OutcomeUnknown),
        (ConnectionClosedError(endpoint_url="http://x"), OutcomeUnknown),
        (ParamValidationError(report="x"), Rejected),
        (RecursionError("deep"), OutcomeUnknown),
        (KeyError("x"), OutcomeUnknown),
    ],
)
def test_what_no_answer_means(error: Exception, kind: type[Exception]) -> None:
    assert type(meet(error)) is kind


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (refusal(429, "ThrottlingException"), 0, 2),
        (refusal(429, "ThrottlingException", **{"retry-after": "40"}), 40, 40),
        (refusal(402, "ServiceQuotaExceededException"), 60, 60),
        (refusal(403, "ExpiredTokenException"), 30, 30),
    ],
)
def test_a_refusal_of_everybody_closes_the_bucket(error: ClientError, least: float, most: float) -> None:
    bucket = TokenBucket(1, "", monotonic=lambda: 0.0)
    met = meet(error, bucket)
    assert isinstance(met, NotAccepted) and met.retry_after is not None and least <= met.retry_after <= most
    pace = bucket.pace()
    assert pace.submits == 0 and pace.problem == str(met)


def test_a_refusal_of_one_run_does_not() -> None:
    bucket = TokenBucket(100, "", burst=10, monotonic=lambda: 0.0)
    meet(refusal(403, "AccessDeniedException"), bucket)
    assert bucket.pace().submits == 9


# Inputs


def placed(parameters: dict[str, Any], *paths: str, main: str | None = None) -> tuple[Any, list[str], list[str]]:
    inputs = Inputs(parameters, [Attached(path) for path in paths], "s3://b/in", main)
    return (
        inputs.parameters,
        [one.path for one in inputs.files],
        [one.path for one in inputs.documents],
    )


def test_inputs_that_name_attachments_name_their_objects() -> None:
    parameters = {"reads": "data/r.fq", "n": 3, "ref": {"class": "File", "path": "./ref.fa"}, "many": ["data/r.fq"]}
    assert placed(parameters, "wf.cwl", "data/r.fq", "ref.fa", main="wf.cwl") == (
        {
            "reads": "s3://b/in/data/r.fq",
            "n": 3,
            "ref": {"class": "File", "path": "s3://b/in/ref.fa"},
            "many": ["s3://b/in/data/r.fq"],
        },
        ["data/r.fq", "ref.fa"],
        ["wf.cwl"],
    )


def test_what_lies_beside_an_input_comes_along() -> None:
    attached = "ref.fa", "ref.fa.fai", "ref.dict", "reference.txt", "other/ref.fa", "a.bam", "a.bai"
    _, files, documents = placed({"ref": "ref.fa", "bam": "a.bam"}, *attached)
    assert (files, documents) == (
        ["a.bai", "a.bam", "ref.dict", "ref.fa", "ref.fa.fai"],
        ["reference.txt", "other/ref.fa"],
    )


def test_a_folder_comes_whole() -> None:
    parameters, files, _ = placed({"folder": "data"}, "data/a", "data/b/c", "wf.wdl")
    assert (parameters, files) == ({"folder": "s3://b/in/data"}, ["data/a", "data/b/c"])


def test_other_values_stay() -> None:
    parameters = {"a": "s3://b/data/r.fq", "b": "data/r.f", "c": "", "d": ".", "e": None, "f": "wf.wdl", "g": "../x"}
    assert placed(parameters, "data/r.fq", "wf.wdl", main="wf.wdl") == (parameters, [], ["data/r.fq", "wf.wdl"])


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/a/b/"])
def test_places_for_outputs(uri: str) -> None:
    assert check_base(uri, "x") == uri.rstrip("/")


@pytest.mark.parametrize("uri", ["", "bucket", "s3://", "s3:///a", "https://bucket/a", "s3://b/a?x=1", "s3://b/a#x"])
def test_no_places_for_outputs(uri: str) -> None:
    with pytest.raises(Rejected, match="not an S3 URI"):
        check_base(uri, "x")


def test_log_streams_by_their_arn_or_by_custom() -> None:
    arn = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/omics/Other:log-stream:run/1/engine"
    assert LogStream.of(arn, "run/1", None) == LogStream("/aws/omics/Other", "run/1/engine")
    assert LogStream.of(None, "run/1", None) == LogStream.of("nonsense", "run/1", None) == LogStream(GROUP, "run/1")
