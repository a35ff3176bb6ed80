"""One pipeline over three places, with real processes: BV-BRC's and HealthOmics' fakes, and a real cwltool here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_healthomics import BUCKET, WORKFLOW, Cloud
from tests.acceptance.test_healthomics import cloud as cloud
from tests.curl import END_SECONDS, curl, wait_for
from tests.fakes.bvbrc import IMPATIENT, addresses
from tests.fakes.server import InProcess
from tests.services import Services

TOOL = Path(__file__).parents[1] / "workflows" / "counted.cwl"
USER = "alice@patricbrc.org"
CONTIGS = f"/{USER}/home/Assembly/.sample1/contigs.fa"
PIPELINE: dict[str, Any] = {
    "workflow_name": "assemble there, call elsewhere, report here",
    "base_context": {"ledger": "", "folder": f"/{USER}/home"},
    "steps": [
        {
            "step_name": "panel",
            "workflow_url": "counted.cwl",
            "params": {"ledger": "${ledger}", "line": "chr1:1-100"},
        },
        {
            "step_name": "assemble",
            "app": "GenomeAssembly2",
            "params": {"output_path": "${folder}/Assembly", "output_file": "sample1", "srr_ids": ["SRR1"]},
            "outputs": {"contigs": "${params.output_path}/.${params.output_file}/contigs.fa"},
        },
        {
            "step_name": "call",
            "workflow_url": f"healthomics:{WORKFLOW}",
            "workflow_type": "WDL",
            "params": {"contigs": "${steps.assemble.outputs.contigs}", "panel": "${steps.panel.outputs.said.location}"},
        },
        {
            "step_name": "report",
            "workflow_url": "counted.cwl",
            "params": {
                "ledger": "${ledger}",
                "line": "${steps.call.outputs.count} variants of ${steps.assemble.outputs.contigs}: "
                "${steps.call.outputs.variants}",
            },
        },
    ],
    "workflow_outputs": {"report": "${steps.report.outputs.said}", "variants": "${steps.call.outputs.variants}"},
}

pytestmark = [
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def bvbrc() -> Iterator[InProcess]:
    with InProcess("tests.fakes.bvbrc", "--speed", "30") as fake:
        yield fake
        assert fake.control.problems() == []


@pytest.fixture
def services(engine_environment: Path, cloud: Cloud, bvbrc: InProcess) -> Iterator[Services]:
    settings = cloud.settings(PROVIDERS="local,healthomics,bvbrc,dag", **addresses(bvbrc.url), **IMPATIENT)
    with Services(settings) as services:
        yield services


def submit(services: Services, directory: Path, ledger: Path, token: str) -> str:
    (directory / "pipeline.json").write_text(json.dumps(PIPELINE))
    fields = {
        "workflow_type": "DAG",
        "workflow_url": "pipeline.json",
        "workflow_params": json.dumps({"ledger": str(ledger)}),
    }
    files = [f"workflow_attachment=@{path}" for path in (directory / "pipeline.json", TOOL)]
    form = [word for field in (*(f"{key}={value}" for key, value in fields.items()), *files) for word in ("-F", field)]
    return str(curl("-X", "POST", "-H", f"X-BVBRC-Token: {token}", f"{services.url}/runs", *form)["run_id"])


def wait_for_step(services: Services, run_id: str, step: str) -> None:
    """Until this step has begun, or the pipeline's end."""

    def has_begun() -> bool:
        run = curl(f"{services.url}/runs/{run_id}")
        is_over = run["state"] not in ("QUEUED", "INITIALIZING", "RUNNING")
        return is_over or step in [task["name"] for task in run["task_logs"]]

    wait_for(f"{step} does not begin", has_begun, lambda: services.log("daemon"))


@pytest.mark.parametrize("killed_at", [(), ("panel", "assemble", "call", "report")], ids=["at peace", "kill -9"])
def test_one_pipeline_over_three_places(
    services: Services, cloud: Cloud, bvbrc: InProcess, tmp_path: Path, killed_at: tuple[str, ...]
) -> None:
    outputs, files = {"variants": "{runOutputUri}/calls.vcf", "count": 42}, {"calls.vcf": "##fileformat\n"}
    cloud.omics.control.plan(outputs=outputs, files=files)
    ledger = tmp_path / "ledger"
    run_id = submit(services, tmp_path, ledger, bvbrc.control.token(user=USER))
    for step in killed_at:
        wait_for_step(services, run_id, step)
        services.kill_daemon()
        services.start_daemon()
    end = services.client().wait_for_run_completion(run_id, timeout=END_SECONDS)
    run = curl(f"{services.url}/runs/{run_id}")
    assert end["state"] == "COMPLETE", (run, services.log("daemon")[-3000:])

    (assembly,) = bvbrc.control.tasks()
    assert (assembly["app"], assembly["starts"]) == ("GenomeAssembly2", 1)
    assert len(cloud.omics.control.runs()) == 1
    given = json.loads(cloud.omics.control.requests(operation="StartRun")[-1]["body"])["parameters"]
    assert given["contigs"] == CONTIGS
    assert cloud.stores.read(BUCKET, given["panel"].removeprefix(f"s3://{BUCKET}/")) == "chr1:1-100\n"
    variants = run["outputs"]["variants"]
    assert cloud.stores.read(BUCKET, variants.removeprefix(f"s3://{BUCKET}/")) == "##fileformat\n"
    words = f"42 variants of {CONTIGS}: {variants}"
    assert curl(run["outputs"]["report"]["location"]).strip() == words
    assert ledger.read_text().splitlines() == ["chr1:1-100", words]
