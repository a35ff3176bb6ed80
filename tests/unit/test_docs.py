"""What the documents say is held against the code: settings, commands, endpoints, files, versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from app.daemon.process import Exit
from app.factory import create_app
from app.version import VERSION
from config import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "app/daemon/README.md",
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "examples/README.md",
]
NOT_SETTINGS = {"RUN_ID", "SQLITE_BUSY", "WES_RUN_DIR"}
"""Words in capitals that documents set in code and that are no settings."""


def documented_as_code(document: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    return re.findall(r"`([^`\n]+)`", text)


def names_of_settings() -> set[str]:
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(name.upper())
        names |= {str(choice) for choice in getattr(field.validation_alias, "choices", [])}
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    words = {word for code in documented_as_code(document) for word in re.findall(r"^[A-Z][A-Z0-9]*_[A-Z0-9_]+", code)}
    words = {word for word in words if not word.endswith("_ERROR")}
    assert words - names_of_settings() - NOT_SETTINGS == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    named = [
        code for code in documented_as_code(document) if re.fullmatch(r"\.?[\w./-]+/[\w.-]+\.(py|md|txt|cwl|sh)", code)
    ]
    places = (ROOT, document.parent, ROOT / "app")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_the_daemons_page_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \|", (ROOT / "app/daemon/README.md").read_text(), flags=re.M)
    assert [int(code) for code in rows] == sorted(Exit)


def test_every_address_in_the_readme_is_served(tmp_path: Path) -> None:
    app = create_app(Settings(_env_file=None, data_dir=tmp_path))
    adapter = app.url_map.bind("localhost")
    text = (ROOT / "README.md").read_text().replace("$RUN_ID", "x")
    paths = {path.rstrip('."`') for path in re.findall(r"localhost:5000(/[^\s\"?`)]*)", text)}
    assert paths
    for path in paths:
        assert adapter.allowed_methods(path.removeprefix("/api")), path


def test_the_version_is_said_once_and_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_direct_dependencies_are_pinned_and_locked() -> None:
    for name in ("requirements", "requirements-dev"):
        wanted = [line for line in (ROOT / f"{name}.in").read_text().splitlines() if line and line[0] not in "#-"]
        assert [line for line in wanted if "==" not in line] == []
        locked = (ROOT / f"{name}.txt").read_text().lower()
        for line in wanted:
            package, version = line.split("==")
            package = re.sub(r"\[.*\]", "", package).lower()
            assert re.search(rf"^{re.escape(package)}(\[.*\])?=={re.escape(version)}", locked, flags=re.M), line


def test_no_committed_file_names_a_package_index() -> None:
    for path in [*ROOT.glob("requirements*"), ROOT / "pyproject.toml", *(ROOT / "scripts").iterdir()]:
        if path.is_file():
            assert "index-url" not in path.read_text() and "pypi.org" not in path.read_text(), path
