"""An image or a tag is deployed in the call that names it, and stays; whatever is wrong with it changes nothing."""

import asyncio
from typing import Any

import pytest

from gateway.model.api_keys import Permission
from gateway.store import api_keys
from tests.support.api_client import Web
from tests.support.concluding import conclude


async def _created(web: Web, image: str | None = "acme/web:v1", **more: object) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage=image, **more)


async def _queued(web: Web) -> dict[str, Any]:
    found = await web.query("deployment.all", applicationId="app")
    return next(one for one in found if one["state"] == "queued")


async def _image(web: Web) -> str:
    return str((await web.query("application.one", applicationId="app"))["dockerImage"])


@pytest.mark.parametrize(
    ("configured", "given", "image", "deployed"),
    [
        ("acme/web:v1", {"tag": "v2"}, "acme/web:v2", "docker.io/acme/web:v2"),
        ("acme/web:v1", {"imageTag": "16"}, "acme/web:16", "docker.io/acme/web:16"),
        ("reg:5000/web", {"tag": "v2"}, "reg:5000/web:v2", "reg:5000/web:v2"),
        (f"acme/web@sha256:{'a' * 64}", {"tag": "v2"}, "acme/web:v2", "docker.io/acme/web:v2"),
        ("acme/web:v1", {"dockerImage": "ghcr.io/acme/api:3"}, "ghcr.io/acme/api:3", "ghcr.io/acme/api:3"),
        (None, {"dockerImage": "ghcr.io/acme/api"}, "ghcr.io/acme/api", "ghcr.io/acme/api:latest"),
        ("acme/web:v1", {"dockerImage": "acme/api", "tag": "3"}, "acme/api:3", "docker.io/acme/api:3"),
        ("acme/web:v1", {"dockerImage": "docker.io/acme/web:v1"}, "acme/web:v1", "docker.io/acme/web:v1"),
    ],
)
async def test_what_a_deploy_names_is_deployed_and_once_it_serves_configured(
    web: Web, configured: str | None, given: dict[str, str], image: str, deployed: str
) -> None:
    await _created(web, configured)
    await web.mutate("application.deploy", applicationId="app", **given)
    assert ((await _queued(web))["image"], await _image(web)) == (deployed, str(configured))
    await conclude(web)
    assert await _image(web) == image


async def test_a_redeploy_may_name_a_tag_too(web: Web) -> None:
    await _created(web)
    await web.mutate("application.redeploy", applicationId="app", tag="v2")
    queued = await _queued(web)
    assert (queued["image"], queued["kind"]) == ("docker.io/acme/web:v2", "redeploy")


@pytest.mark.parametrize(
    ("configured", "given", "field"),
    [
        ("acme/web:v1", {"tag": "not a tag"}, "tag"),
        ("acme/web:v1", {"tag": "v2:v3"}, "tag"),
        ("acme/web:v1", {"tag": ""}, "tag"),
        ("acme/web:v1", {"dockerImage": "https://acme/web"}, "dockerImage"),
        ("acme/web:v1", {"dockerImage": ""}, "dockerImage"),
        (None, {"tag": "v2"}, "dockerImage"),
        (None, {}, "dockerImage"),
    ],
)
async def test_what_cannot_be_deployed_changes_nothing(
    web: Web, configured: str | None, given: dict[str, str], field: str
) -> None:
    await _created(web, configured)
    status, answer = await web.post("/api/application.deploy", {"applicationId": "app", **given})
    assert (status, answer["issues"][0]["path"]) == (400, [field])
    one = await web.query("application.one", applicationId="app")
    assert (one["dockerImage"], one["deployments"]) == (configured, [])


async def test_pushes_of_the_new_tag_are_followed_and_those_of_the_old_no_more(web: Web) -> None:
    await _created(web)
    await web.mutate("application.deploy", applicationId="app", tag="v2")
    status, answer = await web.push("docker.io/acme/web:v1")
    assert (status, answer["ignored"][0]["reason"].partition(":")[0]) == (200, "no subscription")
    status, _ = await web.push("docker.io/acme/web:v2")
    assert status == 202


async def test_a_policy_goes_on_from_the_tag_that_was_deployed(web: Web) -> None:
    await _created(web)
    await web.mutate("subscription.create", applicationId="app", policy="semver", pattern="^1")
    await web.mutate("application.deploy", applicationId="app", tag="v1.4.0")
    await conclude(web)
    policies = {one["policy"]: one["pattern"] for one in await web.query("subscription.all", applicationId="app")}
    assert policies == {"exact": "v1.4.0", "semver": "^1"}
    status, answer = await web.push("docker.io/acme/web:v1.3.0")
    assert (status, answer["ignored"][0]["reason"]) == (200, "lower than v1.4.0, which runs or is about to")
    assert (await web.push("docker.io/acme/web:v1.5.0"))[0] == 202
    assert (await _queued(web))["image"] == "docker.io/acme/web:v1.5.0"


async def test_of_two_at_once_the_image_is_that_of_the_deployment_that_waits(web: Web) -> None:
    await _created(web)
    tags = [f"v{number}" for number in range(8)]
    await asyncio.gather(*(web.mutate("application.deploy", applicationId="app", tag=tag) for tag in tags))
    waits = (await _queued(web))["image"]
    await conclude(web)
    assert waits == f"docker.io/{await _image(web)}"


async def test_reload_replaces_what_runs_by_the_same(web: Web) -> None:
    await _created(web)
    assert await web.mutate("application.reload", applicationId="app", appName="whatever") is True
    queued = await _queued(web)
    assert (queued["kind"], queued["image"], queued["title"]) == ("redeploy", "docker.io/acme/web:v1", "Reload")


@pytest.mark.parametrize(
    "named",
    [{"tag": "v2"}, {"dockerImage": "docker.io/acme/web:v3"}, {"dockerImage": f"acme/web@sha256:{'a' * 64}"}],
    ids=str,
)
@pytest.mark.parametrize("how", ["deploy", "redeploy"])
async def test_a_key_to_deploy_chooses_among_the_images_of_the_repository_and_configures_nothing(
    web: Web, named: dict[str, str], how: str
) -> None:
    await _created(web)
    admin = web.key
    followed = await web.query("subscription.all", applicationId="app")
    async with web.pool.acquire() as connection, connection.transaction():
        web.key, _ = await api_keys.insert_key(connection, "ci", permission=Permission.DEPLOY)
    await web.mutate(f"application.{how}", applicationId="app", **named)
    assert (await _queued(web))["image"] != "docker.io/acme/web:v1"
    status, answer = await web.post("/api/application.deploy", {"applicationId": "app", "dockerImage": "evil/web:v3"})
    assert (status, answer["data"]["code"]) == (403, "FORBIDDEN")
    await conclude(web)
    web.key = admin
    assert await _image(web) == "acme/web:v1"
    assert await web.query("subscription.all", applicationId="app") == followed
    await web.mutate("application.reload", applicationId="app")
    assert (await _queued(web))["image"] == "docker.io/acme/web:v1"
