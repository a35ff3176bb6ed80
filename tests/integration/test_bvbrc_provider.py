"""The BV-BRC provider where the contract suite does not look: other deployments, tokens in trouble, odd results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.daemon.providers.bvbrc import BvbrcAccess, BvbrcOptions, BvbrcProvider
from app.daemon.providers.provider_interface import Absent, Found, Status, Submission, Unsure
from app.errors import NotAccepted, NotReady, OutcomeUnknown, Rejected
from app.states import State
from tests.contract.bvbrc_harness import USER, BvbrcHarness
from tests.contract.harness import Fate
from tests.fakes.bvbrc import APP_SERVICE, WORKSPACE

HOME = f"/{USER}/home"


@pytest.fixture
def bvbrc(tmp_path: Path) -> Iterator[BvbrcHarness]:
    with BvbrcHarness(tmp_path) as harness:
        assert isinstance(harness, BvbrcHarness)
        yield harness


@pytest.fixture
def old(bvbrc: BvbrcHarness) -> BvbrcHarness:
    """A deployment without enumerate_tasks_qstat."""
    bvbrc.fake.control.configure(qstat=False)
    return bvbrc


def with_params(run: Submission, provider: BvbrcProvider, **params: Any) -> Submission:
    run = replace(run, workflow_params={**run.workflow_params, **params}, request={})
    return replace(run, request=provider.prepare_request(run))


def with_credentials(bvbrc: BvbrcHarness, credentials: Callable[[Any], Mapping[str, str | None]]) -> BvbrcProvider:
    access = BvbrcAccess(f"{bvbrc.url}{APP_SERVICE}", f"{bvbrc.url}{WORKSPACE}", 10.0, 5.0)
    return BvbrcProvider(access, BvbrcOptions(calls_per_second=1000.0), credentials, now=bvbrc.now)


def status(bvbrc: BvbrcHarness, provider_id: str) -> Status:
    found = bvbrc.provider.get_workflow_statuses([provider_id])[provider_id]
    assert isinstance(found, Status)
    return found


def task_id(provider_id: str) -> int:
    return int(provider_id.partition("/")[0])


# Requests


def test_what_is_sent(bvbrc: BvbrcHarness) -> None:
    run = bvbrc.submission()
    parameters = {"container_id": "c1", "base_url": "https://www.bv-brc.org", "reservation": None, "provider": "bvbrc"}
    request = bvbrc.provider.prepare_request(replace(run, workflow_engine_parameters=parameters, request={}))
    assert request["app"] == "Date"
    assert request["start"] == {
        "container_id": "c1",
        "base_url": "https://www.bv-brc.org",
        "user_metadata": run.submit_key,
    }
    assert {name: request["params"][name] for name in ("output_path", "output_file")} == {
        "output_path": HOME,
        "output_file": run.submit_key,
    }


def test_what_an_app_requires_is_sent_though_it_has_a_default(bvbrc: BvbrcHarness) -> None:
    named = {"contigs": "/a/c.fa", "scientific_name": "E. coli"}
    run = replace(bvbrc.submission(), workflow_url="bvbrc:GenomeAnnotation", workflow_params=named, request={})
    run = replace(run, request=bvbrc.provider.prepare_request(run))
    assert {name: run.request["params"][name] for name in ("code", "domain")} == {"code": 11, "domain": "Bacteria"}
    bvbrc.provider.submit_workflow(run)
    assert bvbrc.fake.control.tasks()[0]["app"] == "GenomeAnnotation"
    archaea = with_params(run, bvbrc.provider, domain="Archaea")
    assert archaea.request["params"]["domain"] == "Archaea"


def test_what_the_user_names_is_kept(bvbrc: BvbrcHarness) -> None:
    run = with_params(bvbrc.submission(), bvbrc.provider, output_path="/x/y", output_file="mine")
    assert (run.request["params"]["output_path"], run.request["params"]["output_file"]) == ("/x/y", "mine")


def test_what_is_meant_for_this_service_is_no_parameter_of_an_app(bvbrc: BvbrcHarness) -> None:
    run = with_params(bvbrc.submission(), bvbrc.provider, outputUri="s3://lab/out", workflow_id="1")
    assert not {"outputUri", "workflow_id"} & set(run.request["params"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"workflow_url": "bvbrc:Datee"}, "unknown_app"),
        ({"workflow_url": "bvbrc:../x"}, "unknown_app"),
        ({"workflow_type": "CWL"}, "unsupported_workflow_type"),
        ({"attachments": (object(),)}, "attachments_unsupported"),
        ({"workflow_engine_parameters": {"container": "x"}}, "invalid_engine_parameter"),
        ({"workflow_params": {"output_path": "home"}}, "invalid_parameters"),
        ({"workflow_params": {"x": {"class": "File", "location": "s3://b/k"}}}, "file_elsewhere"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_sent(
    bvbrc: BvbrcHarness, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Rejected) as refusal:
        bvbrc.provider.prepare_request(replace(bvbrc.submission(), request={}, **changes))
    assert refusal.value.reason == reason
    assert bvbrc.fake.control.tasks() == []


def test_a_misspelt_app_is_told_its_name(bvbrc: BvbrcHarness) -> None:
    run = replace(bvbrc.submission(), workflow_url="GenomeAssembly", request={})
    with pytest.raises(Rejected, match="Did you mean GenomeAssembly2"):
        bvbrc.provider.prepare_request(run)


def test_apps_are_asked_for_once_in_a_while(bvbrc: BvbrcHarness) -> None:
    for _ in range(3):
        bvbrc.submission()
    assert bvbrc.fake.control.calls()["enumerate_apps"] == 1
    bvbrc.pass_time(601)
    bvbrc.submission()
    assert bvbrc.fake.control.calls()["enumerate_apps"] == 2


# Submits


@pytest.mark.parametrize("row", [True, False])
def test_both_answers_to_a_submit_are_understood(bvbrc: BvbrcHarness, row: bool) -> None:
    bvbrc.fake.control.configure(row=row)
    _, provider_id = bvbrc.running()
    assert status(bvbrc, provider_id).state == State.RUNNING


def test_the_apps_own_words_end_the_run(bvbrc: BvbrcHarness) -> None:
    with pytest.raises(Rejected, match="The reads cannot be read") as refusal:
        bvbrc.submit(
            with_params(bvbrc.submission(), bvbrc.provider, **{"fake-preflight-error": "The reads cannot be read."})
        )
    assert refusal.value.reason == "refused"


def test_an_error_without_an_explanation_is_tried_again_later(bvbrc: BvbrcHarness) -> None:
    """Their program tells users nothing where it is the platform that fails."""
    run = bvbrc.submission()
    run = replace(run, request={**run.request, "app": "NoLongerThere"})
    with pytest.raises(NotReady, match="Nothing was started"):
        bvbrc.submit(run)


def test_submissions_that_are_switched_off_are_everybodys_trouble(bvbrc: BvbrcHarness) -> None:
    bvbrc.fake.control.configure(enabled=False)
    with pytest.raises(NotAccepted, match="disabled") as error:
        bvbrc.submit(bvbrc.submission())
    assert not isinstance(error.value, NotReady)


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("qstat", [True, False])
def test_an_error_is_looked_into_at_once(bvbrc: BvbrcHarness, commit: bool, qstat: bool) -> None:
    """Their last step, after the task is stored, may fail: then it runs all the same."""
    bvbrc.fake.control.configure(qstat=qstat)
    run = bvbrc.submission(Fate.LONG)
    bvbrc.fail(kind="error", operation="start_app2", commit=commit)
    if commit:
        bvbrc.let_run(bvbrc.submit(run).provider_id)
    else:
        with pytest.raises(NotReady):
            bvbrc.submit(run)
    assert bvbrc.starts(run) == commit


def test_an_error_that_cannot_be_looked_into_is_an_unknown_outcome(bvbrc: BvbrcHarness) -> None:
    """Whatever the look runs into: it must not look as if nothing had been started."""
    run = bvbrc.submission(Fate.LONG)
    bvbrc.fail(kind="error", operation="start_app2", commit=True)
    bvbrc.fail(kind="throttle", operation="enumerate_tasks_qstat")
    with pytest.raises(OutcomeUnknown):
        bvbrc.provider.submit_workflow(run)
    assert isinstance(bvbrc.provider.find_workflow(run), Found)


@pytest.mark.parametrize("kind", ["throttle", "expired", "error", "drop", "html"])
def test_a_submit_that_was_answered_has_happened(bvbrc: BvbrcHarness, kind: str) -> None:
    """What goes wrong when it is looked for twins afterwards takes nothing back."""
    run = bvbrc.submission(Fate.LONG)
    bvbrc.fail(kind=kind, operation="enumerate_tasks_qstat")
    bvbrc.let_run(bvbrc.submit(run).provider_id)
    assert bvbrc.starts(run) == 1


def test_a_slow_preflight_is_unknown_until_it_is_found(bvbrc: BvbrcHarness) -> None:
    run = bvbrc.submission(Fate.LONG)
    bvbrc.fail(kind="hang", operation="start_app2")
    with pytest.raises(OutcomeUnknown):
        bvbrc.provider_at(bvbrc.url, timeout_seconds=0.5).submit_workflow(run)
    assert isinstance(bvbrc.provider.find_workflow(run), Unsure)
    bvbrc.fake.control.release()
    with ThreadPoolExecutor(1) as pool:  # the fake's thread goes on by itself
        found = pool.submit(_found, bvbrc, run).result(timeout=30)
    bvbrc.let_run(found.run.provider_id)
    assert bvbrc.starts(run) == 1


def _found(bvbrc: BvbrcHarness, run: Submission) -> Found:
    while not isinstance(found := bvbrc.provider.find_workflow(run), Found):
        continue
    return found


@pytest.mark.parametrize("qstat", [True, False])
def test_the_first_of_two_executions_is_kept_and_the_other_killed(bvbrc: BvbrcHarness, qstat: bool) -> None:
    bvbrc.fake.control.configure(qstat=qstat)
    run = bvbrc.submission(Fate.LONG)
    first, second = bvbrc.submit(run), bvbrc.submit(run)
    assert first.provider_id == second.provider_id
    assert [task["code"] for task in bvbrc.fake.control.tasks()] == ["Q", "T"]


def test_a_second_execution_that_cannot_be_killed_yet_is_looked_after_again(bvbrc: BvbrcHarness) -> None:
    run = bvbrc.submission(Fate.LONG)
    bvbrc.submit(run)
    bvbrc.fail(kind="throttle", operation="kill_task")
    with pytest.raises(OutcomeUnknown, match="started twice"):
        bvbrc.submit(run)
    assert isinstance(bvbrc.provider.find_workflow(run), Found)
    assert [task["code"] for task in bvbrc.fake.control.tasks()] == ["Q", "T"]


def test_of_two_executions_one_can_be_killed_alone(bvbrc: BvbrcHarness) -> None:
    """As is owed where the second was not seen to be one when it was submitted."""
    run = bvbrc.submission(Fate.LONG)
    bvbrc.submit(run)
    bvbrc.fail(kind="throttle", operation="enumerate_tasks_qstat")
    second = bvbrc.submit(run).provider_id
    assert [task["code"] for task in bvbrc.fake.control.tasks()] == ["Q", "Q"]
    bvbrc.provider.cancel_duplicate(second)
    assert [task["code"] for task in bvbrc.fake.control.tasks()] == ["Q", "T"]


def test_submits_leave_threads_for_the_rest(bvbrc: BvbrcHarness) -> None:
    provider = bvbrc.provider_at(bvbrc.url, concurrent_submits=1)
    runs = [bvbrc.submission(Fate.LONG) for _ in range(2)]
    bvbrc.fail(kind="hang", operation="start_app2")
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(provider.submit_workflow, runs[0])
        while not bvbrc.fake.control.hanging():
            continue
        assert provider.pace().submits == 0
        with pytest.raises(NotReady, match="preflight"):
            provider.prepare_request(runs[1])
        bvbrc.fake.control.release()
        submitted.result(timeout=30)
    assert provider.pace().submits == 1


@pytest.mark.parametrize("status", [400, 404, 405, 413, 500, 502, 503])
def test_a_front_is_no_judge_of_a_run(bvbrc: BvbrcHarness, status: int) -> None:
    """Nor do its pages reach anybody's eyes with the token in them."""
    page = f"<html>Sorry, {bvbrc.token} cannot be served</html>"
    bvbrc.fail(kind="reply", status=status, body=page, operation="start_app2")
    with pytest.raises(OutcomeUnknown):
        bvbrc.submit(bvbrc.submission())


def test_a_run_that_was_never_sent_is_absent_without_asking(bvbrc: BvbrcHarness) -> None:
    run = replace(bvbrc.submission(), sent_at=None)
    assert with_credentials(bvbrc, lambda ids: {}).find_workflow(run) == Absent()


# Searches


def test_without_marks_the_output_tells_a_run(old: BvbrcHarness) -> None:
    old.running()
    run = old.submission(Fate.LONG)
    provider_id = old.submit(run).provider_id
    found = old.new_provider().find_workflow(run)
    assert isinstance(found, Found)
    assert found.run.provider_id == provider_id


def test_without_marks_a_name_given_twice_needs_the_rest_to_be_the_same(old: BvbrcHarness) -> None:
    first = with_params(old.submission(Fate.LONG), old.provider, output_file="mine", note="one")
    other = with_params(old.submission(Fate.LONG), old.provider, output_file="mine", note="two")
    old.submit(first)
    old.pass_time(old.patience)
    assert isinstance(old.provider.find_workflow(first), Found)
    assert old.provider.find_workflow(other) == Absent()


def test_without_marks_an_earlier_run_of_the_same_is_not_taken_for_this_one(old: BvbrcHarness) -> None:
    def named() -> Submission:
        return with_params(old.submission(Fate.LONG), old.provider, output_file="mine")

    old.submit(named())
    old.pass_time(600)
    second = named()
    old.pass_time(old.patience)
    assert old.provider.find_workflow(second) == Absent()


@pytest.mark.parametrize("qstat", [True, False])
def test_a_service_that_ignores_filters_shows_too_much(bvbrc: BvbrcHarness, qstat: bool) -> None:
    bvbrc.fake.control.configure(qstat=qstat, ignores_filters=True)
    run = bvbrc.submission(Fate.LONG)
    provider_id = bvbrc.submit(run).provider_id
    for _ in range(120):
        stranger = bvbrc.submission(Fate.LONG)
        bvbrc.provider.submit_workflow(stranger)
    found = bvbrc.provider.find_workflow(run)
    assert isinstance(found, Found)
    assert found.run.provider_id == provider_id
    assert [task["code"] for task in bvbrc.fake.control.tasks()] == ["Q"] * 121


# Statuses


def test_what_failed_without_marks_may_have_been_cancelled(old: BvbrcHarness) -> None:
    """Only who asked for a cancel knows; the daemon does."""
    for act in (old.provider.cancel_workflow, lambda _: None):
        _, provider_id = old.running(Fate.FAIL)
        act(provider_id)
        old.let_end(provider_id)
        found = status(old, provider_id)
        assert (found.state, found.perhaps_canceled) == (State.EXECUTOR_ERROR, True)


def test_a_task_that_never_left_the_queue_is_cancelled(bvbrc: BvbrcHarness) -> None:
    provider_id = bvbrc.submit(bvbrc.submission(Fate.LONG)).provider_id
    bvbrc.provider.cancel_workflow(provider_id)
    assert status(bvbrc, provider_id).state == State.CANCELED


def test_the_apps_report_says_why_it_failed(bvbrc: BvbrcHarness) -> None:
    _, provider_id = bvbrc.ended(Fate.FAIL)
    found = status(bvbrc, provider_id)
    assert (found.exit_code, found.perhaps_canceled) == (1, False)
    assert found.message is not None and "no contigs" in found.message


@pytest.mark.parametrize("operation", ["enumerate_tasks_qstat", "query_task_details", "get"])
def test_a_failure_waits_for_its_reason(bvbrc: BvbrcHarness, operation: str) -> None:
    _, provider_id = bvbrc.ended(Fate.PREEMPTED)
    bvbrc.fail(kind="drop", operation=operation)
    found = bvbrc.provider.get_workflow_statuses([provider_id])[provider_id]
    assert isinstance(found, Unsure)
    assert status(bvbrc, provider_id).state == State.SYSTEM_ERROR


@pytest.mark.parametrize("operation", ["enumerate_tasks_qstat", "query_task_details", "get"])
def test_a_failure_of_which_the_service_says_no_more_is_one(bvbrc: BvbrcHarness, operation: str) -> None:
    _, provider_id = bvbrc.ended(Fate.FAIL)
    bvbrc.fail(kind="error", operation=operation, times=None)
    assert status(bvbrc, provider_id).state == State.EXECUTOR_ERROR


@pytest.mark.parametrize(
    ("code", "state"), [("D", State.CANCELED), ("P", State.PAUSED), ("C", State.COMPLETE), ("Q", State.INITIALIZING)]
)
def test_what_others_do_with_a_task_is_told(bvbrc: BvbrcHarness, code: str, state: State) -> None:
    _, provider_id = bvbrc.running()
    bvbrc.fake.control.set_task(id=task_id(provider_id), code=code)
    assert status(bvbrc, provider_id).state == state


@pytest.mark.parametrize("word", ["in-progress", "pending", "running"])
def test_a_task_that_runs_does_so_in_any_words(bvbrc: BvbrcHarness, word: str) -> None:
    bvbrc.fake.control.configure(running_word=word)
    _, provider_id = bvbrc.running()
    assert status(bvbrc, provider_id).state == State.RUNNING


@pytest.mark.parametrize(
    ("state", "running", "seconds"), [(State.RUNNING, 0, 10), (State.RUNNING, 300, 30), (State.INITIALIZING, 1800, 60)]
)
def test_looks_grow_rarer(bvbrc: BvbrcHarness, state: State, running: float, seconds: float) -> None:
    assert bvbrc.provider.seconds_to_next_look(state, running) == seconds


# Tokens


def test_many_users_are_asked_for_in_as_many_questions(bvbrc: BvbrcHarness) -> None:
    bob = bvbrc.fake.control.token(user="bob@bvbrc")
    owners: dict[str, str | None] = {}
    provider = with_credentials(bvbrc, lambda ids: {one: owners.get(one, bvbrc.token) for one in ids})
    ids = []
    for number in range(6):
        run = bvbrc.submission(Fate.LONG)
        owners[run.run_id] = bvbrc.token if number % 2 else bob
        ids.append(
            provider.submit_workflow(
                replace(run, request=provider.prepare_request(replace(run, request={})))
            ).provider_id
        )
    bvbrc.fake.control.reset()
    assert len(provider.get_workflow_statuses(ids)) == 6
    assert bvbrc.fake.control.calls() == {"query_tasks": 2}


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("expired", f"that of {USER} expired at"),
        ("refused", f"BV-BRC refuses that of {USER}"),
        ("missing", "none came with this run"),
        ("no token", "none came with this run"),
        ("another key", "CREDENTIALS_KEYS"),
    ],
)
def test_a_token_in_trouble_concerns_its_own_runs_only(bvbrc: BvbrcHarness, token: str, words: str) -> None:
    alices, alices_id = bvbrc.running()
    bobs = bvbrc.submission(Fate.LONG)
    bob = bvbrc.fake.control.token(user="bob@bvbrc")
    held: dict[str, str | None] = {bobs.run_id: bob, alices.run_id: bvbrc.token}
    match token:
        case "expired":
            held[alices.run_id] = bvbrc.fake.control.token(user=USER, seconds=0)
        case "refused":
            bvbrc.fake.control.revoke(user=USER)
        case "missing":
            del held[alices.run_id]
        case "no token":
            held[alices.run_id] = "something else"
        case "another key":
            held[alices.run_id] = None
    provider = with_credentials(bvbrc, lambda ids: {one: held[one] for one in ids if one in held})
    bobs_id = provider.submit_workflow(bobs).provider_id
    statuses = provider.get_workflow_statuses([alices_id, bobs_id])
    said, other = statuses[alices_id], statuses[bobs_id]
    assert isinstance(said, Unsure) and said.why.startswith("Waiting for a fresh BV-BRC token") and words in said.why
    assert isinstance(other, Status) and other.state == State.INITIALIZING
    _nothing_else_is_possible(provider, bvbrc, alices, alices_id)


def _nothing_else_is_possible(provider: BvbrcProvider, bvbrc: BvbrcHarness, run: Submission, provider_id: str) -> None:
    verbs: list[Callable[[], Any]] = [
        lambda: provider.prepare_request(replace(run, request={})),
        lambda: provider.submit_workflow(run),
        lambda: provider.get_workflow_status(provider_id),
        lambda: provider.cancel_workflow(provider_id),
        lambda: provider.get_tasks(provider_id),
        lambda: provider.get_logs(provider_id, bvbrc.log_sink(run)),
        lambda: provider.get_outputs(provider_id, bvbrc.output_sink(run)),
    ]
    for verb in verbs:
        with pytest.raises(NotReady, match="Waiting for a fresh BV-BRC token") as error:
            verb()
        assert error.value.retry_after
    assert isinstance(provider.find_workflow(run), Unsure)
    assert bvbrc.starts(run) == 1


def test_an_expired_token_is_not_even_sent(bvbrc: BvbrcHarness) -> None:
    _, provider_id = bvbrc.running()
    bvbrc.token = bvbrc.fake.control.token(user=USER, seconds=60)
    bvbrc.pass_time(60)
    bvbrc.fake.control.reset()
    bvbrc.provider.get_workflow_statuses([provider_id])
    assert bvbrc.fake.control.calls() == {}


def test_a_refused_token_is_tried_again_after_a_while(bvbrc: BvbrcHarness) -> None:
    _, provider_id = bvbrc.running()
    bvbrc.fail(kind="expired")
    assert isinstance(bvbrc.provider.get_workflow_statuses([provider_id])[provider_id], Unsure)
    bvbrc.fake.control.reset()
    assert isinstance(bvbrc.provider.get_workflow_statuses([provider_id])[provider_id], Unsure)
    assert bvbrc.fake.control.calls() == {}
    bvbrc.pass_time(301)
    assert status(bvbrc, provider_id).state == State.RUNNING


def test_one_users_trouble_at_the_platform_is_told_as_that(bvbrc: BvbrcHarness) -> None:
    alices, alices_id = bvbrc.running()
    bob = bvbrc.fake.control.token(user="bob@bvbrc")
    provider = with_credentials(bvbrc, lambda ids: {one: bvbrc.token if one == alices.run_id else bob for one in ids})
    bobs_id = provider.submit_workflow(bvbrc.submission(Fate.LONG)).provider_id
    bvbrc.fail(kind="drop", operation="query_tasks", match=alices_id.partition("/")[0])
    statuses = provider.get_workflow_statuses([alices_id, bobs_id])
    assert isinstance(statuses[alices_id], Unsure) and isinstance(statuses[bobs_id], Status)
    bvbrc.fail(kind="drop", operation="query_tasks", times=2)
    with pytest.raises(OutcomeUnknown):
        provider.get_workflow_statuses([alices_id, bobs_id])


# Results


def test_every_file_of_the_hidden_folder_is_an_output(bvbrc: BvbrcHarness) -> None:
    plan = {"outputs": {"genome_id": "83332.12", "a/b.txt": 1}, "files": {"a/b.txt": "x", "c d.fa": ">1\n"}}
    run = with_params(bvbrc.submission(), bvbrc.provider, **{"fake-plan": json.dumps(plan)})
    provider_id = bvbrc.submit(run).provider_id
    bvbrc.let_run(provider_id)
    bvbrc.let_end(provider_id)
    outputs = bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))
    folder = f"ws:/alice%40patricbrc.org/home/.{run.submit_key}"
    assert outputs == {
        "genome_id": "83332.12",
        "a/b.txt": {"class": "File", "location": f"{folder}/a/b.txt", "basename": "b.txt", "size": 1},
        "c d.fa": {"class": "File", "location": f"{folder}/c%20d.fa", "basename": "c d.fa", "size": 3},
        "job_result": {
            "class": "File",
            "location": f"ws:/alice%40patricbrc.org/home/{run.submit_key}",
            "basename": run.submit_key,
        },
    }


def test_without_the_folder_the_job_result_tells_of_the_files(bvbrc: BvbrcHarness) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fake.control.remove(path=f"{HOME}/.{run.submit_key}")
    outputs = bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))
    assert outputs["reads.txt"]["location"].endswith("/reads.txt")


def test_a_job_result_that_is_kept_elsewhere_still_has_its_files(bvbrc: BvbrcHarness) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fake.control.put(path=f"{HOME}/{run.submit_key}", text="{}", kind="job_result", is_elsewhere=True)
    assert set(bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))) == {"reads.txt", "job_result"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"output_files": 5, "job_output": [1]}', '{"output_files": [[], [5], ["x"]]}']
)
def test_an_odd_job_result_still_has_its_files(bvbrc: BvbrcHarness, text: str) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fake.control.put(path=f"{HOME}/{run.submit_key}", text=text, kind="job_result")
    outputs = bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))
    assert set(outputs) - {"job_output"} == {"reads.txt", "job_result"}


def test_a_removed_job_result_is_lost(bvbrc: BvbrcHarness) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fake.control.remove(path=f"{HOME}/{run.submit_key}")
    with pytest.raises(Rejected, match="not found") as refusal:
        bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))
    assert refusal.value.reason == "outputs_lost"


def test_another_users_folder_cannot_be_read(bvbrc: BvbrcHarness) -> None:
    run = with_params(bvbrc.submission(), bvbrc.provider, output_path="/bob@bvbrc/home")
    provider_id = bvbrc.submit(run).provider_id
    bvbrc.let_run(provider_id)
    bvbrc.let_end(provider_id)
    with pytest.raises(Rejected, match="permission") as refusal:
        bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run))
    assert refusal.value.reason == "outputs_unreadable"


def test_an_app_that_was_told_to_leave_nothing_has_no_outputs(bvbrc: BvbrcHarness) -> None:
    run = with_params(bvbrc.submission(), bvbrc.provider, skip_workspace_output=1)
    provider_id = bvbrc.submit(run).provider_id
    bvbrc.let_run(provider_id)
    bvbrc.let_end(provider_id)
    bvbrc.fake.control.remove(path=f"{HOME}/{run.submit_key}")
    assert bvbrc.provider.get_outputs(provider_id, bvbrc.output_sink(run)) == {}


def test_the_step_is_the_app(bvbrc: BvbrcHarness) -> None:
    _, provider_id = bvbrc.ended(Fate.FAIL)
    (step,) = bvbrc.provider.get_tasks(provider_id)
    assert (step.task_id, step.name, step.exit_code) == (str(task_id(provider_id)), "Date", 1)
    assert step.system_logs == ("host: maple-7",)


def test_logs_are_asked_of_the_service_alone(bvbrc: BvbrcHarness) -> None:
    """Wherever an answer sends it: a token goes nowhere else."""
    run, provider_id = bvbrc.ended()
    elsewhere = {"stdout_url": f"{bvbrc.url}.example.org/log", "stderr_url": "http://127.0.0.1:1/log"}
    bvbrc.fail(kind="alter", operation="query_task_details", alter={"result": elsewhere})
    bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    assert (bvbrc.log(run, "stdout"), bvbrc.log(run, "stderr")) == ("started\ndone\n", "")


def test_an_address_at_the_service_is_used_as_it_is(bvbrc: BvbrcHarness) -> None:
    run, provider_id = bvbrc.ended()
    other = f"{bvbrc.url}{APP_SERVICE}/task_info/{task_id(provider_id)}/stdout"
    bvbrc.fail(kind="alter", operation="query_task_details", alter={"result": {"stderr_url": other}})
    bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    assert bvbrc.log(run, "stderr") == "started\ndone\n"


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_log_that_is_not_to_be_had_now_is_asked_for_again(bvbrc: BvbrcHarness, status: int) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fail(kind="reply", status=status, body="no", operation="log")
    with pytest.raises((OutcomeUnknown, NotAccepted)):
        bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    assert bvbrc.log(run, "stdout") == "started\ndone\n"


def test_a_web_page_is_no_log(bvbrc: BvbrcHarness) -> None:
    run, provider_id = bvbrc.ended()
    bvbrc.fail(kind="html", operation="log")
    with pytest.raises(OutcomeUnknown, match="web page"):
        bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    assert bvbrc.log(run, "stdout") == ""


def test_a_token_in_a_log_comes_without_its_signature(bvbrc: BvbrcHarness) -> None:
    plan = {"log": [f"cmd: {bvbrc.fake.control.token(user='bob@bvbrc')}", "done"]}
    run = with_params(bvbrc.submission(), bvbrc.provider, **{"fake-plan": json.dumps(plan)})
    provider_id = bvbrc.submit(run).provider_id
    bvbrc.let_run(provider_id)
    bvbrc.provider.get_logs(provider_id, bvbrc.log_sink(run))
    assert "sig=XXX" in bvbrc.log(run, "stdout")
