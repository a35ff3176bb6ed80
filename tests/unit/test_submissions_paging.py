"""Page tokens, and the key that signs them."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.paging import PageTokens
from config import Settings

TOKENS = PageTokens("key")


@given(st.text(), st.lists(st.text() | st.integers()))
def test_a_token_comes_back_for_its_scope_only(scope: str, position: list[object]) -> None:
    token = TOKENS.make(scope, position)
    assert PageTokens("key").read(scope, token) == position
    for tokens, other in ((TOKENS, scope + "x"), (PageTokens("other key"), scope)):
        with pytest.raises(InvalidRequest):
            tokens.read(other, token)


@given(st.text())
def test_no_other_text_is_a_token(text: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        TOKENS.read("scope", text)


def test_processes_that_start_at_once_make_one_key(blind: None, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "new")
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: settings.signing_key(), range(64)))
    assert [len(key) for key in keys] == [64]
    (kept,) = settings.data_dir.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
