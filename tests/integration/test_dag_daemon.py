"""Pipelines in the daemon, tick by tick on both databases: steps run at a provider that does as it is told."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.artifacts import DirectoryStorage, StoredFile
from app.daemon.holds import Holds
from app.daemon.pipeline_store import PipelineStore
from app.daemon.provider_loop import ProviderLoop
from app.daemon.providers.dag import DagProvider
from app.daemon.providers.provider_interface import Found, OutputSink, Submission, WorkflowProviderInterface
from app.database import Database
from app.models import WorkflowRun
from app.routing import Rules
from app.runs import acceptance, deletion, listing, pipelines, transitions
from app.runs.acceptance import AttachedFile, NewRun
from app.states import TERMINAL, State, is_terminal
from tests.conftest import Clock
from tests.daemon_world import AtOnce
from tests.fakes.scripted import Platform, ScriptedProvider

BAD = State.EXECUTOR_ERROR


class Tools(ScriptedProvider):
    """Puts out one file, named as the step's parameter `file` says, with the parameters in it."""

    def get_outputs(self, provider_id: str, sink: OutputSink) -> dict[str, Any]:
        run_id = self.platform.jobs[provider_id].submit_key.removeprefix("wes-")
        location = sink.put_stream("deep/result one.txt", io.BytesIO(run_id.encode()))
        return {"result": {"class": "File", "location": location}, "words": ["x", "y"], "n": 3}


class World:
    """A database with two loops over it, for pipelines and for their steps; they may die and be made anew."""

    def __init__(self, database: Database, storage: DirectoryStorage, clock: Clock) -> None:
        self.database, self.storage, self.clock = database, storage, clock
        self.platform = Platform()
        self.ends: dict[str, State] = {}  # step -> how its runs end; COMPLETE unless said
        self.restart()

    def restart(self) -> None:
        """The daemon died; another one begins, with nothing but the database."""
        self.store = PipelineStore(self.database, self.storage, self.clock, Rules("scripted"))
        self.dag = self._loop(DagProvider(self.store, self._fetch))
        self.tools = self._loop(Tools(self.platform))

    def _fetch(self, url: str) -> bytes:
        return json.dumps({"workflow_name": url, "steps": [{"step_name": "a", "workflow_url": "../a.cwl"}]}).encode()

    def _loop(self, provider: WorkflowProviderInterface) -> ProviderLoop:
        monotonic: Callable[[], float] = lambda: self.clock().timestamp()  # noqa: E731
        holds = Holds(self.database, timedelta(seconds=60), self.clock, monotonic)
        options: dict[str, Any] = {"workers": 1000, "pool": AtOnce(), "monotonic": monotonic}
        who = {"daemon_id": str(uuid.uuid4()), "host": "here", "now": self.clock}
        return ProviderLoop(provider, self.database, self.storage, holds, **who, **options)

    def submit(self, *steps: dict[str, Any], **fields: Any) -> str:
        document = {"workflow_name": "p", "steps": list(steps), **fields.pop("document", {})}
        values: dict[str, Any] = {
            "owner": "ann",
            "name": "p",
            "provider_type": "dag",
            "workflow_type": "DAG",
            "workflow_type_version": "1.0",
            "workflow_url": "inline:",
            "workflow_params": document,
        }
        new = NewRun(run_id=str(uuid.uuid4()), **(values | fields))
        return self.database.transact(lambda session: acceptance.accept(session, new, self.clock()))

    def run(self, run_id: str) -> WorkflowRun:
        with self.database.reading() as session:
            return listing.get_run(session, run_id, None)

    def state(self, run_id: str) -> State:
        with self.database.reading() as session:
            return listing.get_state(session, run_id, None)

    def steps(self, run_id: str) -> list[WorkflowRun]:
        with self.database.reading() as session:
            return list(pipelines.runs_of(session, run_id))

    def states(self, run_id: str) -> dict[str, str]:
        return {pipelines.task_name(run): str(run.state) for run in self.steps(run_id)}

    def turn(self) -> None:
        """A look at pipelines, a look at steps, and every step that runs comes to its end."""
        self.dag.tick()
        self.tools.tick()
        for job in self.platform.jobs.values():
            if not is_terminal(job.status.state or State.RUNNING):
                name = self.run(job.submit_key.removeprefix("wes-")).step or ""
                end = State.CANCELED if job.cancels else self.ends.get(name, State.COMPLETE)
                self.platform.set(job.provider_id, end, message=f"it is {end}")
        self.clock.advance(seconds=15)
        self.tools.tick()

    def end(self, run_id: str, turns: int = 60) -> WorkflowRun:
        for _ in range(turns):
            if is_terminal(self.state(run_id)):
                return self.run(run_id)
            self.turn()
        raise AssertionError(f"{self.state(run_id)} {self.states(run_id)} after {turns} turns")

    def rerun(self, run_id: str) -> str:
        run = self.run(run_id)
        return self.submit(workflow_params=run.workflow_params, reused_from=run_id)


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"step_name": name, "workflow_url": "tool-1", "provider": "scripted", "workflow_type": "CWL", **fields}


def after(name: str, *needed: str, **fields: Any) -> dict[str, Any]:
    return step(name, depends_on=list(needed), **fields)


def text(file: StoredFile) -> str:
    with file.open() as opened:
        return opened.read().decode()


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, clock: Clock) -> World:
    return World(database, storage, clock)


def test_steps_follow_each_other_and_the_files_go_with_them(world: World) -> None:
    second = step("b", params={"input": "${steps.a.outputs.result}", "n": "${steps.a.outputs.n}"}, tags={"t": "1"})
    wanted = {"out": "${steps.b.outputs.result}", "same": "${steps.b.outputs.n}"}
    run_id = world.submit(second, step("a"), document={"workflow_outputs": wanted}, tags={"project": "x"})
    run = world.end(run_id)
    first, last = world.steps(run_id)
    assert (run.state, first.step, last.step) == (State.COMPLETE, "a", "b")
    path = "inputs-of-steps/a/0/deep/result one.txt"
    assert last.workflow_params["n"] == 3
    assert last.workflow_params["input"] == {"class": "File", "location": path}
    assert (last.tags, last.owner) == ({"project": "x", "t": "1"}, "ann")
    with world.database.reading() as session:
        (attachment,) = listing.get_attachments(session, last.run_id)
    assert attachment.path == path
    assert text(world.storage.blob(attachment.sha256)) == first.run_id
    assert run.outputs is not None
    assert run.outputs["same"] == 3
    assert run.outputs["out"]["location"] == "wes-output:b/0/deep/result%20one.txt"
    assert text(world.storage.output(run_id, "b/0/deep/result one.txt")) == last.run_id


def test_independent_branches_go_on_and_descendants_of_a_failure_never_begin(world: World) -> None:
    world.ends["bad"] = BAD
    run_id = world.submit(step("bad"), after("below", "bad"), step("good"), after("leaf", "good"))
    run = world.end(run_id)
    assert run.state == State.EXECUTOR_ERROR
    assert run.error_message is not None
    assert run.error_message.startswith("Failed: bad. 1 more did not run")
    assert world.states(run_id) == {"bad": "EXECUTOR_ERROR", "good": "COMPLETE", "leaf": "COMPLETE"}


def test_a_step_is_tried_again_as_often_as_it_may(world: World) -> None:
    world.ends["bad"] = BAD
    run_id = world.submit(step("bad", retries=2))
    assert world.end(run_id).state == State.EXECUTOR_ERROR
    assert list(world.states(run_id)) == ["bad", "bad try 2", "bad try 3"]


@pytest.mark.parametrize(("asked", "most"), [({}, 2), ({"max_parallel_steps": "3"}, 3)])
def test_no_more_steps_run_at_once_than_may(world: World, asked: dict[str, str], most: int) -> None:
    run_id = world.submit(*(step(f"s{number}") for number in range(8)), workflow_engine_parameters=asked)
    at_once = []
    while not is_terminal(world.run(run_id).state):
        world.dag.tick()
        at_once.append(sum(run.state not in TERMINAL for run in world.steps(run_id)))
        world.turn()
    assert max(at_once) == most
    assert len(world.platform.starts) == 8


def test_cancel_ends_what_runs_and_begins_nothing(world: World) -> None:
    run_id = world.submit(step("a"), step("b"), after("c", "a"))
    world.dag.tick()
    world.dag.tick()
    world.tools.tick()
    assert len(world.steps(run_id)) == 2
    world.database.transact(lambda session: transitions.cancel(session, run_id, world.clock(), by="ann"))
    assert world.end(run_id).state == State.CANCELED
    assert set(world.states(run_id).values()) == {"CANCELED"}
    assert len(world.platform.starts) == 2


# What the contract suite asks of providers that have a platform (see tests/contract/conftest.py)


@pytest.mark.parametrize("stranger", ["", "nobody", "../../etc", "a/b?c=d#e", "é\n", "x" * 5000])
def test_an_unknown_pipeline_is_missing_and_cancelled_without_fuss(world: World, stranger: str) -> None:
    provider = world.dag.provider
    assert provider.get_workflow_status(stranger) is None
    assert provider.get_workflow_statuses([stranger]) == {}
    provider.cancel_workflow(stranger)


def test_a_pipeline_that_is_submitted_again_is_the_same(world: World) -> None:
    run_id = world.submit(step("a"))
    for _ in range(2):
        world.dag.tick()
    submission = Submission(
        run_id=run_id, submit_key=f"wes-{run_id}", name="p", owner="ann", workflow_type="DAG", workflow_type_version="1.0",
        workflow_url="inline:", workflow_params={}, workflow_engine=None, workflow_engine_version=None,
        workflow_engine_parameters={}, tags={}, attachments=(),
    )  # fmt: skip
    answers = [world.dag.provider.submit_workflow(submission) for _ in range(2)]
    found = world.dag.provider.find_workflow(submission)
    assert {answer.provider_id for answer in answers} == {run_id}
    assert isinstance(found, Found) and found.run == answers[0], "an answer that was lost is found again"
    assert world.end(run_id).state == State.COMPLETE
    assert len(world.platform.starts) == len(world.steps(run_id)) == 1


def test_cancel_again_is_harmless_and_what_is_over_stays_so(world: World) -> None:
    first, second = world.submit(step("a")), world.submit(step("b"))
    for _ in range(2):
        world.dag.tick()
    for _ in range(3):
        world.dag.provider.cancel_workflow(first)
    assert set(world.states(first).values()) == {"CANCELED"}
    assert world.end(second).state == State.COMPLETE, "others run on"
    world.dag.provider.cancel_workflow(second)
    assert world.states(second) == {"b": "COMPLETE"}
    assert world.dag.provider.get_workflow_statuses([second])[second].state == State.COMPLETE


def test_a_daemon_that_saw_no_cancel_begins_nothing_after_it(world: World) -> None:
    run_id = world.submit(step("a"))
    world.dag.tick()
    starts = world.dag.provider._look(run_id).starts if world.run(run_id).submit_request else ()  # type: ignore[attr-defined]
    world.database.transact(lambda session: transitions.cancel(session, run_id, world.clock(), by="ann"))
    assert world.store.begin(run_id, starts, "") == {}
    assert world.steps(run_id) == []


def test_a_step_begun_twice_is_one_run(world: World) -> None:
    run_id = world.submit(step("a"))
    world.dag.tick()
    starts = world.dag.provider._look(run_id).starts  # type: ignore[attr-defined]
    for _ in range(3):
        world.store.begin(run_id, starts, "")
    assert len(world.steps(run_id)) == 1


def test_from_failed_reuses_what_succeeded_with_the_same_inputs(world: World) -> None:
    world.ends["bad"] = BAD
    scattered = step("good", scatter={"over": [1, 2, 3]}, params={"x": "${item}"})
    gather = step("gather", params={"all": "${steps.good.outputs.result}", "w": "${steps.bad.outputs.words}"})
    first = world.submit(scattered, step("bad"), gather)
    assert world.end(first).state == State.EXECUTOR_ERROR
    before = len(world.platform.starts)
    world.ends.clear()
    again = world.rerun(first)
    assert world.end(again).state == State.COMPLETE
    assert len(world.platform.starts) == before + 2
    reused = {run.step: run for run in world.steps(again) if run.reused_from}
    assert list(reused) == ["good"]
    world.database.transact(lambda session: deletion.delete_run(session, first, None))
    world.storage.drop_run(str(reused["good"].reused_from))
    assert world.storage.output(reused["good"].run_id, "deep/result one.txt").size > 0


def test_from_failed_does_again_what_has_other_inputs_now(world: World) -> None:
    world.ends["b"] = BAD
    first = world.submit(step("a", params={"x": 1}), after("b", "a"))
    world.end(first)
    world.ends.clear()
    changed = {"workflow_name": "p", "steps": [step("a", params={"x": 2}), after("b", "a")]}
    again = world.submit(workflow_params=changed, reused_from=first)
    assert world.end(again).state == State.COMPLETE
    assert not any(run.reused_from for run in world.steps(again))


def test_a_step_that_nothing_runs_fails_with_the_reason(world: World) -> None:
    bound = step("a", workflow_url="${place}")
    run_id = world.submit(bound, document={"base_context": {"place": "gopher://x/y"}})
    assert world.end(run_id).state == State.EXECUTOR_ERROR
    (refused,) = world.steps(run_id)
    assert refused.state == State.SYSTEM_ERROR
    assert "gopher" in str(refused.error_message)


def test_a_pipeline_reads_files_of_its_own_steps_only(world: World) -> None:
    secret = world.submit(step("a"))
    world.end(secret)
    (other,) = world.steps(secret)
    stolen = {"class": "File", "location": f"wes-run:{other.run_id}/deep/result one.txt"}
    thief = world.submit(step("b", params={"f": stolen}), document={"workflow_outputs": []})
    assert world.end(thief).state == State.EXECUTOR_ERROR
    assert "no file of a step of this pipeline" in str(world.steps(thief)[0].error_message)
    put_out = world.submit(step("c"), document={"workflow_outputs": ["${steps.c.params.f}"]})
    assert world.end(put_out).state == State.SYSTEM_ERROR
    assert world.store.files_at(thief, stolen["location"]) is None


def test_a_document_behind_a_url_is_kept_and_what_it_names_is_beside_it(world: World) -> None:
    run_id = world.submit(workflow_url="https://example.org/lab/p.json", workflow_params={"x": 1})
    run = world.end(run_id)
    assert run.state == State.COMPLETE
    assert run.submit_request is not None
    assert run.submit_request["document"]["base_context"] == {"x": 1}
    assert world.steps(run_id)[0].workflow_url == "https://example.org/a.cwl"


def test_an_invalid_document_ends_with_every_reason(world: World) -> None:
    run = world.end(world.submit(workflow_params={"steps": []}))
    assert run.state == State.SYSTEM_ERROR
    assert "/workflow_name" in str(run.error_message)
    assert "/steps" in str(run.error_message)


def test_the_tasks_of_a_pipeline_are_its_steps(world: World) -> None:
    run_id = world.submit(step("a"), step("s", scatter={"over": [1, 2]}))
    world.end(run_id)
    with world.database.reading() as session:
        tasks = listing.get_tasks(session, run_id)
        later = listing.get_tasks(session, run_id, after=0, limit=1)
        one = listing.get_task(session, run_id, tasks[1].task_id)
    assert Counter(task.name for task in tasks) == Counter(["a", "s[0]", "s[1]"])
    assert [task.task_id for task in later] == [tasks[1].task_id] == [one.task_id]


@pytest.mark.parametrize("deaths", range(8))
def test_the_daemon_may_die_between_any_two_turns(world: World, deaths: int) -> None:
    run_id = world.submit(step("a"), after("b", "a"), after("c", "b"))
    for _ in range(deaths):
        world.turn()
        world.restart()
        world.clock.advance(seconds=90)
    assert world.end(run_id).state == State.COMPLETE
    assert len(world.platform.starts) == len(set(world.platform.starts)) == 3


def test_attachments_of_the_pipeline_are_its_steps_too(world: World) -> None:
    upload = world.storage.new_upload()
    upload.write(b"tool")
    kept = AttachedFile("tools/t.cwl", *upload.keep())
    run_id = world.submit(step("a", workflow_url="tools/t.cwl"), attachments=(kept,))
    assert world.end(run_id).state == State.COMPLETE
    with world.database.reading() as session:
        assert [file.path for file in listing.get_attachments(session, world.steps(run_id)[0].run_id)] == [kept.path]
        assert listing.get_own_attachments(session, world.steps(run_id)[0].run_id) == []


def test_a_look_reads_again_only_what_has_not_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read_all = [], pipelines.steps_of
    monkeypatch.setattr(pipelines, "steps_of", lambda *args: whole.append(1) or read_all(*args))
    run_id = world.submit(*deep(8))
    assert world.end(run_id).state == State.COMPLETE
    assert len(whole) == 1, "the first look knows of nothing"


def test_what_another_daemon_began_counts(world: World) -> None:
    """Each daemon remembers what it saw itself."""
    other = World(world.database, world.storage, world.clock)
    steps = [step("x"), step("y"), after("x1", "x"), after("x2", "x"), after("y1", "y")]
    run_id = world.submit(*steps, workflow_engine_parameters={"max_parallel_steps": "2"})
    for _ in range(2):
        world.dag.tick()
    world.tools.tick()
    end_step(world, "y")
    other.dag.tick()
    end_step(world, "x")
    world.dag.tick()
    assert set(world.states(run_id)) == {"x", "y", "x1", "y1"}


def end_step(world: World, name: str) -> None:
    (job,) = (
        one for one in world.platform.jobs.values() if world.run(one.submit_key.removeprefix("wes-")).step == name
    )
    world.platform.set(job.provider_id, State.COMPLETE)
    world.clock.advance(seconds=15)
    world.tools.tick()


def wide(count: int) -> list[dict[str, Any]]:
    return [step(f"s{number}") for number in range(count)]


def deep(count: int) -> list[dict[str, Any]]:
    return [step("s0"), *(after(f"s{number}", f"s{number - 1}") for number in range(1, count))]


@pytest.mark.long
@pytest.mark.parametrize("shape", [wide, deep])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_thousand_steps(world: World, shape: Callable[[int], list[dict[str, Any]]]) -> None:
    seconds = {}
    for count in (250, 1000):
        started = time.process_time()
        run_id = world.submit(*shape(count), workflow_engine_parameters={"max_parallel_steps": "1000"})
        assert world.end(run_id, turns=3 * count).state == State.COMPLETE
        assert len(world.steps(run_id)) == count
        seconds[count] = time.process_time() - started
    print(f"{shape.__name__}: {seconds}")


def test_two_steps_of_equal_place_in_two_pipelines_are_two_runs(world: World) -> None:
    first, second = world.submit(step("a")), world.submit(step("a"))
    world.end(first)
    world.end(second)
    assert world.steps(first)[0].run_id != world.steps(second)[0].run_id


def test_the_log_tells_what_happened_in_its_order(world: World) -> None:
    world.ends["b"] = BAD
    run_id = world.submit(step("a"), after("b", "a"))
    world.end(run_id)
    stored = world.storage.log(run_id, "stdout")
    assert stored is not None
    lines = text(stored).splitlines()
    assert lines[0].endswith(" - INFO - Workflow execution started")
    assert "Submitted step 'a' to app 'tool-1' | task_id=job-1" in lines[1]
    assert "Step 'a' completed successfully | elapsed_time=00:00:15" in lines[2]
    assert "ERROR - Step 'b' failed: it is EXECUTOR_ERROR" in lines[4]
    assert lines == sorted(lines, key=lambda line: line[:19])
