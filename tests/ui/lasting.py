"""The page ends true: after cuts of the network, in a hidden tab, and when its gateway is killed."""

import asyncio
import signal

from tests.ui.visit import Visit

_LINES = 50  # of a log
_CUT = 30  # seconds
_HIDDEN = 22  # seconds, after which a hidden tab closes its stream


async def interrupted(visit: Visit) -> None:
    """The page ends true after the network was cut, the tab hidden, and the gateway killed."""
    gateway, balancer = visit.world.gateway, visit.world.balancer
    await visit.go("")
    await visit.follow()
    balancer.cut()
    # Past the balancer: the registry is on another network.
    application_id = (await gateway.query("application.all"))[0]["applicationId"]
    await visit.world.push("shop/web", "after the cut")
    await gateway.mutate("application.deploy", {"applicationId": application_id})
    digest = (await gateway.settled(application_id))["digest"]
    await asyncio.sleep(_CUT)
    balancer.mend()
    await visit.page.wait_for_selector(f"tbody code[title='{digest}']")
    visit.claim("after a cut of 30 s that no end of a connection announced, the page catches up by itself", holds=True)
    await visit.follow()

    await visit.page.evaluate(_HIDE, True)
    await asyncio.sleep(_HIDDEN)
    paused = await visit.page.inner_text("#live")
    await visit.world.push("shop/web", "while hidden")
    await gateway.settled(application_id)
    digest = (await gateway.deployments(application_id))[0]["digest"]
    await visit.page.evaluate(_HIDE, False)
    await visit.page.wait_for_selector(f"tbody code[title='{digest}']")
    visit.claim("a hidden tab rests, and catches up when it is shown", holds=paused == "paused", detail=paused)

    await visit.follow()
    await gateway.stop(signal.SIGKILL)
    await gateway.start()
    await visit.follow()
    so_far = len(await gateway.deployments(application_id))
    await visit.world.push("shop/web", "after the kill")
    digest = (await gateway.settled(application_id, count=so_far + 1))["digest"]
    await visit.page.wait_for_selector(f"tbody code[title='{digest}']")
    await visit.page.wait_for_selector(".pending", state="detached")
    visit.claim("after the gateway was killed, the page goes on by itself, and is complete", holds=True)


_HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def switch(visit: Visit) -> None:
    """A page shows what another gateway does; when its own is killed it changes over, and is complete."""
    gateway, balancer = visit.world.gateway, visit.world.balancer
    application_id = (await gateway.query("application.all"))[0]["applicationId"]
    await visit.world.push_counting("shop/talks", _LINES)
    await gateway.cli("apps", "create", "talks", visit.world.image("shop/talks"), "--id", "talks")
    await gateway.mutate("application.redeploy", {"applicationId": "talks"})
    await gateway.settled("talks")
    await visit.go(f"/applications/{application_id}")
    await visit.follow()
    async with visit.world.second_gateway() as second:
        # The first one is busy with a page, and rolls out nothing: its slots are taken away.
        await gateway.stop(signal.SIGTERM)
        gateway.environment["GATEWAY_DOCKER_HOST"] = "unix:///nowhere"
        await gateway.start()
        await visit.follow()
        await visit.world.push("shop/web", "by the other", ballast=150_000_000)
        await visit.page.wait_for_selector("article.pending")
        seen: set[str] = set()
        while await visit.page.locator("article.pending").count():
            seen.add(await visit.page.locator("#application").inner_text(timeout=5_000))
            await asyncio.sleep(0.05)
        steps = [step for step in ("pull", "swap", "prove") if any(step in text for text in seen)]
        progress = any(" MB" in text for text in seen)
        visit.claim(
            "a page shows the steps of a rollout that another gateway does", holds=len(steps) > 1, detail=str(steps)
        )
        visit.claim("and the progress of its pull", holds=progress)
        await visit.world.push("shop/web", "while it changes over")
        balancer.target = second.port
        await gateway.stop(signal.SIGKILL)
        digest = (await second.settled(application_id))["digest"]
        await visit.page.wait_for_selector(f"#application dd code:text-is('{digest}')")
        visit.claim("when its gateway is killed, the page changes over to the other and is complete", holds=True)
        await visit.follow()
        await visit.go("/applications/talks/log")
        await visit.page.wait_for_selector(f"#log-status:text-is('{_LINES} lines')")
        visit.claim("the other gateway shows the log of what the first one started", holds=True)
        gateway.environment["GATEWAY_DOCKER_HOST"] = visit.world.engine
        await gateway.start()
        balancer.target = gateway.port
    await visit.go("")
    await visit.follow()
