"""What the contract suite needs of a provider's world: runs that go as a test wants, a clock, trouble on command.

A provider joins with a subclass (of CloudHarness where something answers over HTTP) and a line in `conftest.HARNESSES`.
"""

from __future__ import annotations

import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from app.artifacts import DirectoryStorage, output_path
from app.daemon.providers.provider_interface import ProviderRun, Submission, WorkflowProviderInterface
from app.sinks import LogSink, OutputSink

ENOUGH_LOG_BYTES = 10_000_000


class Fate(StrEnum):
    """How a run goes that a harness makes."""

    SUCCEED = "succeeds, with an output file and an output that is none"
    FAIL = "fails by itself"
    LONG = "runs until it is cancelled"
    REFUSED = "is understood and refused when it is submitted"
    PREEMPTED = "loses its machine on the way"


class Trouble(StrEnum):
    """What can come between a provider and its platform: see RELIABILITY.md, "Provider"."""

    THROTTLED = "429 without Retry-After"
    THROTTLED_FOR_A_WHILE = "429 with Retry-After"
    QUOTA = "quota exceeded"
    EXPIRED = "expired credentials"
    DENIED = "access denied"
    ERROR_BEFORE = "5xx, nothing was done"
    ERROR_AFTER = "5xx, it was done all the same"
    UNAVAILABLE = "503"
    DROPPED_BEFORE = "a closed connection, nothing was done"
    DROPPED_AFTER = "a closed connection, it was done all the same"
    HANGS = "no answer for ever"
    DRIPS = "an answer byte by byte, never silent for long"
    GARBAGE = "half a JSON document"
    HTML = "200 with a page of a captive portal"
    EMPTY = "200 with nothing"
    HUGE = "200 with a body without end"


WAIT_SECONDS = 7
FAULTS: Mapping[Trouble, Mapping[str, Any]] = {
    Trouble.THROTTLED: {"kind": "throttle"},
    Trouble.THROTTLED_FOR_A_WHILE: {"kind": "throttle", "seconds": WAIT_SECONDS},
    Trouble.QUOTA: {"kind": "quota"},
    Trouble.EXPIRED: {"kind": "expired"},
    Trouble.DENIED: {"kind": "denied"},
    Trouble.ERROR_BEFORE: {"kind": "error"},
    Trouble.ERROR_AFTER: {"kind": "error", "commit": True},
    Trouble.UNAVAILABLE: {"kind": "unavailable"},
    Trouble.DROPPED_BEFORE: {"kind": "drop"},
    Trouble.DROPPED_AFTER: {"kind": "drop", "commit": True},
    Trouble.HANGS: {"kind": "hang", "commit": True},
    Trouble.DRIPS: {"kind": "drip", "seconds": 0.1},
    Trouble.GARBAGE: {"kind": "garbage"},
    Trouble.HTML: {"kind": "html"},
    Trouble.EMPTY: {"kind": "empty"},
    Trouble.HUGE: {"kind": "huge"},
}
"""The same words for every fake: the shipped one and those in tests/fakes."""


class Harness(ABC):
    """One provider with a world of its own. A context manager: leaving it ends everything that it started."""

    provider_class: ClassVar[type[WorkflowProviderInterface]]
    does_not_apply: ClassVar[Mapping[str, str]] = {}  # what a test may `need` -> why this provider has no such thing
    failure_exit_code: ClassVar[int | None] = None  # of Fate.FAIL, where the platform says one
    output_text: ClassVar[str]  # what is in the output file of Fate.SUCCEED
    kept_outputs: ClassVar[int] = 1  # its files that come into our own storage; none where the platform's lasts

    def __init__(self, folder: Path) -> None:
        self.storage = DirectoryStorage(folder / "artifacts")
        self._numbers = count(1)

    def __enter__(self) -> Harness:
        self.provider = self.new_provider()
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def new_provider(self) -> WorkflowProviderInterface:
        """Another object for the same platform, as after a crash of the daemon."""

    @abstractmethod
    def params(self, fate: Fate) -> dict[str, Any]:
        """The workflow_params that bring this fate about."""

    @abstractmethod
    def let_run(self, provider_id: str) -> None:
        """Until it runs."""

    @abstractmethod
    def let_end(self, provider_id: str) -> None:
        """Until it is over: as its fate has it, or cancelled."""

    @abstractmethod
    def starts(self, run: Submission) -> int:
        """How many executions of this run have really begun."""

    @abstractmethod
    def lose(self, provider_id: str) -> None:
        """The platform knows it no more."""

    def now(self) -> datetime:
        """The time by which the provider believes in `Absent`; only for those that have `patience`."""
        raise AssertionError("this provider needs no clock")

    def pass_time(self, seconds: float) -> None:
        """Move that clock."""

    def need(self, what: str) -> None:
        """Skip the test where this provider has no such thing."""
        if what in self.does_not_apply:
            pytest.skip(f"does not apply to {self.provider.name}: {self.does_not_apply[what]}")

    @property
    def patience(self) -> float:
        """Seconds for which a submit may still show up."""
        return self.provider.submit_timeout_seconds + self.provider.visibility_grace_seconds

    def submission(self, fate: Fate = Fate.SUCCEED) -> Submission:
        """A new run, as the daemon hands it to `submit_workflow`; where `find` waits for time to pass, sent now."""
        number = next(self._numbers)
        run = Submission(
            run_id=f"00000000-0000-4000-8000-{number:012}",
            submit_key=f"wes-00000000-0000-4000-8000-{number:012}",
            name=f"{fate.name.lower()} ü",
            workflow_params=self.params(fate),
            workflow_engine=None,
            workflow_engine_version=None,
            workflow_engine_parameters={},
            tags={"project": "contract"},
            attachments=(),
            owner="alice",
            **self.workflow(),
        )
        if fate == Fate.REFUSED:
            return run
        request = json.loads(json.dumps(self.provider.prepare_request(run)))
        return replace(run, request=request, sent_at=self.now() if self.patience else None)

    def workflow(self) -> dict[str, str]:
        """What is run: workflow_type, workflow_type_version, workflow_url."""
        return {"workflow_type": "CWL", "workflow_type_version": "v1.2", "workflow_url": "https://example.org/wf.cwl"}

    def submit(self, run: Submission) -> ProviderRun:
        """What the daemon does: submit, record the id, start what is a draft."""
        accepted = self.provider.submit_workflow(run)
        if not accepted.started:
            self.provider.start_workflow(accepted.provider_id)
        return accepted

    def running(self, fate: Fate = Fate.LONG) -> tuple[Submission, str]:
        """A run that runs, and its provider id."""
        run = self.submission(fate)
        provider_id = self.submit(run).provider_id
        self.let_run(provider_id)
        return run, provider_id

    def ended(self, fate: Fate = Fate.SUCCEED) -> tuple[Submission, str]:
        """A run that is over, and its provider id."""
        run, provider_id = self.running(fate)
        self.let_end(provider_id)
        return run, provider_id

    def read_output(self, run: Submission, location: str) -> str:
        """What an output file holds, from where its location says that it is kept."""
        path = output_path(location)
        assert path is not None
        with self.storage.output(run.run_id, path).open() as file:
            return file.read().decode()

    def log_sink(self, run: Submission) -> LogSink:
        return self.storage.log_sink(run.run_id, ENOUGH_LOG_BYTES)

    def output_sink(self, run: Submission) -> OutputSink:
        return self.storage.output_sink(run.run_id)

    def log(self, run: Submission, name: str) -> str:
        """What has been kept of a log."""
        kept = self.storage.log(run.run_id, name)
        if kept is None:
            return ""
        with kept.open() as file:
            return file.read().decode()


class CloudHarness(Harness):
    """A platform that is reached over HTTP, played by a fake on loopback that makes trouble on command."""

    @abstractmethod
    def provider_at(self, url: str, timeout_seconds: float = 10.0) -> WorkflowProviderInterface:
        """A provider whose platform would be at this address, and which waits so long for an answer."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the platform is."""

    @abstractmethod
    def fail(self, **fault: Any) -> None:
        """Set a fault of the fake: see `Fault`, which all fakes have alike."""

    @abstractmethod
    def heal(self) -> None:
        """No more faults; what hangs goes on."""

    @abstractmethod
    def say(self, provider_id: str, word: str) -> None:
        """From now on the platform's answers have this status word, until `heal`."""

    users_own: ClassVar[frozenset[Trouble]] = frozenset()
    """What only a run's own user can end: it is NotReady, and nobody else's runs suffer."""
    unknown_word: ClassVar[str] = "DAYDREAMING"
    early_word: ClassVar[str]  # what the platform says of a run that does not run yet

    def new_provider(self) -> WorkflowProviderInterface:
        return self.provider_at(self.url)

    def meet(self, trouble: Trouble, skip: int = 0) -> None:
        """Every call from now on, or after `skip` of them, runs into this."""
        self.fail(**FAULTS[trouble], times=None, skip=skip)

    def provider_for(self, trouble: Trouble) -> WorkflowProviderInterface:
        """One that soon gives up, where a test would wait for it."""
        slow = trouble in (Trouble.HANGS, Trouble.DRIPS)
        return self.provider_at(self.url, timeout_seconds=1.5) if slow else self.provider

    def unreachable(self) -> WorkflowProviderInterface:
        """A provider with nobody at its platform's address."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        return self.provider_at(f"http://127.0.0.1:{port}")
