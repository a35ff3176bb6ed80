"""The Seven Bridges provider beyond the contract: apps, inputs, imports, drafts, outputs, logs, limits and secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, BinaryIO

import pytest
import yaml

from app.artifacts import output_path
from app.daemon.providers import sevenbridges_http
from app.daemon.providers.provider_interface import Absent, Found, Submission
from app.daemon.providers.sevenbridges import SevenBridgesProvider
from app.daemon.providers.sevenbridges_api import ENDPOINTS, SevenBridgesAccess
from app.errors import NotReady, OutcomeUnknown, ProviderError, Rejected
from app.states import State
from tests.contract.harness import Fate
from tests.contract.sevenbridges_harness import PROJECT, SevenBridgesHarness

TOOL = "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: wc\ninputs: {reads: File}\noutputs: {count: File}\n"
WORKFLOW = """
cwlVersion: v1.2
class: Workflow
inputs: {reads: File, refs: "Directory?", more: "File[]?"}
outputs: {count: {type: File, outputSource: count/count}}
steps: {count: {run: tools/count.cwl, in: {reads: reads}, out: [count]}}
"""


@dataclass(frozen=True)
class Text:
    """An attachment."""

    path: str
    text: str
    sha256: str = "0" * 64

    @property
    def size(self) -> int:
        return len(self.text)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.text.encode())


CWL = (Text("main.cwl", WORKFLOW), Text("tools/count.cwl", TOOL))


class Seven(SevenBridgesHarness):
    """The harness of the contract, with what only this platform has."""

    provider: SevenBridgesProvider
    documents: dict[str, str]

    def fetch(self, url: str) -> bytes:
        return self.documents[url].encode()

    def run(self, url: str = f"sevenbridges:{PROJECT}/hello", **fields: Any) -> Submission:
        """A run that nothing was prepared for."""
        run = replace(self.submission(), workflow_url=url, request={})
        return replace(run, **{"workflow_params": {}, **fields})

    def prepared(self, **fields: Any) -> dict[str, Any]:
        return self.provider.prepare_request(self.run(**fields))

    def with_plan(self, **plan: Any) -> tuple[Submission, str]:
        """A run that has ended as planned."""
        run = self.submission()
        request = {**run.request, "inputs": {"fake_plan": json.dumps(plan)}}
        provider_id = self.submit(replace(run, request=request)).provider_id
        self.fake.control.advance(seconds=100)
        return run, provider_id

    def outputs(self, **plan: Any) -> dict[str, Any]:
        run, provider_id = self.with_plan(**plan)
        return self.provider.get_outputs(provider_id, self.output_sink(run))

    def calls(self) -> dict[str, int]:
        return dict(self.fake.control.calls())


@pytest.fixture
def seven(tmp_path: Path) -> Iterator[Seven]:
    harness = Seven(tmp_path)
    harness.documents = {}
    with harness:
        yield harness


def refusal(seven: Seven, **fields: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as error:
        seven.prepared(**fields)
    return error.value.reason, str(error.value)


# Apps


@pytest.mark.parametrize(
    "url", [f"sevenbridges:{PROJECT}/hello", f"{PROJECT}/hello", f"SevenBridges:{PROJECT}/hello/0"]
)
def test_an_app_is_pinned_to_its_revision(seven: Seven, url: str) -> None:
    request = seven.prepared(url=url, workflow_params={"message": "hi"})
    assert (request["app"], request["project"], request["inputs"]) == (f"{PROJECT}/hello/0", PROJECT, {"message": "hi"})


def test_what_is_for_this_service_does_not_reach_the_app(seven: Seven) -> None:
    params = {"message": "hi", "outputUri": "s3://bucket/x", "workflow_id": "7"}
    assert seven.prepared(workflow_params=params)["inputs"] == {"message": "hi"}


def test_an_app_that_is_not_there_is_refused(seven: Seven) -> None:
    assert refusal(seven, url="sevenbridges:other/project/app")[0] == "workflow_not_found"
    assert refusal(seven, url=f"sevenbridges:{PROJECT}/hello/7")[0] == "workflow_not_found"
    assert refusal(seven, url="main.cwl")[0] == "workflow_not_found"


def test_many_runs_of_an_app_ask_for_it_once_a_minute(seven: Seven) -> None:
    for _ in range(20):
        seven.prepared()
    assert seven.calls() == {"apps.get": 1}
    seven.fake.control.advance(seconds=61)
    seven.prepared()
    assert seven.calls() == {"apps.get": 2}


def test_without_a_project_runs_go_where_their_app_is(seven: Seven) -> None:
    seven.provider = seven.provider_at(seven.url, project="")
    run, _ = seven.running()
    assert run.request["project"] == PROJECT
    assert isinstance(seven.provider.find_workflow(run), Found)
    assert refusal(seven, url="main.cwl", attachments=CWL)[0] == "project_not_set"


def test_a_document_is_installed_once_whoever_submits_it(seven: Seven) -> None:
    file_id = seven.fake.control.add_file(name="a.fastq", text="ACGT")
    providers = [seven.provider, *(seven.new_provider() for _ in range(3))]
    run = seven.run("main.cwl", attachments=CWL, workflow_params={"reads": file_id})
    with ThreadPoolExecutor(len(providers)) as pool:
        requests = list(pool.map(lambda provider: provider.prepare_request(run), providers))
    assert len({request["app"] for request in requests}) == 1
    assert requests[0]["app"].startswith(f"{PROJECT}/wes-") and requests[0]["app"].endswith("/0")
    for provider in [seven.provider, seven.new_provider()]:
        assert provider.prepare_request(run) == requests[0]
    assert sum("sbg:id" in app.raw for app in installed(seven)) == 1
    accepted = seven.submit(replace(run, request=requests[0]))
    seven.let_run(accepted.provider_id)
    assert seven.starts(run) == 1


def installed(seven: Seven) -> list[Any]:
    client = seven.provider._api._client
    return [client.apps.get(id=app.field("id"), api=client) for app in client.apps.query(project=PROJECT, api=client)]


def test_the_document_arrives_whole(seven: Seven) -> None:
    seven.prepared(url="main.cwl", attachments=CWL, workflow_params={"reads": "0" * 24})
    [app] = [app for app in installed(seven) if "wes-" in app.field("id")]
    assert app.raw["steps"]["count"]["run"]["baseCommand"] == "wc"


def test_an_attachment_as_an_input_is_told_how_to_get_there(seven: Seven) -> None:
    attached = (*CWL, Text("reads.fastq", "ACGT"))
    fields = {"url": "main.cwl", "attachments": attached, "workflow_params": {"reads": "reads.fastq"}}
    reason, words = refusal(seven, **fields)
    assert reason == "input_not_found" and "upload it there, as attachments do not get there" in words
    seven.fake.control.add_file(name="reads.fastq", text="ACGT")
    assert seven.prepared(**fields)["inputs"]["reads"]["class"] == "File"


def test_a_part_of_a_packed_document_is_an_app(seven: Seven) -> None:
    graph = json.dumps({"cwlVersion": "v1.2", "$graph": [{"id": "count", **yaml.safe_load(TOOL)}]})
    fields = {"attachments": (Text("all.cwl", graph),), "workflow_params": {"reads": "0" * 24}}
    request = seven.prepared(url="all.cwl#count", **fields)
    [app] = [app for app in installed(seven) if "wes-" in app.field("id")]
    assert (app.raw["baseCommand"], request["inputs"]["reads"]["class"]) == ("wc", "File")
    assert refusal(seven, url="all.cwl", **fields)[0] == "workflow_not_cwl"


def test_a_document_may_come_from_an_address(seven: Seven) -> None:
    base = "https://example.org/wf"
    seven.documents = {f"{base}/main.cwl": WORKFLOW, f"{base}/tools/count.cwl": TOOL}
    fetched = seven.prepared(url=f"{base}/main.cwl", workflow_params={"reads": "0" * 24})
    attached = seven.prepared(url="main.cwl#main", attachments=CWL, workflow_params={"reads": "0" * 24})
    assert fetched["app"] == attached["app"]


def test_runs_that_come_together_install_their_document_once(seven: Seven) -> None:
    run = seven.run("main.cwl", attachments=CWL, workflow_params={"reads": "0" * 24})
    barrier = Barrier(6)

    def prepare(_: int) -> Any:
        barrier.wait()
        return seven.provider.prepare_request(run)["app"]

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(prepare, range(6)))) == 1
    assert seven.calls()["apps.install"] == 1


def test_an_install_whose_answer_was_lost_is_found(seven: Seven) -> None:
    fields = {"url": "main.cwl", "attachments": CWL, "workflow_params": {"reads": "0" * 24}}
    seven.fail(kind="drop", operation="apps.install", commit=True)
    with pytest.raises(OutcomeUnknown):
        seven.prepared(**fields)
    seven.prepared(**fields)
    assert seven.calls()["apps.install"] == 1


def test_an_install_that_somebody_else_made_first_is_used(seven: Seven) -> None:
    fields = {"url": "main.cwl", "attachments": CWL, "workflow_params": {"reads": "0" * 24}}
    first = seven.prepared(**fields)
    seven.provider = seven.provider_at(seven.url)
    seven.fail(kind="missing", operation="apps.get_revision", match="/wes-")
    assert seven.prepared(**fields)["app"] == first["app"]
    assert seven.calls()["apps.install"] == 2


def test_a_document_that_the_platform_refuses_is_refused(seven: Seven) -> None:
    reason, words = refusal(seven, url="a.cwl", attachments=(Text("a.cwl", "cwlVersion: v1.2\nclass: Workflow"),))
    assert reason == "workflow_refused" and "not a CWL document" in words


# Inputs


def test_files_are_named_by_their_paths(seven: Seven) -> None:
    add_file, add_folder = seven.fake.control.add_file, seven.fake.control.add_folder
    refs = add_folder(name="refs")
    hg38 = add_folder(name="hg38", parent=refs)
    ids = [add_file(name="a.fastq", text=""), *(add_file(name=f"{n}.fa", text="", parent=hg38) for n in range(3))]
    params = {
        "reads": "/a.fastq",
        "refs": "refs/hg38",
        "more": [{"class": "File", "path": "refs/hg38/0.fa"}, "refs/hg38/1.fa", "refs//hg38/2.fa", ids[0]],
    }
    inputs = seven.prepared(url="main.cwl", attachments=CWL, workflow_params=params)["inputs"]
    assert inputs["reads"] == {"class": "File", "path": ids[0]}
    assert inputs["refs"] == {"class": "Directory", "path": hg38}
    assert [file["path"] for file in inputs["more"]] == [*ids[1:], ids[0]]
    assert seven.calls()["files.query"] == 3, "one for each folder"


@pytest.mark.parametrize("name", ["b.fastq", "refs/b.fastq", "a.fastq/b", "refs", "/", ".."])
def test_a_file_that_is_not_there_is_refused(seven: Seven, name: str) -> None:
    seven.fake.control.add_file(name="a.fastq", text="")
    seven.fake.control.add_folder(name="refs")
    assert refusal(seven, workflow_params={"reads": name})[0] == "input_not_found"


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("File", "s3://bucket/in/a.fastq"),
        ("File", "https://example.org/a.fastq"),
        ("File", "gs://bucket/a"),
        ("Directory", "s3://bucket/in/"),
        ("File", "s3://"),
        ("File", "file:///etc/passwd"),
    ],
)
def test_an_address_is_refused_with_words_that_say_how_to_import_it(seven: Seven, kind: str, address: str) -> None:
    attachments = (Text("a.cwl", TOOL.replace("reads: File", f"reads: {kind}")),)
    reason, words = refusal(seven, url="a.cwl", attachments=attachments, workflow_params={"reads": address})
    assert reason == "input_not_imported"
    assert address in words and "import" in words and "path" in words


def volume(seven: Seven, **options: Any) -> str:
    """An attached bucket `reads`, whose part below lab/ is to be seen."""
    client = seven.provider._api._client
    made = client.volumes.create_s3_volume("lab", "reads", "key", "secret", "RO", prefix="lab/", api=client)
    seven.provider = seven.provider_at(seven.url, volumes=(str(made.id),), **options)
    return str(made.id)


def test_an_object_of_a_volume_is_imported_once_and_nobody_waits_in_a_thread(seven: Seven) -> None:
    volume_id = volume(seven)
    indexed = {"class": "File", "location": "s3://reads/lab/x/a.bam"}
    indexed["secondaryFiles"] = [{"class": "File", "location": "s3://reads/lab/x/a.bam.bai"}]  # type: ignore[assignment]
    fields = {"workflow_params": {"reads": indexed}}
    for _ in range(3):
        with pytest.raises(NotReady, match=r"importing s3://reads/lab/x/a.bam and 1 more") as wait:
            seven.prepared(**fields)
        assert wait.value.retry_after == 10
    seven.fake.control.advance(seconds=8)
    file = seven.prepared(**fields)["inputs"]["reads"]
    files = [seven.provider._api.get_files([one["path"]])[one["path"]] for one in (file, file["secondaryFiles"][0])]
    assert [one.name for one in files] == ["a.bam", "a.bam.bai"]
    seven.provider = seven.provider_at(seven.url, volumes=(volume_id,))
    assert seven.prepared(**fields)["inputs"]["reads"] == file
    assert seven.calls()["imports.submit"] == 2
    run = seven.run(**fields)
    provider_id = seven.submit(replace(run, request=seven.prepared(**fields))).provider_id
    assert seven.provider.get_workflow_status(provider_id).provider_status == "CREATING"  # type: ignore[union-attr]


def test_an_import_under_way_survives_a_restart(seven: Seven) -> None:
    volume_id = volume(seven)
    fields = {"workflow_params": {"reads": "s3://reads/lab/a.bam"}}
    for seconds in (1, 1, 3, 3, 3, 10, 10):
        seven.provider = seven.provider_at(seven.url, volumes=(volume_id,))
        try:
            inputs = seven.prepared(**fields)["inputs"]
        except NotReady:
            inputs = None
        seven.fake.control.advance(seconds=seconds)
    assert inputs is not None
    folder = seven.provider._api.get_files([inputs["reads"]["path"]])
    assert [file.name for file in folder.values()] == ["a.bam"]


def test_an_import_that_fails_is_refused_with_the_platforms_words(seven: Seven) -> None:
    volume(seven)
    seven.fake.control.plan(match="lost.bam", outcome="FAILED", message="no such object")
    fields = {"workflow_params": {"reads": "s3://reads/lab/lost.bam"}}
    with pytest.raises(NotReady):
        seven.prepared(**fields)
    seven.fake.control.advance(seconds=8)
    assert refusal(seven, **fields) == (
        "import_failed",
        "Seven Bridges could not import s3://reads/lab/lost.bam: no such object",
    )


def test_two_imports_of_one_object_end_in_one_file(seven: Seven) -> None:
    volume_id = volume(seven)
    fields = {"workflow_params": {"reads": "s3://reads/lab/a.bam"}}
    others = [seven.provider, seven.provider_at(seven.url, volumes=(volume_id,))]
    for seven.provider in others:
        with pytest.raises(NotReady):
            seven.prepared(**fields)
    seven.fake.control.advance(seconds=8)
    inputs = []
    for seven.provider in others:
        inputs.append(seven.prepared(**fields)["inputs"])
    assert seven.calls()["imports.submit"] == 2 and inputs[0] == inputs[1]


@pytest.mark.parametrize(
    "address", ["s3://other/lab/a.bam", "s3://reads/elsewhere/a.bam", "https://reads.s3.amazonaws.com/lab/a"]
)
def test_what_no_volume_shows_is_refused(seven: Seven, address: str) -> None:
    volume(seven)
    assert refusal(seven, workflow_params={"reads": address})[0] == "input_not_imported"


def test_a_volume_that_is_not_there_is_named(seven: Seven) -> None:
    seven.provider = seven.provider_at(seven.url, volumes=("lab/none",))
    reason, words = refusal(seven, workflow_params={"reads": "s3://reads/a.bam"})
    assert reason == "volume_not_found" and "lab/none" in words and "SEVENBRIDGES_VOLUMES" in words


# Drafts


def test_a_draft_that_the_platform_refuses_is_refused_and_goes(seven: Seven) -> None:
    theirs = seven.fake.control.add_file(name="b", text="", project="x/y")
    run = seven.run(workflow_params={"reads": theirs})
    with pytest.raises(Rejected, match="Input is not a File of the project: reads") as error:
        seven.provider.submit_workflow(replace(run, request=seven.provider.prepare_request(run)))
    assert error.value.reason == "inputs_refused"
    assert seven.fake.control.tasks() == []


def test_a_draft_that_is_refused_when_it_is_started_ends_by_its_status(seven: Seven) -> None:
    theirs = seven.fake.control.add_file(name="b", text="", project="x/y")
    run = seven.run(workflow_params={"reads": theirs})
    seven.fail(kind="alter", operation="tasks.create", alter={"errors": []})
    provider_id = seven.submit(replace(run, request=seven.provider.prepare_request(run))).provider_id
    status = seven.provider.get_workflow_statuses([provider_id])[provider_id]
    assert (status.state, status.reason, status.needs_start) == (State.SYSTEM_ERROR, "inputs_refused", False)
    assert seven.starts(run) == 0


@pytest.mark.parametrize("code", [400, 403, 409, 405])
def test_whatever_the_code_for_the_wrong_state_nothing_is_done_twice(seven: Seven, code: int) -> None:
    seven.fake.control.configure(wrong_state=code)
    run, provider_id = seven.running()
    try:
        seven.provider.start_workflow(provider_id)
    except ProviderError:
        assert code == 403, "which may also mean that it is not allowed: the next look tells"
    assert seven.starts(run) == 1


@pytest.mark.parametrize("seconds", [0, 58, 60, 61])
def test_a_cancel_and_a_completion_race(seven: Seven, seconds: float) -> None:
    _, provider_id = seven.running(Fate.SUCCEED)
    seven.fake.control.advance(seconds=seconds)
    seven.provider.cancel_workflow(provider_id)
    seven.fake.control.advance(seconds=20)
    status = seven.provider.get_workflow_status(provider_id)
    assert status is not None
    assert status.state == (State.COMPLETE if seconds >= 60 else State.CANCELED)


def test_an_abort_that_was_taken_is_not_repeated_for_a_minute(seven: Seven) -> None:
    _, provider_id = seven.running()
    for _ in range(10):
        seven.provider.cancel_workflow(provider_id)
    assert seven.calls()["tasks.abort"] == 1
    seven.heal()
    seven.provider.cancel_workflow(provider_id)
    assert seven.calls()["tasks.abort"] == 2


def test_a_deleted_draft_is_cancelled_for_who_deleted_it_and_unknown_to_others(seven: Seven) -> None:
    provider_id = seven.provider.submit_workflow(seven.submission()).provider_id
    seven.provider.cancel_workflow(provider_id)
    statuses = seven.provider.get_workflow_statuses([provider_id])
    assert statuses[provider_id].state == State.CANCELED
    assert seven.new_provider().get_workflow_statuses([provider_id]) == {}


def test_a_run_is_found_by_its_whole_name_on_any_page(seven: Seven) -> None:
    run = seven.submission()
    request = dict(run.request)
    for number in range(230):
        seven.provider._api.create_draft({**request, "name": f"{run.submit_key}{number}"})
    accepted = seven.provider.submit_workflow(run)
    seven.pass_time(seven.patience)
    before = seven.calls().get("tasks.query", 0)
    found = seven.provider.find_workflow(run)
    assert isinstance(found, Found) and found.run.provider_id == accepted.provider_id
    assert seven.calls()["tasks.query"] - before == 3
    assert seven.provider.find_workflow(replace(run, submit_key=run.submit_key[:-1])) == Absent()


def test_leftover_drafts_of_ended_runs_are_swept(seven: Seven) -> None:
    ended, active, stranger = (seven.submission() for _ in range(3))
    drafts = {run.run_id: seven.provider.submit_workflow(run).provider_id for run in (ended, active, stranger)}
    seven.provider._api.create_draft({**dict(ended.request), "description": "made by hand"})
    stored = {ended.run_id, active.run_id}
    known = lambda ids: (frozenset({active.run_id}), frozenset(stored & set(ids)))  # noqa: E731
    seven.provider.sweep(known)
    assert len(seven.fake.control.tasks()) == 4, "they are young"
    seven.pass_time(timedelta(days=2, minutes=1).total_seconds())
    seven.provider.sweep(known)
    left = {task["id"] for task in seven.fake.control.tasks()}
    assert len(left) == 3 and drafts[ended.run_id] not in left
    seven.fail(kind="error", times=None)
    seven.provider.sweep(known)


def test_a_name_cannot_claim_another_runs_draft(seven: Seven) -> None:
    ended = seven.submission()
    run = seven.run(name=f"WES run {ended.run_id}")
    seven.provider.submit_workflow(replace(run, request=seven.provider.prepare_request(run)))
    seven.pass_time(timedelta(days=3).total_seconds())
    seven.provider.sweep(lambda ids: (frozenset(set(ids) - {ended.run_id}), frozenset(ids)))
    assert len(seven.fake.control.tasks()) == 1


# Outputs


def kept(seven: Seven, run_id: str) -> dict[str, int]:
    return {file.path: file.size for file in seven.storage.outputs(run_id)}


def test_outputs_of_every_shape_come_along(seven: Seven) -> None:
    listing = [
        {"class": "File", "path": "x.txt"},
        {"class": "Directory", "path": "deep", "listing": [{"class": "File", "path": "y.txt"}]},
    ]
    outputs = {
        "bam": {"class": "File", "path": "a.bam", "secondaryFiles": [{"class": "File", "path": "a.bai"}]},
        "all": {"class": "Directory", "path": "all", "listing": listing},
        "each": [{"class": "File", "path": "1/same.txt"}, {"class": "File", "path": "2/same.txt"}],
        "record": {"n": 1, "file": {"class": "File", "path": "r.txt"}},
        "none": None,
    }
    run, provider_id = seven.with_plan(outputs=outputs, files={"a.bam": "BAM", "x.txt": "x", "y.txt": "yy"})
    made = seven.provider.get_outputs(provider_id, seven.output_sink(run))
    assert made["bam"]["size"] == 3 and seven.read_output(run, made["bam"]["location"]) == "BAM"
    assert seven.read_output(run, made["bam"]["secondaryFiles"][0]["location"])
    deep, x = made["all"]["listing"]
    assert (made["all"]["class"], deep["basename"], x["basename"]) == ("Directory", "deep", "x.txt")
    assert output_path(deep["listing"][0]["location"]) == "all/deep/y.txt"
    assert made["all"]["location"].startswith("sevenbridges://")
    assert (made["none"], made["record"]["n"]) == (None, 1)
    assert len({file["location"] for file in made["each"]}) == 2
    assert sorted(kept(seven, run.run_id)) == sorted(
        ["a.bam", "a.bai", "all/deep/y.txt", "all/x.txt", "same.txt", "_1_same.txt", "r.txt"]
    )


def test_a_file_that_was_brought_here_is_still_an_input_there(seven: Seven) -> None:
    """As a pipeline hands it on: its copy is an attachment of the next step."""
    run, provider_id = seven.with_plan(outputs={"bam": {"class": "File", "path": "a.bam"}})
    made = seven.provider.get_outputs(provider_id, seven.output_sink(run))["bam"]
    handed_on = made | {"location": "inputs-of-steps/align/0/a.bam"}
    reads = seven.prepared(workflow_params={"reads": handed_on})["inputs"]["reads"]
    assert reads == {"class": "File", "path": made["sbg:file"].removeprefix("sevenbridges://")}


def test_a_large_file_stays_on_the_platform_and_can_be_an_input(seven: Seven) -> None:
    seven.provider = seven.provider_at(seven.url, max_output_bytes=10)
    outputs = {name: {"class": "File", "path": name} for name in ("small", "large")}
    run, provider_id = seven.with_plan(outputs=outputs, files={"small": "0123456789", "large": "01234567890"})
    made = seven.provider.get_outputs(provider_id, seven.output_sink(run))
    assert kept(seven, run.run_id) == {"small": 10}
    large = made["large"]
    assert (large["class"], large["basename"], large["size"]) == ("File", "large", 11)
    assert large["location"].startswith("sevenbridges://") and "SEVENBRIDGES_MAX_OUTPUT_BYTES" in large["sbg:note"]
    assert seven.prepared(workflow_params={"reads": large})["inputs"]["reads"] == {
        "class": "File",
        "path": large["location"].removeprefix("sevenbridges://"),
    }


def test_no_more_files_come_along_than_allowed(seven: Seven) -> None:
    seven.provider = seven.provider_at(seven.url, max_output_files=2)
    run, provider_id = seven.with_plan(outputs={"all": [{"class": "File", "path": f"{n}.txt"} for n in range(120)]})
    made = seven.provider.get_outputs(provider_id, seven.output_sink(run))
    assert len(kept(seven, run.run_id)) == 2
    assert "SEVENBRIDGES_MAX_OUTPUT_FILES" in made["all"][2]["sbg:note"]
    assert seven.calls()["files.bulk_get"] == 2 and seven.calls()["files.download_info"] == 2


@pytest.mark.parametrize("name", ["..", "x" * 250, "a\nb"])
def test_a_file_of_any_name_is_kept(seven: Seven, name: str) -> None:
    run, provider_id = seven.with_plan(outputs={"out": {"class": "File", "path": name}}, files={name: "text"})
    made = seven.provider.get_outputs(provider_id, seven.output_sink(run))
    assert seven.read_output(run, made["out"]["location"]) == "text"
    assert made["out"]["basename"] == name


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "missing", "operation": "files.download_info"}, "outputs_lost"),
        ({"kind": "denied", "operation": "files.download_info"}, "outputs_denied"),
        ({"kind": "denied", "operation": "files.content"}, "outputs_denied"),
        ({"kind": "reply", "operation": "files.content", "status": 404}, "outputs_lost"),
        ({"kind": "reply", "operation": "files.content", "status": 410}, "outputs_lost"),
        ({"kind": "reply", "operation": "files.content", "status": 302}, None),
        ({"kind": "error", "operation": "files.content"}, None),
        ({"kind": "drop", "operation": "files.content"}, None),
        (
            {
                "kind": "alter",
                "operation": "files.bulk_get",
                "alter": {"items": {"resource": None, "error": {"status": 404}}},
            },
            "outputs_lost",
        ),
        ({"kind": "alter", "operation": "files.download_info", "alter": {"url": "http://10.0.0.1/secret"}}, None),
        ({"kind": "alter", "operation": "files.download_info", "alter": {"url": "file:///etc/passwd"}}, None),
        ({"kind": "alter", "operation": "files.download_info", "alter": {"url": "https://[::1"}}, None),
        ({"kind": "alter", "operation": "files.download_info", "alter": {"url": 5}}, None),
        ({"kind": "alter", "operation": "tasks.get", "alter": {"status": "RUNNING"}}, None),
    ],
)
def test_outputs_that_cannot_be_had(seven: Seven, fault: dict[str, Any], error: str | None) -> None:
    run, provider_id = seven.ended()
    seven.fail(**fault)
    with pytest.raises(ProviderError) as raised:
        seven.provider.get_outputs(provider_id, seven.output_sink(run))
    assert getattr(raised.value, "reason", None) == error
    assert kept(seven, run.run_id) == {}
    assert seven.provider.get_outputs(provider_id, seven.output_sink(run))["answer"] == 42


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Cut(BaseHTTPRequestHandler):
    """Half of what was promised."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"01234")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def test_a_download_that_breaks_off_keeps_nothing(seven: Seven) -> None:
    run, _ = seven.ended()
    with serving(Cut) as url:
        sink = seven.output_sink(run)
        with pytest.raises(OutcomeUnknown, match="broke off"):
            with sevenbridges_http.Downloads(url, 10).open(f"{url}/x", 10) as source:
                sink.put_stream("x", source)
    assert kept(seven, run.run_id) == {}


class Hops(BaseHTTPRequestHandler):
    """`/3` leads to `/2` and so on to `/0`; `/away` to a place without TLS."""

    def do_GET(self) -> None:
        hops = self.path.removeprefix("/")
        to = "http://10.0.0.1/secret" if hops == "away" else f"/{int(hops) - 1}" if hops != "0" else ""
        self.send_response(302 if to else 200)
        self.send_header(*(("Location", to) if to else ("Content-Type", "text/plain")))
        self.send_header("Content-Length", "0" if to else "4")
        self.end_headers()
        self.wfile.write(b"" if to else b"ACGT")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def test_a_download_may_be_sent_on_but_not_anywhere() -> None:
    with serving(Hops) as url:
        downloads = sevenbridges_http.Downloads(url, 10)
        with downloads.open(f"{url}/3", 4) as source:
            assert source.read() == b"ACGT"
        for wrong, words in (("4", "address to address"), ("away", "neither https nor its own")):
            with pytest.raises(OutcomeUnknown, match=words):
                with downloads.open(f"{url}/{wrong}", 4):
                    pass


# Logs


def test_only_what_is_new_of_a_log_is_fetched(seven: Seven) -> None:
    run, provider_id = seven.ended()
    sink = seven.log_sink(run)
    sink.append("tasks/main/stderr", io.BytesIO(b"star"))
    seven.provider.get_logs(provider_id, sink)
    assert seven.log(run, "tasks/main/stderr") == "started\ndone\n"
    for _ in range(3):
        seven.provider.get_logs(provider_id, seven.log_sink(run))
    assert seven.calls()["files.content"] == 1


def test_a_storage_without_ranges_repeats_nothing(seven: Seven) -> None:
    run, provider_id = seven.ended()
    sink = seven.log_sink(run)
    sink.append("tasks/main/stderr", io.BytesIO(b"star"))
    seven.fail(kind="reply", operation="files.content", status=200, body="started\ndone\n")
    seven.provider.get_logs(provider_id, sink)
    assert seven.log(run, "tasks/main/stderr") == "started\ndone\n"


@pytest.mark.parametrize("operation", ["files.content", "files.download_info"])
@pytest.mark.parametrize("kind", ["denied", "missing"])
def test_a_log_that_the_platform_does_not_give_is_done_without(seven: Seven, operation: str, kind: str) -> None:
    run, provider_id = seven.with_plan(tasks=[{"name": "a", "log": ["one"]}, {"name": "b", "log": ["two"]}])
    seven.fail(kind=kind, operation=operation)
    seven.provider.get_logs(provider_id, seven.log_sink(run))
    assert sorted((seven.log(run, "tasks/a/stderr"), seven.log(run, "tasks/b/stderr")))[0] == ""
    assert "two\n" in (seven.log(run, "tasks/a/stderr"), seven.log(run, "tasks/b/stderr"))


def test_a_draft_has_no_tasks(seven: Seven) -> None:
    provider_id = seven.provider.submit_workflow(seven.submission()).provider_id
    seven.fail(kind="missing", operation="tasks.execution_details")
    assert seven.provider.get_tasks(provider_id) == []


# Limits


def test_looks_leave_a_reserve_for_submits_and_cancels(seven: Seven) -> None:
    seven.fake.control.configure(rate_limit=150)
    _, provider_id = seven.running()
    with pytest.raises(NotReady, match="kept for submits and cancels"):
        for _ in range(200):
            seven.provider.get_workflow_statuses([provider_id])
    assert 135 <= sum(seven.calls().values()) <= 137, "a tenth is left"
    run = seven.submission()
    seven.submit(run)
    seven.provider.cancel_workflow(provider_id)
    for verb in seven.provider.get_tasks, lambda one: seven.provider.get_logs(one, seven.log_sink(run)):
        with pytest.raises(NotReady):
            verb(provider_id)
    seven.pass_time(300)
    assert provider_id in seven.provider.get_workflow_statuses([provider_id])


def test_a_refusal_for_too_many_requests_stops_all_calls_until_it_is_over(seven: Seven) -> None:
    _, provider_id = seven.running()
    seven.fail(kind="throttle", seconds=42)
    with pytest.raises(ProviderError):
        seven.provider.get_workflow_statuses([provider_id])
    before = sum(seven.calls().values())
    assert seven.provider.pace().submits == 0 and "Rate limit" in str(seven.provider.pace().problem)
    with pytest.raises(NotReady):
        seven.provider.cancel_workflow(provider_id)
    assert sum(seven.calls().values()) == before
    seven.pass_time(43)
    seven.provider.cancel_workflow(provider_id)


def test_a_bulk_answer_that_is_too_large_is_asked_for_in_parts(seven: Seven, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [seven.submit(seven.submission()).provider_id for _ in range(20)]
    monkeypatch.setattr(sevenbridges_http, "MAX_ANSWER_BYTES", 4000)
    assert set(seven.provider.get_workflow_statuses(ids)) == set(ids)
    assert 4 < seven.calls()["tasks.bulk_get"] < 40
    monkeypatch.setattr(sevenbridges_http, "MAX_ANSWER_BYTES", 10)
    with pytest.raises(OutcomeUnknown):
        seven.provider.get_workflow_statuses(ids)


def test_ten_thousand_tasks_are_a_hundred_calls(seven: Seven) -> None:
    ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(10_000)]
    _, provider_id = seven.running()
    before = sum(seven.calls().values())
    assert list(seven.provider.get_workflow_statuses([*ids[:-1], provider_id])) == [provider_id]
    assert sum(seven.calls().values()) - before == 100


WRONG: list[Any] = [None, 5, "x" * 5000, [], {}, [None], [[]], True, {"a": {"b": None}}, "\n", "../..", 1e308]


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (
            "tasks.bulk_get",
            {"items": {"resource": ["id", "name", "status", "errors", "price", "execution_status", "start_time"]}},
        ),
        ("tasks.get", ["id", "name", "status", "outputs", "errors", "price", "execution_status", "end_time"]),
        ("tasks.query", {"items": ["id", "name", "status", "description", "created_time"]}),
        ("tasks.query", ["items", "links", "href"]),
        ("tasks.execution_details", ["jobs"]),
        ("tasks.execution_details", {"jobs": ["name", "status", "start_time", "logs", "instance", "command_line"]}),
        ("tasks.get", {"outputs": {"reads.txt": ["class", "path", "secondaryFiles", "name"]}}),
        ("files.bulk_get", {"items": {"resource": ["id", "name", "type", "size"]}}),
        ("files.download_info", ["url"]),
    ],
)
def test_a_wrong_type_anywhere_is_survived(seven: Seven, operation: str, fields: Any) -> None:
    run, provider_id = seven.ended()
    for wrong in WRONG:
        for alter in altered(fields, wrong):
            seven.fail(kind="alter", operation=operation, alter=alter, times=None)
            for verb in (
                lambda: seven.provider.get_workflow_statuses([provider_id]),
                lambda: seven.provider.get_workflow_status(provider_id),
                lambda: seven.provider.find_workflow(run),
                lambda: seven.provider.get_tasks(provider_id),
                lambda: seven.provider.get_logs(provider_id, seven.log_sink(run)),
                lambda: seven.provider.get_outputs(provider_id, seven.output_sink(run)),
            ):
                try:
                    json.dumps(verb(), default=str)
                except ProviderError as error:
                    assert str(error).isprintable()
            seven.fake.control.clear()
    status = seven.provider.get_workflow_status(provider_id)
    assert status is not None and status.state == State.COMPLETE


def altered(fields: Any, wrong: Any) -> list[Any]:
    """A merge patch for each field of a nested description."""
    if isinstance(fields, list):
        return [{name: wrong} for name in fields]
    return [{name: patch} for name, inner in fields.items() for patch in altered(inner, wrong)]


# Secrets and addresses


@pytest.mark.parametrize(
    "endpoint", [*ENDPOINTS, *ENDPOINTS.values(), "CGC", "http://127.0.0.1:9200/v2", "https://sb.example.org/v2/"]
)
def test_every_platform_can_be_named(endpoint: str) -> None:
    assert SevenBridgesAccess(endpoint, "x").url.endswith("/v2")


@pytest.mark.parametrize(
    "endpoint", ["http://api.sbgenomics.com/v2", "ftp://x/v2", "", "mars", "https://", "https://[::1"]
)
def test_the_token_goes_nowhere_without_tls(endpoint: str) -> None:
    with pytest.raises(ValueError, match="neither an https address nor one of us, eu"):
        SevenBridgesAccess(endpoint, "x")


class Elsewhere(BaseHTTPRequestHandler):
    """Sends every visitor on, and remembers what they brought."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))  # else the connection is reset
        type(self).seen.append(dict(self.headers))
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def test_a_redirect_does_not_get_the_token(seven: Seven) -> None:
    run = seven.submission()
    Elsewhere.seen = []
    with serving(Elsewhere) as url:
        provider = seven.provider_at(url)
        for verb in (lambda: provider.submit_workflow(run), lambda: provider.find_workflow(run)):
            with pytest.raises(OutcomeUnknown, match="302"):
                verb()
    assert len(Elsewhere.seen) == 2


def test_nothing_that_is_logged_or_printed_has_a_secret(seven: Seven, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run, provider_id = seven.ended()
    seven.provider.get_logs(provider_id, seven.log_sink(run))
    outputs = seven.provider.get_outputs(provider_id, seven.output_sink(run))
    texts = [record.getMessage() + str(vars(record)) for record in caplog.records]
    texts += [json.dumps(outputs), repr(seven.provider._api._client), str(SevenBridgesAccess("us", "fake-token"))]
    seven.fail(kind="expired")
    with pytest.raises(ProviderError, match="SEVENBRIDGES_API_TOKEN") as error:
        seven.provider.get_workflow_statuses([provider_id])
    texts.append(repr(error.value))
    assert not [text for text in texts if "fake-token" in text or "/content/" in text]
