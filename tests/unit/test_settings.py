"""Settings: every problem at once, one value for two names, keys that nobody else reads; and .env.example tells the truth."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from config import Settings, SettingsError

EXAMPLE = Path(__file__).parents[2] / ".env.example"
LINE = re.compile(r"# ([A-Z][A-Z0-9_]*)=(.*)")


@pytest.fixture(autouse=True)
def elsewhere(blind: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without .env, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(**environment: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            Settings.load()
    return str(caught.value).splitlines()


def named(found: list[str]) -> list[str]:
    """The first setting that each problem names."""
    return sorted(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", line)[0] for line in found)


# Reading


def test_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=6000\nLEASE_SECONDS=30\n")
    monkeypatch.setenv("PORT", "7000")
    settings = Settings.load()
    assert (settings.port, settings.lease_seconds) == (7000, 30)


def test_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=6000\nWORKERS=\nAWS_REGION=\n")
    monkeypatch.setenv("PORT", "")
    settings = Settings.load()
    assert (settings.port, settings.aws_region) == (6000, "us-east-1")


def test_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDERS", " local, healthomics ,,")
    assert Settings.load().providers == ("local", "healthomics")


def test_what_is_not_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_OF_SOMETHING_ELSE", "x")
    Path(".env").write_text("SOMETHING_ELSE=x\n")
    Settings.load()


@pytest.mark.parametrize(
    ("name", "other", "value", "field"),
    [
        ("DEFAULT_WES_PROVIDER", "WORKFLOW_EXECUTOR", "healthomics", "default_wes_provider"),
        ("DAEMON_POLL_INTERVAL", "WORKFLOW_POLL_INTERVAL", "7", "daemon_poll_interval"),
        ("AWS_REGION", "HEALTHOMICS_REGION", "eu-west-1", "aws_region"),
    ],
)
def test_both_names_of_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, other: str, value: str, field: str
) -> None:
    for spelled in (name, other):
        with monkeypatch.context() as patch:
            patch.setenv(spelled, value)
            assert str(getattr(Settings.load(), field)).removesuffix(".0") == value
        with monkeypatch.context() as patch:
            Path(".env").write_text(f"{spelled}={value}\n")
            assert str(getattr(Settings.load(), field)).removesuffix(".0") == value
            Path(".env").unlink()


def test_seeds_write_the_default_provider_with_a_capital(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_EXECUTOR", "Local")
    assert Settings.load().default_wes_provider == "local"


# Refusing


def test_every_problem_is_said_at_once() -> None:
    """Wrong types, wrong ranges, two names and rules between settings, all in one message."""
    found = problems(
        PORT="http",
        LEASE_SECONDS="0",
        LOG_LEVEL="LOUD",
        DATABASE_URI="mysql://me:hunter2@host/db",
        DAEMON_POLL_INTERVAL="often",
        HOST="0.0.0.0",
        DAEMON_NOTIFICATION_HOST="10.0.0.1",
        AWS_ACCESS_KEY_ID="AKIA",
        DEFAULT_PAGE_SIZE="2000",
        DEFAULT_WES_PROVIDER="local",
        WORKFLOW_EXECUTOR="healthomics",
    )
    assert named(found) == [
        "AWS_ACCESS_KEY_ID",
        "DAEMON_NOTIFICATION_HOST",
        "DAEMON_POLL_INTERVAL",
        "DATABASE_URI",
        "DEFAULT_PAGE_SIZE",
        "DEFAULT_WES_PROVIDER",
        "HOST",
        "LEASE_SECONDS",
        "LOG_LEVEL",
        "PORT",
    ]
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "127.0.0.1.example.org", " "])
def test_addresses_off_loopback_are_refused(host: str) -> None:
    (problem,) = problems(HOST=host)
    assert "without authentication" in problem and "HOST=127.0.0.1" in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_is_fine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HOST", host)
    assert Settings.load().host == host


def test_listener_off_loopback_needs_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DAEMON_NOTIFICATION_SECRET" in problems(DAEMON_NOTIFICATION_HOST="0.0.0.0")[0]
    monkeypatch.setenv("DAEMON_NOTIFICATION_HOST", "0.0.0.0")
    monkeypatch.setenv("DAEMON_NOTIFICATION_SECRET", "long and random")
    assert Settings.load().daemon_notification_host == "0.0.0.0"


@pytest.mark.parametrize("in_file", [(), ("WORKFLOW_EXECUTOR",), ("DEFAULT_WES_PROVIDER", "WORKFLOW_EXECUTOR")])
def test_two_names_with_two_values(in_file: tuple[str, ...]) -> None:
    said = {"DEFAULT_WES_PROVIDER": "local", "WORKFLOW_EXECUTOR": "healthomics"}
    Path(".env").write_text("".join(f"{name}={said[name]}\n" for name in in_file))
    (problem,) = problems(**{name: value for name, value in said.items() if name not in in_file})
    assert "DEFAULT_WES_PROVIDER=local" in problem and "WORKFLOW_EXECUTOR=healthomics" in problem


@pytest.mark.parametrize("values", [("Local", "local "), ("local", ""), ("", "")])
def test_two_names_that_agree(monkeypatch: pytest.MonkeyPatch, values: tuple[str, str]) -> None:
    monkeypatch.setenv("DEFAULT_WES_PROVIDER", values[0])
    Path(".env").write_text(f"WORKFLOW_EXECUTOR={values[1]}\n")
    assert Settings.load().default_wes_provider == "local"


def test_only_one_key_for_aws() -> None:
    assert named(problems(AWS_SECRET_ACCESS_KEY="hunter2")) == ["AWS_ACCESS_KEY_ID"]
    assert "hunter2" not in "".join(problems(AWS_SECRET_ACCESS_KEY="hunter2"))


def test_two_places_for_artifacts() -> None:
    assert named(problems(ARTIFACTS_DIR="/x", ARTIFACTS_S3_URI="s3://bucket")) == ["ARTIFACTS_DIR"]


def test_rules_hold_for_settings_made_in_code_too() -> None:
    with pytest.raises(ValidationError, match="without authentication"):
        Settings(_env_file=None, host="0.0.0.0")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None).port = 1


# The database


def test_database_is_a_file_in_data_dir(elsewhere: Path) -> None:
    assert Settings.load().database_url == f"sqlite:///{elsewhere}/var/wes.sqlite"


@pytest.mark.parametrize("uri", ["sqlite:///my.db", "sqlite:///./my.db", "sqlite+pysqlite:///my.db"])
def test_relative_database_is_the_same_file_for_all(monkeypatch: pytest.MonkeyPatch, elsewhere: Path, uri: str) -> None:
    monkeypatch.setenv("DATABASE_URI", uri)
    assert Settings.load().database_url == f"{uri.partition(':///')[0]}:///{elsewhere}/my.db"


@pytest.mark.parametrize("uri", ["postgresql://u:p@h/d", "postgresql+psycopg://u@/d?host=/tmp", "sqlite:////abs/my.db"])
def test_usable_databases(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("DATABASE_URI", uri)
    assert Settings.load().database_url == uri


@pytest.mark.parametrize(
    "uri",
    ["mysql://h/d", "postgres://h/d", "wes.sqlite", "sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql:"],
)
def test_unusable_databases(uri: str) -> None:
    assert named(problems(DATABASE_URI=uri)) == ["DATABASE_URI"]


# Keys


@pytest.mark.parametrize("key", [Settings.signing_key, lambda settings: settings.credential_keys()[0]])
def test_key_is_made_once_for_its_owner(elsewhere: Path, key: Callable[[Settings], str]) -> None:
    settings = Settings(_env_file=None, data_dir=elsewhere / "data")
    first = key(settings)
    assert len(first) >= 32
    assert key(settings) == key(Settings(_env_file=None, data_dir=elsewhere / "data")) == first
    (kept,) = (elsewhere / "data").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert key(Settings(_env_file=None, data_dir=elsewhere / "other")) != first


def test_key_is_private_whatever_the_umask(elsewhere: Path) -> None:
    before = os.umask(0)
    try:
        Settings(_env_file=None, data_dir=elsewhere).signing_key()
    finally:
        os.umask(before)
    assert stat.S_IMODE((elsewhere / "secret_key").stat().st_mode) == 0o600


def test_processes_that_start_at_once_have_one_key(elsewhere: Path) -> None:
    for number in range(20):
        data_dir, barrier = elsewhere / str(number), Barrier(4)

        def read(_: int, data_dir: Path = data_dir, barrier: Barrier = barrier) -> str:
            settings = Settings(_env_file=None, data_dir=data_dir)
            barrier.wait()
            return settings.signing_key()

        with ThreadPoolExecutor(4) as pool:
            (key,) = set(pool.map(read, range(4)))
        assert len(key) == 64
        assert [path.name for path in data_dir.iterdir()] == ["secret_key"]


def test_configured_key_is_used(elsewhere: Path) -> None:
    assert Settings(_env_file=None, data_dir=elsewhere / "data", secret_key="mine").signing_key() == "mine"
    assert not (elsewhere / "data").exists()


def test_keys_that_are_none_are_refused() -> None:
    assert named(problems(CREDENTIALS_KEYS="c2hvcnQ=")) == ["CREDENTIALS_KEYS"]
    assert "c2hvcnQ" not in "".join(problems(CREDENTIALS_KEYS="c2hvcnQ="))


# .env.example


def example() -> dict[str, str]:
    return dict(found.groups() for found in map(LINE.fullmatch, EXAMPLE.read_text().splitlines()) if found)


def first_name(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()


def test_example_names_every_setting_once() -> None:
    lines = [found[1] for found in map(LINE.fullmatch, EXAMPLE.read_text().splitlines()) if found]
    assert sorted(lines) == sorted(first_name(name, field) for name, field in Settings.model_fields.items())
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            for other in field.validation_alias.choices[1:]:
                assert f"{other} is another name for it." in EXAMPLE.read_text()


def test_example_shows_the_defaults() -> None:
    """With every line taken in, nothing changes; what depends on the machine is shown empty."""
    Path("all").write_text("\n".join(f"{name}={value}" for name, value in example().items()))
    assert Settings.load(_env_file="all") == Settings(_env_file=None)
    for name, field in Settings.model_fields.items():
        shown = example()[first_name(name, field)]
        is_empty = field.default_factory is not None or _plain(field.default) in ("", None, ())
        assert (shown == "") is is_empty, name


def _plain(default: Any) -> Any:
    return default.get_secret_value() if hasattr(default, "get_secret_value") else default


def test_example_explains_every_setting() -> None:
    """Each is under a comment, or in a block of settings that is."""
    lines = EXAMPLE.read_text().splitlines()
    for before, line in pairwise(lines):
        if LINE.fullmatch(line):
            assert before.startswith("# ") and not before.startswith("# ---"), f"{line} is not explained"
    assert all(not line or line.startswith("#") for line in lines), "an example sets nothing"


def test_copied_example_is_a_valid_file() -> None:
    Path(".env").write_text(EXAMPLE.read_text())
    assert Settings.load() == Settings(_env_file=None)
