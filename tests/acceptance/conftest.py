"""What acceptance tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import browser as browser
from tests.browser import runs as runs
from tests.browser import site as site
from tests.fakes.engine_runs import installed_engine_root


@pytest.fixture(scope="session")
def engine_environment() -> Path:
    """The directory with a real cwltool, installed once below `var/`; `tests.services` uses it."""
    return installed_engine_root()
