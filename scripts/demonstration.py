"""What `./scripts/demo` does in its environment: set up, start API and daemon, run the examples, show them."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = ROOT / "var" / "demo"
EXAMPLES = (
    # title, workflow, parameters, the exit code that wesctl should end with
    ("Hello world: one step", "hello_world.cwl", None, 0),
    ("Reads: two steps for each of four samples, and a report", "reads/reads.cwl", "reads/reads.yml", 0),
    ("A run that fails on purpose in its second step", "fails.cwl", "fails.yml", 1),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the whole service and its examples on this machine.")
    parser.add_argument("--once", action="store_true", help="stop after the examples")
    once = parser.parse_args().once or not sys.stdout.isatty()
    environment = make_environment()
    set_up(environment)
    with ExitStack() as running:
        running.enter_context(process("application.py", environment))
        running.enter_context(process("scripts/workflow_daemon.py", environment))
        base = f"http://{environment['HOST']}:{environment['PORT']}"
        wait_until_up(base)
        right = [run_example(base, environment, *example) for example in EXAMPLES]
        print(
            f"\nThe runs are at {base}/ and the API at {base}/ga4gh/wes/v1 (logs: {DATA_DIR.relative_to(ROOT)}/*.log)"
        )
        if not once:
            print("Ctrl-C stops the service.")
            wait_for_interrupt()
    return 0 if all(right) else 1


def make_environment() -> dict[str, str]:
    """Settings for the demonstration: loopback, its own data, the usual ports where they are free."""
    port, hints = free_port(5000), free_port(5001)
    ours = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA_DIR": str(DATA_DIR),
        "DAEMON_NOTIFICATION_PORT": str(hints),
        "WES_API_URL": f"http://127.0.0.1:{port}/ga4gh/wes/v1",
    }
    return {**os.environ, **ours}


def set_up(environment: dict[str, str]) -> None:
    """The cwltool environment and the tables; quick where they are there already."""
    flask = [sys.executable, "-m", "flask", "--app", "application"]
    say("Setting up: cwltool in an environment of its own, and the database")
    subprocess.run([*flask, "engines", "install", "cwltool"], cwd=ROOT, env=environment, check=True)
    subprocess.run([*flask, "db", "upgrade"], cwd=ROOT, env=environment, check=True)


@contextmanager
def process(script: str, environment: dict[str, str]) -> Iterator[None]:
    """A part of the service while the block runs; ends it in good order."""
    log = DATA_DIR / f"{Path(script).stem}.log"
    with log.open("ab") as output:
        child = subprocess.Popen([sys.executable, script], cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()


def wait_until_up(base: str) -> None:
    """Until API and daemon both answer; says where to look where they do not."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{base}/readyz", timeout=5).json().get("daemons"):
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    sys.exit(f"The service did not come up. See {DATA_DIR}/application.log and {DATA_DIR}/workflow_daemon.log")


def run_example(
    base: str, environment: dict[str, str], title: str, workflow: str, parameters: str | None, expected: int
) -> bool:
    """Submit through the public API and watch to the end; True where it ended as it should."""
    say(f"\n{title}: examples/{workflow}")
    command = [sys.executable, "scripts/wesctl", "submit", f"examples/{workflow}"]
    command += [f"examples/{parameters}"] if parameters else []
    ended = subprocess.run([*command, "--watch"], cwd=ROOT, env=environment).returncode
    if expected == 0 and ended == 0:
        subprocess.run([sys.executable, "scripts/wesctl", "outputs", "@1"], cwd=ROOT, env=environment)
    if ended != expected:
        say(f"This should have ended with exit code {expected}, and ended with {ended}.")
    return ended == expected


def wait_for_interrupt() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nStopping.")


def free_port(wanted: int) -> int:
    """`wanted` where nobody listens there, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
