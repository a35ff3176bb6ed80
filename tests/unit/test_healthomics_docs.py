"""docs/providers/healthomics.md against the code: rights, settings, options, limits."""

from __future__ import annotations

import json
import re
from pathlib import Path

from app.daemon.providers.healthomics import CHANGES, READS
from app.daemon.providers.healthomics_aws import AwsAccess
from app.daemon.providers.healthomics_options import RunOptions
from app.daemon.providers.healthomics_status import PLATFORM_REASONS, WORDS
from config import Settings

PAGE = (Path(__file__).parents[2] / "docs/providers/healthomics.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_policy_allows_what_is_called_and_no_more() -> None:
    policy = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.S)[0])
    allowed = set(policy["Statement"][0]["Action"])
    assert allowed == {f"omics:{name}" for name in (*READS, *CHANGES, "StartRun", "TagResource")}


def test_every_setting_has_a_row() -> None:
    named = set(re.findall(r"`([A-Z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", section("Settings"), flags=re.M))))
    own = {name.upper() for name in Settings.model_fields if name.startswith(("healthomics_", "aws_"))}
    assert named == own | {"HEALTHOMICS_REGION"}


def test_every_option_has_a_row() -> None:
    client = AwsAccess("us-east-1", "fake", "fake").client("omics")
    options = RunOptions(client, "arn:aws:iam::123456789012:role/wes", {})
    rows = set(re.findall(r"^\| `(\w+)` \|", section("Options"), flags=re.M))
    assert rows == {name for name, _, _ in options.described()}


def test_every_status_word_has_a_row() -> None:
    states = section("States")
    assert all(word in states for word in (*WORDS, *PLATFORM_REASONS))
