"""The examples with the real cwltool: what wesctl would send is all that they need, and they do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.client.attachments import collect
from app.daemon.engines.environments import EngineEnvironments
from tests.fakes.engine_runs import installed_engine_root

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
READS = EXAMPLES / "reads"


def cwltool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = EngineEnvironments(installed_engine_root()).installed("cwltool")[0]
    command = [str(environment.path / "bin" / "cwltool"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def run_as_sent(folder: Path, workflow: str, params: str | None = None) -> subprocess.CompletedProcess[str]:
    """Lay out only the attachments, elsewhere, and run from there."""
    bundle = collect(str(EXAMPLES / workflow), True, EXAMPLES / params if params else None)
    for name, path in bundle.files.items():
        (folder / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "work" / name)
    (folder / "work" / "inputs.json").write_text(json.dumps(bundle.workflow_params))
    return cwltool(
        "--no-container", "--outdir", folder / "out", bundle.workflow_url, "inputs.json", cwd=folder / "work"
    )  # fmt: skip


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.cwl")), ids=lambda path: path.relative_to(EXAMPLES).as_posix()
)
def test_every_document_is_valid(path: Path) -> None:
    done = cwltool("--validate", path, cwd=EXAMPLES)
    assert (done.returncode, "is valid CWL" in done.stdout) == (0, True), done.stderr


def test_hello_world_greets(tmp_path: Path) -> None:
    done = run_as_sent(tmp_path, "hello_world.cwl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "hello_world.txt").read_text() == "Hello World\n"


def test_hello_world_is_the_one_that_the_tests_submit() -> None:
    assert (EXAMPLES / "hello_world.cwl").read_bytes() == (
        ROOT / "tests" / "workflows" / "hello_world.cwl"
    ).read_bytes()


def test_reads_finds_the_two_odd_samples(tmp_path: Path) -> None:
    done = run_as_sent(tmp_path, "reads/reads.cwl", "reads/reads.yml")
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads((tmp_path / "out" / "summary.json").read_text())
    samples = {sample["sample"]: sample for sample in summary["samples"]}
    assert {name: sample["verdict"] for name, sample in samples.items()} == {
        "kidney_1": "good",
        "kidney_2": "GC differs from the reference",
        "liver_1": "good",
        "liver_2": "short reads",
    }
    assert samples["liver_2"]["reads"] < samples["liver_1"]["reads"] == 200
    assert summary["reference"]["contigs"] == {"contig_1": 6000, "contig_2": 4000}
    lines = (tmp_path / "out" / "summary.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["sample", *samples]


def test_the_report_is_one_page_with_two_plots_and_no_scripts(tmp_path: Path) -> None:
    assert run_as_sent(tmp_path, "reads/reads.cwl", "reads/reads.yml").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == page.count("<title>Mean") + page.count("<title>Reads by GC") == 2
    assert page.count("<polyline") == 4 + 5  # the samples; the samples and the reference
    assert not re.search(r"<script|https?://|\bon\w+=", page)


def test_fails_fails_in_its_second_step_and_says_why(tmp_path: Path) -> None:
    done = run_as_sent(tmp_path, "fails.cwl", "fails.yml")
    assert done.returncode == 1
    assert "[step list_samples] completed success" in done.stderr
    assert "ERROR: sample liver_2 (line 2 of fails_sheet.tsv) has no reads." in done.stderr
    assert "[job check] exited with status: 3" in done.stderr


def test_the_data_are_what_the_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, READS / "make_data.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in (READS / "data").iterdir()}


@pytest.mark.parametrize("text", ["not fastq\n", "@r\nACGT\n+\nII\n", "@r\nACGT\n"])
def test_a_file_that_is_no_fastq_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.fastq").write_text(text)
    command = [sys.executable, READS / "scripts" / "reads.py", "measure", tmp_path / "x.fastq", "--sample", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("x.fastq: line 1 does not begin a FASTQ record\n")


def test_a_sample_without_reads_is_reported_and_not_plotted(tmp_path: Path) -> None:
    (tmp_path / "none.fastq").touch()
    scripts = READS / "scripts"
    for output, command in {
        "none.json": [scripts / "reads.py", "measure", "none.fastq", "--sample", "none"],
        "reference.json": [scripts / "reference_gc.py", READS / "data" / "reference.fa", "--window", "75"],
        "said": [
            scripts / "report.py",
            "none.json",
            "--reference",
            "reference.json",
            "--min-mean-length",
            "65",
            "--max-gc-shift",
            "4",
        ],
    }.items():
        with (tmp_path / output).open("w") as file:
            subprocess.run([sys.executable, *command], cwd=tmp_path, stdout=file, check=True)
    assert "no reads" in (tmp_path / "summary.tsv").read_text()


def test_the_readme_names_every_example() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w/.]+)\)", readme))
    assert all((EXAMPLES / target).exists() for target in linked)
    assert {"hello_world.cwl", "fails.cwl", "reads/reads.cwl"} <= linked
