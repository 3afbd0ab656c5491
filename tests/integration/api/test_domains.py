"""Where an application is reached is kept and shown for clients that write it down."""

from gateway.model.errors import NotFound
from tests.support.api_client import Web

SENT = {"host": "shop.example.com", "applicationId": "app"}
SHOWN = {
    **SENT,
    "path": "/",
    "port": 3000,
    "https": False,
    "certificateType": "none",
    "customCertResolver": None,
    "internalPath": "/",
    "stripPath": False,
    "domainType": "application",
    **dict.fromkeys(("serviceName", "composeId", "previewDeploymentId")),
}


async def test_a_domain_is_kept_shown_changed_and_forgotten(web: Web) -> None:
    await web.mutate("application.create", name="app", applicationId="app")
    made = await web.mutate("domain.create", **SENT)
    own = {name: made[name] for name in ("domainId", "createdAt", "uniqueConfigKey")}
    assert made == {**SHOWN, **own}
    named = {"domainId": made["domainId"]}
    changed = await web.mutate("domain.update", **named, https=True, certificateType="letsencrypt")
    assert changed == {**made, "https": True, "certificateType": "letsencrypt"}
    assert await web.query("domain.one", **named) == changed
    assert await web.query("domain.byApplicationId", applicationId="app") == [changed]
    assert (await web.query("application.one", applicationId="app"))["domains"] == [changed]
    assert await web.mutate("domain.delete", **named) == changed
    assert await web.query("domain.byApplicationId", applicationId="app") == []
    assert (await web.post("/api/domain.delete", named))[0] == NotFound.status


async def test_a_host_is_made_up_below_the_gateways_own(web: Web) -> None:
    assert await web.mutate("domain.generateDomain", appName="shop-1a2b3c") == "shop-1a2b3c.localhost"


async def test_a_domain_is_refused_by_its_field_and_to_an_application_there_is_not(web: Web) -> None:
    await web.mutate("application.create", name="app", applicationId="app")
    for wrong in ({"host": "https://shop.example.com"}, {"port": 0}, {"path": "shop"}, {"certificateType": "own"}):
        status, answer = await web.post("/api/domain.create", {**SENT, **wrong})
        assert (status, list(answer["data"]["zodError"]["fieldErrors"])) == (400, list(wrong))
    assert (await web.post("/api/domain.create", {**SENT, "applicationId": "nobody"}))[0] == NotFound.status
