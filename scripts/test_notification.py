#!/usr/bin/env python3
"""Send one hint to a running daemon and say what it answered: `python scripts/test_notification.py RUN_ID`.

Exit codes: 0 taken, 1 refused (the answer is printed), 2 unusable settings, 3 no daemon listens.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
if sys.prefix == sys.base_prefix and PYTHON.exists():
    os.execv(PYTHON, [str(PYTHON), *sys.argv])
sys.path.insert(0, str(ROOT))

from app import hints  # noqa: E402
from config import Settings, SettingsError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description="Tell the daemon that a run may be due.", epilog=__doc__)
    parser.add_argument("run_id")
    given = parser.parse_args()
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(f"These settings cannot be used:\n{error}", file=sys.stderr)
        return 2
    url = f"http://{settings.daemon_notification_host}:{settings.daemon_notification_port}/"
    try:
        hints.send(url, given.run_id, settings.daemon_notification_secret)
    except hints.NotTaken as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, hints.Refused) else 3
    print(f"{url} took the hint.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
