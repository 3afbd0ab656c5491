"""A sample of the journey in a real browser; `make ui` takes the whole of it."""

import shutil
from collections.abc import AsyncIterator

import pytest

from tests.support.api_client import Web

pytest.importorskip("playwright", reason="the package playwright is not installed: make test installs it")
if shutil.which("chromium") is None:
    pytest.skip("there is no Chromium: as root, make test installs Debian's", allow_module_level=True)

from playwright.async_api import Page

from tests.ui.browser import Noted, chromium, sideways, violations

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def page(web: Web) -> AsyncIterator[Page]:
    async with chromium() as browser:
        opened, noted = await browser.new_page(viewport={"width": 360, "height": 740}), Noted()
        opened.set_default_timeout(60_000)
        noted.watch(opened, str(web.client.make_url("")).rstrip("/"))
        yield opened
        assert noted.problems == []


async def test_a_person_signs_in_creates_an_application_and_sees_its_push_by_keyboard_and_live(
    web: Web, page: Page
) -> None:
    await page.goto(str(web.client.make_url("/dashboard/projects")))
    await page.keyboard.type(web.key)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/dashboard/projects")
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await page.fill("input[name=name]", HOSTILE)
    await page.fill("input[name=dockerImage]", "registry.example/web:v1")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/applications/*")
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await page.wait_for_selector("#overview")
    await page.wait_for_selector("#live:text-is('live')")
    await web.push("registry.example/web:v1")
    await page.wait_for_selector(".pending li .state-queued")
    assert await page.inner_text(".pending strong") == HOSTILE
    assert await violations(page) == []
    assert await sideways(page) <= 0
    await page.click(".pending li a")
    await page.click("button:text-is('Cancel')")
    await page.wait_for_selector(".state-cancelled")
    (made,) = await web.query("application.all")
    await page.goto(str(web.client.make_url(f"/dashboard/applications/{made['applicationId']}")))
    await page.wait_for_selector("#live:text-is('live')")
    await web.mutate("application.delete", applicationId=made["applicationId"])
    await page.wait_for_selector("h1:text-is('It did not work')")
    assert "not found" in await page.inner_text("[role=alert]"), "what is gone is not shown any more"
    await page.click("button:text-is('Sign out')")
    await page.wait_for_url("**/dashboard/sign-in")
