"""Engine environments with the real installer: made whole, made once, made again, removed."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.daemon.engines import environments
from app.daemon.engines.environments import ENGINES, EngineEnvironments, InstallFailed

DEFAULT = ENGINES["cwltool"].default_version


def test_two_installers_make_one_whole_environment_of_a_half_made_one(tmp_path: Path) -> None:
    half = tmp_path / "cwltool" / DEFAULT
    (half / "bin").mkdir(parents=True)
    (half / "left-over").write_text("")
    engines = EngineEnvironments(tmp_path)
    assert engines.installed() == []
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: engines.install("cwltool"), range(2))
    assert first == second
    assert engines.installed() == engines.installed("cwltool") == [first]
    assert not (half / "left-over").exists()
    assert (tmp_path / "cwltool" / f"{DEFAULT}.log").read_text().count("$ ") == 2
    said = subprocess.run(
        [first.python, "-I", "-m", "cwltool", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip().endswith(DEFAULT)
    assert list(first.path.glob("lib/*/site-packages/cwltool/__pycache__/main.*.pyc"))
    assert engines.remove("cwltool") is True
    assert engines.installed() == []
    assert not half.exists()
    assert engines.remove("cwltool") is False


@pytest.mark.long
def test_without_uv_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_uv", lambda: None)
    environment = EngineEnvironments(tmp_path).install("cwltool")
    subprocess.run([environment.python, "-I", "-m", "cwltool", "--version"], check=True, capture_output=True)


def test_a_version_that_does_not_exist_fails_with_the_installers_words(tmp_path: Path) -> None:
    engines = EngineEnvironments(tmp_path)
    with pytest.raises(InstallFailed, match=r"0\.0\.0\.dev0") as failure:
        engines.install("cwltool", "0.0.0.dev0")
    log = tmp_path / "cwltool" / "0.0.0.dev0.log"
    assert str(log) in str(failure.value)
    assert "cwltool==0.0.0.dev0" in log.read_text()
    assert engines.installed() == []


@pytest.mark.parametrize(
    ("engine", "version", "words"),
    [
        ("no-such-engine", None, "Known: cwltool"),
        ("cwltool", "../../x", "not a version"),
        ("cwltool", "-r x", "not a version"),
    ],
)
def test_what_is_not_an_engine_or_a_version(tmp_path: Path, engine: str, version: str | None, words: str) -> None:
    with pytest.raises(InstallFailed, match=words):
        EngineEnvironments(tmp_path).install(engine, version)


def test_versions_are_listed_newest_first(tmp_path: Path) -> None:
    for version in ("3.1.9", "3.1.10", "not a version", "3.2rc1"):
        directory = tmp_path / "cwltool" / version
        directory.mkdir(parents=True)
        (directory / "installed.json").write_text("{}")
    (tmp_path / "cwltool" / "4.0").mkdir()
    assert [one.version for one in EngineEnvironments(tmp_path).installed("cwltool")] == ["3.2rc1", "3.1.10", "3.1.9"]
