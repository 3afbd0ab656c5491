"""Every page is sound and works without scripts; what others wrote does not run; no other site gets in."""

import aiohttp
import asyncpg

from tests.ui.visit import PAGES, Visit

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}"


async def everywhere(visit: Visit) -> None:
    """Every page is sound, also without scripts."""
    for path in PAGES:
        await visit.go(path)
        await visit.sound(path or "the overview")
    plain = await visit.context.browser.new_context(java_script_enabled=False)
    await plain.add_cookies(await visit.context.cookies())
    page = await plain.new_page()
    for path in PAGES:
        await page.goto(f"{visit.world.url}/dashboard{path}")
        if await page.locator("h1").count() != 1:
            visit.claim(f"{path} works without scripts", holds=False)
    visit.claim("all pages work without scripts", holds=True)
    await plain.close()


async def hostile(visit: Visit) -> None:
    """Script in stored texts does not run."""
    gateway = visit.world.gateway
    named = {"name": HOSTILE, "description": HOSTILE, "dockerImage": visit.world.image("shop/web")}
    application_id = (await gateway.mutate("application.create", named))["applicationId"]
    await gateway.mutate("project.create", {"name": HOSTILE[:60]})
    await gateway.mutate("webhook.create", {"source": "generic", "name": HOSTILE[:60]})
    made = await gateway.mutate("webhook.create", {"source": "generic", "name": "open", "settings": {"proof": "path"}})
    async with aiohttp.ClientSession() as session:
        sent = {"image": HOSTILE, "tag": HOSTILE}
        async with session.post(f"{gateway.url}{made['path']}", json=sent, headers={"X-Hostile": HOSTILE}) as answer:
            await answer.read()
    delivery = (await gateway.query("delivery.all"))[0]["deliveryId"]
    await gateway.mutate("application.saveEnvironment", {"applicationId": application_id, "env": "A=<b>"})
    await gateway.mutate("application.deploy", {"applicationId": application_id, "title": HOSTILE, "tag": "none"})
    await gateway.settled(application_id)
    await visit.world.push_saying("shop/loud", HOSTILE)
    await gateway.cli("apps", "create", "loud", visit.world.image("shop/loud"), "--id", "loud")
    await gateway.mutate("application.redeploy", {"applicationId": "loud"})
    await gateway.settled("loud")
    loud = (await gateway.deployments("loud"))[0]["deploymentId"]
    paths = (*PAGES, f"/applications/{application_id}", f"/inbox/{delivery}", f"/webhooks/{made['endpointId']}")
    for path in (*paths, f"/deployments/{loud}", "/applications/loud", "/applications/loud/log"):
        await visit.go(path)
        await visit.page.wait_for_timeout(200)
    deployment = (await gateway.deployments(application_id))[0]["deploymentId"]
    await visit.go(f"/deployments/{deployment}")
    shown = await visit.page.inner_text("h1")
    visit.claim("stored script is shown as text", holds="<script>alert(1)" in shown and "49" not in shown)
    for one in (application_id, "loud"):
        await gateway.mutate("application.delete", {"applicationId": one})


async def many(visit: Visit) -> None:
    """The overview of a thousand applications keeps the browser answering, also when it changes."""
    gateway = visit.world.gateway
    connection = await asyncpg.connect(gateway.environment["GATEWAY_DATABASE_URL"])
    await connection.execute(_THOUSAND)
    await visit.go("")
    await visit.follow()
    await visit.page.evaluate(
        "window.slowest = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " window.slowest = Math.max(window.slowest, one.duration); }).observe({type: 'longtask', buffered: true})"
    )
    await visit.world.push("shop/web", "among many")
    await visit.page.wait_for_selector(".pending li")
    await visit.page.wait_for_selector(".pending", state="detached")
    slowest = await visit.page.evaluate("window.slowest")
    shown = await visit.page.inner_text("main")
    visit.claim("a thousand applications are counted", holds="Applications: 100" in shown)
    visit.claim("no task of the browser takes 200 ms with them", holds=slowest < 200, detail=f"{slowest:.0f} ms")
    await connection.execute("DELETE FROM applications WHERE name LIKE 'many %'")
    await connection.close()


_THOUSAND = """
    INSERT INTO applications (name, app_name, environment_id, docker_image)
    SELECT 'many ' || n, 'many' || n, (SELECT environment_id FROM applications LIMIT 1), 'acme/many:v1'
      FROM generate_series(1, 1000) AS n
"""


async def other_sites(visit: Visit) -> None:
    """Another site can neither frame a page nor send a form, even to a person who is signed in."""
    gateway = visit.world.gateway
    attack = await visit.context.new_page()
    await attack.route("http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=_EVIL))
    await attack.add_init_script(f"window.target = {visit.world.url!r}")
    before = len(await gateway.query("project.all"))
    await attack.goto("http://evil.example/")
    await attack.wait_for_timeout(1000)
    frame = next((one for one in attack.frames if one is not attack.main_frame), None)
    inside = await frame.content() if frame is not None else ""
    visit.claim("no other site can show a page in a frame", holds="Pushdeploy" not in inside, detail=inside[:200])
    await attack.evaluate("document.forms[0].action = window.target + '/dashboard/call/project.create'")
    await attack.evaluate("document.forms[0].submit()")
    await attack.wait_for_timeout(1000)
    after = len(await gateway.query("project.all"))
    visit.claim("no other site can send a form", holds=after == before)
    await attack.goto("http://evil.example/")
    read = await attack.evaluate("fetch(window.target + '/dashboard').then((r) => r.text(), (e) => 'refused')")
    visit.claim("no other site can read a page", holds="Pushdeploy" not in str(read), detail=str(read)[:100])
    await attack.close()


_EVIL = """<!doctype html><title>evil</title>
<form method="post"><input name="name" value="made elsewhere"></form>
<script>
const frame = document.createElement("iframe");
frame.src = window.target + "/dashboard";
document.documentElement.append(frame);
</script>"""


async def sign_out(visit: Visit) -> None:
    """After signing out, the cookie of before is worth nothing."""
    cookies = await visit.context.cookies()
    await visit.go("")
    await visit.page.click("button:has-text('Sign out')")
    await visit.page.wait_for_url("**/sign-in")
    await visit.context.add_cookies(cookies)
    await visit.go("")
    visit.claim("a session that was ended stays ended", holds="/sign-in" in visit.page.url)
