"""What a workflow_url may point at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.locations import check_location, provider_of, scheme_of, type_of

ROOTS = ("/data/workflows", "/opt/shared/")


def check(workflow_url: str, attachments: tuple[str, ...] = (), takes_ids: bool = False) -> None:
    check_location(workflow_url, attachments, ROOTS, ["gs"], takes_ids)


@pytest.mark.parametrize(
    "workflow_url",
    [
        "https://example.org/main.cwl",
        "HTTP://example.org/main.cwl#main",
        "s3://bucket/main.wdl",
        "trs://dockstore.org/id/version",
        "gs://bucket/main.wdl",
        "healthomics:123",
        "arn:aws:omics:us-east-1:123456789012:workflow/1",
        "sevenbridges:user/project/app",
        "bvbrc:GenomeAssembly2",
        "/data/workflows/main.cwl",
        "file:///data/workflows/a/main.cwl#main",
        "file://localhost/opt/shared/main.cwl",
        "file:///data/workflows/my%20main.cwl",
    ],
)
def test_places_that_can_be_read(workflow_url: str) -> None:
    check(workflow_url)


@pytest.mark.parametrize(
    "workflow_url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "/data/workflows/../secret.cwl",
        "file:///data/workflows/%2e%2e/secret.cwl",
        "/data/workflows-of-others/main.cwl",
        "file://otherhost/data/workflows/main.cwl",
        "FILE:///etc/passwd",
        "file:etc/passwd",
        "file://[/x",
        "ftp://example.org/main.cwl",
        "javascript:alert(1)",
        "C:\\main.cwl",
        "https:///main.cwl",
        "http://[::1/main.cwl",
        "https:main.cwl",
    ],
)
def test_places_that_cannot_be_read_are_refused(workflow_url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^workflow_url"):
        check(workflow_url)


def test_relative_without_attachments_is_refused_in_the_words_of_the_specification() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check("main.cwl")
    assert str(refused.value) == "Relative 'workflow_url' but missing 'workflow_attachment'"


def test_relative_means_an_attachment() -> None:
    check("dir/main.cwl#main", ("dir/main.cwl",))
    with pytest.raises(InvalidRequest, match="none of the attachments"):
        check("main.cwl", ("dir/main.cwl",))


def test_providers_with_workflows_of_their_own_take_bare_ids() -> None:
    check("user/project/app", takes_ids=True)


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_refused(workflow_url: str) -> None:
    try:
        check(workflow_url)
    except InvalidRequest:
        return
    assert scheme_of(workflow_url) or workflow_url.startswith(ROOTS)


@pytest.mark.parametrize(
    ("workflow_url", "expected"),
    [
        ("a/main.cwl", "CWL"),
        ("https://example.org/main.WDL?raw=1", "WDL"),
        ("main.nf#x", "NFL"),
        ("rules.smk", "SMK"),
        ("workflow/Snakefile", "SMK"),
        ("main.json", None),
        ("cwl", None),
    ],
)
def test_the_suffix_tells_the_type(workflow_url: str, expected: str | None) -> None:
    assert type_of(workflow_url) == expected


@pytest.mark.parametrize(
    ("workflow_url", "expected"),
    [
        ("healthomics:1", "healthomics"),
        ("HealthOmics:1", "healthomics"),
        ("arn:aws-us-gov:omics:us-gov-west-1:1:workflow/1", "healthomics"),
        ("arn:aws:s3:::bucket", None),
        ("sevenbridges:a/b/c", "sevenbridges"),
        ("bvbrc:X", "bvbrc"),
        ("https://example.org", None),
    ],
)
def test_schemes_and_arns_mean_a_provider(workflow_url: str, expected: str | None) -> None:
    assert provider_of(workflow_url) == expected
