"""A daemon that submits one run and kills itself at a named point: python -m tests.fakes.local_daemon FOLDER POINT

FOLDER holds runs/, hint.json and ledger. The run is `r1`; it counts itself and ends well. Without a POINT it submits and
says on stdout what came of it: `accepted`, or the name of the error.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from app.daemon.engines.engine_interface import Launch, RunDir
from app.daemon.providers.local import LocalProvider
from app.daemon.providers.provider_interface import Submission
from app.daemon.providers.shim_launcher import ColdLauncher
from app.errors import ProviderError
from tests.fakes.engine import ScriptEngine, submission

POINTS = ("submit.checked", "submit.laid_out", "submit.staged", "submit.accepted", "shim.sent", "submit.responded")


def reach(point: str) -> None:
    if sys.argv[2] == point:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingEngine(ScriptEngine):
    def check(self, run: Submission) -> None:
        super().check(run)
        reach("submit.checked")

    def stage(self, run: Submission, run_dir: RunDir) -> Launch:
        reach("submit.laid_out")
        launch = super().stage(run, run_dir)
        reach("submit.staged")
        return launch


class DyingLauncher(ColdLauncher):
    def start(self, root: Path, start_by: float) -> None:
        reach("submit.accepted")
        super().start(root, start_by)
        reach("shim.sent")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    launcher = DyingLauncher(sys.executable, folder / "hint.json")
    provider = LocalProvider(folder / "runs", [DyingEngine()], launcher, "here")
    try:
        provider.submit_workflow(submission("r1", "count()", params={"ledger": str(folder / "ledger")}))
    except ProviderError as error:
        print(type(error).__name__)
    else:
        reach("submit.responded")
        print("accepted")


if __name__ == "__main__":
    main()
