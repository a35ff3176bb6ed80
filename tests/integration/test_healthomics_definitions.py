"""Definitions become workflows of HealthOmics once for a content, from attachments, the web and S3."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.daemon.engines.fetcher import FetchPolicy
from app.daemon.providers.healthomics import HealthOmicsProvider
from app.daemon.providers.provider_interface import Submission
from app.errors import NotReady, OutcomeUnknown, Rejected
from tests.contract.harness import Fate
from tests.contract.healthomics_harness import BUCKET, HealthOmicsHarness
from tests.fakes.attached import Attached
from tests.fakes.web import Web

WDL = b"version 1.0\nworkflow hello {}\n"
TOOL = "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: echo\ninputs: {}\noutputs: {}\n"
STEPS = """cwlVersion: v1.2
class: Workflow
inputs: {}
outputs: {}
steps: {say: {run: tools/say.cwl, in: {}, out: []}}
"""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[HealthOmicsHarness]:
    with HealthOmicsHarness(tmp_path) as entered:
        assert isinstance(entered, HealthOmicsHarness)
        yield entered


def wdl(harness: HealthOmicsHarness, *attachments: Attached, **fields: Any) -> Submission:
    usual = {"workflow_url": "hello.wdl", "workflow_params": {}, "attachments": attachments}
    return replace(harness.submission(Fate.REFUSED), **usual | fields)


def registered(harness: HealthOmicsHarness, run: Submission, provider: HealthOmicsProvider | None = None) -> str:
    """The workflow that the run is about to be started on, once it is registered."""
    provider = provider or harness.provider
    with pytest.raises(NotReady, match="The workflow definition is being registered at HealthOmics"):
        provider.prepare_request(run)
    harness.pass_time(5)
    return str(provider.prepare_request(run)["workflowId"])


def sent(harness: HealthOmicsHarness) -> list[dict[str, Any]]:
    return [json.loads(one["body"]) for one in harness.fake.control.requests(operation="CreateWorkflow")]


def files(definition: Mapping[str, Any]) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(definition["definitionZip"]))) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def zipped(**texts: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name.replace("_", "."), text)
    return buffer.getvalue()


def test_attachments_become_a_workflow(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("hello.wdl", WDL), Attached("lib/tasks.wdl", b"version 1.0"))
    workflow_id = registered(harness, run)
    (definition,) = sent(harness)
    assert files(definition) == {"hello.wdl": WDL.decode(), "lib/tasks.wdl": "version 1.0"}
    assert (definition["engine"], definition["main"]) == ("WDL", "hello.wdl")
    assert definition["requestId"] == definition["name"] == f"wes-{definition['tags']['WESDefinition']}"
    harness.submit(replace(run, request=harness.provider.prepare_request(run)))
    (started,) = harness.fake.control.requests(operation="StartRun")
    assert json.loads(started["body"])["workflowId"] == workflow_id


def test_the_same_content_is_registered_once(harness: HealthOmicsHarness) -> None:
    first = registered(harness, wdl(harness, Attached("hello.wdl", WDL)))
    again = wdl(harness, Attached("hello.wdl", WDL))
    assert harness.provider.prepare_request(again)["workflowId"] == first
    assert harness.new_provider().prepare_request(again)["workflowId"] == first, "found by its name after a crash"
    assert len(sent(harness)) == 1


def test_another_content_is_another_workflow(harness: HealthOmicsHarness) -> None:
    runs = [
        wdl(harness, Attached("hello.wdl", WDL)),
        wdl(harness, Attached("hello.wdl", WDL + b"\n")),
        wdl(harness, Attached("hello.wdl", WDL), Attached("more.wdl", b"")),
        wdl(harness, Attached("hello.wdl", WDL), Attached("other.wdl", b"")),
        wdl(harness, Attached("other.wdl", WDL), workflow_url="other.wdl"),
        wdl(harness, Attached("hello.wdl", WDL), workflow_type="NFL"),
    ]
    assert len({registered(harness, run) for run in runs}) == len(sent(harness)) == len(runs)


def test_inputs_are_no_part_of_the_definition(harness: HealthOmicsHarness) -> None:
    def run(data: bytes) -> Submission:
        reads = Attached("reads.fq", data)
        return wdl(harness, Attached("hello.wdl", WDL), reads, workflow_params={"reads": "reads.fq"})

    first = registered(harness, run(b"A"))
    assert harness.provider.prepare_request(run(b"C"))["workflowId"] == first
    assert list(files(sent(harness)[0])) == ["hello.wdl"]


def test_a_document_that_is_called_like_an_input_is_one(harness: HealthOmicsHarness) -> None:
    attached = [Attached(name, WDL) for name in ("hello.wdl", "align.wdl", "align.bam", "align.bai")]
    run = wdl(harness, *attached, workflow_params={"reads": "align.bam"})
    registered(harness, run)
    assert set(files(sent(harness)[0])) == {"hello.wdl", "align.wdl"}
    assert {key.rpartition("/")[2] for key in harness.stores.keys(BUCKET)} == {"align.bam", "align.bai"}


def test_nothing_is_put_into_s3_before_the_workflow_is_there(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("hello.wdl", WDL), Attached("r.fq", b"A"), workflow_params={"reads": "r.fq"})
    with pytest.raises(NotReady):
        harness.provider.prepare_request(run)
    assert harness.stores.keys(BUCKET) == []
    harness.pass_time(5)
    harness.provider.prepare_request(run)
    assert len(harness.stores.keys(BUCKET)) == 1


@pytest.mark.parametrize("duplicates", ["same", "conflict"])
def test_daemons_at_once_register_once(harness: HealthOmicsHarness, duplicates: str) -> None:
    harness.fake.control.configure(duplicates=duplicates)
    run = wdl(harness, Attached("hello.wdl", WDL))
    harness.fail(kind="reply", operation="ListWorkflows", body='{"items": []}', times=2)  # both look too early
    for provider in harness.provider, harness.new_provider():
        with pytest.raises(NotReady):
            provider.prepare_request(run)
    harness.pass_time(5)
    ids = {
        harness.provider.prepare_request(run)["workflowId"],
        harness.new_provider().prepare_request(run)["workflowId"],
    }
    assert len(ids) == 1 and len(harness.omics().list_workflows(type="PRIVATE")["items"]) == 2


def test_a_lost_answer_registers_nothing_twice(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("hello.wdl", WDL))
    harness.fail(kind="drop", operation="CreateWorkflow", commit=True)
    with pytest.raises(OutcomeUnknown, match="CreateWorkflow"):
        harness.provider.prepare_request(run)
    harness.pass_time(5)
    assert harness.provider.prepare_request(run)
    assert len(sent(harness)) == 1


def test_a_failed_registration_says_why(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("hello.txt", b"?"), workflow_url="hello.txt")
    harness.fail(
        kind="alter", operation="GetWorkflow", times=None, alter={"status": "FAILED", "statusMessage": "bad: line 3"}
    )
    for provider in harness.provider, harness.new_provider():
        with pytest.raises(Rejected, match="is FAILED at HealthOmics: bad: line 3") as refusal:
            provider.prepare_request(run)
        assert refusal.value.reason == "workflow_unusable"


def test_a_deleted_workflow_is_registered_anew(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("hello.wdl", WDL))
    first = registered(harness, run)
    harness.pass_time(301)
    harness.fail(kind="missing", operation="GetWorkflow", match=f"/workflow/{first}", times=None)
    harness.fail(kind="reply", operation="ListWorkflows", body='{"items": []}', times=None)
    with pytest.raises(NotReady, match="anew"):
        harness.provider.prepare_request(run)
    second = registered(harness, run)
    assert first != second and [one["requestId"][-2:] for one in sent(harness)][1] == "-1"


def test_its_own_template_is_told(harness: HealthOmicsHarness) -> None:
    template = Attached("parameter-template.json", b'{"reads": {"description": "FASTQ"}, "depth": {"optional": true}}')
    run = wdl(harness, Attached("hello.wdl", WDL), template, workflow_params={"reads": "s3://b/r"})
    registered(harness, run)
    assert sent(harness)[0]["parameterTemplate"] == json.loads(template.data)
    assert not harness.fake.control.requests(operation="StartRun")
    with pytest.raises(
        Rejected, match=r"'raeds' is not a parameter of it: did you mean 'reads'\?.*'reads' is required"
    ):
        harness.provider.prepare_request(replace(run, workflow_params={"raeds": "s3://b/r"}))


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"reads": 5}', b'{"reads": {"type": "File"}}'])
def test_a_template_that_is_none_is_said(harness: HealthOmicsHarness, text: bytes) -> None:
    template = Attached("parameter-template.json", text)
    with pytest.raises(Rejected, match=r"parameter-template\.json|parameterTemplate\.reads"):
        harness.provider.prepare_request(wdl(harness, Attached("hello.wdl", WDL), template))


# From elsewhere


@pytest.fixture
def web() -> Iterator[Web]:
    with Web({"/hello.wdl": WDL.decode(), "/wf/steps.cwl": STEPS, "/wf/tools/say.cwl": TOOL}) as running:
        yield running


def reading(harness: HealthOmicsHarness, web: Web) -> HealthOmicsProvider:
    return harness.provider_at(harness.url, policy=FetchPolicy(frozenset({web.host})))


def test_a_definition_from_the_web(harness: HealthOmicsHarness, web: Web) -> None:
    provider = reading(harness, web)
    registered(harness, wdl(harness, workflow_url=f"{web.url}/hello.wdl"), provider)
    assert (files(sent(harness)[0]), sent(harness)[0]["main"]) == ({"hello.wdl": WDL.decode()}, "hello.wdl")
    for _ in range(3):
        provider.prepare_request(wdl(harness, workflow_url=f"{web.url}/hello.wdl"))
    assert len(web.asked) == 1, "its content is looked at once a minute"
    web.pages["/hello.wdl"] = "version 1.1\nworkflow hello {}\n"
    harness.pass_time(61)
    registered(harness, wdl(harness, workflow_url=f"{web.url}/hello.wdl"), provider)
    assert len(sent(harness)) == 2


def test_a_cwl_definition_brings_what_it_refers_to(harness: HealthOmicsHarness, web: Web) -> None:
    run = wdl(harness, workflow_url=f"{web.url}/wf/steps.cwl", workflow_type="CWL")
    registered(harness, run, reading(harness, web))
    definition = sent(harness)[0]
    assert definition["engine"] == "CWL" and definition["main"].endswith("steps.cwl")
    assert {name.rsplit("/", 1)[-1] for name in files(definition)} == {"steps.cwl", "say.cwl"}
    folder = definition["main"].rpartition("/")[0]
    assert f"{folder}/tools/say.cwl" in files(definition), "relative references stay true"


def test_attached_cwl_stays_as_it_is(harness: HealthOmicsHarness) -> None:
    attached = Attached("wf/steps.cwl", STEPS.encode()), Attached("wf/tools/say.cwl", TOOL.encode())
    registered(harness, wdl(harness, *attached, workflow_url="wf/steps.cwl#main", workflow_type="CWL"))
    assert files(sent(harness)[0]) == {"wf/steps.cwl": STEPS, "wf/tools/say.cwl": TOOL}
    assert sent(harness)[0]["main"] == "wf/steps.cwl"


def test_a_nextflow_archive_from_s3(harness: HealthOmicsHarness) -> None:
    s3 = harness.stores.client("s3")
    s3.put_object(Bucket=BUCKET, Key="wf.zip", Body=zipped(main_nf="println 1", nextflow_config=""))
    registered(harness, wdl(harness, workflow_url=f"s3://{BUCKET}/wf.zip#main.nf", workflow_type="NFL"))
    definition = sent(harness)[0]
    assert (definition["engine"], definition["main"]) == ("NEXTFLOW", "main.nf")
    assert files(definition) == {"main.nf": "println 1", "nextflow.config": ""}
    s3.close()


def test_an_attached_archive(harness: HealthOmicsHarness) -> None:
    registered(harness, wdl(harness, Attached("wf.zip", zipped(main_wdl="version 1.0")), workflow_url="wf.zip"))
    assert files(sent(harness)[0]) == {"main.wdl": "version 1.0"} and "main" not in sent(harness)[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"workflow_url": "s3://wes-outputs/none.wdl"}, "NoSuchKey"),
        ({"workflow_url": "trs://example.org/x"}, "http, https, s3 and attachments can"),
        ({"workflow_url": "missing.wdl"}, "cannot be had here"),
        ({"workflow_url": "http://169.254.169.254/latest.wdl"}, "169.254.169.254"),
        ({"workflow_type": "SMK"}, "HealthOmics runs CWL, WDL, NFL, not SMK"),
    ],
)
def test_what_cannot_be_had_is_said(harness: HealthOmicsHarness, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Rejected, match=says):
        harness.provider.prepare_request(wdl(harness, **fields))
    assert sent(harness) == []


def test_a_fragment_that_would_be_lost_is_refused(harness: HealthOmicsHarness) -> None:
    run = wdl(harness, Attached("t.cwl", TOOL.encode()), workflow_url="t.cwl#other", workflow_type="CWL")
    with pytest.raises(Rejected, match="not #other"):
        harness.provider.prepare_request(run)


def test_a_definition_of_many_bytes_is_refused(harness: HealthOmicsHarness) -> None:
    bomb = zipped(main_wdl="0" * (30 * 1024**2))
    for attachment in Attached("hello.wdl", b" " * (21 * 1024**2)), Attached("hello.wdl", bomb):
        with pytest.raises(Rejected, match="larger than 20 MiB"):
            harness.provider.prepare_request(wdl(harness, attachment))


def test_an_archive_leaves_nothing_outside(harness: HealthOmicsHarness, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escaped.wdl", "version 1.0")
        archive.writestr("main.wdl", "version 1.0")
    registered(harness, wdl(harness, Attached("wf.zip", buffer.getvalue()), workflow_url="wf.zip"))
    assert not any(".." in name for name in files(sent(harness)[0]))
    assert not list(tmp_path.rglob("escaped.wdl"))


def test_a_broken_archive_is_said(harness: HealthOmicsHarness) -> None:
    broken = zipped(main_wdl="version 1.0").replace(b"version 1.0", b"vers\x00\x00\x00 1.0")
    with pytest.raises(Rejected, match="archive cannot be read"):
        harness.provider.prepare_request(wdl(harness, Attached("wf.zip", broken), workflow_url="wf.zip"))
