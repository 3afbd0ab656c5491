"""`make ui`: the whole journey in a real browser; a line for each claim, exit code 1 when one does not hold.

    first visit, sign-in, adopt, webhook, push, live rollout, bad push, roll back, inbox and replay, log, sign-out
    each page: axe finds nothing, nothing is wider than a phone, no policy is violated, no request goes elsewhere
    stored script in every text that is shown does not run
    the network is cut, the tab is hidden, the gateway is killed: the page ends true without a reload by hand

With `--shots FOLDER`, the pictures of the documents are made.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import BrowserContext, Page

from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import until
from tests.ui.browser import Noted, chromium, sideways, violations
from tests.ui.world import World, world

_PHONE = {"width": 360, "height": 740}
_DESK = {"width": 1280, "height": 800}
_HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"
_PAGES = (
    "",
    "/deployments",
    "/approvals",
    "/releases",
    "/inbox",
    "/webhooks",
    "/registries",
    "/servers",
    "/keys",
    "/projects",
    "/audit",
)
_LINES = 100_000  # of a log
_PUSHES = 10  # whose way to the page is timed


@dataclass
class Visit:
    """A person at a browser, and what holds so far."""

    world: World
    context: BrowserContext
    page: Page
    noted: Noted
    shots: Path | None
    failed: list[str] = field(default_factory=list)

    def claim(self, text: str, *, holds: bool, detail: str = "") -> None:
        print(f"{'ok' if holds else 'FAILED'}  {text}{f': {detail}' if detail else ''}", flush=True)  # noqa: T201
        if not holds:
            self.failed.append(text)

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.world.gateway.url}/dashboard{path}")

    async def shot(self, name: str, *, everywhere: bool = False) -> None:
        """Make a picture for the documents; `everywhere`: also in the dark, and on a phone."""
        if self.shots is None:
            return
        await self.page.screenshot(path=self.shots / f"{name}.png")
        if not everywhere:
            return
        await self.page.emulate_media(color_scheme="dark")
        await self.page.screenshot(path=self.shots / f"{name}-dark.png")
        await self.page.emulate_media(color_scheme="light")
        await self.page.set_viewport_size(_PHONE)
        await self.page.screenshot(path=self.shots / f"{name}-phone.png")
        await self.page.set_viewport_size(_DESK)

    async def sound(self, name: str) -> None:
        """Claim what holds of each page in each state."""
        found = await violations(self.page)
        self.claim(f"axe finds nothing on {name}", holds=not found, detail="; ".join(found[:3]))
        await self.page.emulate_media(color_scheme="dark")
        found = await violations(self.page)
        self.claim(f"axe finds nothing on {name}, dark", holds=not found, detail="; ".join(found[:3]))
        await self.page.emulate_media(color_scheme="light")
        await self.page.set_viewport_size(_PHONE)
        wider = await sideways(self.page)
        self.claim(f"{name} fits on a phone", holds=wider <= 0, detail=f"{wider} px wider" if wider > 0 else "")
        await self.page.set_viewport_size(_DESK)

    async def follow(self) -> None:
        """Wait until the page is live."""
        await self.page.wait_for_selector("#live:text-is('live')", timeout=30_000)


async def first_visit(visit: Visit) -> None:
    """Sign in by a wrong key, then by a link; the empty page leads on."""
    await visit.go("")
    visit.claim("a visitor is led to the sign-in", holds="/sign-in" in visit.page.url)
    await visit.sound("the sign-in")
    await visit.page.fill("input[name=key]", "wrong")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector("[role=alert]")
    visit.claim("a wrong key says so", holds="no such API key" in await visit.page.inner_text("[role=alert]"))
    link = await visit.world.gateway.cli("open")
    await visit.page.goto(link)
    await visit.page.click("main button[type=submit]")
    await visit.page.wait_for_selector("h1")
    text = await visit.page.inner_text("main")
    visit.claim("the first page leads to the first push", holds="Three steps" in text)
    await visit.sound("the empty overview")
    await visit.page.goto(link)
    await visit.page.click("main button[type=submit]")
    visit.claim("a link signs in once", holds="used already" in await visit.page.inner_text("[role=alert]"))


async def create(visit: Visit) -> None:
    """Create an application, and deploy it for the first time, by the keyboard."""
    await visit.world.push("shop/web", "v1")
    await visit.go("")
    await visit.page.fill("input[name=name]", "web")
    await visit.page.fill("input[name=dockerImage]", visit.world.image("shop/web"))
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector("th a")
    await visit.page.focus("th a")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector(".actions")
    await visit.follow()
    await visit.page.focus(".actions summary")
    await visit.page.keyboard.press("Enter")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_url("**/deployments/*")
    await visit.page.wait_for_selector(".state-succeeded", timeout=20_000)
    visit.claim("a deployment is followed to its end without a reload", holds=True)
    await visit.shot("deployment")
    await visit.sound("a deployment")


async def push(visit: Visit) -> None:
    """Push good and bad versions, and see them on the overview; go back to the first one."""
    await visit.go("")
    await visit.follow()
    seen = []
    for number in range(_PUSHES):
        accepted = asyncio.create_task(_accepted(visit.world))
        shown = asyncio.create_task(visit.page.wait_for_selector(".pending li", timeout=10_000))
        await visit.world.push("shop/web", f"v{number + 2}")
        await shown
        at = time.monotonic()
        seen.append(at - await accepted)
        await visit.page.wait_for_selector(".pending", state="detached", timeout=20_000)
    median = statistics.median(seen) * 1000
    visit.claim("a push is on the page within 250 ms of its acceptance", holds=median <= 250, detail=f"{median:.0f} ms")
    await visit.world.push("shop/web", "bad", Behaviour.EXITS)
    await visit.page.wait_for_selector(".state-failed", timeout=30_000)
    await visit.world.push("shop/web", "good", Behaviour.FINISHES)
    await visit.page.wait_for_selector(".pending li", timeout=20_000)
    await visit.shot("overview", everywhere=True)
    await visit.page.wait_for_selector(".pending", state="detached", timeout=30_000)
    await visit.go("/deployments")
    await visit.page.locator("tr:has(.state-failed) td a").first.click()
    await visit.page.wait_for_selector(".reason")
    text = await visit.page.inner_text("main")
    visit.claim(
        "a bad push says why, and what to do", holds="boom" in text and "The container's last lines say why" in text
    )
    await visit.sound("a failed deployment")
    await visit.shot("failed")
    await visit.page.click("nav[aria-label=Main] a:has-text('Overview')")
    await visit.page.click("th a")
    await visit.page.wait_for_selector("#application")
    await visit.shot("application")
    await visit.sound("an application")
    await visit.page.locator("button:has-text('Roll back to this')").last.click()
    await visit.page.wait_for_url("**/deployments/*")
    await visit.page.wait_for_selector(".state-succeeded", timeout=30_000)
    visit.claim("a version is brought back by its button", holds=True)


async def _accepted(world_: World) -> float:
    """Return when the next deployment was there."""

    async def newest() -> str:
        return str((await world_.gateway.query("deployment.allCentralized", limit="1"))[0]["deploymentId"])

    before = await newest()

    async def look() -> float | None:
        return time.monotonic() if await newest() != before else None

    return await until(look)


async def inbox(visit: Visit) -> None:
    """Find a delivery, read why it did what it did, and replay it."""
    await visit.page.keyboard.press("g")
    await visit.page.keyboard.press("i")
    await visit.page.wait_for_url("**/inbox")
    await visit.shot("inbox")
    await visit.page.select_option("select[name=verdict]", "deployed")
    await visit.page.click("button:has-text('Filter')")
    await visit.page.locator("tr:has(.state-deployed) td a").first.click()
    await visit.page.wait_for_selector("pre")
    await visit.sound("a delivery")
    await visit.page.click("button:has-text('Replay')")
    await visit.page.wait_for_url("**/inbox")
    visit.claim("a delivery is replayed by its button", holds=True)


async def everywhere(visit: Visit) -> None:
    """Every page is sound, also without scripts."""
    for path in _PAGES:
        await visit.go(path)
        await visit.sound(path or "the overview")
    plain = await visit.context.browser.new_context(java_script_enabled=False)
    await plain.add_cookies(await visit.context.cookies())
    page = await plain.new_page()
    for path in _PAGES:
        await page.goto(f"{visit.world.gateway.url}/dashboard{path}")
        if await page.locator("h1").count() != 1:
            visit.claim(f"{path} works without scripts", holds=False)
    visit.claim("all pages work without scripts", holds=True)
    await plain.close()


async def log(visit: Visit) -> None:
    """Follow a log of 100,000 lines at 2,000 a second: none is lost, and the page answers."""
    gateway = visit.world.gateway
    await visit.world.push_counting("shop/counter", _LINES)
    await gateway.cli("apps", "create", "counter", visit.world.image("shop/counter"), "--id", "counter")
    await gateway.mutate("application.redeploy", {"applicationId": "counter"})
    await gateway.settled("counter")
    await visit.go("/applications/counter/log")
    await visit.page.evaluate(
        "window.slowest = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " window.slowest = Math.max(window.slowest, one.duration); }).observe({type: 'longtask', buffered: true})"
    )
    await visit.page.wait_for_selector(f"#log-status:text-is('{_LINES} lines')", timeout=120_000)
    slowest = await visit.page.evaluate("window.slowest")
    lost, shown = await visit.page.evaluate(
        "(() => { const seen = document.getElementById('log-lines').textContent.trim().split('\\n')"
        ".map((line) => Number(line.split(' ').pop())); let lost = 0;"
        " for (let i = 1; i < seen.length; i++) if (seen[i] !== seen[i - 1] + 1) lost++;"
        " return [lost, seen.length]; })()"
    )
    visit.claim(f"a log of {_LINES} lines loses none", holds=lost == 0 and shown == _LINES, detail=f"{lost}, {shown}")
    visit.claim("no task of the browser takes 200 ms meanwhile", holds=slowest < 200, detail=f"{slowest:.0f} ms")
    await visit.page.fill("#log-search", f"line {_LINES - 1}")
    await visit.sound("a log")
    await visit.shot("log")
    await gateway.mutate("application.delete", {"applicationId": "counter"})


async def hostile(visit: Visit) -> None:
    """Script in stored texts does not run."""
    gateway = visit.world.gateway
    named = {"name": _HOSTILE, "description": _HOSTILE, "dockerImage": visit.world.image("shop/web")}
    application_id = (await gateway.mutate("application.create", named))["applicationId"]
    await gateway.mutate("project.create", {"name": _HOSTILE[:60]})
    await gateway.mutate("webhook.create", {"source": "generic", "name": _HOSTILE[:60]})
    await gateway.mutate("application.saveEnvironment", {"applicationId": application_id, "env": "A=<b>"})
    await gateway.mutate("application.deploy", {"applicationId": application_id, "title": _HOSTILE, "tag": "none"})
    await gateway.settled(application_id)
    for path in (*_PAGES, f"/applications/{application_id}"):
        await visit.go(path)
        await visit.page.wait_for_timeout(200)
    deployment = (await gateway.deployments(application_id))[0]["deploymentId"]
    await visit.go(f"/deployments/{deployment}")
    shown = await visit.page.inner_text("h1")
    visit.claim("stored script is shown as text", holds="<script>alert(1)" in shown and "49" not in shown)
    await gateway.mutate("application.delete", {"applicationId": application_id})


async def interrupted(visit: Visit) -> None:
    """The page ends true after the network was cut, the tab hidden, and the gateway killed."""
    gateway = visit.world.gateway
    await visit.go("")
    await visit.follow()
    await visit.context.set_offline(offline=True)
    await visit.world.push("shop/web", "after the cut")
    await gateway.settled((await gateway.query("application.all"))[0]["applicationId"])
    digest = (await gateway.deployments((await gateway.query("application.all"))[0]["applicationId"]))[0]["digest"]
    await visit.context.set_offline(offline=False)
    await visit.page.wait_for_selector(f"tbody code[title='{digest}']", timeout=40_000)
    visit.claim("after the network was cut, the page catches up by itself", holds=True)
    await visit.follow()
    await gateway.stop(signal.SIGKILL)
    await gateway.start()
    await visit.follow()
    await visit.world.push("shop/web", "after the kill")
    await visit.page.wait_for_selector(".pending li", timeout=20_000)
    visit.claim("after the gateway was killed, the page goes on by itself", holds=True)
    await visit.page.wait_for_selector(".pending", state="detached", timeout=30_000)


async def sign_out(visit: Visit) -> None:
    """After signing out, the cookie of before is worth nothing."""
    cookies = await visit.context.cookies()
    await visit.go("")
    await visit.page.click("button:has-text('Sign out')")
    await visit.page.wait_for_url("**/sign-in")
    await visit.context.add_cookies(cookies)
    await visit.go("")
    visit.claim("a session that was ended stays ended", holds="/sign-in" in visit.page.url)


_STEPS: tuple[Callable[[Visit], Awaitable[None]], ...] = (
    first_visit, create, push, inbox, log, everywhere, hostile, interrupted, sign_out,
)  # fmt: skip


async def run(shots: Path | None) -> bool:
    """Take all steps; return whether every claim holds."""
    with tempfile.TemporaryDirectory(prefix="gateway-ui-") as directory:
        async with world(Path(directory)) as made, chromium() as browser:
            context = await browser.new_context(viewport=_DESK, reduced_motion="reduce")
            page, noted = await context.new_page(), Noted()
            noted.watch(page, made.gateway.url)
            visit = Visit(made, context, page, noted, shots)
            for step in _STEPS:
                try:
                    await step(visit)
                except Exception as error:
                    visit.claim(step.__name__, holds=False, detail=str(error)[:600])
                    await page.screenshot(path=f"build/ui-{step.__name__}.png")
            visit.claim(
                "no script failed, no policy was violated, no request went elsewhere",
                holds=not noted.problems,
                detail="; ".join(noted.problems[:5]),
            )
            defects = [line for line in made.gateway.log.read_text().splitlines() if '"level":"error"' in line]
            visit.claim("the gateway logged no defect", holds=not defects, detail="; ".join(defects[:2])[:1500])
            return not visit.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path)
    given = parser.parse_args()
    Path("build").mkdir(exist_ok=True)
    if given.shots is not None:
        given.shots.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if asyncio.run(run(given.shots)) else 1)


if __name__ == "__main__":
    main()
