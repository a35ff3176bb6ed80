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

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/providers/healthomics.md").read_text()
CALLED = re.compile(r'\.(?:call|read|items|attempt)\(\s*(?:\w+,\s*)?"([A-Z]\w+)"')
"""An operation where it is asked for, as AwsApi's methods get it."""
ACTIONS = {
    **{"GetObject": "s3:GetObject", "HeadObject": "s3:GetObject", "ListObjectsV2": "s3:ListBucket"},
    **{"PutObject": "s3:PutObject", "GetLogEvents": "logs:GetLogEvents"},
}
"""What S3 and CloudWatch Logs call the right to an operation."""
IMPLIED = frozenset({"iam:PassRole", "omics:TagResource", "s3:AbortMultipartUpload"})
"""Rights that StartRun takes with a role and tags, and a large upload that breaks off."""


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_policy_allows_what_is_called_and_no_more() -> None:
    policy = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.S)[0])
    stated = [statement["Action"] for statement in policy["Statement"]]
    allowed = {action for actions in stated for action in ([actions] if isinstance(actions, str) else actions)}
    sources = (ROOT / "app/daemon/providers").glob("healthomics*.py")
    called = {name for path in sources for name in CALLED.findall(path.read_text())}
    assert allowed == {ACTIONS.get(name, f"omics:{name}") for name in called} | IMPLIED
    assert called - set(ACTIONS) == {*READS, *CHANGES, "StartRun"}  # so each has its pace


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
