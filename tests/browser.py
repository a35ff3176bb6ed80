"""A real server on loopback, and a real headless Chromium that can reach nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Thread

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from app.artifacts import DirectoryStorage
from app.database import Database
from tests.conftest import Clock
from tests.sample_runs import SampleRuns

CHROMIUM_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Failures are seen by the browser."""


@dataclass
class Visit:
    """An open page, with everything that it asked for and complained of."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)

    def polls(self) -> int:
        """How often the live part was asked for."""
        return sum("fragment" in url for url in self.requests)

    def stop_time(self) -> None:
        """The pages' timers stand still until `pass_time` or `poll`: `install` alone leaves them running."""
        self.page.clock.install(time=0)
        self.page.clock.pause_at(3600)  # time goes on until the page hears of this

    def pass_time(self, seconds: int) -> None:
        self.page.clock.run_for(seconds * 1000)

    def poll(self) -> None:
        """Until the live part was asked for once and has answered: no question is open before or after."""
        asked = self.polls()
        with self.page.expect_response(lambda answer: "fragment" in answer.url):
            while self.polls() == asked:
                self.page.clock.run_for(100)


@dataclass
class Site:
    """The service on a port of its own, and a browser to visit it with."""

    base: str
    browser: Browser
    contexts: list[BrowserContext] = field(default_factory=list)

    def visit(self, path: str | None = None, width: int = 1280, **options: object) -> Visit:
        """`options` as Playwright's `new_context` takes them. Without a path the page is left empty."""
        context = self.browser.new_context(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
        self.contexts.append(context)
        visit = Visit(context.new_page(), self.base)
        visit.page.set_default_timeout(60_000)
        if path is not None:
            visit.open(path)
        return visit


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.environ.get("CI") != "true", "CI=true, but there is no chromium"
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        expect.set_options(timeout=60_000)
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def site(app: Flask, browser: Browser) -> Iterator[Site]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    site = Site(f"http://127.0.0.1:{server.port}", browser)
    yield site
    for context in site.contexts:
        context.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def runs(database: Database, storage: DirectoryStorage, clock: Clock) -> SampleRuns:
    return SampleRuns(database, storage, clock)
