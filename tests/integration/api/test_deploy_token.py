"""A deploy token deploys its own application, with a body of any registry or none."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from gateway.model.api_keys import Permission
from gateway.model.errors import GatewayError
from gateway.model.reference import Reference
from gateway.sources import detect
from gateway.store import api_keys
from tests.support.api_client import Web
from tests.support.samples import OURS, Sample

DONE = "Application deployed successfully"


def hub(name: str, tag: str, at: int = 1) -> dict[str, Any]:
    return {"push_data": {"tag": tag, "pushed_at": at}, "repository": {"repo_name": name}}


def github(name: str, tag: str, event: str = "registry_package") -> dict[str, Any]:
    version = {
        "version": "sha256:" + "ab" * 32,
        "package_url": f"ghcr.io/{name}:{tag}",
        "container_metadata": {"tag": {"name": tag, "digest": "sha256:" + "ab" * 32}},
    }
    package = {"name": name.partition("/")[2], "package_type": "CONTAINER", "package_version": version}
    return {"action": "published", event: package}


async def address(web: Web, image: str | None = "acme/web:v1", **given: object) -> str:
    made = await web.mutate("application.create", name="Web", applicationId="app", dockerImage=image, **given)
    assert len(made["refreshToken"]) >= 21
    return f"/api/deploy/{made['refreshToken']}"


async def tell(web: Web, path: str, body: object = b"", **headers: str) -> tuple[int, dict[str, Any], str | None]:
    """Post without a key, and return the status, the answer and the deployment it names."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    async with web.client.post(path, data=raw, headers=headers) as answer:
        return answer.status, orjson.loads(await answer.read()), answer.headers.get("X-Deployment-Id")


async def images(web: Web) -> list[str]:
    return [one["image"] for one in await web.query("deployment.all", applicationId="app")]


@pytest.mark.parametrize(
    ("image", "body"),
    [
        ("acme/web:v1", hub("acme/web", "v1")),
        ("docker.io/acme/web:v1", hub("acme/web", "v1")),
        ("index.docker.io/acme/web:16", hub("acme/web", "16")),
        ("nginx", hub("library/nginx", "latest")),
        ("acme/web:123456", hub("acme/web", "123456")),
        ("ghcr.io/acme/web:1.2", github("acme/web", "1.2")),
        ("ghcr.io/acme/web:1.2", github("Acme/web", "1.2", "package")),
        ("reg:5000/acme/web", {"image": "reg:5000/acme/web"}),
        ("ghcr.io/acme/web:1.2", {"image": "acme/web:1.2"}),  # without a host: in the registry of its image
        ("acme/web:1.2", {"image": "docker.io/acme/web:1.2"}),
        ("reg:5000/acme/web", {"image": "reg:5000/acme/web:latest", "digest": "sha256:" + "ab" * 32}),
    ],
)
async def test_a_push_of_its_image_deploys_it_however_both_are_spelled(
    web: Web, image: str, body: dict[str, Any]
) -> None:
    path = await address(web, image)
    status, answer, deployment = await tell(web, path, body, **{"User-Agent": "Go-http-client/1.1"})
    assert (status, answer["message"]) == (200, DONE)
    assert [one["deploymentId"] for one in answer["deployments"]] == [deployment]
    assert await images(web) == [str(Reference.parse(image))]
    assert web.rollouts.woken > 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            hub("acme/web", "v2"),
            "docker.io/acme/web:v2: the application does not subscribe to it: its image is acme/web:v1",
        ),
        (hub("acme/api", "v1"), "docker.io/acme/api:v1: the application does not subscribe to it"),
        (github("acme/web", "v1"), "ghcr.io/acme/web:v1: the application does not subscribe to it"),
        (github("acme/web", "") | {"action": "deleted"}, "not a push: 'deleted'"),
        ({"zen": "Design for failure.", "hook_id": 1}, "ping"),
        (hub("acme/web", "not a tag"), "not understood, taken for one of dockerhub's"),
        ({"object_kind": "pipeline", "object_attributes": {"status": "failed"}}, "not a success: 'failed'"),
    ],
)
async def test_an_image_without_a_subscription_deploys_nothing_and_the_answer_says_why(
    web: Web, body: dict[str, Any], reason: str
) -> None:
    status, answer, deployment = await tell(web, await address(web), body)
    assert (status, answer["deployments"], deployment) == (200, [], None)
    assert reason in answer["message"]
    assert await images(web) == []


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"", {"Content-Type": "application/x-www-form-urlencoded"}),
        (b"{}", {"Content-Type": "application/json"}),
        (b"ci=1", {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}),
        (b"from the pipeline", {"Content-Type": "text/plain"}),
        (b"null", {}),
        (b"[]", {}),
        ({"ref": "refs/heads/main", "commits": []}, {"X-GitHub-Event": "push"}),
        ({"object_kind": "pipeline", "object_attributes": {"status": "success", "ref": "main"}}, {}),
        ({"anything": ["else"]}, {}),
        ({"action": {}, "object_kind": [], "type": 1, "image": {}, "repository": None}, {}),
    ],
)
async def test_a_body_without_an_image_deploys_the_configured_one(
    web: Web, body: object, headers: dict[str, str]
) -> None:
    status, answer, deployment = await tell(web, await address(web), body, **headers)
    assert (status, answer["message"]) == (200, DONE)
    assert deployment is not None
    assert await images(web) == ["docker.io/acme/web:v1"]


async def test_a_form_encoded_delivery_is_parsed(web: Web) -> None:
    path = await address(web, "ghcr.io/acme/web:1.2")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for tag, deploys in (("1.3", 0), ("1.2", 1)):
        body = b"payload=" + quote(orjson.dumps(github("acme/web", tag))).encode()
        status, answer, _ = await tell(web, path, body, **form)
        assert (status, len(answer["deployments"])) == (200, deploys)


async def test_a_policy_decides_which_tags_are_deployed(web: Web) -> None:
    path = await address(web, "acme/web:1.4.0")
    await web.mutate("subscription.create", applicationId="app", policy="semver", pattern="^1")
    assert (await tell(web, path, hub("acme/web", "2.0.0")))[1]["deployments"] == []
    assert (await tell(web, path, hub("acme/web", "1.3.0")))[1]["deployments"] == []
    assert (await tell(web, path, hub("acme/web", "1.5.0")))[1]["message"] == DONE
    assert await images(web) == ["docker.io/acme/web:1.5.0"]


async def test_another_application_with_the_same_subscription_is_not_deployed(web: Web) -> None:
    path = await address(web)
    await web.mutate("application.create", name="Other", applicationId="other", dockerImage="acme/web:v1")
    _, answer, _ = await tell(web, path, hub("acme/web", "v1"))
    assert [one["applicationId"] for one in answer["deployments"]] == ["app"]


async def test_a_duplicate_deploys_once_and_an_empty_call_joins_the_queued_deployment(web: Web) -> None:
    path = await address(web)
    _, first, deployment = await tell(web, path, hub("acme/web", "v1"))
    status, again, _ = await tell(web, path, hub("acme/web", "v1"))
    assert (status, again["duplicateOf"]) == (200, first["deliveryId"])
    _, called, joined = await tell(web, path)
    assert (called["duplicateOf"], joined) == (None, deployment)
    assert (await tell(web, path))[2] == deployment
    assert len(await images(web)) == 1


async def test_an_empty_call_deploys_again_after_an_equal_one_is_done(web: Web) -> None:
    path = await address(web)
    _, _, first = await tell(web, path)
    async with web.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'succeeded', finished_at = now() WHERE status = 'queued'"
        )
    _, _, second = await tell(web, path)
    assert second is not None
    assert second != first


async def test_it_is_stored_as_a_delivery_without_the_token_and_can_be_replayed(web: Web) -> None:
    path = await address(web)
    token = path.rpartition("/")[2]
    _, answer, _ = await tell(web, path, hub("acme/web", "v2"), **{"X-Original-Url": f"https://gateway{path}"})
    (kept,) = await web.query("delivery.all")
    assert (kept["deliveryId"], kept["source"], kept["verdict"]) == (answer["deliveryId"], "deploy", "ignored")
    whole = await web.query("delivery.one", deliveryId=kept["deliveryId"])
    assert token not in orjson.dumps(whole).decode()
    await web.mutate("application.update", applicationId="app", dockerImage="acme/web:v2")
    again = await web.mutate("delivery.replay", deliveryId=kept["deliveryId"])
    assert (again["verdict"], again["replayOf"]) == ("queued", kept["deliveryId"])
    assert await images(web) == ["docker.io/acme/web:v2"]


@pytest.mark.parametrize(
    ("given", "body", "status", "message"),
    [
        ({"autoDeploy": False}, b"", 400, "Automatic deployments are disabled for this application"),
        ({"image": None}, b"", 400, "Application Docker Image Name Not Found"),
        ({}, b" {", 400, "the body is not JSON"),
        ({}, b"a=b", 400, "the body is not JSON"),
    ],
)
async def test_a_rejected_request_is_stored_in_the_inbox(
    web: Web, given: dict[str, Any], body: bytes, status: int, message: str
) -> None:
    answered, answer, _ = await tell(web, await address(web, **given), body)
    assert (answered, message in answer["message"]) == (status, True)
    (kept,) = await web.query("delivery.all")
    assert (kept["verdict"], message in kept["ignored"][0]["reason"]) == ("rejected", True)
    assert await images(web) == []


async def test_a_stopped_application_stays_stopped(web: Web) -> None:
    path = await address(web)
    await web.mutate("application.stop", applicationId="app")
    for body in (b"", hub("acme/web", "v1")):
        status, answer, _ = await tell(web, path, body)
        assert (status, "stopped" in answer["message"]) == (200, True)


async def test_an_unknown_token_deploys_nothing(web: Web) -> None:
    path = await address(web)
    for unknown in ("/api/deploy/unknown", path[:-1], path + "x"):
        for headers in ({}, {"X-GitHub-Event": "ping"}):
            status, answer, _ = await tell(web, unknown, **headers)
            assert (status, answer["message"]) == (404, "Application Not Found")
    status, answer, _ = await tell(web, path, **{"X-GitHub-Event": "ping"})
    assert (status, answer["message"]) == (200, "Ping received, webhook is active")
    for method in ("get", "put", "delete"):
        async with web.client.request(method, path) as answer_:
            assert (answer_.status, answer_.headers["Allow"]) == (405, "POST")
    assert await images(web) == []


async def test_a_new_token_replaces_the_former(web: Web) -> None:
    former = await address(web)
    assert await web.mutate("application.refreshToken", applicationId="app") is True
    one = await web.query("application.one", applicationId="app")
    assert (await tell(web, former))[0] == 404
    assert (await tell(web, f"/api/deploy/{one['refreshToken']}"))[0] == 200
    await web.mutate("application.cleanQueues", applicationId="app")


async def test_the_token_is_encrypted_and_shown_only_to_keys_that_see_secrets(web: Web) -> None:
    token = (await address(web)).rpartition("/")[2]
    async with web.pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch("SELECT e::text FROM endpoints e UNION ALL SELECT a::text FROM applications a")
        web.key, _ = await api_keys.insert_key(connection, "ci", permission=Permission.DEPLOY)
    assert not [row for row in rows if token in row[0] or token.encode().hex() in row[0]]
    assert (await web.query("application.one", applicationId="app"))["refreshToken"] is None


async def test_it_is_not_available_as_a_webhook(web: Web) -> None:
    path = await address(web)
    assert await web.query("webhook.all") == []
    assert (await web.post(path.replace("/api/", "/webhooks/"), {}))[0] == 404
    async with web.pool.acquire() as connection:
        endpoint_id = await connection.fetchval("SELECT endpoint_id FROM endpoints")
    for procedure in ("webhook.rotate", "webhook.disable", "webhook.remove"):
        assert (await web.post(f"/api/{procedure}", {"endpointId": endpoint_id}))[0] == 404


async def test_it_is_deleted_with_its_application(web: Web) -> None:
    path = await address(web)
    await web.mutate("application.delete", applicationId="app")
    assert (await tell(web, path))[0] == 404
    assert await web.count("endpoints") == 0


def _plain() -> list[Sample]:
    """Return the samples that tell of pushes without anything that an endpoint would have to know."""
    found = []
    for sample in OURS:
        try:
            pushes = bool(sample.parsed().events)
        except GatewayError:
            continue
        if pushes and not sample.trust.settings and not sample.trust.aliases:
            found.append(sample)
    return found


#: whose host is known by another name: that takes a webhook of its own, which has one
_RENAMED = {"host_set", "behind_another_name", "push_to_an_enterprise_instance"}


@pytest.mark.parametrize("sample", _plain(), ids=lambda sample: f"{sample.source}-{sample.name}")
def test_a_body_of_any_registry_is_parsed(sample: Sample) -> None:
    event = sample.parsed().events[0]
    said = detect.parse(sample.request, event.reference)
    expected = [] if sample.name in _RENAMED else [event.reference]
    assert [one.reference for one in said.events if one.reference == event.reference] == expected
