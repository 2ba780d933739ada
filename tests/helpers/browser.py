"""Headless Chromium for page tests, driven by Playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on the PATH (Debian: apt-get install chromium); .ci/run installs it",
)
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage")
_DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_TIMEOUT = 60_000  # ms, for a busy machine


class Tab:
    """Browser tab; ``complaints`` collects errors, console messages and dialogs of its pages."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(_TIMEOUT)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("requestfailed", lambda request: self.complaints.append(request.url))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message) or dialog.dismiss())

    def run(self, code: str) -> Any:
        """Evaluate an expression, and await it if it is a promise."""
        return self.page.evaluate(code)

    def text(self, name: str) -> str:
        """Return the text of the element with an id."""
        return str(self.run(f"document.getElementById({name!r}).textContent"))

    def open(self, address: str | Path) -> None:
        """Load a page and wait for its script."""
        self.page.goto(address.as_uri() if isinstance(address, Path) else address)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def wait(self, condition: str) -> None:
        """Wait for an expression; the page's policy forbids ``wait_for_function``."""
        end = time.monotonic() + _TIMEOUT / 1000
        while not self.run(condition):
            assert time.monotonic() < end, f"{condition} did not come true; {self.complaints}"
            self.page.wait_for_timeout(20)

    def settle(self) -> None:
        """Wait until the effects of the last event are drawn."""
        self.run(_DRAWN)
        self.run("vsmReport.showing")

    def select(self, row: int) -> None:
        """Show a pair."""
        self.run(f"vsmReport.select({row})")
        self.settle()

    def key(self, name: str) -> None:
        """Press and release a key."""
        self.page.keyboard.press(name)
        self.settle()

    def click(self, x: float, y: float) -> None:
        """Click at a position of the window."""
        self.page.mouse.click(x, y)
        self.settle()

    def click_on(self, selector: str) -> None:
        """Scroll to an element and click it."""
        self.page.click(selector)
        self.settle()

    def fill(self, selector: str, value: str, event: str = "input") -> None:
        """Set the value of an input and dispatch its event."""
        code = "(e, [value, event]) => { e.value = value; e.dispatchEvent(new Event(event)) }"
        self.page.locator(selector).evaluate(code, [value, event])
        self.settle()


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start a browser with one tab and an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        yield Tab(browser.new_page())
        browser.close()
