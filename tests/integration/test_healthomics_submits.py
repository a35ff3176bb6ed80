"""What reaches StartRun at the HealthOmics fake, what never does, and what a repeated or lost submit becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.daemon.providers.healthomics import HealthOmicsProvider
from app.daemon.providers.provider_interface import Absent, Found, Pace, Submission, Unsure
from app.errors import NotAccepted, NotReady, OutcomeUnknown, Rejected
from app.states import State
from tests.contract.harness import Fate
from tests.contract.healthomics_harness import BUCKET, ROLE, HealthOmicsHarness
from tests.fakes.attached import Attached

PRIVATE, READY2RUN = "1000001", "1000002"
TEMPLATE = {"reads": {"description": "x"}, "depth": {"optional": True}}


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[HealthOmicsHarness]:
    with HealthOmicsHarness(tmp_path) as entered:
        assert isinstance(entered, HealthOmicsHarness)
        yield entered


def ask(harness: HealthOmicsHarness, **fields: Any) -> Submission:
    """A run that was not prepared yet."""
    usual = {"workflow_params": {}, "request": {}, "tags": {}, "sent_at": harness.now()}
    return replace(harness.submission(Fate.REFUSED), **usual | fields)


def members(harness: HealthOmicsHarness, **fields: Any) -> dict[str, Any]:
    return harness.provider.prepare_request(ask(harness, **fields))


def refusal(harness: HealthOmicsHarness, **fields: Any) -> Rejected:
    with pytest.raises(Rejected) as error:
        members(harness, **fields)
    assert harness.fake.control.calls().get("StartRun", 0) == 0
    return error.value


def sent(harness: HealthOmicsHarness) -> dict[str, Any]:
    """The body of the only StartRun so far."""
    (request,) = harness.fake.control.requests(operation="StartRun")
    return dict(json.loads(request["body"]))


# What is sent


def test_the_stored_request_is_what_is_sent(harness: HealthOmicsHarness) -> None:
    run = ask(harness, workflow_params={"name": "ü"}, tags={"project": "p1"})
    run = replace(run, request=json.loads(json.dumps(harness.provider.prepare_request(run))))
    harness.provider.submit_workflow(run)
    assert (
        sent(harness)
        == run.request
        == {
            "roleArn": ROLE,
            "storageType": "DYNAMIC",
            "workflowId": PRIVATE,
            "workflowType": "PRIVATE",
            "requestId": run.submit_key,
            "name": run.submit_key,
            "tags": {"WESRunId": run.run_id, "project": "p1"},
            "outputUri": f"s3://{BUCKET}/runs/{run.run_id}/outputs",
            "parameters": {"name": "ü"},
        }
    )


@pytest.mark.parametrize(
    ("workflow_url", "params"),
    [
        (f"healthomics:{PRIVATE}", {}),
        (PRIVATE, {}),
        (f"arn:aws:omics:us-east-1:123456789012:workflow/{PRIVATE}", {}),
        ("https://example.org/hello.wdl", {"workflow_id": PRIVATE}),
        ("hello.wdl", {"workflow_id": int(PRIVATE)}),
    ],
)
def test_a_workflow_is_named_in_any_of_its_ways(
    harness: HealthOmicsHarness, workflow_url: str, params: dict[str, Any]
) -> None:
    made = members(harness, workflow_url=workflow_url, workflow_params={**params, "x": 1})
    assert (made["workflowId"], made["parameters"]) == (PRIVATE, {"x": 1})


def test_output_uri_of_the_request(harness: HealthOmicsHarness) -> None:
    made = members(harness, workflow_params={"outputUri": "s3://my-test-bucket/outputs/", "x": 1})
    assert (made["outputUri"], made["parameters"]) == ("s3://my-test-bucket/outputs", {"x": 1})


@pytest.mark.parametrize("uri", ["my-bucket", "", 5, "https://b/x", "s3://b/" + "x" * 750])
def test_output_uri_that_is_none(harness: HealthOmicsHarness, uri: Any) -> None:
    assert refusal(harness, workflow_params={"outputUri": uri}).reason in (
        "invalid_output_uri",
        "invalid_engine_parameter",
    )


def test_without_a_bucket_every_run_brings_its_place(harness: HealthOmicsHarness) -> None:
    harness.provider = harness.provider_at(harness.url, output_uri="")
    assert "HEALTHOMICS_OUTPUT_BUCKET" in str(refusal(harness))
    assert members(harness, workflow_params={"outputUri": "s3://mine/x"})["outputUri"] == "s3://mine/x"


def test_options_reach_the_request(harness: HealthOmicsHarness) -> None:
    given = {"storage_type": "STATIC", "storage_capacity": "2400", "priority": "5", "log_level": "ERROR"}
    more = {"retentionMode": "REMOVE", "networkingMode": "VPC", "tags": '{"a": "b"}', "provider": "healthomics"}
    made = members(harness, workflow_engine_parameters=given | more)
    assert (
        made
        | {
            "storageType": "STATIC",
            "storageCapacity": 2400,
            "priority": 5,
            "logLevel": "ERROR",
            "retentionMode": "REMOVE",
            "networkingMode": "VPC",
        }
        == made
    )
    assert made["tags"].keys() == {"a", "WESRunId"}


def test_groups_and_caches_that_exist_are_taken(harness: HealthOmicsHarness) -> None:
    client = harness.omics()
    group = client.create_run_group(name="g")["id"]
    cache = client.create_run_cache(cacheS3Location="s3://wes-outputs/cache")["id"]
    options = {"run_group_id": group, "cache_id": cache, "cache_behavior": "CACHE_ALWAYS"}
    harness.submit(ask(harness, workflow_engine_parameters=options))
    assert sent(harness) | {"runGroupId": group, "cacheId": cache, "cacheBehavior": "CACHE_ALWAYS"} == sent(harness)


def test_options_are_checked_before_the_call(harness: HealthOmicsHarness) -> None:
    for given in {"storageType": "FAST"}, {"priority": "many"}, {"storage_type": "STATIC"}, {"queue": "q"}:
        assert refusal(harness, workflow_engine_parameters=given).reason == "invalid_engine_parameter"


def test_a_size_alone_asks_for_fixed_storage(harness: HealthOmicsHarness) -> None:
    made = members(harness, workflow_engine_parameters={"storageCapacity": "1200"})
    assert (made["storageType"], made["storageCapacity"]) == ("STATIC", 1200)


def test_defaults_of_the_settings_yield_to_the_request(harness: HealthOmicsHarness) -> None:
    defaults = {"storageType": "STATIC", "storageCapacity": "1200", "retentionMode": "REMOVE"}
    harness.provider = harness.provider_at(harness.url, run_defaults=defaults)
    made = members(harness, workflow_engine_parameters={"retention_mode": "RETAIN"})
    assert (made["storageType"], made["storageCapacity"], made["retentionMode"]) == ("STATIC", 1200, "RETAIN")


def test_a_workflows_own_storage_wins_over_the_defaults(harness: HealthOmicsHarness) -> None:
    workflow_id = register(harness, storageType="STATIC", storageCapacity=4800)
    made = members(harness, workflow_url=f"healthomics:{workflow_id}")
    assert (made["storageType"], made["storageCapacity"]) == ("STATIC", 4800)


@pytest.mark.parametrize("url", [f"healthomics:{READY2RUN}", f"arn:aws:omics:us-east-1::workflow/{READY2RUN}"])
def test_ready2run_workflows_are_found_by_themselves(harness: HealthOmicsHarness, url: str) -> None:
    harness.submit(ask(harness, workflow_url=url))
    made = sent(harness)
    assert made["workflowType"] == "READY2RUN" and not {"storageType", "storageCapacity"} & set(made)


def test_a_version_and_an_owner_come_from_the_arn(harness: HealthOmicsHarness) -> None:
    harness.omics().create_workflow_version(
        workflowId=PRIVATE, versionName="v2", definitionUri="s3://b/x.zip", main="x.wdl", parameterTemplate=TEMPLATE
    )
    harness.pass_time(5)
    url = f"arn:aws:omics:us-east-1:210987654321:workflow/{PRIVATE}/version/v2"
    made = members(harness, workflow_url=url, workflow_params={"reads": "s3://b/r"})
    assert (made["workflowVersionName"], made["workflowOwnerId"]) == ("v2", "210987654321")
    assert "'x' is not a parameter" in str(
        refusal(harness, workflow_url=f"healthomics:{PRIVATE}/version/v2", workflow_params={"x": 1})
    ), "the version has a template, the workflow has none"
    by_option = members(
        harness, workflow_engine_parameters={"workflow_version_name": "v2"}, workflow_params={"reads": 1}
    )
    assert by_option["workflowVersionName"] == "v2"
    assert refusal(harness, workflow_url=f"healthomics:{PRIVATE}/version/v3").reason == "workflow_not_found"


def register(harness: HealthOmicsHarness, **given: Any) -> str:
    answer = harness.omics().create_workflow(name="w", definitionUri="s3://b/x.zip", main="x.wdl", **given)
    harness.pass_time(5)
    return str(answer["id"])


# What is refused before it is sent


def test_parameters_are_held_against_the_template_first(harness: HealthOmicsHarness) -> None:
    url = f"healthomics:{register(harness, parameterTemplate=TEMPLATE)}"
    assert members(harness, workflow_url=url, workflow_params={"reads": "s3://b/r", "depth": 3})
    wrong = refusal(harness, workflow_url=url, workflow_params={"read": "s3://b/r"})
    assert wrong.reason == "invalid_parameters"
    assert "'read' is not a parameter of it: did you mean 'reads'?" in str(wrong)
    assert "'reads' is required and missing." in str(wrong)


def test_a_template_is_asked_for_once_in_a_while(harness: HealthOmicsHarness) -> None:
    for _ in range(5):
        members(harness)
    assert harness.fake.control.calls()["GetWorkflow"] == 1
    harness.pass_time(301)
    members(harness)
    assert harness.fake.control.calls()["GetWorkflow"] == 2


def test_parameters_over_the_limit_are_refused_first(harness: HealthOmicsHarness) -> None:
    assert refusal(harness, workflow_params={"x": "y" * 50_000}).reason == "parameters_too_large"


def test_a_workflow_that_does_not_exist(harness: HealthOmicsHarness) -> None:
    assert refusal(harness, workflow_url="healthomics:999").reason == "workflow_not_found"


def test_a_workflow_that_is_being_made_is_waited_for(harness: HealthOmicsHarness) -> None:
    made = harness.omics().create_workflow(name="w", definitionUri="s3://b/x.zip", main="x.wdl")
    with pytest.raises(NotReady, match="being registered"):
        members(harness, workflow_url=f"healthomics:{made['id']}")
    harness.pass_time(5)
    assert members(harness, workflow_url=f"healthomics:{made['id']}")["workflowId"] == made["id"]


# Inputs


def test_attachments_that_inputs_name_are_in_the_bucket_first(harness: HealthOmicsHarness) -> None:
    attached = (Attached("r/a.fq", b"ACGT"), Attached("r/a.fq.idx", b"i"), Attached("unused.txt", b"u"))
    run = ask(harness, workflow_params={"reads": "r/a.fq"}, attachments=attached)
    base = f"runs/{run.run_id}/inputs"
    assert harness.provider.prepare_request(run)["parameters"] == {"reads": f"s3://{BUCKET}/{base}/r/a.fq"}
    assert harness.stores.keys(BUCKET) == [f"{base}/r/a.fq", f"{base}/r/a.fq.idx"]
    assert harness.stores.read(BUCKET, f"{base}/r/a.fq") == "ACGT"


def test_inputs_are_not_sent_again(harness: HealthOmicsHarness) -> None:
    run = ask(harness, workflow_params={"reads": "a.fq"}, attachments=(Attached("a.fq", b"ACGT"),))
    harness.provider.prepare_request(run)
    harness.stores.write(BUCKET, f"runs/{run.run_id}/inputs/a.fq", "SAME")
    harness.new_provider().prepare_request(run)
    assert harness.stores.read(BUCKET, f"runs/{run.run_id}/inputs/a.fq") == "SAME"
    harness.stores.write(BUCKET, f"runs/{run.run_id}/inputs/a.fq", "half")
    harness.stores.write(BUCKET, f"runs/{run.run_id}/inputs/a.fq", "cut")
    harness.provider.prepare_request(run)
    assert harness.stores.read(BUCKET, f"runs/{run.run_id}/inputs/a.fq") == "ACGT"


def test_a_large_input_goes_in_parts(harness: HealthOmicsHarness) -> None:
    data = bytes(range(256)) * (9 * 1024 * 4)  # more than one part of 8 MiB
    run = ask(harness, workflow_params={"reads": "a.bin"}, attachments=(Attached("a.bin", data),))
    harness.provider.prepare_request(run)
    head = harness.stores.client("s3").head_object(Bucket=BUCKET, Key=f"runs/{run.run_id}/inputs/a.bin")
    assert head["ContentLength"] == len(data) and "-2" in head["ETag"]


def test_inputs_go_where_the_outputs_go_without_a_bucket_of_ours(harness: HealthOmicsHarness) -> None:
    harness.provider = harness.provider_at(harness.url, output_uri="")
    params = {"reads": "a.fq", "outputUri": f"s3://{BUCKET}/mine"}
    runs = [ask(harness, workflow_params=params, attachments=(Attached("a.fq", data),)) for data in (b"ACGT", b"TTTT")]
    places = [harness.provider.prepare_request(run)["parameters"]["reads"] for run in runs]
    keys = [f"mine/runs/{run.run_id}/inputs/a.fq" for run in runs]  # each its own: the names may be the same
    assert places == [f"s3://{BUCKET}/{key}" for key in keys]
    assert [harness.stores.read(BUCKET, key) for key in keys] == ["ACGT", "TTTT"]


def test_a_bucket_that_is_not_there_is_no_reason_to_wait(harness: HealthOmicsHarness) -> None:
    harness.provider = harness.provider_at(harness.url, output_uri="s3://nowhere")
    wrong = refusal(harness, workflow_params={"reads": "a.fq"}, attachments=(Attached("a.fq", b"ACGT"),))
    assert "NoSuchBucket" in str(wrong)


# Repeated and lost


@pytest.mark.parametrize("duplicates", ["same", "conflict"])
def test_either_answer_to_a_duplicate_is_the_same_run(harness: HealthOmicsHarness, duplicates: str) -> None:
    harness.fake.control.configure(duplicates=duplicates)
    run = harness.submission()
    first = harness.submit(run)
    assert harness.new_provider().submit_workflow(run).provider_id == first.provider_id
    assert len(harness.fake.control.runs()) == 1


def test_a_conflict_about_a_run_that_no_list_shows_is_not_decided(harness: HealthOmicsHarness) -> None:
    harness.fake.control.configure(duplicates="conflict", list_lag_seconds=30)
    run = harness.submission()
    first = harness.submit(run)
    with pytest.raises(OutcomeUnknown):
        harness.provider.submit_workflow(run)
    assert isinstance(harness.provider.find_workflow(run), Unsure)
    harness.pass_time(31)
    found = harness.provider.find_workflow(run)
    assert isinstance(found, Found) and found.run.provider_id == first.provider_id


def test_a_time_out_with_late_success(harness: HealthOmicsHarness) -> None:
    """The request hangs, the client gives up, and only then is the run made."""
    run = harness.submission(Fate.LONG)
    harness.fail(kind="hang", operation="StartRun", commit=True)
    with pytest.raises(OutcomeUnknown):
        harness.provider_at(harness.url, timeout_seconds=0.5).submit_workflow(run)
    assert isinstance(harness.provider.find_workflow(run), Unsure)
    harness.heal()
    assert harness.submit(run)
    harness.let_run("")
    assert harness.starts(run) == 1


def test_a_search_by_prefix_finds_only_the_whole_name(harness: HealthOmicsHarness) -> None:
    run = harness.submission()
    harness.omics().start_run(
        name=f"{run.submit_key}0", workflowId=PRIVATE, roleArn=ROLE, outputUri="s3://bucket/x", storageType="DYNAMIC"
    )
    harness.pass_time(harness.patience)
    assert harness.provider.find_workflow(run) == Absent()


def test_a_run_of_somebody_else_with_the_same_name_is_not_ours(harness: HealthOmicsHarness) -> None:
    run = harness.submission()
    tags = {"WESRunId": "another"}
    harness.omics().start_run(
        name=run.submit_key,
        workflowId=PRIVATE,
        roleArn=ROLE,
        outputUri="s3://bucket/x",
        storageType="DYNAMIC",
        tags=tags,
    )
    harness.pass_time(harness.patience)
    assert harness.provider.find_workflow(run) == Absent()


def test_a_second_execution_that_a_forgotten_request_id_allowed_is_cancelled(harness: HealthOmicsHarness) -> None:
    harness.fake.control.configure(token_seconds=60)
    run = harness.submission(Fate.LONG)
    first = harness.submit(run)
    harness.pass_time(61)
    second = harness.submit(run)
    assert first.provider_id != second.provider_id
    found = harness.provider.find_workflow(run)
    assert isinstance(found, Found) and found.run.provider_id == first.provider_id
    harness.pass_time(11)
    assert [one["status"] for one in harness.fake.control.runs()] == ["RUNNING", "CANCELLED"]


def test_an_id_that_comes_again_is_another_run(harness: HealthOmicsHarness) -> None:
    _, first = harness.ended()
    harness.lose(first)
    _, second = harness.running(Fate.LONG)
    assert first.split("/")[0] == second.split("/")[0] and first != second
    provider = harness.new_provider()
    assert provider.get_workflow_status(first) is None
    assert list(provider.get_workflow_statuses([first, second])) == [second]
    provider.cancel_workflow(first)
    status = provider.get_workflow_status(second)
    assert status and (status.state, status.provider_status) == (State.RUNNING, "RUNNING")
    with pytest.raises(Rejected):
        provider.get_outputs(first, harness.output_sink(harness.submission()))


# Pace and refusals


def test_one_start_a_second(harness: HealthOmicsHarness) -> None:
    provider = harness.provider_at(harness.url, starts_per_second=1)
    assert provider.pace() == Pace(1)
    provider.submit_workflow(harness.submission())
    assert provider.pace() == Pace(0, 0.8), "its way to the call takes a moment, too"
    harness.pass_time(1)
    assert provider.pace() == Pace(1)


def test_what_has_no_turn_soon_is_not_sent(harness: HealthOmicsHarness) -> None:
    provider = harness.provider_at(harness.url, starts_per_second=0.05)
    provider.submit_workflow(harness.submission())
    with pytest.raises(NotReady, match=r"At most 0\.05 runs a second") as error:
        provider.submit_workflow(harness.submission())
    assert error.value.retry_after == pytest.approx(20)
    assert harness.fake.control.calls()["StartRun"] == 1


@pytest.mark.parametrize(
    ("kind", "says", "seconds"),
    [
        ("throttle", "ThrottlingException: Rate exceeded.", 0),
        ("quota", "Maximum number of runs reached. It is tried again until a quota of the AWS account has room.", 60),
        ("expired", "credentials must be renewed", 30),
    ],
)
def test_a_refusal_closes_the_door_for_all_runs_and_says_why(
    harness: HealthOmicsHarness, kind: str, says: str, seconds: float
) -> None:
    harness.fail(kind=kind, operation="StartRun", times=2)
    for _ in range(2):
        with pytest.raises(NotAccepted, match=says) as error:
            harness.provider.submit_workflow(harness.submission())
        pace = harness.provider.pace()
        assert (pace.submits, pace.problem) == (0, str(error.value)) and pace.again_in_seconds >= seconds
        harness.pass_time(301)
    harness.provider.submit_workflow(harness.submission())
    assert harness.provider.pace().problem is None


def test_a_role_that_may_not_be_passed_stops_nobody_else(harness: HealthOmicsHarness) -> None:
    harness.fail(kind="denied", operation="StartRun")
    with pytest.raises(NotAccepted, match="iam:PassRole"):
        harness.provider.submit_workflow(harness.submission())
    harness.provider.submit_workflow(harness.submission())


def test_quotas_as_documented_are_kept(harness: HealthOmicsHarness) -> None:
    harness.fake.control.configure(quotas=True)
    provider = harness.provider_at(harness.url, starts_per_second=1, reads_per_second=5)
    for _ in range(3):
        run = harness.submission()
        provider_id = provider.submit_workflow(run).provider_id
        provider.get_workflow_status(provider_id)
        harness.pass_time(1)


def test_every_capability_is_told() -> None:
    capabilities = HealthOmicsProvider.capabilities
    assert (capabilities.cancel, capabilities.task_logs, capabilities.sweep) == (True, True, True)
    assert capabilities.cost is False, "the service tells no prices, and an estimate would be wrong"


def test_offers_are_what_the_service_runs(harness: HealthOmicsHarness) -> None:
    (offer,) = harness.provider.offers()
    assert (offer.engine, offer.workflow_types.keys()) == ("aws-omics", {"CWL", "WDL", "NFL"})
    assert ("storageType", "string", "DYNAMIC") in offer.parameters


def test_a_dripping_answer_ends_in_time(harness: HealthOmicsHarness) -> None:
    """Every byte comes well within the time-out, the whole answer never would."""
    run = harness.submission(Fate.LONG)
    harness.fail(kind="drip", operation="StartRun", seconds=0.2)
    with pytest.raises(OutcomeUnknown):
        harness.provider_at(harness.url, timeout_seconds=1.0).submit_workflow(run)
    assert harness.submit(run)
    assert len(harness.fake.control.runs()) == 1
