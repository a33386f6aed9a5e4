"""A real Chromium, and a page that records everything that is broken."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, expect, sync_playwright

from tests.services import PATIENCE

# No sandbox as root; nothing that calls home; a microphone that beeps once a second and needs no permission.
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_ROOT_FLAGS = ("--no-sandbox",) if os.geteuid() == 0 else ()
# The machine that runs the tests may be busy with others.
PATIENCE_MS = 20_000
# Chromium writes each refused request to its console; the tests of refusals cause them on purpose.
_REFUSED = "Failed to load resource: the server responded with a status of"


def find_chromium() -> str | None:
    named = os.environ.get("RETALKING_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def open_browser(program: str, *flags: str) -> Iterator[Browser]:
    """Close it before other tests run in this process: Playwright's event loop stays current while it is open."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_FLAGS, *_ROOT_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page of the console. faults: errors and what its content policy refused. hosts: whom it talked to."""

    page: Page
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def call(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def wait(self, condition: str, timeout_s: float = 20.0) -> None:
        """Until a JavaScript expression is true. Playwright's own wait evaluates text in the page, which the content
        policy refuses, rightly; `wait_until` would let no event of the page through."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"not within {PATIENCE * timeout_s} s: {condition}"
            self.page.wait_for_timeout(50)

    def audit(self) -> list[str]:
        """Accessibility faults of the page in its current state."""
        return self.page.evaluate((Path(__file__).parent / "audit.js").read_text("utf-8"))

    def is_wider_than_its_window(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@contextmanager
def open_page(
    browser: Browser,
    url: str,
    routes: Mapping[str, Callable[[Route], None]] | None = None,
    others: Collection[str] = (),
    **options: Any,
) -> Iterator[Watched]:
    """routes: who answers in the service's place, by the end of the address. others: hosts beside it. options: of the
    browser context, as viewport and color scheme. Ends with a look at what went wrong."""
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched(context.new_page())

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(_REFUSED):
            watched.faults.append(message.text)

    def note_host(request: Request) -> None:
        if urlsplit(request.url).scheme in ("http", "https"):
            watched.hosts.add(urlsplit(request.url).netloc)

    watched.page.on("console", note)
    watched.page.on("pageerror", lambda error: watched.faults.append(str(error)))
    watched.page.on("request", note_host)
    for pattern, answer in (routes or {}).items():
        watched.page.route(re.compile(pattern), answer)
    try:
        watched.page.goto(url)
        yield watched
        assert watched.faults == []
        assert watched.hosts == {urlsplit(url).netloc, *others}, "the console talks to its own service only"
    finally:
        context.close()
