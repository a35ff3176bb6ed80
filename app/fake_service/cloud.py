"""The fake cloud itself: jobs on a clock, and a ledger of all that happens to them. Knows no HTTP.

With a key, `submit` starts a job at once, and the same key is always the same job. Without, `draft` makes a job that
does nothing until `start`; it is found again by its name, as soon as searches show it.
"""

from __future__ import annotations

import heapq
import json
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.fake_service.jobs import OVER, Job
from app.fake_service.ledger import Ledger
from app.fake_service.plans import Plan

MOST_FOUND = 100
LOG_PAGE_BYTES = 1024 * 1024


class Refused(Exception):
    """A request that the platform understands and refuses."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Clock:
    """Real time that never goes back, or time that only `advance` moves. Aware UTC."""

    def __init__(self, stepped: bool = False) -> None:
        self._stepped = stepped
        self._start, self._started = datetime.now(UTC), time.monotonic()
        self._advanced = timedelta()

    def now(self) -> datetime:
        passed = 0.0 if self._stepped else time.monotonic() - self._started
        return self._start + self._advanced + timedelta(seconds=passed)

    def advance(self, seconds: float) -> None:
        self._advanced += timedelta(seconds=seconds)

    def catch_up(self, moment: datetime) -> None:
        """Not earlier than `moment` from now on."""
        self._advanced += max(moment - self.now(), timedelta())


class FakeCloud:
    """Every method takes the one lock. `speed` divides the jobs' times; searches show a job `visibility_seconds` late.

    Methods with a `job_id` raise Refused 404 where there is no such job.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock | None = None,
        *,
        speed: float = 1.0,
        visibility_seconds: float = 0.0,
        max_ids: int = 100,
    ) -> None:
        self.lock = threading.RLock()
        self.clock = clock or Clock()
        self.max_ids = max_ids
        self._ledger = ledger
        self._speed, self._visibility = speed, timedelta(seconds=visibility_seconds)
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[str, Job] = {}
        self._by_name: dict[str, list[Job]] = {}
        self._ends: list[tuple[datetime, str]] = []
        self._recorded_ends: set[str] = set()
        self._replay()

    def submit(self, request: Mapping[str, Any], key: str) -> tuple[Job, bool]:
        """Start a job, once for a key. Returns the job and whether it is new."""
        with self.lock:
            now = self._settled()
            if known := self._by_key.get(key):
                if known.request != request:
                    raise Refused(422, "key_reused", "This key came before with another request.")
                self._record(now, "repeated", known)
                return known, False
            job = self._new_job(request, key, now)
            job.start(now)
            self._record(now, "submitted", job, "started", request=job.request)
            return self._keep(job), True

    def draft(self, request: Mapping[str, Any]) -> Job:
        """Make a job that waits for `start`."""
        with self.lock:
            now = self._settled()
            job = self._new_job(request, None, now)
            job.phases.append((now, "DRAFT"))
            self._record(now, "drafted", job, request=job.request)
            return self._keep(job)

    def start(self, job_id: str) -> Job:
        with self.lock:
            now, job = self._settled(), self.job(job_id)
            if job.word(now) != "DRAFT":
                raise Refused(409, "not_a_draft", "This job has been started.")
            job.start(now)
            self._changed(now, "started", job)
            return job

    def cancel(self, job_id: str) -> Job:
        """Ask for an end; nothing happens where that was asked or has come."""
        with self.lock:
            now, job = self._settled(), self.job(job_id)
            word = job.word(now)
            if word == "DRAFT":
                raise Refused(409, "is_a_draft", "A draft is deleted, not cancelled.")
            if word not in OVER | {"STOPPING"}:
                job.stop(now)
                self._changed(now, "cancel_asked", job)
            return job

    def delete(self, job_id: str) -> None:
        """Forget a draft."""
        with self.lock:
            now, job = self._settled(), self.job(job_id)
            if job.word(now) != "DRAFT":
                raise Refused(409, "not_a_draft", "Only drafts can be deleted.")
            self._record(now, "deleted", job)
            self._forget(job)

    def finish(self, job_id: str, word: str) -> None:
        """Somebody ends a job by hand; `word` GONE: and it is not known any more."""
        if word not in OVER:
            raise ValueError(f"{word!r} is none of {', '.join(sorted(OVER))}")
        with self.lock:
            now, job = self._settled(), self.job(job_id)
            job.end(now, word)
            self._changed(now, "ended_by_hand", job)

    def job(self, job_id: str) -> Job:
        with self.lock:
            job = self._jobs.get(job_id)
            if job is None or job.word(self._settled()) == "GONE":
                raise Refused(404, "not_found", "There is no such job.")
            return job

    def jobs(self, job_ids: Iterable[str]) -> list[Job]:
        """Those of the ids that are known."""
        wanted = list(job_ids)
        if len(wanted) > self.max_ids:
            raise Refused(400, "too_many_ids", f"At most {self.max_ids} ids at once.")
        with self.lock:
            now = self._settled()
            known = [job for job_id in wanted if (job := self._jobs.get(job_id))]
            return [job for job in known if job.word(now) != "GONE"]

    def find(self, *, name: str | None = None, key: str | None = None) -> list[Job]:
        """Jobs of a name, oldest first, as far as searches show them; or the job of a key, at once."""
        with self.lock:
            now = self._settled()
            found = [self._by_key[key]] if key in self._by_key else []
            if name is not None:
                found = [job for job in self._by_name.get(name, []) if job.created + self._visibility <= now]
            return [job for job in found if job.word(now) != "GONE"][:MOST_FOUND]

    def log_page(self, job_id: str, name: str, offset: int) -> bytes:
        """What a log has from byte `offset` on, at most a page of it."""
        text = self.job(job_id).log(name, self.clock.now())
        if text is None:
            raise Refused(404, "no_such_log", "There is no such log.")
        return text.encode()[offset : offset + LOG_PAGE_BYTES]

    def file(self, job_id: str, name: str) -> bytes:
        """An output file of a job that succeeded."""
        text = self._succeeded(job_id).plan.files.get(name)
        if text is None:
            raise Refused(404, "no_such_file", "There is no such file.")
        return text.encode()

    def outputs(self, job_id: str, url: str) -> dict[str, Any]:
        return self._succeeded(job_id).outputs(url)

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by status word."""
        with self.lock:
            now = self._settled()
            words = [job.word(now) for job in self._jobs.values()]
            return {word: words.count(word) for word in sorted(set(words))}

    def advance(self, seconds: float) -> None:
        """Move the clock, and let happen what falls due."""
        with self.lock:
            self.clock.advance(seconds)
            self._settled()

    def close(self) -> None:
        with self.lock:
            self._ledger.close()

    def _succeeded(self, job_id: str) -> Job:
        job = self.job(job_id)
        if job.word(self.clock.now()) != "SUCCEEDED":
            raise Refused(409, "not_succeeded", "Only a job that succeeded has outputs.")
        return job

    def _settled(self) -> datetime:
        """Now, once every end that has come is in the ledger."""
        now = self.clock.now()
        ended = []
        while self._ends and self._ends[0][0] <= now:
            at, job_id = heapq.heappop(self._ends)
            job = self._jobs.get(job_id)
            if job is not None and job.end_time == at and job_id not in self._recorded_ends:
                self._recorded_ends.add(job_id)
                ended.append(_event(at, "ended", job, word=job.phases[-1][1]))
        if ended:
            self._ledger.write(*ended)
        return now

    def _new_job(self, request: Mapping[str, Any], key: str | None, now: datetime) -> Job:
        plan = _plan(request, self._speed)
        if plan.outcome == "reject":
            raise Refused(400, "invalid_workflow", "The platform refuses this workflow, as its params ask.")
        return Job(f"job-{secrets.token_hex(8)}", str(request["name"]), key, dict(request), plan, now)

    def _record(self, now: datetime, name: str, job: Job, *more: str, **fields: Any) -> None:
        phases = [[at.isoformat(), word] for at, word in job.phases]
        self._ledger.write(
            _event(now, name, job, phases=phases, **fields), *(_event(now, other, job, phases=phases) for other in more)
        )

    def _changed(self, now: datetime, name: str, job: Job) -> None:
        self._record(now, name, job)
        self._expect_end(job)

    def _expect_end(self, job: Job) -> None:
        if job.end_time is not None:
            heapq.heappush(self._ends, (job.end_time, job.id))

    def _keep(self, job: Job) -> Job:
        self._jobs[job.id] = job
        self._by_name.setdefault(job.name, []).append(job)
        if job.key is not None:
            self._by_key[job.key] = job
        self._expect_end(job)
        return job

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._by_name[job.name].remove(job)

    def _replay(self) -> None:
        """Stand where the ledger's last line left off."""
        for event in self._ledger.read():
            at, job_id = datetime.fromisoformat(event["at"]), event["job"]
            self.clock.catch_up(at)
            if "request" in event:
                request = event["request"]
                self._keep_again(
                    Job(job_id, event["name"], event["key"], request, _plan(request, self._speed), at), event
                )
            elif event["event"] == "deleted":
                self._forget(self._jobs[job_id])
            elif event["event"] == "ended":
                self._recorded_ends.add(job_id)
            else:
                self._keep_again(self._jobs[job_id], event)

    def _keep_again(self, job: Job, event: Mapping[str, Any]) -> None:
        job.phases = [(datetime.fromisoformat(at), word) for at, word in event["phases"]]
        if job.id in self._jobs:
            self._expect_end(job)
        else:
            self._keep(job)


def _plan(request: Mapping[str, Any], speed: float) -> Plan:
    try:
        return Plan.of(request["params"], speed)
    except ValueError as error:
        raise Refused(400, "invalid_params", str(error)) from None


def _event(at: datetime, name: str, job: Job, **fields: Any) -> dict[str, Any]:
    return {"at": at.isoformat(), "event": name, "job": job.id, "name": job.name, "key": job.key, **fields}


def checked_request(body: bytes) -> dict[str, Any]:
    """A job as it is asked for: an object with a text `name` and an object `params`; raises Refused."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "not_json", "The body is not JSON.") from None
    if not isinstance(request, dict) or not isinstance(request.get("name"), str):
        raise Refused(400, "invalid_job", "A job needs a name.")
    if not isinstance(request.get("params"), dict):
        raise Refused(400, "invalid_job", "A job needs params, an object.")
    return request
