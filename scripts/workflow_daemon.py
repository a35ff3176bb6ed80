#!/usr/bin/env python3
"""The daemon that runs workflows: `python scripts/workflow_daemon.py`. Works without an activated environment.

Exit codes: 0 stopped by TERM or INT, 2 unusable settings, 3 no usable database, 4 another daemon holds this DATA_DIR,
5 notification port taken, 6 cut off by a second signal.
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

from app import logs  # noqa: E402
from app.daemon.process import CannotStart, Exit, run  # noqa: E402
from config import Settings, SettingsError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description="Run accepted workflows at their providers.", epilog=__doc__)
    parser.add_argument(
        "--poll-interval", type=float, help="seconds between looks at the database (DAEMON_POLL_INTERVAL)"
    )
    parser.add_argument("--port", type=int, help="port of the notification listener (DAEMON_NOTIFICATION_PORT)")
    parser.add_argument("--log-level", help="DEBUG, INFO, WARNING or ERROR (LOG_LEVEL)")
    parser.add_argument("--json-logs", action="store_true", help="log JSON lines (LOG_FORMAT=json)")
    given = parser.parse_args()
    overrides = {
        "daemon_poll_interval": given.poll_interval,
        "daemon_notification_port": given.port,
        "log_level": given.log_level,
        "log_format": "json" if given.json_logs else None,
    }
    try:
        settings = Settings.load(**{name: value for name, value in overrides.items() if value is not None})
        logs.configure(settings.log_level, settings.log_format == "json", settings.executor_log_file)
        return run(settings)
    except SettingsError as error:
        print(f"These settings cannot be used:\n{error}", file=sys.stderr)
        return Exit.SETTINGS
    except CannotStart as error:
        print(error, file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main())
