"""The keys of secrets at rest: from the settings, or made once for the machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from config import Settings, SettingsError

KEYS = [Fernet.generate_key().decode() for _ in range(2)]


def test_keys_are_read_in_their_order(blind: None, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, credentials_keys=f" {KEYS[0]} , {KEYS[1]},")
    assert settings.credential_keys() == tuple(KEYS)
    assert not any(key in repr(settings) for key in KEYS)


WRONG = ["x", "a" * 64, KEYS[0][:-1], f"{KEYS[0]},x", "ü" * 44]


@pytest.mark.parametrize("wrong", WRONG, ids=["short", "letters", "cut", "second", "umlauts"])
def test_what_is_no_key_is_refused_and_not_repeated(blind: None, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("CREDENTIALS_KEYS", wrong)
    with pytest.raises(SettingsError, match=r"CREDENTIALS_KEYS: .*32 random bytes") as refusal:
        Settings.load(_env_file=None)
    assert wrong not in str(refusal.value) or wrong == "x"


def test_without_a_setting_a_key_is_made_once_for_its_owner_only(blind: None, tmp_path: Path) -> None:
    first, second = (Settings(_env_file=None, data_dir=tmp_path).credential_keys() for _ in range(2))
    assert first == second and len(first) == 1
    Fernet(first[0])
    assert stat.S_IMODE((tmp_path / "credentials_key").stat().st_mode) == 0o600
