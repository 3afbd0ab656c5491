"""Who may follow whom, and what a person asks of a promotion."""

from typing import Any, cast

import pytest

from gateway.admin import promotions as admin
from gateway.model.errors import Conflict, NotFound
from gateway.model.promotions import PromotionState
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.support.api_client import VAULT, Web
from tests.support.promotion_world import MINUTE, PRODUCTION, SOAK, STAGING, HoldingRegistry, PromotionWorld, a_digest


async def follow(web: Web, application_id: str, follows: str, **rule: object) -> tuple[int, Any]:
    given = {"applicationId": application_id, "kind": "promotion", "rule": {"follows": follows, **rule}}
    return await web.post("/api/gate.create", given)


async def created(web: Web, *names: str) -> None:
    for name in names:
        await web.mutate("application.create", name=name.title(), applicationId=name, dockerImage=f"acme/{name}")


async def test_an_application_follows_one_other_by_its_id_or_name_and_never_in_a_circle(web: Web) -> None:
    await created(web, "dev", STAGING, PRODUCTION)
    status, made = await follow(web, STAGING, "Dev")
    assert (status, made["rule"]["follows"]) == (200, "dev")
    _, made = await follow(web, PRODUCTION, STAGING, soak="1h")
    assert made["rule"] == {"follows": STAGING, "soak": "1h", "wait": 3600 + 86_400}
    for application_id, follows, says in (
        ("dev", "dev", "this is a circle: dev follows dev"),
        ("dev", PRODUCTION, "this is a circle: dev follows production follows staging follows dev"),
        ("dev", "nobody", "there is no application 'nobody'"),
    ):
        status, answer = await follow(web, application_id, follows)
        assert (status, says in answer["message"]) == (400, True), answer
    given = {"applicationId": PRODUCTION, "kind": "promotion", "name": "second", "rule": {"follows": "dev"}}
    status, answer = await web.post("/api/gate.create", given)
    assert (status, "follows another one already" in answer["message"]) == (409, True)
    project = await web.mutate("project.create", name="p")
    given = {"projectId": project["project"]["projectId"], "kind": "promotion", "rule": {"follows": "dev"}}
    status, answer = await web.post("/api/gate.create", given)
    assert (status, "set this gate on the application" in answer["message"]) == (400, True)
    status, answer = await web.post("/api/gate.update", {"gateId": made["gateId"], "rule": {"follows": PRODUCTION}})
    assert (status, "circle" in answer["message"]) == (400, True)


async def test_a_restricted_key_follows_only_what_it_may_read(web: Web) -> None:
    await created(web, STAGING, PRODUCTION)
    key, _ = await a_key(web, PRODUCTION)
    async with asking_with(web, key):
        refused = await follow(web, PRODUCTION, STAGING)
        unknown = await follow(web, PRODUCTION, "nobody")
    assert refused[0] == unknown[0] == 400
    assert refused[1]["message"].replace(STAGING, "nobody") == unknown[1]["message"]
    key, _ = await a_key(web, PRODUCTION, STAGING)
    async with asking_with(web, key):
        assert (await follow(web, PRODUCTION, STAGING))[0] == 200


async def test_what_soaks_is_shown_with_the_time_of_its_promotion(web: Web) -> None:
    world = await PromotionWorld.create(web)
    assert await web.query("promotion.all", applicationId=PRODUCTION) == []
    await world.deploy_staging(1)
    await world.advance(2 * MINUTE)
    (row,) = await web.query("promotion.all", applicationId=PRODUCTION)
    due = (world.now + SOAK - 2 * MINUTE).isoformat()
    assert (row["state"], row["digest"], row["dueAt"], row["follows"]) == ("soaking", a_digest(1), due, STAGING)
    await world.advance(SOAK)
    await world.promote()
    (row,) = await web.query("promotion.all", applicationId=PRODUCTION)
    assert (row["state"], row["dueAt"], row["deploymentId"] is not None) == ("queued", None, True)
    await world.deploy_staging(2)
    await world.promote()
    first, second = await web.query("promotion.all", applicationId=PRODUCTION)
    assert (first["state"], first["digest"]) == ("soaking", a_digest(2))
    assert (second["state"], second["reason"]) == ("withdrawn", f"staging runs {a_digest(2)} now")


async def asked(world: PromotionWorld, number: int | None = None) -> str:
    """Promote as a person, and return the deployment."""
    digest = None if number is None else a_digest(number)
    made = await admin.promote(world.pool, VAULT, cast(Any, world.registry), PRODUCTION, digest)
    assert made.deployment_id is not None
    return made.deployment_id


async def test_a_person_promotes_a_proposal_and_what_had_failed_but_nothing_unproven(web: Web) -> None:
    world = await PromotionWorld.create(web, mode="proposal")
    with pytest.raises(Conflict, match="runs nothing"):
        await asked(world)
    await world.deploy_staging(1)
    with pytest.raises(Conflict, match=f"has not proven {a_digest(1)}"):
        await asked(world)
    await world.advance(SOAK)
    await world.promote()
    world.registry.lacks = {a_digest(1)}
    with pytest.raises(Conflict, match="crane copy"):
        await asked(world)
    world.registry.lacks = set()
    first = await asked(world)
    queued = await world.queued()
    assert queued is not None
    assert (queued.deployment_id, queued.forced) == (first, True)
    await world.deploy_staging(2)
    await world.promote()
    assert await world.queued() is not None, "a person asked for it"
    await world.work()
    await world.promote()
    one = await world.promotion(1)
    assert (world.ran, one and one.state) == ([a_digest(1)], PromotionState.PROMOTED)
    await asked(world, 1)
    assert await world.queued() is not None


async def test_what_a_person_withdrew_does_not_come_again_by_itself(web: Web) -> None:
    world = await PromotionWorld.create(web)
    await world.deploy_staging(1)
    await world.advance(SOAK)
    await world.promote()
    row = await web.mutate("promotion.withdraw", applicationId=PRODUCTION)
    assert (row["state"], await world.queued()) == ("declined", None)
    for _ in range(3):
        await world.promote()
        await world.advance(MINUTE)
    assert await world.queued() is None
    with pytest.raises(NotFound):
        await admin.withdraw(world.pool, PRODUCTION)
    await asked(world)
    listed = await web.query("audit.list", applicationId=PRODUCTION, action="promotion.withdraw")
    assert [one["after"].get("state") for one in listed["items"] if one["noun"] == "promotion"] == ["declined"]


async def test_only_a_proven_digest_reaches_a_registry_in_a_promotion(web: Web) -> None:
    world = await PromotionWorld.create(web)
    await world.deploy_staging(1)
    status, answer = await web.post("/api/promotion.promote", {"applicationId": PRODUCTION, "digest": "latest"})
    assert (status, "is not a digest" in answer["message"]) == (400, True)
    world.registry = HoldingRegistry()
    with pytest.raises(Conflict):
        await asked(world, 7)
    assert world.registry.asked == []
