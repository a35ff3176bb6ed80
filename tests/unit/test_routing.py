"""Which provider and engine a request goes to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from app.daemon.providers.provider_interface import Capabilities, EngineOffer
from app.errors import InvalidRequest
from app.routing import (
    Offers,
    Route,
    Rules,
    canonical_type,
    default_parameters,
    filesystem_protocols,
    read_offers,
    route,
    workflow_engine_versions,
    workflow_type_versions,
)
from app.run_requests import RunRequest

CWL_VERSIONS = ("v1.0", "v1.1", "v1.2")


def written(*engines: EngineOffer, problem: str | None = None, protocols: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a daemon writes down of a provider."""
    return {
        "engines": [asdict(engine) for engine in engines],
        "capabilities": asdict(Capabilities(filesystem_protocols=protocols)),
        "problem": problem,
    }


CWLTOOL = EngineOffer("cwltool", "3.3", {"CWL": CWL_VERSIONS}, (("outdir", "string", ""),))
OMICS = EngineOffer("aws-omics", "1.0.0", {"WDL": ("1.0", "1.1"), "CWL": ("v1.2",), "NFL": ("DSL2",)})
OFFERS = read_offers(
    [
        {
            "local": written(CWLTOOL, protocols=("file", "https")),
            "healthomics": written(OMICS, protocols=("s3",)),
            "sevenbridges": written(EngineOffer("sevenbridges", "2", {"CWL": ("v1.2",)})),
            "dag": written(EngineOffer("dag", "1", {"DAG": ("1.0",)})),
        }
    ]
)


def go(offers: Offers = OFFERS, default: str = "local", **fields: Any) -> Route:
    usual: dict[str, Any] = {"workflow_url": "https://example.org/main.cwl", "workflow_type": "CWL"}
    return route(RunRequest(**usual | fields), offers, Rules(default))


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as error:
        go(**fields)
    return str(error.value)


@pytest.mark.parametrize(
    ("fields", "provider"),
    [
        ({}, "local"),
        ({"default": "healthomics"}, "healthomics"),
        ({"workflow_url": "healthomics:123"}, "healthomics"),
        ({"workflow_url": "arn:aws:omics:us-east-1:1:workflow/1"}, "healthomics"),
        ({"workflow_url": "sevenbridges:u/p/app"}, "sevenbridges"),
        ({"workflow_engine_parameters": {"provider": "HealthOmics"}}, "healthomics"),
        ({"workflow_engine_parameters": {"provider": "aws-omics"}}, "healthomics"),
        ({"workflow_type": "DAG"}, "dag"),
        ({"workflow_type": "bvbrc-dag"}, "dag"),
        ({"workflow_engine": "aws-omics"}, "healthomics"),
        ({"workflow_engine": "AWS-Omics", "default": "sevenbridges"}, "healthomics"),
        ({"workflow_engine": "sevenbridges"}, "sevenbridges"),
        ({"workflow_engine": "cwltool", "default": "healthomics"}, "local"),
        ({"workflow_engine": "local", "default": "healthomics"}, "local"),
        ({"workflow_engine": "aws-omics", "workflow_url": "healthomics:1"}, "healthomics"),
        ({"workflow_url": "1234567", "default": "healthomics"}, "healthomics"),
        ({"workflow_url": "wf-abc123", "workflow_engine_parameters": {"provider": "healthomics"}}, "healthomics"),
    ],
)
def test_the_first_rule_that_applies_decides(fields: dict[str, Any], provider: str) -> None:
    assert go(**fields).provider == provider


@pytest.mark.parametrize(
    "fields",
    [
        {"workflow_url": "healthomics:1", "workflow_engine_parameters": {"provider": "local"}},
        {"workflow_url": "sevenbridges:u/p/a", "workflow_type": "DAG"},
        {"workflow_url": "healthomics:1", "workflow_engine": "cwltool"},
        {"workflow_engine_parameters": {"provider": "local"}, "workflow_type": "DAG"},
        {"workflow_engine_parameters": {"provider": "local"}, "workflow_engine": "aws-omics"},
        {"workflow_type": "DAG", "workflow_engine": "cwltool"},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    assert "but" in refused(**fields)


@pytest.mark.parametrize("app", ["lab/proj/app", "lab/proj/app/12", "my-lab/proj_1/bwa-mem.2/0"])
def test_an_app_of_seven_bridges_is_named_with_the_scheme_or_without(app: str) -> None:
    assert go(workflow_url=f"sevenbridges:{app}", workflow_type=None) == Route(
        "sevenbridges", "CWL", "v1.2", None, None
    )
    for fields in (
        {"workflow_engine": "sevenbridges"},
        {"workflow_engine_parameters": {"provider": "SevenBridges"}},
        {"default": "sevenbridges"},
    ):
        assert go(workflow_url=app, **fields).provider == "sevenbridges"
    assert refused(workflow_url=app) == "Relative 'workflow_url' but missing 'workflow_attachment'"


def test_a_document_for_seven_bridges_is_attached_or_fetched() -> None:
    assert go(workflow_url="a/b/c.cwl", attachments=("a/b/c.cwl",), default="sevenbridges").provider == "sevenbridges"
    assert go(workflow_url="a/b/c", attachments=("a/b/c",), default="sevenbridges").provider == "sevenbridges"
    assert go(workflow_url="https://example.org/a.cwl", default="sevenbridges").provider == "sevenbridges"
    assert "missing 'workflow_attachment'" in refused(workflow_url="a/b/c.cwl", default="sevenbridges")


@pytest.mark.parametrize("app", ["", "app", "lab/app", "lab/../app", "lab/p/a/1/2", "lab/p/a/x", "lab/p/a?b", "//a/b"])
def test_what_cannot_be_an_app_is_refused_at_once(app: str) -> None:
    assert "sevenbridges:owner/project/app[/revision]" in refused(workflow_url=f"sevenbridges:{app}")


def test_bare_ids_are_no_place_for_other_providers() -> None:
    assert refused(workflow_url="1234567") == "Relative 'workflow_url' but missing 'workflow_attachment'"


@pytest.mark.parametrize("word", ["CWL", "cwl", "Cwl"])
def test_types_are_case_insensitive(word: str) -> None:
    assert go(workflow_type=word).workflow_type == "CWL"


@pytest.mark.parametrize(
    ("alias", "stored"),
    [("nextflow", "NFL"), ("NFL", "NFL"), ("Snakemake", "SMK"), ("smk", "SMK"), ("BVBRC-DAG", "DAG"), ("wdl", "WDL")],
)
def test_types_have_aliases(alias: str, stored: str) -> None:
    assert canonical_type(alias) == stored


def test_the_suffix_tells_a_missing_type() -> None:
    assert (
        go(workflow_type=None, workflow_url="https://example.org/a.wdl", default="healthomics").workflow_type == "WDL"
    )
    assert refused(workflow_type=None, workflow_url="https://example.org/a").startswith("workflow_type is missing")


@pytest.mark.parametrize(("asked", "kept"), [("v1.0", "v1.0"), ("1.0", "1.0"), ("V1.2", "V1.2"), (None, "v1.2")])
def test_a_version_is_kept_as_it_was_spelled(asked: str | None, kept: str) -> None:
    assert go(workflow_type_version=asked).workflow_type_version == kept


def test_a_supported_engine_is_named_as_the_provider_names_it() -> None:
    assert go(workflow_engine="CWLTool") == Route("local", "CWL", "v1.2", "cwltool", None)
    assert go(workflow_engine="cwltool", workflow_engine_version="v3.3").engine_version == "3.3"
    assert go(workflow_engine="healthomics").engine == "aws-omics"
    assert go().engine is None


@pytest.mark.parametrize(
    ("fields", "field", "supported"),
    [
        ({"workflow_type": "XYZ"}, "workflow_type", "CWL"),
        ({"workflow_type": "WDL"}, "workflow_type", "CWL"),
        ({"workflow_type_version": "v9"}, "workflow_type_version", "v1.0, v1.1, v1.2"),
        ({"workflow_engine": "toil"}, "workflow_engine", "cwltool"),
        ({"workflow_engine": "cwltool", "workflow_engine_version": "9"}, "workflow_engine_version", "3.3"),
        ({"workflow_url": "bvbrc:X"}, "provider", "local, healthomics"),
        ({"workflow_engine_parameters": {"provider": "x"}}, "provider", "local"),
        ({"default": "bvbrc"}, "provider", "local"),
    ],
)
def test_what_is_not_supported_is_refused_and_what_is_supported_is_said(
    fields: dict[str, Any], field: str, supported: str
) -> None:
    words = refused(**fields)
    assert words.startswith(field)
    assert supported in words.partition("Supported: ")[2]


def test_a_type_that_another_provider_runs_is_hinted_at() -> None:
    assert "Provider 'healthomics' runs it" in refused(workflow_type="WDL")


def test_an_engine_version_needs_an_engine() -> None:
    assert "needs a workflow_engine" in refused(workflow_engine_version="3.3")
    assert "needs a workflow_engine" in refused(workflow_engine_version="3.3", offers={})


@pytest.mark.parametrize(
    "offers", [{}, read_offers([{"local": written(problem="It does not answer.")}])], ids=["nobody", "a problem"]
)
def test_where_nobody_said_what_is_installed_known_types_wait(offers: Offers) -> None:
    assert go(offers, workflow_type="wdl", workflow_type_version="draft-2") == Route(
        "local", "WDL", "draft-2", None, None
    )
    assert go(offers, workflow_engine="cwltool").engine == "cwltool"
    assert go(offers, workflow_engine="local").engine is None
    assert "not supported" in refused(offers=offers, workflow_type="XYZ")


def test_a_provider_without_any_engine_refuses() -> None:
    assert "no workflow engine installed" in refused(offers=read_offers([{"local": written()}]))


def test_daemons_offers_are_put_together() -> None:
    newer = EngineOffer("cwltool", "3.4", {"CWL": CWL_VERSIONS})
    offers = read_offers([{"local": written(CWLTOOL)}, {"local": written(CWLTOOL, newer), "dag": written()}])
    assert workflow_engine_versions(offers) == {"cwltool": ["3.3", "3.4"]}
    assert workflow_type_versions(offers) == {"CWL": list(CWL_VERSIONS)}
    assert go(offers, workflow_engine="cwltool", workflow_engine_version="3.4").engine_version == "3.4"


def test_tables_for_service_info() -> None:
    assert workflow_type_versions(OFFERS) == {
        "CWL": list(CWL_VERSIONS),
        "WDL": ["1.0", "1.1"],
        "NFL": ["DSL2"],
        "DAG": ["1.0"],
    }
    assert workflow_engine_versions(OFFERS) == {
        "cwltool": ["3.3"],
        "aws-omics": ["1.0.0"],
        "sevenbridges": ["2"],
        "dag": ["1"],
    }
    assert default_parameters(OFFERS) == [("outdir", "string", "")]
    assert filesystem_protocols(OFFERS) == ["file", "https", "s3"]


SECRET = "hunter2"


@pytest.mark.parametrize(
    "fields",
    [
        {"workflow_url": f"https://ann:{SECRET}@example.org/main.cwl"},
        {"workflow_url": f"HTTP://{SECRET}@example.org/main.cwl"},
        {"workflow_url": f"file://ann:{SECRET}@localhost/data/main.cwl"},
        {"workflow_url": f"s3://ann:{SECRET}@bucket/main.wdl", "workflow_type": "WDL"},
        {"workflow_params": {"a": [{"b": {"class": "File", "location": f"http://ann:{SECRET}@example.org/x"}}]}},
        {"workflow_params": {"a": {"class": "Directory", "path": f"ftp://ann:{SECRET}@example.org/x"}}},
        {
            "workflow_params": {
                "a": {"class": "File", "secondaryFiles": [{"class": "File", "location": f"x://{SECRET}@y"}]}
            }
        },
    ],
)
def test_addresses_with_secrets_in_them_are_refused_without_showing_them(fields: dict[str, Any]) -> None:
    words = refused(**fields)
    assert SECRET not in words
    assert "password" in words


def test_an_at_sign_elsewhere_is_no_secret() -> None:
    file = {"class": "File", "location": "https://example.org/a@b?c=d@e#f@g"}
    said = "http://ann:me@example.org is only text"
    assert go(workflow_url="https://example.org/@v1/main.cwl", workflow_params={"file": file, "said": said}).provider
