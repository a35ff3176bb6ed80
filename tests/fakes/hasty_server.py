"""The real fork server, looking for reasons to leave every few milliseconds, and idle after SECONDS:
python -I hasty_server.py SECONDS DIRECTORY RUNNER SHIM PADDING
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from app.daemon.engines import fork_server

if __name__ == "__main__":
    fork_server.CHECK_SECONDS = 0.01
    fork_server.IDLE_SECONDS = float(sys.argv.pop(1))
    fork_server.main()
