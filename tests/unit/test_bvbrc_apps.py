"""Parameters held against an app's description: what is refused, in which words, and what is passed on."""

from __future__ import annotations

from typing import Any

import pytest

from app.daemon.providers.bvbrc_apps import App, check_parameters, workspace_paths
from app.errors import Rejected
from tests.fakes.bvbrc_tasks import APPS

OUTPUT = {"output_path": "/alice/home", "output_file": "x"}


def app(name: str = "GenomeAssembly2") -> App:
    return App.model_validate(next(one for one in APPS if one["id"] == name))


def problems(given: dict[str, Any], name: str = "GenomeAssembly2") -> str:
    with pytest.raises(Rejected) as refusal:
        check_parameters(app(name), OUTPUT | given)
    assert refusal.value.reason == "invalid_parameters"
    return str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"paired_end_libs": [{"read1": "/a/1.fq", "read2": "/a/2.fq", "interleaved": "false"}]},
        {"paired_end_libs": {"read1": "/a/1.fq"}},
        {"srr_ids": ["SRR1", "SRR2"]},
        {"srr_ids": "SRR1"},
        {"recipe": "spades", "racon_iter": "3", "min_contig_cov": 2.5, "trim": True},
        {"racon_iter": 3, "min_contig_cov": "5", "trim": 0},
        {"recipe": None},
        {"debug_level": 1, "_clientgroup": "fast"},
    ],
)
def test_what_an_app_takes(given: dict[str, Any]) -> None:
    check_parameters(app(), OUTPUT | given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"paired_end_libs": [{"read2": "/a/2.fq"}]}, "paired_end_libs[0].read1 is missing"),
        ({"paired_end_libs": [{"read1": "reads.fq"}]}, "paired_end_libs[0].read1 is 'reads.fq', which is not a path"),
        ({"paired_end_libs": ["/a/1.fq"]}, "paired_end_libs[0] must be an object"),
        ({"srr_ids": [{"id": 1}]}, "srr_ids[0] is {'id': 1}, which is not text"),
        ({"recipe": "best"}, "recipe is 'best', which is not one of auto, unicycler, spades"),
        ({"recipe": ["auto"]}, "recipe takes one value, not a list"),
        ({"racon_iter": "many"}, "racon_iter is 'many', which is not a whole number"),
        ({"racon_iter": 2.5}, "not a whole number"),
        ({"racon_iter": True}, "not a whole number"),
        ({"min_contig_cov": "nan"}, "not a number"),
        ({"trim": "maybe"}, "trim is 'maybe', which is not true or false"),
        ({"output_path": "home"}, "output_path is 'home', which is not a path in the Workspace"),
        ({"output_file": None}, "output_file is missing"),
        ({"recipee": "auto"}, "recipee is not known: did you mean recipe?"),
        ({"paired_end_libs": [{"read1": "/a", "read_1": "/b"}]}, "paired_end_libs[0].read_1 is not known"),
    ],
)
def test_what_it_does_not_take(given: dict[str, Any], words: str) -> None:
    assert words in problems(given)


def test_every_problem_is_told_at_once() -> None:
    words = problems({"recipe": "best", "racon_iter": "x", "trim": 7})
    assert all(name in words for name in ("GenomeAssembly2", "recipe", "racon_iter", "trim"))


def test_very_many_problems_are_counted() -> None:
    assert "And 30 more." in problems({"srr_ids": [{}] * 50})


def test_what_has_a_default_may_be_left_out() -> None:
    assert problems({}, "GenomeAnnotation") == ("GenomeAnnotation: contigs is missing. scientific_name is missing.")
    check_parameters(app("GenomeAnnotation"), OUTPUT | {"contigs": "/a/c.fa", "scientific_name": "E. coli", "code": 11})


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        "x",
        [None, 5, {}, {"id": 7}, {"id": "a", "required": "x", "enum": {"b": 1}, "group": 5, "type": "enum"}],
        [{"id": "a", "type": "enum", "enum": "one, two"}],
        [{"id": "a", "type": "matrix"}],
    ],
)
def test_odd_descriptions_hinder_nobody(parameters: Any) -> None:
    check_parameters(App.model_validate({"id": "Odd", "parameters": parameters}), {"a": "one"})


def test_files_of_the_workspace_become_paths() -> None:
    file = {"class": "File", "location": "ws:/alice%40patricbrc.org/home/a%20b.fq", "basename": "a b.fq", "size": 3}
    folder = {"class": "Directory", "location": "ws:/alice/home/d"}
    given = {"libs": [{"read1": file}], "folder": folder, "other": {"class": 5}, "number": 1}
    assert workspace_paths(given) == {
        "libs": [{"read1": "/alice@patricbrc.org/home/a b.fq"}],
        "folder": "/alice/home/d",
        "other": {"class": 5},
        "number": 1,
    }


@pytest.mark.parametrize("location", ["s3://bucket/a", "https://example.org/a", "wes-output:a", "ws:a", None, 5])
def test_files_elsewhere_are_refused(location: Any) -> None:
    with pytest.raises(Rejected, match="not in the BV-BRC Workspace") as refusal:
        workspace_paths({"reads": {"class": "File", "location": location}})
    assert refusal.value.reason == "file_elsewhere"
