"""Every provider, each with its world. A new provider is one import and one line here.

But for `dag`: it has no platform. Its runs are rows that the daemon has made before it is asked, so there is nothing to be
found or absent, no lost answer, no tasks, times or logs of its own, and half of the suite would be about its harness.
What the contract asks of it all the same is in tests/integration/test_dag_daemon.py, on the daemon's own loop: one
execution however often it is submitted or begun, or the daemon killed; cancel again; unknown ids; others run on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.bvbrc_harness import BvbrcHarness
from tests.contract.fake_harness import FakeHarness, TwoPhaseFakeHarness
from tests.contract.harness import CloudHarness, Harness
from tests.contract.healthomics_harness import HealthOmicsHarness
from tests.contract.local_harness import LocalHarness
from tests.contract.sevenbridges_harness import SevenBridgesHarness

HARNESSES: list[type[Harness]] = [
    FakeHarness,
    TwoPhaseFakeHarness,
    LocalHarness,
    HealthOmicsHarness,
    BvbrcHarness,
    SevenBridgesHarness,
]


def _name(harness: type[Harness]) -> str:
    return harness.provider_class.name


@pytest.fixture(params=HARNESSES, ids=_name)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Every provider in turn."""
    with request.param(tmp_path) as harness:
        yield harness


@pytest.fixture(params=[one for one in HARNESSES if issubclass(one, CloudHarness)], ids=_name)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudHarness]:
    """Every provider whose platform can make trouble."""
    with request.param(tmp_path) as harness:
        yield harness
