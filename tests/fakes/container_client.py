"""What `docker` does for cwltool, without containers: an image is ignored, a command runs on the host.

As with docker, what runs is no child of the client and lives on when the client is killed; `kill ID` ends it. Each command
is noted in `ledger` beside the script. `install(folder)` makes `folder/docker`; standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def install(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "docker"
    script.write_text(f"#!{sys.executable} -I\n{Path(__file__).read_text()}\nsys.exit(main(sys.argv[1:]))\n")
    script.chmod(0o755)
    return folder


def main(argv: list[str]) -> int:
    with Path(sys.argv[0]).with_name("ledger").open("a") as ledger:
        ledger.write(" ".join(argv[:1] if argv[0] == "run" else argv) + "\n")
    if argv[0] == "run":
        return run(argv[1:])
    if argv[0] == "kill":
        os.killpg(int(argv[1]), signal.SIGKILL)
    return 1 if argv[0] == "inspect" else 0  # no image is there yet: it is pulled


def run(argv: list[str]) -> int:
    """Returns the command's exit code, which comes through a pipe from a process that is not ours."""
    options: dict[str, list[str]] = {}
    while argv[0].startswith("-"):
        name, _, value = argv.pop(0).partition("=")
        options.setdefault(name, []).append(value)
    command = argv[1:]
    mounts = dict(reversed([word.split("=", 1)[1] for word in mount.split(",")[1:3]]) for mount in options["--mount"])
    report, reported = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            contain(
                command, mounts[options["--workdir"][0]], options.get("--env", []), options["--cidfile"][0], reported
            )
        os._exit(0)
    os.close(reported)
    os.wait()
    with os.fdopen(report) as answer:
        return int(answer.read() or 137)


def contain(command: list[str], workdir: str, environment: list[str], cidfile: str, reported: int) -> None:
    os.setsid()
    Path(cidfile).write_text(str(os.getpid()))
    pid = os.spawnvpe(os.P_NOWAIT, "env", ["env", "-C", workdir, *environment, *command], dict(os.environ))
    os.write(reported, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)
