"""The Seven Bridges fake under the real sevenbridges-python, over HTTP: drafts, lives, refusals, and answers it could not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sevenbridges
from sevenbridges.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NonJSONResponseError,
    NotFound,
    SbgError,
    ServerError,
    ServiceUnavailable,
    TaskValidationError,
    TooManyRequests,
    Unauthorized,
)
from sevenbridges.http.error_handlers import general_error_sleeper, maintenance_sleeper

from tests.fakes.aws_stores import AwsStores
from tests.fakes.server import InProcess, InThread
from tests.fakes.sevenbridges import SevenBridges

PROJECT = "fake-user/wes"
APP = f"{PROJECT}/hello"
RAW = {
    "class": "CommandLineTool",
    "cwlVersion": "v1.2",
    "baseCommand": "wc",
    "inputs": {"reads": "File", "more": {"type": {"type": "array", "items": "File"}, "default": []}, "depth": "int?"},
    "outputs": {"count": "File"},
}


@pytest.fixture
def fake() -> Iterator[InThread]:
    with InThread(SevenBridges(frozen=True)) as running:
        yield running
        assert running.control.problems() == []


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Make clients as a provider does: with a time-out, and without the handlers that sleep."""
    made: list[Any] = []

    def connected(fake: Any, token: str = "fake-token", timeout: float = 10, **more: Any) -> Any:
        api = sevenbridges.Api(url=f"{fake.url}/v2", token=token, debug=True, timeout=timeout, retry_count=1, **more)
        api.remove_error_handler(maintenance_sleeper)
        made.append(api)
        return api

    yield connected
    for api in made:
        api.session.close()
        api.download_pool.shutdown()
        api.upload_pool.shutdown()


@pytest.fixture
def api(fake: InThread, connect: Callable[..., Any]) -> Any:
    return connect(fake)


def draft(api: Any, name: str = "wes-1", **more: Any) -> Any:
    return api.tasks.create(**{"name": name, "project": PROJECT, "app": APP, "inputs": {"message": "hi"}, **more})


# Lives


def test_a_draft_waits_until_it_is_run(fake: InThread, api: Any) -> None:
    task = draft(api, description="marker", execution_settings={"use_memoization": True})
    fake.control.advance(seconds=10**6)
    assert (api.tasks.get(task.id).status, task.price, task.errors) == ("DRAFT", None, [])
    seen = [task.run().status]
    for seconds in (5, 15, 60):
        fake.control.advance(seconds=seconds)
        seen.append(api.tasks.get(task.id).status)
    assert seen == ["CREATING", "QUEUED", "RUNNING", "COMPLETED"]
    done = api.tasks.get(task.id)
    assert (done.description, done.execution_settings, done.app) == ("marker", {"use_memoization": True}, f"{APP}/0")
    assert (done.end_time - done.start_time).total_seconds() == 60
    assert (done.price.amount, done.price.currency) == (0.006, "USD")
    assert (done.execution_status.steps_completed, done.execution_status.steps_total) == (1, 1)


def test_a_task_can_be_run_as_it_is_created(api: Any) -> None:
    assert draft(api, run=True).status == "CREATING"


def test_outputs_are_files_of_the_project(fake: InThread, api: Any, tmp_path: Path) -> None:
    planned = {"bam": {"class": "File", "path": "a.bam"}, "all": [{"class": "File", "path": "b.txt"}], "count": 3}
    fake.control.plan(match="planned", outputs=planned, files={"a.bam": "A" * 1000})
    task, plain, again = draft(api, "planned", run=True), draft(api, run=True), draft(api, run=True)
    fake.control.advance(seconds=80)
    outputs = api.tasks.get(task.id).outputs
    assert (outputs["bam"].name, outputs["all"][0].name, outputs["count"]) == ("a.bam", "b.txt", 3)
    assert requests.get(outputs["bam"].download_info().url, timeout=5).content == b"A" * 1000
    outputs["bam"].download(str(tmp_path / "a.bam"))
    assert (tmp_path / "a.bam").read_text() == "A" * 1000
    assert api.tasks.get(plain.id).outputs["result"].name == "result.txt"
    assert api.tasks.get(again.id).outputs["result"].name == "_1_result.txt"
    found = api.files.query(project=PROJECT, origin={"task": task.id})
    assert {file.name for file in found} == {"a.bam", "b.txt"}
    assert api.files.get(found[0].id).origin.task == task.id


def test_a_signed_url_does_not_last(fake: InThread, api: Any) -> None:
    url = api.files.get(fake.control.add_file(name="a.txt", text="hello")).download_info().url
    assert requests.get(url, headers={"Range": "bytes=1-2"}, timeout=5).content == b"el"
    fake.control.advance(seconds=3600)
    assert requests.get(url, timeout=5).status_code == 403


def test_details_have_jobs_and_their_logs(fake: InThread, api: Any) -> None:
    jobs = [{"name": "sort", "log": ["sorting"]}, {"name": "call", "command_line": "call x.bam", "log": ["no reads"]}]
    fake.control.plan(outcome="FAILED", message="call failed", tasks=jobs)
    task = draft(api, run=True)
    fake.control.advance(seconds=20)
    running = task.get_execution_details()
    assert [(job.name, job.status) for job in running.jobs] == [("sort", "RUNNING"), ("call", "RUNNING")]
    fake.control.advance(seconds=60)
    details = task.get_execution_details()
    assert (details.status, details.message) == ("FAILED", "call failed")
    assert [(job.name, job.status) for job in details.jobs] == [("sort", "DONE"), ("call", "FAILED")]
    assert details.jobs[1].command_line == "call x.bam"
    assert details.jobs[1].instance.type == "c4.2xlarge"
    assert requests.get(details.jobs[1].logs["stderr"].download_info().url, timeout=5).text == "no reads\n"
    assert len(api.files.query(project=PROJECT)) == 0


def test_aborting_takes_a_while(fake: InThread, api: Any) -> None:
    task = draft(api, run=True)
    assert task.abort().status == "ABORTING"
    assert task.abort().status == "ABORTING"
    fake.control.advance(seconds=10)
    assert api.tasks.get(task.id).status == "ABORTED"
    with pytest.raises(BadRequest, match="ABORTED"):
        task.abort()


def test_a_task_brings_its_own_plan(fake: InThread, api: Any) -> None:
    task = draft(api, inputs={"fake_plan": {"seconds": {"QUEUED": None}}}, run=True)
    fake.control.advance(seconds=10**6)
    assert api.tasks.get(task.id).status == "QUEUED"
    fake.control.set_task(id=task.id, status="RUNNING")
    fake.control.advance(seconds=10**6)
    assert api.tasks.get(task.id).status == "RUNNING"


# Drafts


def test_wrong_inputs_leave_a_draft(fake: InThread, api: Any) -> None:
    app = api.apps.install_app(f"{PROJECT}/count", RAW)
    mine, theirs = fake.control.add_file(name="a", text=""), fake.control.add_file(name="b", text="", project="x/y")
    for inputs in (
        {},
        {"reads": "s3://bucket/key"},
        {"reads": {"class": "File", "path": "s3://bucket/key"}},
        {"reads": {"class": "File", "path": theirs}},
        {"reads": {"class": "Directory", "path": mine}},
        {"reads": {"class": "File", "path": mine}, "depth": "3"},
        {"reads": {"class": "File", "path": mine}, "depth": True},
        {"reads": {"class": "File", "path": mine}, "more": ["x"]},
    ):
        with pytest.raises(TaskValidationError) as caught:
            draft(api, app=app, inputs=inputs, run=True)
        left = api.tasks.get(caught.value.task.id)
        assert (left.status, len(left.errors)) == ("DRAFT", 1)
        again = left.run()
        assert (again.status, len(again.errors)) == ("DRAFT", 1)
    good = {"reads": api.files.get(mine), "more": [api.files.get(mine)], "depth": 3, "colour": "red"}
    task = draft(api, app=app, inputs=good, run=True)
    assert (task.status, task.warnings) == ("CREATING", ["Unknown input: colour"])


@pytest.mark.parametrize(("status", "error"), [(400, BadRequest), (409, Conflict)])
def test_only_a_draft_can_be_run_and_deleted(fake: InThread, api: Any, status: int, error: type[SbgError]) -> None:
    fake.control.configure(wrong_state=status)
    task = draft(api, run=True)
    with pytest.raises(error):
        task.run()
    with pytest.raises(error):
        task.delete()
    spare = draft(api)
    spare.delete()
    with pytest.raises(NotFound):
        api.tasks.get(spare.id)
    assert [(row["id"], row["starts"]) for row in fake.control.tasks()] == [(task.id, 1)]


def test_clones_are_tasks_of_their_own(api: Any) -> None:
    task = draft(api)
    assert task.clone().status == "CREATING"
    copy = task.clone(run=False)
    assert (copy.status, copy.name, copy.id == task.id) == ("DRAFT", task.name, False)


# Lists


def test_tasks_come_in_pages_in_the_order_asked_for(fake: InThread, api: Any) -> None:
    for number in range(231):
        draft(api, f"wes-{number:03}", run=number % 2 == 0)
    first = api.tasks.query(project=PROJECT, order_by="created_time", order="asc", limit=100)
    second = first.next_page()
    names = [task.name for page in (first, second, second.next_page()) for task in page]
    assert (first.total, names) == (231, [f"wes-{number:03}" for number in range(231)])
    assert [task.name for task in second.previous_page()] == names[:100]
    assert [task.name for task in api.tasks.query(order_by="name", order="desc", limit=1)] == ["wes-230"]
    assert api.tasks.query(status="CREATING", limit=1).total == 116
    assert api.tasks.query(project=PROJECT).href.endswith("limit=50")


def test_pages_without_an_order_do_not_fit_together(fake: InThread, api: Any) -> None:
    for number in range(150):
        draft(api, f"wes-{number}")
    first = api.tasks.query(project=PROJECT, limit=100)
    assert len({task.name for task in [*first, *first.next_page()]}) < 150


def test_tasks_are_found_by_their_times(fake: InThread, api: Any) -> None:
    draft(api, "old")
    fake.control.advance(seconds=3600)
    new = draft(api, "new")
    since = new.created_time.isoformat()
    assert [task.name for task in api.tasks.query(project=PROJECT, created_from=since)] == ["new"]
    assert [task.name for task in api.tasks.query(project=PROJECT, created_to=since)] == ["old"]
    assert len(api.tasks.query(project=PROJECT, ended_from=since)) == 0


def test_many_tasks_in_one_call(fake: InThread, api: Any) -> None:
    ids = [draft(api).id for _ in range(99)]
    fake.control.reset()
    records = api.tasks.bulk_get([*ids[:50], "00000000-0000-4000-8000-000000000000", *ids[50:]])
    assert [record.valid for record in records].index(False) == 50
    assert [record.resource.id for record in records if record.valid] == ids
    assert (records[50].error.status, records[50].resource) == (404, None)
    assert fake.control.calls() == {"tasks.bulk_get": 1}
    with pytest.raises(BadRequest):
        api.tasks.bulk_get([*ids, *ids[:2]])


@pytest.mark.parametrize(
    "query", [{"limit": 101}, {"status": "DONE"}, {"order_by": "id"}, {"created_from": "yesterday"}]
)
def test_queries_that_make_no_sense_are_refused(api: Any, query: dict[str, Any]) -> None:
    draft(api)
    with pytest.raises(BadRequest):
        api.tasks.query(**query)


# Apps, projects, volumes, imports


def test_apps_have_revisions(api: Any) -> None:
    app = api.apps.install_app(f"{PROJECT}/count", RAW)
    assert (app.id, app.revision, app.raw["baseCommand"]) == (f"{PROJECT}/count", 0, "wc")
    with pytest.raises(Conflict):
        api.apps.install_app(f"{PROJECT}/count", RAW)
    with pytest.raises(Conflict):
        api.apps.create_revision(app.id, 2, RAW)
    assert api.apps.create_revision(app.id, 1, {**RAW, "baseCommand": "cat"}).revision == 1
    assert api.apps.get_revision(app.id, 0).raw["baseCommand"] == "wc"
    assert api.apps.get(app.id).raw["baseCommand"] == "cat"
    assert {found.id for found in api.apps.query(project=PROJECT)} == {APP, app.id}
    with pytest.raises(BadRequest, match="not a CWL document"):
        api.apps.install_app(f"{PROJECT}/yaml", "class: Workflow", raw_format="yaml")


def test_the_account_knows_its_user_and_projects(api: Any) -> None:
    assert api.users.me().username == "fake-user"
    assert [project.id for project in api.projects.query()] == [PROJECT]
    assert api.projects.get(PROJECT).name == "WES"
    for wrong in ({"project": "x/y"}, {"app": f"{PROJECT}/none"}, {"app": f"{APP}/7"}):
        with pytest.raises(NotFound):
            draft(api, **wrong)


def test_objects_are_imported_by_jobs(fake: InThread, api: Any) -> None:
    volume = api.volumes.create_s3_volume("lab", "bucket", "key", "secret", "RO")
    assert "secret" not in str(api.volumes.get(volume.id).service)
    fake.control.plan(match="lost.txt", outcome="FAILED", message="no such object")
    good = api.imports.submit_import(volume, "in/a.txt", project=PROJECT)
    bad = api.imports.submit_import(volume, "in/lost.txt", project=PROJECT)
    seen = [good.state]
    for seconds in (2, 5):
        fake.control.advance(seconds=seconds)
        seen.append(api.imports.get(good.id).state)
    assert seen == ["PENDING", "RUNNING", "COMPLETED"]
    made = api.imports.get(good.id).result
    assert (made.name, made.storage.volume) == ("a.txt", volume.id)
    assert draft(api, inputs={"reads": made}, run=True).status == "CREATING"
    assert api.imports.get(bad.id).error.message == "no such object"
    both = [{"volume": volume, "location": place, "project": PROJECT} for place in ("in/a.txt", "in/b.txt")]
    jobs = api.imports.bulk_submit([*both, {"volume": "x/y", "location": "c", "project": PROJECT}])
    assert [job.valid for job in jobs] == [True, True, False]
    fake.control.advance(seconds=7)
    states = [record.resource.state for record in api.imports.bulk_get([job.resource.id for job in jobs[:2]])]
    assert states == ["FAILED", "COMPLETED"], "a.txt was there already"


def test_folders_have_files_of_their_own(fake: InThread, api: Any) -> None:
    folder = api.files.create_folder("runs", project=PROJECT)
    with pytest.raises(Conflict):
        api.files.create_folder("runs", project=PROJECT)
    inner = api.files.create_folder("one", parent=folder)
    inside, outside = (fake.control.add_file(name="a.txt", text="", parent=parent) for parent in (inner.id, None))
    assert (folder.type, inner.parent, api.files.get(inside).parent) == ("folder", folder.id, inner.id)
    assert {file.id for file in api.files.query(project=PROJECT)} == {folder.id, outside}
    assert [file.id for file in api.files.query(parent=inner, names=["a.txt"])] == [inside]
    with pytest.raises(BadRequest):
        api.files.query(parent=outside)
    volume = api.volumes.create_s3_volume("lab", "bucket", "key", "secret", "RO")
    job = api.imports.submit_import(volume, "in/b.txt", parent=folder)
    fake.control.advance(seconds=7)
    assert api.imports.get(job.id).result.parent == folder.id


def test_a_directory_is_a_folder_of_the_project(fake: InThread, api: Any) -> None:
    listing = [{"class": "File", "path": "a.txt"}, {"class": "Directory", "path": "deep", "listing": []}]
    beside = [{"class": "File", "path": "a.bai"}]
    outputs = {"all": {"class": "Directory", "path": "all", "listing": listing}}
    outputs["bam"] = {"class": "File", "path": "a.bam", "secondaryFiles": beside}
    fake.control.plan(outputs=outputs)
    task = draft(api, run=True)
    fake.control.advance(seconds=80)
    made = api.tasks.get(task.id).outputs
    assert made["all"].is_folder()
    assert {file.name for file in api.files.query(parent=made["all"])} == {"a.txt", "deep"}
    assert [api.files.get(file.id).name for file in made["bam"].secondary_files] == ["a.bai"]


def test_imports_read_the_bucket_where_there_is_one(connect: Callable[..., Any]) -> None:
    with AwsStores("bucket") as stores, InThread(SevenBridges(frozen=True, s3_endpoint=stores.url)) as fake:
        stores.write("bucket", "lab/in/a.txt", "from the bucket")
        api = connect(fake)
        volume = api.volumes.create_s3_volume("lab", "bucket", "key", "secret", "RO", prefix="lab/")
        there = api.imports.submit_import(volume, "in/a.txt", project=PROJECT)
        gone = api.imports.submit_import(volume, "in/b.txt", project=PROJECT)
        fake.control.advance(seconds=7)
        url = api.imports.get(there.id).result.download_info().url
        assert requests.get(url, timeout=5).content == b"from the bucket"
        assert api.imports.get(gone.id).error.status == 404
        assert fake.control.problems() == []


# Refusals and faults


def test_a_wrong_token_is_refused(fake: InThread, connect: Callable[..., Any]) -> None:
    with pytest.raises(Unauthorized):
        connect(fake, token="other").users.me()
    assert connect(fake, token=None, oauth_token="fake-token").users.me().username == "fake-user"


def test_requests_are_counted_in_windows(fake: InThread, api: Any) -> None:
    fake.control.configure(rate_limit=3)
    api.users.me()
    assert (api.remaining, api.limit) == (1, 3)
    with pytest.raises(TooManyRequests) as caught:
        api.users.me()
    assert (caught.value.code, int(api._remaining)) == (1000, 0)
    fake.control.advance(seconds=300)
    assert api.users.me().username == "fake-user"
    assert api.rate_limit.get().rate.remaining == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttle", TooManyRequests),
        ("quota", Forbidden),
        ("error", ServerError),
        ("unavailable", ServiceUnavailable),
        ("expired", Unauthorized),
        ("missing", NotFound),
        ("garbage", ValueError),
        ("html", ValueError),
    ],
)
def test_faults_on_command(fake: InThread, api: Any, kind: str, error: type[Exception]) -> None:
    fake.control.fail(kind=kind, operation="tasks.create")
    with pytest.raises(error):
        draft(api)
    assert draft(api).status == "DRAFT"


def test_a_reply_can_be_given_word_for_word(fake: InThread, api: Any) -> None:
    fake.control.fail(kind="reply", status=502, body="<html>Bad gateway</html>")
    with pytest.raises(NonJSONResponseError) as caught:
        api.users.me()
    assert caught.value.status == 502


def test_a_throttled_client_is_told_when_to_come_again(fake: InThread, api: Any) -> None:
    fake.control.fail(kind="throttle", seconds=42)
    before = api.users
    with pytest.raises(TooManyRequests):
        before.me()
    assert int(api._remaining) == 0
    assert 0 <= int(api._reset) - fake.service.timeline.now().timestamp() <= 42


@pytest.mark.parametrize("kind", ["drop", "error"])
def test_a_created_draft_whose_answer_was_lost_is_found(fake: InThread, api: Any, kind: str) -> None:
    fake.control.fail(kind=kind, operation="tasks.create", commit=True)
    with pytest.raises(SbgError):
        draft(api, "wes-7")
    [row] = fake.control.tasks()
    [found] = api.tasks.query(project=PROJECT, order_by="created_time", order="asc", limit=100)
    assert (found.id, found.name, found.status) == (row["id"], "wes-7", "DRAFT")


def test_a_run_whose_answer_was_lost_has_run(fake: InThread, api: Any) -> None:
    task = draft(api)
    fake.control.fail(kind="drop", operation="tasks.run", commit=True)
    with pytest.raises(SbgError):
        task.run()
    assert api.tasks.get(task.id).status == "CREATING"
    with pytest.raises(BadRequest):
        task.run()
    assert [row["starts"] for row in fake.control.tasks()] == [1]


def test_the_librarys_own_sleeper_makes_two_of_one(
    fake: InThread, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sevenbridges.http.error_handlers.time.sleep", lambda seconds: None)
    fake.control.fail(kind="error", operation="tasks.create", commit=True)
    draft(connect(fake, error_handlers=[general_error_sleeper]))
    assert len(fake.control.tasks()) == 2, "so a provider must not install it"


def test_a_hang_outlasts_the_client_and_still_commits(fake: InThread, connect: Callable[..., Any]) -> None:
    hasty = connect(fake, timeout=0.2)
    fake.control.fail(kind="hang", operation="tasks.create")
    with pytest.raises(SbgError, match="timed out"):
        draft(hasty)
    while not fake.control.hanging():
        continue
    assert (fake.control.hanging(), fake.control.tasks()) == (1, [])
    fake.control.release()
    while fake.control.hanging():
        continue
    assert len(fake.control.tasks()) == 1


def test_lies_on_command_are_not_checked(fake: InThread, api: Any) -> None:
    task = draft(api)
    fake.control.fail(kind="alter", operation="tasks.bulk_get", alter={"items": {"resource": {"status": "PAUSED"}}})
    assert api.tasks.bulk_get([task.id])[0].resource.status == "PAUSED"


def test_unknown_fields_are_refused(fake: InThread) -> None:
    headers = {"X-SBG-Auth-Token": "fake-token", "Content-Type": "application/json"}
    good = {"name": "n", "project": PROJECT, "app": APP}
    for body in ({**good, "tags": ["a"]}, {"name": "n"}, [], {**good, "execution_settings": {"spot": True}}):
        answer = requests.post(f"{fake.url}/v2/tasks", json=body, headers=headers, timeout=5)
        assert answer.status_code == 400
        assert answer.json().keys() == {"status", "code", "message", "more_info"}
    assert fake.control.tasks() == []


# It cannot say what the library could not read


@pytest.mark.parametrize(
    "wrong", [{"cost": 1}, {"id": "12"}, {"created_time": "today"}, {"price": {"total": 1}}, {"name": 5}]
)
def test_a_broken_answer_is_loud(connect: Callable[..., Any], wrong: dict[str, Any]) -> None:
    service = SevenBridges(frozen=True)
    with InThread(service) as fake:
        api = connect(fake)
        task_id = draft(api).id
        honest = service._tasks._describe
        service._tasks._describe = lambda task: {**honest(task), **wrong}  # type: ignore[method-assign]
        with pytest.raises(ServerError, match=next(iter(wrong))):
            api.tasks.get(task_id)
        assert next(iter(wrong)) in fake.control.problems()[0]


def test_what_the_fake_does_not_do_is_loud(connect: Callable[..., Any]) -> None:
    with InThread(SevenBridges()) as fake:
        with pytest.raises(ServerError):
            connect(fake).billing_groups.query()
        assert fake.control.problems() == ["GET /v2/billing/groups is not in this fake"]


def test_it_runs_as_a_process(connect: Callable[..., Any]) -> None:
    with InProcess("tests.fakes.sevenbridges", "--frozen") as fake:
        api = connect(fake)
        task = draft(api, run=True)
        fake.control.advance(seconds=80)
        assert api.tasks.get(task.id).status == "COMPLETED"
