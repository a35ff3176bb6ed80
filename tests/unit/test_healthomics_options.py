"""StartRun's options and parameters, held against botocore's own model of the service before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.daemon.providers.healthomics_aws import AwsAccess
from app.daemon.providers.healthomics_options import (
    MAX_PARAMETER_BYTES,
    RunOptions,
    check_parameters,
    check_storage,
    fitting_tags,
)
from app.daemon.providers.healthomics_workflows import Workflow
from app.errors import Rejected

ROLE = "arn:aws:iam::123456789012:role/wes"
OTHER = "arn:aws:iam::123456789012:role/other"


@pytest.fixture(scope="module")
def client() -> Any:
    return AwsAccess("us-east-1", "fake", "fake", "", "http://127.0.0.1:9").client("omics")


@pytest.fixture
def options(client: Any) -> RunOptions:
    return RunOptions(client, ROLE, {"storageType": "DYNAMIC"}, [OTHER])


EVERY_OPTION: dict[str, tuple[str, Any]] = {
    "workflowType": ("READY2RUN", "READY2RUN"),
    "roleArn": (OTHER, OTHER),
    "cacheId": ("123", "123"),
    "cacheBehavior": ("CACHE_ALWAYS", "CACHE_ALWAYS"),
    "runGroupId": ("456", "456"),
    "priority": ("7", 7),
    "storageCapacity": ("1200", 1200),
    "outputUri": ("s3://bucket/out", "s3://bucket/out"),
    "logLevel": ("ERROR", "ERROR"),
    "tags": ('{"lab": "ü"}', {"lab": "ü"}),
    "retentionMode": ("REMOVE", "REMOVE"),
    "storageType": ("STATIC", "STATIC"),
    "workflowOwnerId": ("123456789012", "123456789012"),
    "workflowVersionName": ("v1.2-rc", "v1.2-rc"),
    "networkingMode": ("VPC", "VPC"),
    "scratchStorageMode": ("SHARED", "SHARED"),
    "configurationName": ("lab-net", "lab-net"),
    "sessionPolicy": ('{"Version": "2012-10-17"}', '{"Version": "2012-10-17"}'),
    "engineSettings": ('{"profiles": ["a"]}', {"profiles": ["a"]}),
    "outputUriPrefixMode": ("NONE_WITH_OVERWRITE", "NONE_WITH_OVERWRITE"),
}
NEVER_OPTIONS = {"workflowId", "name", "parameters", "requestId", "runId"}


def test_every_option_of_the_model_is_taken(client: Any, options: RunOptions) -> None:
    members = client.meta.service_model.operation_model("StartRun").input_shape.members
    assert set(EVERY_OPTION) | NEVER_OPTIONS == set(members)
    assert options.read({name: text for name, (text, _) in EVERY_OPTION.items()}) == {
        name: value for name, (_, value) in EVERY_OPTION.items()
    }


def test_service_info_shows_them_with_their_defaults(options: RunOptions) -> None:
    described = {name: (kind, default) for name, kind, default in options.described()}
    assert set(described) == set(EVERY_OPTION)
    assert (described["storageType"], described["priority"]) == (("string", "DYNAMIC"), ("integer", ""))


@pytest.mark.parametrize("name", ["storageType", "storage_type", "storage-type", "STORAGETYPE", "Storage_Type"])
def test_names_are_spelled_as_one_likes(options: RunOptions, name: str) -> None:
    assert options.read({name: "STATIC"}) == {"storageType": "STATIC"}


def test_what_is_for_routing_is_left_aside(options: RunOptions) -> None:
    assert options.read({"provider": "healthomics"}) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"storageType": "FAST"}, "must be one of STATIC, DYNAMIC"),
        ({"storageTyp": "STATIC"}, "Did you mean 'storageType'?"),
        ({"queue": "q1"}, "is not an option of a HealthOmics run. Options: workflowType, roleArn"),
        ({"priority": "9" * 5000}, "which is not a whole number"),
        ({"priority": "1_0"}, "which is not a whole number"),
        ({"priority": "high"}, "'high', which is not a whole number"),
        ({"priority": "100001"}, "is 100001; it must be 0 to 100000"),
        ({"priority": "-1"}, "it must be 0 to 100000"),
        ({"priority": None}, "priority needs a value"),
        ({"runGroupId": "a1"}, "not of the form [0-9]+"),
        ({"runGroupId": "1" * 19}, "is 19 characters; it must be 1 to 18"),
        ({"workflowVersionName": "-v"}, "not of the form"),
        ({"workflowOwnerId": "12"}, "not of the form [0-9]{12}"),
        ({"tags": "lab"}, "not JSON"),
        ({"tags": '["lab"]'}, "must be a JSON object"),
        ({"tags": '{"lab": 1}'}, "must be a JSON object of texts, but 'lab' is none"),
        ({"tags": json.dumps({"k" * 129: ""})}, "is 129 characters; it must be 1 to 128"),
        ({"engineSettings": '{"a": NaN}'}, "not JSON"),
        ({"runId": "123"}, "cannot be used"),
        ({"roleArn": "arn:aws:iam::123456789012:role/admin"}, "HEALTHOMICS_OTHER_ROLE_ARNS"),
        ({"requestId": "mine"}, "is not an option"),
        ({"name": "mine"}, "is not an option"),
    ],
)
def test_what_the_service_would_refuse_is_refused_in_words(
    options: RunOptions, given: dict[str, str | None], says: str
) -> None:
    with pytest.raises(Rejected) as refusal:
        options.read(given)
    assert says in str(refusal.value) and refusal.value.reason == "invalid_engine_parameter"


def test_wrong_defaults_are_found_at_the_start(client: Any) -> None:
    with pytest.raises(Rejected, match="must be one of STATIC, DYNAMIC"):
        RunOptions(client, ROLE, {"storageType": "FAST"})


# Parameters


def workflow(**template: bool) -> Workflow:
    parameters = {name: {"optional": optional, "description": "x"} for name, optional in template.items()}
    return Workflow.model_validate({"id": "12", "status": "ACTIVE", "parameterTemplate": parameters or None})


def test_parameters_that_fit() -> None:
    check_parameters({"reads": "s3://b/r", "depth": 3}, workflow(reads=False, depth=True))
    check_parameters({"reads": "s3://b/r"}, workflow(reads=False, depth=True))
    check_parameters({"anything": 1}, workflow())


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({}, ["'reads' is required and missing."]),
        ({"reads": "x", "dept": 3}, ["'dept' is not a parameter of it: did you mean 'depth'?"]),
        ({"wf.reads": "x"}, ["'wf.reads' is not a parameter of it: did you mean 'reads'?", "'reads' is required"]),
        ({"zzz": 1, "reads": 1}, ["'zzz' is not a parameter of it.", "It takes: depth (optional), reads."]),
    ],
)
def test_parameters_that_do_not_fit_are_all_named(parameters: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(Rejected) as refusal:
        check_parameters(parameters, workflow(reads=False, depth=True))
    assert all(words in str(refusal.value) for words in [*says, "workflow 12"])
    assert refusal.value.reason == "invalid_parameters"


def test_the_limit_of_bytes_is_as_botocore_writes_them() -> None:
    base = len(json.dumps({"x": ""}))
    check_parameters({"x": "a" * (MAX_PARAMETER_BYTES - base)}, workflow())
    check_parameters({"x": "é" * ((MAX_PARAMETER_BYTES - base) // 6)}, workflow())  # written as \u00e9
    for text in "a" * (MAX_PARAMETER_BYTES - base + 1), "é" * ((MAX_PARAMETER_BYTES - base) // 6 + 1):
        with pytest.raises(Rejected, match=r"at most 50,000") as refusal:
            check_parameters({"x": text}, workflow())
        assert refusal.value.reason == "parameters_too_large"


def test_fixed_storage_needs_a_size() -> None:
    check_storage({"storageType": "STATIC", "storageCapacity": 1200})
    check_storage({"storageType": "DYNAMIC"})
    check_storage({})
    with pytest.raises(Rejected, match="STATIC needs storageCapacity"):
        check_storage({"storageType": "STATIC"})


def test_only_what_aws_takes_becomes_a_tag() -> None:
    tags = {"project": "Größe 1", "aws:mine": "x", "json": '{"a": 1}', "": "x", "long": "x" * 257, "k" * 129: "x"}
    assert fitting_tags(tags, 50) == {"project": "Größe 1"}
    assert fitting_tags({str(number): "" for number in range(60)}, 49).keys() == set(sorted(map(str, range(60)))[:49])
