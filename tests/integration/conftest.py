"""Fixtures of several integration tests."""

from __future__ import annotations

import pytest

from app.artifacts import DirectoryStorage
from app.database import Database
from tests.conftest import Clock
from tests.daemon_world import World


@pytest.fixture
def world(database: Database, storage: DirectoryStorage, clock: Clock) -> World:
    return World(database, storage, clock)
