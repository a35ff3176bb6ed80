"""Which app of Seven Bridges a run means: one that is there, or a CWL document that is installed as one.

A document's app is named after its content, so that it is installed once, whoever submits it and however often.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from app.attachment_names import attachment_of
from app.daemon.providers.provider_interface import Attachment, Submission
from app.daemon.providers.sevenbridges_api import SevenBridgesApi
from app.daemon.providers.sevenbridges_cwl import MAX_BYTES, content_hash, packed
from app.daemon.providers.sevenbridges_http import Missing
from app.daemon.providers.sevenbridges_inputs import Port, ports_of
from app.daemon.providers.sevenbridges_records import AppRecord
from app.errors import Rejected
from app.locations import FETCHED_SCHEMES, scheme_of, sevenbridges_app

Fetch = Callable[[str], bytes]
"""Gets a small document over http(s), checked and limited. Raises Rejected or NotAccepted."""

LATEST_SECONDS = 60.0
MOST_APPS = 500
REVISION = re.compile(r"/\d+$")


@dataclass(frozen=True, slots=True)
class App:
    """`id`: with its revision, which never changes."""

    id: str
    ports: Mapping[str, Port]

    @property
    def project(self) -> str:
        return "/".join(self.id.split("/")[:2])


class Apps:
    """Thread-safe. Remembers apps; the newest revision of one for a minute."""

    def __init__(
        self, api: SevenBridgesApi, project: str, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._project, self._fetch, self._monotonic = api, project, fetch, monotonic
        self._lock, self._installing = threading.Lock(), threading.Lock()
        self._known: dict[str, tuple[App, float]] = {}

    def ready(self, run: Submission) -> App:
        """The run's app, installed if it was not. Raises Rejected."""
        attached = {attachment.path: attachment for attachment in run.attachments}
        document = attachment_of(run.workflow_url, attached)
        if document is None and (app_id := sevenbridges_app(run.workflow_url)):
            return self._remembered(app_id, lambda: self._there(app_id))
        if document is None and scheme_of(run.workflow_url) not in FETCHED_SCHEMES:
            words = f"workflow_url {run.workflow_url!r} is neither a Seven Bridges app nor a CWL document."
            raise Rejected(words, "workflow_not_found")
        address, _, part = run.workflow_url.partition("#")
        return self._of_document(document or address, unquote(part), attached)

    def _there(self, app_id: str) -> AppRecord:
        try:
            return self._api.get_app(app_id)
        except Missing:
            words = f"There is no Seven Bridges app {app_id}, or the token's user may not see it."
            raise Rejected(words, "workflow_not_found") from None

    def _of_document(self, place: str, part: str, attached: Mapping[str, Attachment]) -> App:
        if not self._project:
            raise Rejected("A CWL document needs SEVENBRIDGES_PROJECT, where it is installed.", "project_not_set")
        raw = packed(place, lambda where: self._read(where, attached), part)
        app_id = f"{self._project}/wes-{content_hash(raw)[:32]}"
        with self._installing:  # runs that come together often bring the same document
            return self._remembered(f"{app_id}/0", lambda: self._installed(app_id, raw))

    def _installed(self, app_id: str, raw: dict[str, object]) -> AppRecord:
        try:
            return self._api.get_app(f"{app_id}/0")
        except Missing:
            pass
        try:
            return self._api.install_app(app_id, raw)
        except Rejected as refusal:
            try:
                return self._api.get_app(f"{app_id}/0")  # somebody else was faster
            except Missing:
                raise Rejected(f"Seven Bridges does not take the document: {refusal}", "workflow_refused") from None

    def _read(self, place: str, attached: Mapping[str, Attachment]) -> bytes:
        if place in attached:
            with attached[place].open() as file:
                return file.read(MAX_BYTES + 1)
        if scheme_of(place) in ("http", "https"):
            return self._fetch(place)
        names = _some(attached)
        raise Rejected(f"There is no document {place!r}; attached are {names}.", "workflow_not_found")

    def _remembered(self, key: str, get: Callable[[], AppRecord]) -> App:
        now = self._monotonic()
        with self._lock:
            app, until = self._known.get(key, (None, 0.0))
        if app is not None and now < until:
            return app
        record = get()
        app = App(_pinned(record), ports_of(record.raw))
        lasts = float("inf") if REVISION.search(key) else LATEST_SECONDS
        with self._lock:
            if len(self._known) >= MOST_APPS:
                self._known.clear()
            self._known[key] = app, now + lasts
        return app


def _pinned(record: AppRecord) -> str:
    return f"{REVISION.sub('', record.id)}/{record.revision}"


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:10]) or "none"
