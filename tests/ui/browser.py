"""A tab of Chromium that notes all that must not happen: errors, policy violations, requests to elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_AXE = Path("tests/clients/node_modules/axe-core/axe.min.js")
#: in messages of requests that fail as they should
_EXPECTED = ("status of 4", "Status Error Code 4", "ERR_", "htmx:")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@dataclass
class Noted:
    """What must not happen, and did."""

    problems: list[str] = field(default_factory=list)

    def watch(self, page: Page, origin: str) -> None:
        def console(message: Any) -> None:
            # Chromium reports a violation of the policy, and a request that failed, as an error.
            if message.type == "error" and not any(expected in message.text for expected in _EXPECTED):
                self.problems.append(f"console: {message.text}")

        def requested(request: Any) -> None:
            if not request.url.startswith((origin, "data:", "about:")):
                self.problems.append(f"request to {request.url}")

        page.on("console", console)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        page.on("request", requested)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Yield Debian's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@cache
def _axe() -> str:
    return _AXE.read_text(encoding="utf-8") + "\n;0"


async def violations(page: Page) -> list[str]:
    """Return what axe finds wrong with the page as it is now: the rule and the element."""
    # The policy of the page forbids to add a script: the browser evaluates it beside the page.
    await page.evaluate(_axe())
    found = await page.evaluate(
        "async (rules) => (await window.axe.run(document, {runOnly: {type: 'tag', values: rules}})).violations", _RULES
    )
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


async def sideways(page: Page) -> int:
    """Return how many pixels the page is wider than its window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
