"""The service as a user of curl meets it, and waiting for what it does. Knows `Services`, no provider."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.services import Services

END_SECONDS = 240.0


def curl(*arguments: str) -> Any:
    done = subprocess.run(["curl", "--silent", "--show-error", "--fail-with-body", *arguments], capture_output=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return done.stdout.decode()


def wait_for(what: str, holds: Callable[[], Any], log: Callable[[], str] = str) -> None:
    """`what` goes wrong if it never does, and the end of that log then."""
    deadline = time.monotonic() + END_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what}\n{log()[-3000:]}"
        time.sleep(0.1)


def wait_for_state(services: Services, run_id: str, state: str) -> None:
    url = f"{services.url}/runs/{run_id}/status"
    wait_for(f"{run_id} is not {state}", lambda: curl(url)["state"] == state, lambda: services.log("daemon"))
