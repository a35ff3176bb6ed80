"""Inputs on their way to S3, where S3 refuses: what may pass is no refusal of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.daemon.providers.healthomics_aws import AwsAccess, AwsApi
from app.daemon.providers.healthomics_files import Files
from app.errors import NotAccepted, OutcomeUnknown, ProviderError
from tests.fakes.attached import Attached
from tests.fakes.s3 import KEY, REGION, S3Server

READS = Attached("reads.txt", b"ACGT\n")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture
def files(server: S3Server) -> Iterator[Files]:
    client = AwsAccess(REGION, KEY, KEY, endpoint=server.url).client("s3")
    yield Files(AwsApi(client, "S3"))
    server.heal()
    client.close()


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("expired", NotAccepted, "credentials must be renewed"),
        ("slow", OutcomeUnknown, "RequestTimeout"),
        ("error", OutcomeUnknown, "503"),
        ("denied", NotAccepted, "IAM policy"),
    ],
)
def test_what_may_pass_ends_nothing(
    server: S3Server, files: Files, kind: str, error: type[ProviderError], words: str
) -> None:
    uri = f"s3://{server.name}/{server.new_prefix()}/reads.txt"
    server.fail(kind, times=100)
    with pytest.raises(error, match=words):
        files.put(READS, uri)
    server.heal()
    files.put(READS, uri)
    assert files.read(uri, 100) == READS.data


def test_it_is_put_once(server: S3Server, files: Files) -> None:
    uri = f"s3://{server.name}/{server.new_prefix()}/reads.txt"
    files.put(READS, uri)
    server.requests.clear()
    files.put(READS, uri)
    assert [request.partition(" ")[0] for request in server.requests] == ["HEAD"]
