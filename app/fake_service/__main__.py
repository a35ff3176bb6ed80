"""`python -m app.fake_service`: a cloud to try the service with, until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from app.fake_service.cloud import Clock, FakeCloud
from app.fake_service.faults import KINDS, Fault, Faults
from app.fake_service.ledger import Ledger
from app.fake_service.server import FakeService


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line on stdout ends with the URL."""
    options = _parser().parse_args(arguments)
    faults = Faults(options.seed)
    for fault in options.fault:
        faults.add(fault)
    cloud = FakeCloud(
        Ledger(options.ledger),
        Clock(options.stepped),
        speed=options.speed,
        visibility_seconds=options.visibility_seconds,
        max_ids=options.max_ids,
    )
    signal.signal(signal.SIGTERM, _stop)
    with FakeService(cloud, faults, options.port) as service:
        print(f"The fake cloud listens on {service.url}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("Stopped; the jobs are kept in the ledger.", file=sys.stderr)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fake_provider", description="Plays a cloud that runs workflows.")
    parser.add_argument("--port", type=int, default=5002, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, default=Path("var/fake_provider.jsonl"), help="default: %(default)s")
    parser.add_argument("--speed", type=float, default=1.0, help="jobs run so many times faster")
    parser.add_argument("--stepped", action="store_true", help="time stands still but for POST /_control/advance")
    parser.add_argument("--visibility-seconds", type=float, default=0.0, help="how late searches show a new job")
    parser.add_argument(
        "--max-ids", type=int, default=100, help="most ids in one status request (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument(
        "--fault",
        type=Fault.at_rate,
        action="append",
        default=[],
        metavar="KIND[+commit]=RATE",
        help=f"e.g. drop+commit=0.02; kinds: {', '.join(KINDS)}",
    )
    return parser


if __name__ == "__main__":
    main()
