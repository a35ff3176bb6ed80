"""The CWL features of tests/workflows/cwl/cases.yml, each run by the real engine and compared with what must come out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.fakes.engine_runs import EngineRun

DOCUMENTS = Path(__file__).parents[1] / "workflows" / "cwl"
CASES = yaml.safe_load((DOCUMENTS / "cases.yml").read_text())


def plain(value: Any) -> Any:
    """An output in the words of cases.yml; locations are followed, so what is named must be there."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict) or "class" not in value:
        return value
    path = Path(unquote(urlsplit(value["location"]).path))
    assert value["class"] == "Directory" or value["size"] == path.stat().st_size
    if value["class"] == "Directory":
        holds = sorted(map(plain, value["listing"]), key=str)
        assert len(holds) == len(list(path.iterdir()))
        return {"folder": path.name, "holds": holds}
    beside = {"beside": plain(value["secondaryFiles"])} if "secondaryFiles" in value else {}
    return {"file": path.name, "contents": path.read_text()} | beside


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    run = EngineRun(tmp_path)
    shutil.copytree(DOCUMENTS, run.dir.work, dirs_exist_ok=True)
    exit_code = run(case["run"], case.get("inputs", {}), **case.get("options", {}))
    assert exit_code == case.get("exit_code", 0), run.words()
    if exit_code == 0:
        found = {name: plain(value) for name, value in run.outputs().items()}
        assert found == {name: by_name(value) for name, value in case["outputs"].items()}
    else:
        assert case.get("says", "") in run.engine.failure(run.dir, exit_code)
    assert run.exit_codes() == case.get("steps", run.exit_codes())


def by_name(value: Any) -> Any:
    """What must come out, Directories sorted as `plain` sorts them."""
    if isinstance(value, dict) and "holds" in value:
        return value | {"holds": sorted(map(by_name, value["holds"]), key=str)}
    return value
