"""Headless Chromium for the tests of pages: Debian's, driven by playwright. `make browser-test` installs both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.page_agent import PageAgent, page_agent, served_page

CHROMIUM = shutil.which("chromium")
COME = 30_000
"""Milliseconds in which what is expected has to come."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Return the browser; the test is skipped where it, or playwright, isn't installed.

    For one module: as long as playwright runs, no other test of the process can run an event loop.
    """
    if CHROMIUM is None:
        pytest.skip("chromium isn't installed: make browser-test installs it")
    if find_spec("playwright") is None:
        pytest.skip("playwright isn't installed: make browser-test installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page in a browser of its own, without what others have stored.

    requests: the addresses that it asked for
    console:  what it wrote to the console, violations of its policy and errors among it
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(COME)
        self.requests: list[str] = []
        self.console: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"pageerror: {error}"))

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        found: str = self.page.inner_text(selector)
        return found

    def waits_for(self, selector: str, text: str) -> None:
        """Wait until an element has a text in it."""
        self.page.wait_for_function(
            "([selector, text]) => (document.querySelector(selector)?.innerText || '').includes(text)",
            arg=[selector, text],
        )

    def waits_for_count(self, selector: str, count: int) -> None:
        """Wait until so many elements match."""
        self.page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length === count", arg=[selector, count]
        )

    @property
    def focus(self) -> str:
        """The text of the element with the focus, or its id; '' for none."""
        found: str = self.page.evaluate(
            "() => { const at = document.activeElement; return at === document.body ? '' : at.id || at.innerText; }"
        )
        return found


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    """Return an empty tab."""
    found = Tab(chromium)
    try:
        yield found
    finally:
        found.context.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[PageAgent]:
    """Return an agent that listens."""
    with page_agent(tmp_path / "agent.sock") as found:
        found.listen()
        yield found


@pytest.fixture
def url(agent: PageAgent) -> Iterator[str]:
    """Return the address of the page of `nfagent ui` for that agent."""
    with served_page(agent) as found:
        yield found
