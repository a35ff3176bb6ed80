"""The real shim, killed with -9 at a named point: python -m tests.fakes.dying_shim RUN_DIR HINT_FILE START_BY POINT"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from app.daemon.providers import shim


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        function(*arguments)
        die()

    return call


POINTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "shim.before_lock": ("take_lock", die),
    "shim.locked": ("fork_engine", die),
    "shim.forked": ("write_record", die),
    "shim.started": ("write_record", after(shim.write_record)),
    "shim.running": ("wait_for", die),
    "shim.engine_ended": ("end_descendants", die),
    "shim.before_exit": ("write_end", die),
    "shim.exit_written": ("write_end", after(shim.write_end)),
}

if __name__ == "__main__":
    name, stand_in = POINTS[sys.argv[4]]
    setattr(shim, name, stand_in)
    shim.main()
