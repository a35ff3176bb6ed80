"""From settings to the HealthOmics provider: what is missing or wrong is said at the start, secrets are never said."""

from __future__ import annotations

from typing import Any

import pytest

from app.daemon.providers.healthomics import HealthOmicsProvider
from app.daemon.providers.provider_factory import aws_access, make_provider
from config import Settings, SettingsError

ROLE = "arn:aws:iam::123456789012:role/wes"
SECRET = "s3cr3t-k3y"


@pytest.fixture(autouse=True)
def _blind(blind: None) -> None:
    """Whatever the environment says."""


def settings(**values: Any) -> Settings:
    usual = {"healthomics_role_arn": ROLE, "healthomics_output_bucket": "wes-outputs"}
    return Settings(_env_file=None, **usual | values)


def test_a_provider_as_the_settings_have_it() -> None:
    provider = make_provider("HealthOmics", settings(healthomics_max_active_runs=7), "host")
    assert isinstance(provider, HealthOmicsProvider)
    assert (provider.max_active, provider.submit_timeout_seconds, provider.visibility_grace_seconds) == (7, 40, 60)


@pytest.mark.parametrize("bucket", ["", "wes-outputs", "s3://wes-outputs", "s3://wes-outputs/prefix/"])
def test_a_bucket_or_an_s3_uri(bucket: str) -> None:
    assert make_provider("healthomics", settings(healthomics_output_bucket=bucket), "host")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"healthomics_role_arn": ""}, "HEALTHOMICS_ROLE_ARN"),
        ({"healthomics_output_bucket": "https://wes-outputs"}, "HEALTHOMICS_OUTPUT_BUCKET"),
        ({"healthomics_run_defaults": {"storageType": "FAST"}}, "STATIC, DYNAMIC"),
        ({"healthomics_run_defaults": {"storage": "1"}}, "Did you mean 'storageType'"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_provider("healthomics", settings(**values), "host")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HEALTHOMICS_ROLE_ARN", "my-role", "HEALTHOMICS_ROLE_ARN"),
        ("HEALTHOMICS_RUN_DEFAULTS", "{", "HEALTHOMICS_RUN_DEFAULTS"),
        ("HEALTHOMICS_STARTS_PER_SECOND", "0", "HEALTHOMICS_STARTS_PER_SECOND"),
        ("HEALTHOMICS_EVENT_QUEUE_URL", "queue", "HEALTHOMICS_EVENT_QUEUE_URL"),
        ("AWS_ACCESS_KEY_ID", "AKIA", "belong together"),
        ("AWS_SECRET_ACCESS_KEY", SECRET, "belong together"),
        ("AWS_REGION", "US East", "AWS_REGION"),
    ],
)
def test_what_can_be_no_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=says) as error:
        Settings.load(_env_file=None)
    assert SECRET not in str(error.value)


def test_the_region_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().aws_region == "us-east-1"
    monkeypatch.setenv("HEALTHOMICS_REGION", "eu-west-2")
    assert Settings(_env_file=None).aws_region == "eu-west-2"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    with pytest.raises(SettingsError, match="AWS_REGION=us-west-2, HEALTHOMICS_REGION=eu-west-2"):
        Settings.load(_env_file=None)


def test_keys_go_to_boto3_and_nowhere_else() -> None:
    given = settings(aws_access_key_id="AKIA", aws_secret_access_key=SECRET, aws_session_token=SECRET)
    access = aws_access(given)
    credentials = access.client("s3")._request_signer._credentials
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("AKIA", SECRET, SECRET)
    assert SECRET not in repr(given) + str(given) + repr(access)


def test_the_services_own_hosts_are_left_alone_unless_told() -> None:
    at_aws, elsewhere = aws_access(settings()), aws_access(settings(healthomics_endpoint="http://127.0.0.1:9100"))
    assert at_aws.client("omics").meta.endpoint_url == "https://omics.us-east-1.amazonaws.com"
    assert at_aws.client("omics").meta.config.inject_host_prefix is not False
    assert elsewhere.client("omics").meta.endpoint_url == "http://127.0.0.1:9100"
    assert elsewhere.client("omics").meta.config.inject_host_prefix is False
    assert elsewhere.client("s3").meta.endpoint_url == "https://s3.amazonaws.com"


def test_calls_are_sent_once_and_bounded() -> None:
    config = aws_access(settings(healthomics_timeout_seconds=5)).client("omics").meta.config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (5, 5)
