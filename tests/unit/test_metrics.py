"""What becomes a label and what a call to a provider counts as: bounded, whatever users and providers say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
from prometheus_client import REGISTRY

from app.daemon.measures import ErrorCounter, measured
from app.daemon.providers.provider_interface import Submission, WorkflowProviderInterface
from app.errors import NotAccepted, NotReady, OutcomeUnknown, ProviderError, Rejected
from app.metrics import OTHER, Names
from app.runs.news import app_of
from tests.fakes.scripted import Platform, ScriptedProvider


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def growth(name: str, work: Callable[[], object], **labels: str) -> float:
    before = value(name, **labels)
    work()
    return value(name, **labels) - before


def test_a_label_has_only_so_many_values() -> None:
    names = Names(3)
    assert [names(f"app{number}") for number in range(5)] == ["app0", "app1", "app2", OTHER, OTHER]
    assert (names("app1"), names("app4")) == ("app1", OTHER)


@pytest.mark.parametrize("word", ["", "a b", "/etc/passwd", "https://u:p@h/x", "x" * 101, "a\nb", "ü", 'a"b'])
def test_a_label_is_a_plain_name(word: str) -> None:
    assert Names(3)(word) == OTHER


@pytest.mark.parametrize(
    ("workflow_type", "workflow_url", "app"),
    [
        ("BVBRC", "bvbrc:GenomeAssembly2", "GenomeAssembly2"),
        ("BVBRC", "BVBRC:GenomeAssembly2", "GenomeAssembly2"),
        ("CWL", "https://example.org/x.cwl?token=secret", "CWL"),
        ("CWL", "bvbrc:no/app", "CWL"),
    ],
)
def test_the_app_of_a_step_is_no_users_text(workflow_type: str, workflow_url: str, app: str) -> None:
    assert app_of(workflow_type, workflow_url) == app


def submission(workflow_url: str = "hello.cwl") -> Submission:
    return Submission("r1", "k1", "hello", "CWL", "v1.2", workflow_url, {}, None, None, {}, {}, (), "ann")


@pytest.mark.parametrize(
    ("error", "outcome", "counts"),
    [
        (NotReady("later", 1), "not_ready", 0),
        (NotAccepted("full"), "not_accepted", 1),
        (OutcomeUnknown("reset"), "outcome_unknown", 1),
        (Rejected("no"), "rejected", 1),
        (KeyError("defect"), "defect", 1),
    ],
)
def test_a_submit_counts_as_what_it_came_to(error: Exception, outcome: str, counts: int) -> None:
    platform = Platform()
    provider = measured(ScriptedProvider(platform))
    platform.fail("submit", error)

    def submit() -> None:
        with pytest.raises(type(error)):
            provider.submit_workflow(submission("bvbrc:GenomeAssembly2"))

    labels = {"provider": "scripted", "verb": "submit_workflow", "outcome": outcome}
    errors = value("scheduler_submit_errors_total", app="GenomeAssembly2")
    assert growth("wes_provider_calls_total", submit, **labels) == 1
    assert value("scheduler_submit_errors_total", app="GenomeAssembly2") - errors == counts


def test_a_question_for_one_status_is_one_call() -> None:
    """Providers may answer it by asking themselves for many."""
    plain = ScriptedProvider(Platform())
    plain.get_workflow_status = partial(WorkflowProviderInterface.get_workflow_status, plain)  # type: ignore[method-assign]
    provider, seconds = measured(plain), "wes_provider_call_duration_seconds_count"
    one = {"provider": "scripted", "verb": "get_workflow_status"}
    many = {"provider": "scripted", "verb": "get_workflow_statuses"}
    assert growth(seconds, lambda: provider.get_workflow_status("x"), **one) == 1
    assert growth(seconds, lambda: provider.get_workflow_status("x"), **many) == 0
    assert growth("scheduler_query_duration_seconds_count", lambda: provider.get_workflow_status("x")) == 1


def test_a_question_that_is_not_answered_is_an_error() -> None:
    platform = Platform()
    provider = measured(ScriptedProvider(platform))
    platform.fail("statuses", OutcomeUnknown("timed out"))

    def ask() -> None:
        with pytest.raises(ProviderError):
            provider.get_workflow_statuses(["x"])

    assert growth("scheduler_query_errors_total", ask) == 1


def test_a_measured_provider_is_otherwise_the_same() -> None:
    plain = ScriptedProvider(Platform())
    provider = measured(plain)
    assert (provider.name, provider.capabilities, provider.max_active) == (
        plain.name,
        plain.capabilities,
        plain.max_active,
    )


def test_errors_are_counted_by_exception() -> None:
    log = logging.Logger("a daemon's")
    log.addHandler(ErrorCounter())

    def fail() -> None:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.exception("failed")
            log.warning("and this is none", exc_info=True)

    assert growth("executor_errors_total", fail, error_type="ZeroDivisionError") == 1
    assert growth("executor_errors_total", lambda: log.error("failed"), error_type="none") == 1
