"""Which workflow_engine_parameters reach cwltool's command line."""

from __future__ import annotations

import pytest

from app.daemon.engines.cwltool_options import OPTIONS, arguments
from app.errors import Rejected


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, []),
        ({"parallel": None}, ["--parallel"]),
        ({"parallel": "true", "debug": ""}, ["--parallel", "--debug"]),
        ({"parallel": "False"}, []),
        ({"--on-error": "continue", "eval_timeout": "2.5"}, ["--on-error=continue", "--eval-timeout=2.5"]),
        ({"parallel-max": "4", "target": "out/x-1"}, ["--parallel-max=4", "--target=out/x-1"]),
        ({"default-container": "docker.io/library/debian:12"}, ["--default-container=docker.io/library/debian:12"]),
        ({"provider": "local", "timestamps": None}, ["--timestamps"]),
    ],
)
def test_allowed_parameters(parameters: dict[str, str | None], words: list[str]) -> None:
    assert arguments(parameters) == words


@pytest.mark.parametrize(
    "parameters",
    [
        *({"outdir": "/etc"}, {"cachedir": "/tmp/x"}, {"preserve-entire-environment": None}, {"no-container": None}),
        *({"basedir": "/"}, {"overrides": "x"}, {"mpi-config-file": "x"}, {"log-dir": "x"}, {"tmpdir-prefix": "/"}),
        *({"": None}, {"--": None}, {"parallel --outdir": "x"}, {"parallel=x": None}, {"Parallel": None}),
        *({"parallel": "yes"}, {"parallel": "--outdir=/"}, {"on-error": "explode"}, {"on-error": None}),
        *({"eval-timeout": "1e9"}, {"eval-timeout": "-1"}, {"eval-timeout": ""}, {"parallel-max": "1.5"}),
        *({"target": "--outdir"}, {"target": "a b"}, {"target": "a\nb"}, {"target": ""}, {"target": "x" * 300}),
        *(
            {"default-container": "-v /:/host debian"},
            {"default-container": "a\nb"},
            {"eval-timeout": "\uff11"},
            {"target": "\u212a"},
        ),
        {"parallel": "true", "--parallel": "false"},
    ],
)
def test_everything_else_is_refused(parameters: dict[str, str | None]) -> None:
    with pytest.raises(Rejected, match="workflow_engine_parameters") as refusal:
        arguments(parameters)
    assert refusal.value.reason == "option_not_allowed"


def test_a_refusal_names_what_is_allowed() -> None:
    with pytest.raises(Rejected) as refusal:
        arguments({"outdir": "x"})
    assert all(name in str(refusal.value) for name in OPTIONS)
