"""What runs of HealthOmics write to CloudWatch Logs, appended to our own logs from where those end."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

from pydantic import BaseModel

from app.daemon.providers.healthomics_aws import AwsApi, Denied, Missing
from app.daemon.providers.provider_interface import LogSink
from app.errors import OutcomeUnknown, Rejected

GROUP = "/aws/omics/WorkflowLog"
MOST_CURSORS = 10_000
MOST_PAGES = 10_000
CLOCKS_DIFFER = timedelta(minutes=15)
_STREAM_ARN = re.compile(r"arn:[^:]*:logs:[^:]*:[^:]*:log-group:(?P<group>[^:]+):log-stream:(?P<stream>.+)")


@dataclass(frozen=True, slots=True)
class LogStream:
    """A stream of CloudWatch Logs, from a time on: the id in its name may have been another run's before."""

    group: str
    name: str
    since: datetime | None = None

    @staticmethod
    def of(arn: str | None, name: str, since: datetime | None) -> LogStream:
        """The stream that the service names, else the one that it is known to use."""
        found = _STREAM_ARN.fullmatch(arn or "")
        return LogStream(found["group"], found["stream"], since) if found else LogStream(GROUP, name, since)


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a log was read to, how many bytes our own log then had, and whether its writer had ended by then."""

    token: str | None
    kept: int
    had_ended: bool


class _Event(BaseModel):
    message: str = ""


class _Events(BaseModel):
    events: list[_Event] = []
    nextForwardToken: str | None = None


class Logs:
    """Thread-safe. Cursors only save reading again: without one a log is read from its start, less what is kept."""

    def __init__(self, api: AwsApi) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._cursors: OrderedDict[tuple[str, str], _Cursor] = OrderedDict()

    def append_new(
        self, run: str, stream: LogStream, sink: LogSink, name: str, *, has_ended: bool = False, is_last: bool = True
    ) -> None:
        """Append what is new of a stream to `sink` under `name`; `run` tells runs apart. A missing stream is empty.

        `has_ended`: its writer is over. Such a stream is read no more, but once `is_last`, as lines may come late.
        Raises Rejected where logs may not be read.
        """
        kept = sink.size(name)
        cursor = self._cursors.get((run, name))
        if cursor and cursor.had_ended and not is_last:
            return
        token, skip = (cursor.token, 0) if cursor and cursor.kept == kept else (None, kept)
        try:
            token = self._read_on(stream, token, skip, sink, name)
        except Missing:
            return
        except Denied as error:
            raise Rejected(str(error), "access_denied") from error
        except Rejected:  # CloudWatch forgets its tokens after a day
            if token is None:
                raise
            token = self._read_on(stream, None, sink.size(name), sink, name)
        self._remember((run, name), _Cursor(token, sink.size(name), has_ended))

    def _read_on(self, stream: LogStream, token: str | None, skip: int, sink: LogSink, name: str) -> str | None:
        """Append what comes after `token`, less its first `skip` bytes; returns the token to go on from."""
        for _ in range(MOST_PAGES):
            page = self._page(stream, token)
            text = "".join(f"{event.message}\n" for event in page.events).encode(errors="replace")
            new, skip = text[skip:], max(0, skip - len(text))
            before = sink.size(name)
            if new:
                sink.append(name, BytesIO(new))
            if page.nextForwardToken in (None, token) or (new and sink.size(name) == before):
                return page.nextForwardToken
            token = page.nextForwardToken
        raise OutcomeUnknown(f"CloudWatch Logs: {stream.name} has more than {MOST_PAGES} pages.")

    def _page(self, stream: LogStream, token: str | None) -> _Events:
        more: dict[str, Any] = {"nextToken": token} if token else {}
        if stream.since:
            more["startTime"] = int((stream.since - CLOCKS_DIFFER).timestamp()) * 1000
        names = {"logGroupName": stream.group, "logStreamName": stream.name}
        return self._api.read(_Events, "GetLogEvents", **names, startFromHead=True, **more)

    def _remember(self, key: tuple[str, str], cursor: _Cursor) -> None:
        with self._lock:
            self._cursors[key] = cursor
            self._cursors.move_to_end(key)
            while len(self._cursors) > MOST_CURSORS:
                self._cursors.popitem(last=False)
