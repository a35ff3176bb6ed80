"""The BV-BRC provider on a fake of both its services; what leaves the provider is searched for its user's token."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote

from app.daemon.providers.bvbrc import BvbrcAccess, BvbrcOptions, BvbrcProvider
from app.daemon.providers.provider_interface import Submission
from tests.contract.harness import CloudHarness, Fate, Harness, Trouble
from tests.fakes.bvbrc import APP_SERVICE, WORKSPACE, Bvbrc
from tests.fakes.server import InThread

USER = "alice@patricbrc.org"
PLANS: Mapping[Fate, Mapping[str, Any]] = {
    Fate.SUCCEED: {},
    Fate.FAIL: {"outcome": "FAILED", "message": "Your job has failed with an exception: no contigs"},
    Fate.LONG: {"seconds": {"RUNNING": None}},
    Fate.PREEMPTED: {"outcome": "FAILED", "reason": "NODE_FAIL"},
}
QUEUED_AND_PENDING = 11
RUNNING = 61
VERBS = (
    *("prepare_request", "submit_workflow", "find_workflow", "get_workflow_statuses", "get_workflow_status"),
    *("cancel_workflow", "get_tasks", "get_logs", "get_outputs", "pace", "offers"),
)

Verb = TypeVar("Verb", bound=Callable[..., Any])


class Searched(logging.Handler):
    """Collects all that must not hold a secret: log records with everything in them, answers, the words of errors."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self._formatter.format(record), repr(vars(record))]

    def around(self, verb: Verb) -> Verb:
        """The verb, overheard."""

        @wraps(verb)
        def overheard(*arguments: Any) -> Any:
            try:
                answer = verb(*arguments)
            except Exception as error:
                chain: BaseException | None = error
                while chain is not None:
                    self.texts.append(repr(chain))
                    chain = chain.__cause__ or chain.__context__
                raise
            self.texts.append(repr(answer))
            return answer

        return overheard  # type: ignore[return-value]


class BvbrcHarness(CloudHarness):
    """Time stands still at the fake until a test moves it; the provider's waits go by the same clock."""

    provider_class = BvbrcProvider
    does_not_apply: ClassVar[Mapping[str, str]] = {"drafts": "start_app2 starts at once"}
    failure_exit_code = 1
    output_text = "ACGT\n"
    kept_outputs = 0
    early_word = "queued"
    users_own = frozenset({Trouble.EXPIRED})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.service = Bvbrc(frozen=True)
        self._searched = Searched()
        self._tokens: list[str] = []

    def __enter__(self) -> Harness:
        self.fake = InThread(self.service).__enter__()
        self.new_token()
        self._level = logging.root.level
        logging.root.addHandler(self._searched)
        logging.root.setLevel(logging.DEBUG)
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        logging.root.removeHandler(self._searched)
        logging.root.setLevel(self._level)
        problems = self.fake.control.problems()
        self.fake.__exit__()
        assert problems == []
        secrets = [part for token in self._tokens for part in (token[:60], token.rpartition("sig=")[2])]
        assert [text for text in self._searched.texts if any(secret in text for secret in secrets)] == []

    @property
    def url(self) -> str:
        return self.fake.url

    def provider_at(self, url: str, timeout_seconds: float = 10.0, **options: Any) -> BvbrcProvider:
        access = BvbrcAccess(f"{url}{APP_SERVICE}", f"{url}{WORKSPACE}", timeout_seconds, timeout_seconds / 2)
        provider = BvbrcProvider(
            access,
            BvbrcOptions(**{"calls_per_second": 1000.0} | options),
            lambda run_ids: dict.fromkeys(run_ids, self.token),
            now=self.now,
        )
        for name in VERBS:
            setattr(provider, name, self._searched.around(getattr(provider, name)))
        return provider

    def workflow(self) -> dict[str, str]:
        return {"workflow_type": "BVBRC", "workflow_type_version": "1.0", "workflow_url": "bvbrc:Date"}

    def params(self, fate: Fate) -> dict[str, Any]:
        if fate == Fate.REFUSED:
            return {"fake-preflight-error": "The reads cannot be read."}
        plan = {"outputs": {"answer": 42}, "files": {"reads.txt": self.output_text}, **PLANS[fate]}
        return {"fake-plan": json.dumps(plan)}

    def let_run(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=QUEUED_AND_PENDING)

    def let_end(self, provider_id: str) -> None:
        self.fake.control.advance(seconds=RUNNING)

    def starts(self, run: Submission) -> int:
        tasks = self.fake.control.tasks()
        return sum(task["starts"] for task in tasks if task["user_metadata"] == run.submit_key)

    def lose(self, provider_id: str) -> None:
        self.fake.control.lose_task(id=int(provider_id.partition("/")[0]))

    def now(self) -> datetime:
        return self.service.timeline.now()

    def pass_time(self, seconds: float) -> None:
        self.fake.control.advance(seconds=seconds)

    def read_output(self, run: Submission, location: str) -> str:
        assert location.startswith("ws:")
        text: str = self.fake.control.text(path=unquote(location.removeprefix("ws:")))
        return text

    def fail(self, **fault: Any) -> None:
        self.fake.control.fail(**fault)

    def heal(self) -> None:
        self.fake.control.heal()
        self.new_token()

    def new_token(self) -> None:
        """What a user sends after trouble with the last one, which the provider then leaves alone for a while."""
        self.token = self.fake.control.token(user=USER, seconds=10_000_000)
        self._tokens.append(self.token)

    def say(self, provider_id: str, word: str) -> None:
        task = provider_id.partition("/")[0]
        self.fail(kind="alter", operation="query_tasks", times=None, alter={"result": {task: {"status": word}}})
