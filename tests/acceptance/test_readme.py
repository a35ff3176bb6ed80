"""The README as a newcomer follows it: a copy of the checkout, an empty HOME, every block in its order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.services import free_ports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks, or would."""
    copy = tmp_path_factory.mktemp("newcomer") / "wes"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def environment(checkout: Path) -> dict[str, str]:
    """An empty HOME and none of the developer's settings; other ports than the README's, which may be taken."""
    home = checkout.parent / "home"
    home.mkdir()
    port, hints = free_ports(2)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PORT": str(port),
        "DAEMON_NOTIFICATION_PORT": str(hints),
        "WES_API_URL": f"http://localhost:{port}/ga4gh/wes/v1",
        **{name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "UV_", "PYENV_"))},
    }


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S):
        found.setdefault(language, []).append(text)
    return found


def run(
    script: str, checkout: Path, environment: dict[str, str], shell: tuple[str, ...] = ("bash", "-euo", "pipefail")
) -> str:
    done = subprocess.run(
        [*shell, "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(checkout: Path, environment: dict[str, str], blocks: dict[str, list[str]]) -> Path:
    (setting_up,) = [block for block in blocks["bash"] if "pip install" in block]
    run(setting_up, checkout, environment)
    return checkout


@pytest.fixture(scope="module")
def running(installed: Path, environment: dict[str, str], blocks: dict[str, list[str]]) -> Iterator[None]:
    """The two processes of the README, and the examples on a web server as its JSON request has them."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(installed / "examples")))
    threading.Thread(target=web.serve_forever).start()
    environment["FETCH_PRIVATE_HOSTS"] = f"127.0.0.1:{web.server_address[1]}"
    (commands,) = blocks[""]
    started = [
        subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=installed, env=environment)
        for line in commands.splitlines()
    ]
    try:
        run(
            f"curl -s --retry 60 --retry-delay 1 --retry-connrefused localhost:{environment['PORT']}/readyz",
            installed,
            environment,
        )
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in started] == [0, 0]
        web.shutdown()
        web.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_session_works_as_written(
    running: None, installed: Path, environment: dict[str, str], blocks: dict[str, list[str]]
) -> None:
    session = [block for block in blocks["bash"] if "localhost:5000" in block or "wesctl" in block]
    assert len(session) == 5
    web = environment["FETCH_PRIVATE_HOSTS"]
    script = "\n".join(session).replace("localhost:5000", f"localhost:{environment['PORT']}")
    said = run(script.replace("127.0.0.1:8080", web), installed, environment)
    assert '"state": "COMPLETE"' in said
    assert (installed / "results" / "report.html").exists()


def test_the_python_session_works_as_written(
    running: None, installed: Path, environment: dict[str, str], blocks: dict[str, list[str]]
) -> None:
    (program,) = blocks["python"]
    program = program.replace("localhost:5000", f"localhost:{environment['PORT']}")
    assert run(program, installed, environment, (".venv/bin/python",)).strip() == "COMPLETE"


def test_the_demonstration_runs_every_example_and_ends(installed: Path, environment: dict[str, str]) -> None:
    said = run("./scripts/demo --once", installed, environment)
    assert "report.html" in said
    assert "fails on purpose" in said


def test_the_first_two_blocks_are_the_demonstration_and_what_ci_runs(blocks: dict[str, list[str]]) -> None:
    assert blocks["bash"][:2] == ["./scripts/demo\n", "./scripts/test\n"]
    assert "exec ./scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_both_names_of_the_daemon_work_without_an_activated_environment(checkout: Path, installed: Path) -> None:
    for name in ("workflow_daemon.py", "run_workflow_executor.py"):
        done = subprocess.run(
            [sys.executable, f"scripts/{name}"],
            cwd=installed,
            env={"PATH": "/usr/bin:/bin", "DAEMON_POLL_INTERVAL": "never"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2
        assert "DAEMON_POLL_INTERVAL" in done.stderr
