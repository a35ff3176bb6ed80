"""Every provider, each with its world. A new provider is one import and one line here."""

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
