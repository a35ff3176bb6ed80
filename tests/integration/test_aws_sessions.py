"""Credentials that boto3 finds by itself: in a file, which may change, and by a role, over moto's STS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import NoCredentialsError

from app.aws_sessions import LOOK_AGAIN_SECONDS, aws_session
from app.daemon.providers.healthomics_aws import AwsAccess, AwsApi
from app.errors import NotAccepted
from tests.fakes.aws_stores import AwsStores
from tests.fakes.healthomics import HealthOmics
from tests.fakes.server import InThread

Keys = Callable[[str], None]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Writes an access key into the file that boto3 reads; nothing else on this machine has one."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")

    return write


class Now:
    """A clock that stands."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def signs_as(client: Any) -> str:
    """The access key with which it asks."""
    link = client.generate_presigned_url("list_buckets")
    return parse_qs(urlsplit(link).query)["X-Amz-Credential"][0].split("/")[0]


def test_keys_of_a_file_are_looked_for_again(keys: Keys) -> None:
    now = Now()
    client = aws_session("eu-west-2", monotonic=now).client("s3")
    with pytest.raises(NoCredentialsError):
        signs_as(client)
    keys("OLD")
    now.seconds += LOOK_AGAIN_SECONDS
    assert signs_as(client) == "OLD"
    keys("NEW")
    assert signs_as(client) == "OLD"
    now.seconds += LOOK_AGAIN_SECONDS
    assert signs_as(client) == "NEW"
    assert signs_as(aws_session("eu-west-2", "GIVEN", "s").client("s3")) == "GIVEN"


def test_expired_keys_that_are_renewed_in_their_file_need_no_restart(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.aws_sessions.LOOK_AGAIN_SECONDS", 0.0)
    keys("OLD")
    with InThread(HealthOmics(expired_key="OLD")) as fake:
        api = AwsApi(AwsAccess("us-east-1", healthomics_endpoint=fake.url).client("omics"), "HealthOmics")
        with pytest.raises(NotAccepted, match="must be renewed"):
            api.call("ListRuns")
        keys("NEW")
        assert api.call("ListRuns")["items"] == []
        api.client.close()


def test_a_role_of_a_profile_is_taken(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys("OURS")
    role = "role_arn=arn:aws:iam::123456789012:role/wes\nsource_profile=default\n"
    (tmp_path / "config").write_text(f"[profile lab]\n{role}")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with AwsStores() as stores:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", stores.url)
        client = aws_session("eu-west-2").client("s3")
        taken = signs_as(client)
        assert taken.startswith("ASIA")
        assert signs_as(client) == taken
