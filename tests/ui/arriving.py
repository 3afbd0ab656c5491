"""The first visit: sign in, take over what runs, set up a webhook, deploy for the first time."""

import aiohttp
import orjson

from gateway.cli.demo.process import until
from gateway.model.reference import Digest
from tests.support.distribution_hooks import envelope
from tests.ui.visit import Visit


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


async def adopt(visit: Visit) -> None:
    """Take over a container that runs already, by its button."""
    await visit.world.push("old/site", "v1")
    await visit.world.run("site", "old/site")
    await visit.go("")
    await visit.page.click("button:has-text('Adopt site')")
    await visit.page.wait_for_selector("h1:text-is('site')")
    state = await visit.page.locator("#application .state").first.inner_text()
    visit.claim("a container is adopted by its button, and its state is shown at once", holds=state == "running")
    await visit.sound("an adopted application")
    (adopted,) = await visit.world.gateway.query("application.all")
    await visit.world.gateway.mutate("application.delete", {"applicationId": adopted["applicationId"]})

    async def gone() -> bool | None:
        return True if not await visit.world.gateway.query("application.all") else None

    await until(gone)


async def create(visit: Visit) -> None:
    """Create an application, and deploy it for the first time, by the keyboard."""
    await visit.world.push("shop/web", "v1")
    await visit.go("")
    await visit.page.fill("input[name=name]", "web")
    await visit.page.fill("input[name=dockerImage]", visit.world.image("shop/web"))
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_selector(".actions")
    await visit.follow()
    await visit.page.focus(".actions summary")
    await visit.page.keyboard.press("Enter")
    for _ in ("tag", "image", "button"):
        await visit.page.keyboard.press("Tab")
    await visit.page.keyboard.press("Enter")
    await visit.page.wait_for_url("**/deployments/*")
    await visit.page.wait_for_selector(".state-succeeded")
    visit.claim("a deployment is followed to its end without a reload", holds=True)
    await visit.shot("deployment")
    await visit.sound("a deployment")


async def webhook(visit: Visit) -> None:
    """Make a webhook, do what its page says, and see the test push arrive; then replace its secret and its address."""
    await visit.go("/webhooks")
    await visit.page.select_option("select[name=source]", "distribution")
    await visit.page.fill("input[name=name]", "second")
    await visit.page.click("button:has-text('Create')")
    url, secret = await visit.page.inner_text("#once-path"), await visit.page.inner_text("#once-secret")
    steps = await visit.page.inner_text("#setup")
    visit.claim("the steps for the registry are ready to copy", holds=url in steps and f"Bearer {secret}" in steps)
    visit.claim("the address is the public one", holds=url.startswith(f"{visit.world.url}/webhooks/distribution/"))
    await visit.sound("what is shown once")
    await visit.page.click("main a[role=button]")
    await visit.follow()
    await visit.page.wait_for_selector("text=Nothing has arrived yet")
    visit.claim("the secret is not shown again", holds=secret not in await visit.page.content())
    await visit.sound("a webhook")
    event = orjson.loads(envelope("registry.example/a/b:v1", Digest("sha256:" + "ab" * 32)))["events"][0]
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(url, json={"events": [event]}) as answer:
            visit.claim("the webhook takes a push", holds=answer.status == 200)
        await visit.page.wait_for_selector("#webhook article .state-ignored")
        shown = await visit.page.inner_text("#webhook")
        visit.claim("the test push is shown as it arrives, with why", holds="registry.example/a/b:v1" in shown)
        await visit.shot("webhook")
        await visit.page.click("summary:has-text('Replace the secret')")
        await visit.page.locator("details[open] select").select_option("0")
        await visit.page.click("button:has-text('Replace the secret')")
        replaced = await visit.page.inner_text("#once-secret")
        async with session.post(url, json={"events": [event]}) as answer:
            visit.claim("a secret that was replaced at once is refused", holds=answer.status == 401)
        await visit.page.click("main a[role=button]")
        await visit.page.click("summary:has-text('Replace the address')")
        await visit.page.click("button:has-text('Replace the address')")
        moved = await visit.page.inner_text("#once-path")
        headers["Authorization"] = f"Bearer {replaced}"
        for at in (moved, url):
            async with session.post(at, json={"events": [event]}, headers=headers) as answer:
                visit.claim("both addresses hold for a day", holds=answer.status == 200)
    await visit.page.click("main a[role=button]")
    await visit.page.click("summary:has-text('Remove')")
    await visit.page.click("button:has-text('Remove second')")
    await visit.page.wait_for_url("**/webhooks")
    visit.claim("a webhook is removed by its button", holds="second" not in await visit.page.inner_text("tbody"))
