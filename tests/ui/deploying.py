"""Push good and bad versions, go back, look into the inbox, follow a log."""

import asyncio
import statistics
import time

from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import until
from tests.ui.visit import Visit
from tests.ui.world import World

_LINES = 100_000  # of a log
_PUSHES = 10  # whose way to the page is timed


async def push(visit: Visit) -> None:
    """Push good and bad versions, and see them on the overview."""
    await visit.go("")
    await visit.follow()
    seen = []
    for number in range(_PUSHES):
        accepted = asyncio.create_task(_accepted(visit.world))
        shown = asyncio.create_task(visit.page.wait_for_selector(".pending li"))
        await visit.world.push("shop/web", f"v{number + 2}")
        await shown
        at = time.monotonic()
        seen.append(at - await accepted)
        await visit.page.wait_for_selector(".pending", state="detached")
    median = statistics.median(seen) * 1000
    visit.claim("a push is on the page within 250 ms of its acceptance", holds=median <= 250, detail=f"{median:.0f} ms")
    await visit.world.push("shop/web", "bad", Behaviour.EXITS)
    await visit.page.wait_for_selector(".state-failed")
    await visit.world.push("shop/web", "good", Behaviour.FINISHES)
    await visit.page.wait_for_selector(".pending li span strong")
    await visit.shot("overview", everywhere=True)
    await visit.page.wait_for_selector(".pending", state="detached")
    await visit.go("/deployments")
    await visit.page.locator("tr:has(.state-failed) td a").first.click()
    await visit.page.wait_for_selector(".reason")
    text = await visit.page.inner_text("main")
    visit.claim(
        "a bad push says why, and what to do", holds="boom" in text and "The container's last lines say why" in text
    )
    await visit.sound("a failed deployment")
    await visit.shot("failed")


async def back(visit: Visit) -> None:
    """Go back to the first version, having seen what that changes; look at the durations."""
    await visit.page.click("nav[aria-label=Main] a:has-text('Overview')")
    await visit.page.click("th a")
    await visit.page.wait_for_selector("#application")
    await visit.shot("application")
    await visit.sound("an application")
    revision = visit.page.locator("a:has-text('0123456789abcdef')")
    leads = await revision.get_attribute("href")
    visit.claim("the revision of the image is a link", holds="/acme/web/commit/0123" in (leads or ""))
    await visit.page.locator("a:has-text('Roll back to this')").last.click()
    await visit.page.wait_for_selector("h1:has-text('Roll back')")
    shown = await visit.page.inner_text("main")
    visit.claim("a way back says what it changes first", holds="Only the image" in shown, detail=shown[:200])
    await visit.sound("a way back")
    await visit.page.click("button:has-text('Roll back to this')")
    await visit.page.wait_for_url("**/deployments/*")
    await visit.page.wait_for_selector(".state-succeeded")
    visit.claim("a version is brought back by its button", holds=True)
    (application,) = await visit.world.gateway.query("application.all")
    await visit.go(f"/applications/{application['applicationId']}/times")
    await visit.page.wait_for_selector(".chart canvas")
    await visit.sound("the durations")
    await visit.go("/deployments?state=failed")
    states = await visit.page.locator("tbody .state").all_inner_texts()
    visit.claim("deployments are filtered in the address", holds=set(states) == {"failed"}, detail=str(set(states)))


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
    await visit.page.click("a:has-text('Pushes an hour')")
    await visit.page.wait_for_selector(".chart canvas")
    (hour,) = await visit.page.locator("#hours tbody tr").first.locator("td").first.all_text_contents()
    visit.claim("the pushes of this hour are counted", holds=int(hour) > _PUSHES, detail=hour)
    await visit.shot("hours")
    await visit.go("/audit")
    await visit.page.fill("input[name=applicationId]", "web")
    await visit.page.fill("input[name=action]", "application.deploy")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_url("**action=application.deploy**")
    rows = await visit.page.locator("main tbody tr").all_inner_texts()
    holds = bool(rows) and all("application.deploy" in row for row in rows)
    visit.claim("the audit is filtered by the name of an application, and what was done", holds=holds)
    await visit.sound("the filtered audit")


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
    await visit.page.wait_for_selector(f"#log-status:text-is('{_LINES} lines')")
    slowest = await visit.page.evaluate("window.slowest")
    lost, shown = await visit.page.evaluate(
        "(() => { const seen = document.getElementById('log-lines').textContent.trim().split('\\n')"
        ".map((line) => Number(line.split(' ').pop())); let lost = 0;"
        " for (let i = 1; i < seen.length; i++) if (seen[i] !== seen[i - 1] + 1) lost++;"
        " return [lost, seen.length]; })()"
    )
    visit.claim(f"a log of {_LINES} lines loses none", holds=lost == 0 and shown == _LINES, detail=f"{lost}, {shown}")
    visit.claim("no task of the browser takes 200 ms meanwhile", holds=slowest < 200, detail=f"{slowest:.0f} ms")
    await visit.shot("log")
    await visit.page.fill("#log-search", f"line {_LINES - 1}")
    await visit.page.select_option("select[name=since]", "24h")
    await visit.page.click("button:text-is('Show')")
    await visit.page.wait_for_url("**since=24h**")
    await visit.page.wait_for_selector(f"#log-status:text-is('{_LINES} lines')")
    shown = (await visit.page.locator("#log-lines").inner_text()).strip().splitlines()
    visit.claim("the log is shown since a time, only with a text, both in the address", holds=len(shown) == 1)
    await visit.sound("a log")
    await gateway.mutate("application.delete", {"applicationId": "counter"})
