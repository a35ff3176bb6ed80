"""From a name to a provider."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.daemon.providers.provider_factory import MAKERS, make_provider
from app.daemon.providers.provider_interface import WorkflowProviderInterface
from config import Settings, SettingsError


@pytest.fixture
def plain(blind: None, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=tmp_path,
        fake_provider_visibility_seconds=3,
        fake_provider_timeout_seconds=4,
        healthomics_role_arn="arn:aws:iam::123456789012:role/wes",
        sevenbridges_api_token="token",
    )


@pytest.mark.parametrize("name", MAKERS)
def test_every_name_makes_its_provider(plain: Settings, name: str) -> None:
    provider = make_provider(name, plain, "here")
    assert isinstance(provider, WorkflowProviderInterface)
    assert provider.name == name
    assert isinstance(provider.offers(), list)


def test_names_may_be_written_with_capitals(plain: Settings) -> None:
    assert make_provider(" Local ", plain, "here").name == "local"


def test_an_unknown_name_says_which_there_are(plain: Settings) -> None:
    with pytest.raises(SettingsError, match=r"'slurm'.*fake, fake-two-phase.*local"):
        make_provider("slurm", plain, "here")


def test_settings_reach_the_fake_provider(plain: Settings) -> None:
    provider = make_provider("fake-two-phase", plain, "here")
    assert (provider.submit_timeout_seconds, provider.visibility_grace_seconds) == (4, 3)


def test_no_sdk_is_imported_before_it_is_needed() -> None:
    program = "import sys, app.daemon.providers.provider_factory; print(*sys.modules, sep='\\n')"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"requests", "boto3", "botocore", "sevenbridges", "app.daemon.engines.cwltool"} & set(modules)


def test_bvbrc_is_lent_the_tokens_of_runs(blind: None, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, bvbrc_preflight_seconds=7, bvbrc_grace_seconds=11)
    provider = make_provider("bvbrc", settings, "here", credentials=lambda run_ids: {})
    assert (provider.name, provider.submit_timeout_seconds, provider.visibility_grace_seconds) == ("bvbrc", 14, 11)


@pytest.mark.parametrize("url", ["http://bvbrc.example.org/services/app_service", "http://127.0.0.1.example.org"])
@pytest.mark.parametrize("name", ["bvbrc_service_url", "bvbrc_workspace_url"])
def test_tokens_are_sent_over_tls_only(blind: None, tmp_path: Path, name: str, url: str) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, **{name: url})
    with pytest.raises(SettingsError, match="https"):
        make_provider("bvbrc", settings, "here", credentials=lambda run_ids: {})
