"""A webhook verifies, stores, de-duplicates and matches a delivery before it responds."""

import asyncio
import gzip
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import quote_plus

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import TestServer

from gateway.api.ingress import webhooks
from gateway.cli.demo.process import until
from gateway.model.errors import Unauthenticated
from gateway.model.events import Notification
from gateway.model.reference import Digest
from gateway.sources import Handshake, Request, Source, Trust
from tests.support.api_client import Web
from tests.support.distribution_hooks import envelope

DIGEST = Digest("sha256:" + "ab" * 32)
OTHER = Digest("sha256:" + "cd" * 32)


def signed(body: bytes, secret: str = "s") -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def github(tag: str = "latest") -> bytes:
    version = {
        "version": DIGEST,
        "package_url": f"ghcr.io/acme/web:{tag}",
        "container_metadata": {"tag": {"name": tag, "digest": DIGEST}},
    }
    package = {"name": "web", "namespace": "acme", "package_type": "CONTAINER", "package_version": version}
    return orjson.dumps({"action": "published", "registry_package": package})


def ecr() -> bytes:
    detail = {
        "result": "SUCCESS",
        "repository-name": "acme/web",
        "image-digest": DIGEST,
        "action-type": "PUSH",
        "image-tag": "latest",
    }
    return orjson.dumps(
        {
            "id": "11111111-aaaa-bbbb-cccc-222222222222",
            "detail-type": "ECR Image Action",
            "source": "aws.ecr",
            "account": "123456789012",
            "region": "eu-west-1",
            "detail": detail,
        }
    )


def dockerhub(tag: str = "latest") -> bytes:
    return orjson.dumps(
        {"push_data": {"tag": tag, "pushed_at": 1, "pusher": "me"}, "repository": {"repo_name": "acme/web"}}
    )


async def application(web: Web, image: str, **more: object) -> str:
    made = await web.mutate("application.create", name="a", dockerImage=image, **more)
    return str(made["applicationId"])


BEARER = {"Authorization": "Bearer s"}


@pytest.mark.parametrize(
    ("source", "image", "body", "headers"),
    [
        ("dockerhub", "acme/web", dockerhub(), {}),
        ("github", "ghcr.io/acme/web", github(), signed(github())),
        ("ecr", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/acme/web", ecr(), {"x-api-key": "s"}),
        ("distribution", "reg.example.com:5000/acme/web", envelope("reg.example.com:5000/acme/web", DIGEST), BEARER),
    ],
)
async def test_each_source_queues_what_was_pushed(
    web: Web, source: str, image: str, body: bytes, headers: dict[str, str]
) -> None:
    application_id = await application(web, image)
    status, answer = await web.post(await web.endpoint(source, "s"), body, **headers)
    assert status == 202
    assert [one["applicationId"] for one in answer["deployments"]] == [application_id]
    queued = await web.query("deployment.one", deploymentId=answer["deployments"][0]["deploymentId"])
    assert (queued["state"], queued["status"], queued["image"]) == ("queued", "running", f"{_canonical(image)}:latest")
    assert queued["deliveries"] == [answer["deliveryId"]]
    assert web.rollouts.woken >= 1


def _canonical(image: str) -> str:
    return image if "." in image.partition("/")[0] else f"docker.io/{image}"


async def test_a_form_of_github_is_verified_over_its_raw_bytes(web: Web) -> None:
    await application(web, "ghcr.io/acme/web")
    body = b"payload=" + quote_plus(github()).encode()
    headers = {**signed(body), "Content-Type": "application/x-www-form-urlencoded"}
    assert (await web.post(await web.endpoint("github", "s"), body, **headers))[0] == 202


@pytest.mark.parametrize(
    ("source", "body", "headers"),
    [
        ("github", github(), {}),
        ("github", github(), signed(github(), "other")),
        ("github", github() + b" ", signed(github())),
        ("github", github(), {"X-Hub-Signature-256": "sha256=ü"}),
        ("ecr", ecr(), {"x-api-key": "other"}),
        ("ecr", ecr(), {"x-api-key": ""}),
        ("distribution", envelope("r.io/a", DIGEST), {"Authorization": "Bearer other"}),
        ("distribution", b"not even JSON", {}),
    ],
)
async def test_an_unverified_request_changes_nothing(
    web: Web, source: str, body: bytes, headers: dict[str, str]
) -> None:
    await application(web, "ghcr.io/acme/web")
    status, answer = await web.post(await web.endpoint(source, "s"), body, **headers)
    assert (status, answer["error"]["code"]) == (401, "Unauthenticated")
    assert await web.count("deployments") == 0


@pytest.mark.parametrize("path", ["/webhooks/github/nobody", "/webhooks/nowhere/nobody", "/webhooks/github/%00"])
async def test_an_unknown_path_is_not_found(web: Web, path: str) -> None:
    assert (await web.post(path, github()))[0] == 404


async def test_a_token_is_valid_only_for_its_own_source(web: Web) -> None:
    path = await web.endpoint("dockerhub", "s")
    assert (await web.post(path.replace("dockerhub", "github"), github(), **signed(github())))[0] == 404


DEEP = b'{"repository":' + b"[" * 5000 + b"]" * 5000 + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"[null]", 400),
        (b'"text"', 400),
        (DEEP, 400),
        (b'{"repository": 1, "push_data": []}', 400),
        (b'{"repository": {"repo_name": "../../etc"}, "push_data": {"tag": "v1"}}', 400),
        (b'{"repository": {"repo_name": "A//b"}, "push_data": {"tag": "v1"}}', 400),
        (b'{"repository": {"repo_name": "a/b"}, "push_data": {"tag": "v\\u0000"}}', 400),
        (b" " * (5 * 1024 * 1024), 413),
        (gzip.compress(b" " * (5 * 1024 * 1024)), 413),
        (b"\x1f\x8b and no more of it", 400),
    ],
    ids=["empty", "cut", "bom", "null", "text", "deep", "types", "traversal", "upper", "zero", "5MB", "bomb", "gzip"],
)
async def test_an_invalid_body_is_rejected_and_deploys_nothing(web: Web, body: bytes, status: int) -> None:
    path = await web.endpoint("dockerhub", "s")
    headers = {"Content-Encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
    got, answer = await web.post(path, body, **headers)
    assert (got, await web.count("deployments")) == (status, 0)
    assert answer["error"]["message"]


@pytest.mark.parametrize("body", [b"{", DEEP, b'{"events": 1}', b" " * (5 * 1024 * 1024)], ids=len)
async def test_distribution_gets_200_for_an_invalid_body_which_is_stored_as_rejected(web: Web, body: bytes) -> None:
    status, answer = await web.post(await web.endpoint("distribution", "s"), body, **BEARER)
    assert (status, answer["deployments"]) == (200, [])
    assert answer["ignored"][0]["reason"]
    async with web.pool.acquire() as connection:
        assert await connection.fetchval("SELECT verdict FROM deliveries") == "rejected"


async def test_no_match_is_a_success_with_a_reason(web: Web) -> None:
    status, answer = await web.post(await web.endpoint("dockerhub", "s"), dockerhub())
    assert status == 200
    (ignored,) = answer["ignored"]
    assert ignored["reference"] == "docker.io/acme/web:latest"
    assert ignored["reason"] == (
        "no subscription: docker.io/acme/web has none; "
        "to subscribe: gateway subscriptions create APPLICATION exact latest --repository docker.io/acme/web"
    )


async def test_no_match_names_what_subscriptions_match_instead(web: Web) -> None:
    await application(web, "acme/web:stable")
    path = await web.endpoint("dockerhub", "s")
    _, answer = await web.post(path, dockerhub())
    assert "the subscriptions of docker.io/acme/web are exact stable; to subscribe" in answer["ignored"][0]["reason"]
    elsewhere = await web.endpoint("quay", "s")
    _, answer = await web.post(elsewhere, {"docker_url": "quay.io/acme/web", "updated_tags": ["stable", "latest"]})
    assert "but docker.io/acme/web has: check the webhook's --host" in answer["ignored"][0]["reason"]
    assert answer["ignored"][1]["reason"] == "no subscription"


async def test_a_duplicate_starts_nothing_and_names_the_first_delivery(web: Web) -> None:
    await application(web, "acme/web")
    path = await web.endpoint("dockerhub", "s")
    _, first = await web.post(path, dockerhub())
    status, second = await web.post(path, dockerhub())
    assert (status, second["deployments"], second["duplicateOf"]) == (200, [], first["deliveryId"])
    assert await web.count("deployments") == 1


async def test_a_duplicate_deploys_again_if_all_deployments_of_the_first_failed(web: Web) -> None:
    await application(web, "acme/web")
    path = await web.endpoint("dockerhub", "s")
    await web.post(path, dockerhub())
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = 'failed', finished_at = now()")
    status, again = await web.post(path, dockerhub())
    assert (status, again["duplicateOf"]) == (202, None)
    assert await web.count("deployments") == 2


async def test_the_same_body_after_ten_minutes_is_a_new_delivery(web: Web) -> None:
    await application(web, "acme/web")
    path = await web.endpoint("dockerhub", "s")
    await web.post(path, dockerhub())
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at - interval '11 minutes'")
        await connection.execute("UPDATE deployments SET status = 'succeeded', finished_at = now()")
    assert (await web.post(path, dockerhub()))[0] == 202


@pytest.mark.parametrize(
    ("source", "image", "body"),
    [
        ("quay", "quay.io/acme/web", {"docker_url": "quay.io/acme/web", "updated_tags": ["latest"]}),
        ("generic", "r.io/acme/web", {"image": "r.io/acme/web:latest"}),
    ],
)
async def test_a_body_without_a_time_is_another_push_once_the_first_has_begun(
    web: Web, source: str, image: str, body: dict[str, object]
) -> None:
    await application(web, image)
    path = await web.endpoint(source, "s")
    _, first = await web.post(path, body, **BEARER)
    assert (await web.post(path, body, **BEARER))[1]["duplicateOf"] == first["deliveryId"]
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = 'succeeded', finished_at = now()")
    status, again = await web.post(path, body, **BEARER)
    assert (status, again["duplicateOf"]) == (202, None)


async def test_an_event_id_in_the_body_identifies_a_delivery_forever(web: Web) -> None:
    await application(web, "r.io/acme/web")
    path, body = await web.endpoint("distribution", "s"), envelope("r.io/acme/web", DIGEST)
    await web.post(path, body, **BEARER)
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at - interval '3 days'")
    status, answer = await web.post(path, body, **BEARER)
    assert (status, answer["duplicateOf"] is not None) == (200, True)


async def test_another_event_for_a_queued_deployment_joins_it(web: Web) -> None:
    await application(web, "r.io/acme/web")
    path = await web.endpoint("distribution", "s")
    _, first = await web.post(path, envelope("r.io/acme/web", DIGEST), **BEARER)
    status, second = await web.post(path, envelope("r.io/acme/web", OTHER), **BEARER)
    assert (status, first["deployments"]) == (202, second["deployments"])
    queued = await web.query("deployment.one", deploymentId=first["deployments"][0]["deploymentId"])
    assert sorted(queued["deliveries"]) == sorted([first["deliveryId"], second["deliveryId"]])


async def test_one_envelope_may_start_several_applications(web: Web) -> None:
    ids = {await application(web, f"r.io/acme/app{number}") for number in range(3)}
    events = [orjson.loads(envelope(f"r.io/acme/app{number}", DIGEST))["events"][0] for number in range(3)]
    status, answer = await web.post(await web.endpoint("distribution", "s"), orjson.dumps({"events": events}), **BEARER)
    assert status == 202
    assert {one["applicationId"] for one in answer["deployments"]} == ids


async def test_one_invalid_event_rejects_the_whole_envelope(web: Web) -> None:
    await application(web, "r.io/acme/app0")
    good = orjson.loads(envelope("r.io/acme/app0", DIGEST))["events"][0]
    bad = orjson.loads(orjson.dumps(good))
    bad["target"]["repository"] = "../x"
    body = orjson.dumps({"events": [good, bad]})
    status, _ = await web.post(await web.endpoint("distribution", "s"), body, **BEARER)
    assert (status, await web.count("deployments")) == (200, 0)


async def test_a_push_is_ignored_while_the_application_is_stopped_or_auto_deploy_is_off(web: Web) -> None:
    application_id = await application(web, "acme/web")
    await web.mutate("application.stop", applicationId=application_id)
    path = await web.endpoint("dockerhub", "s")
    _, answer = await web.post(path, dockerhub())
    assert [one["reason"] for one in answer["ignored"]] == ["stopped"]
    await web.mutate("application.update", applicationId=application_id, autoDeploy=False)
    _, answer = await web.post(path, dockerhub("latest"))
    assert answer["deployments"] == []


async def test_a_redeploy_supersedes_a_queued_push_and_a_later_push_joins_it(web: Web) -> None:
    application_id = await application(web, "acme/web")
    path = await web.endpoint("dockerhub", "s")
    _, pushed = await web.post(path, dockerhub())
    await web.mutate("application.redeploy", applicationId=application_id, title="mine")
    mine, was = await web.query("deployment.all", applicationId=application_id)
    assert (mine["kind"], mine["title"], was["state"]) == ("redeploy", "mine", "superseded")
    assert was["supersededBy"] == mine["deploymentId"]
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at - interval '11 minutes'")
    _, again = await web.post(path, dockerhub())
    assert [one["deploymentId"] for one in again["deployments"]] == [mine["deploymentId"]]
    assert pushed["deployments"][0]["deploymentId"] == was["deploymentId"]


async def test_two_hundred_concurrent_pushes_queue_one_deployment_an_application(web: Web) -> None:
    for number in range(5):
        await application(web, f"r.io/acme/app{number}")
    path = await web.endpoint("distribution", "s")
    bodies = [envelope(f"r.io/acme/app{number % 5}", DIGEST) for number in range(200)]

    async def send(body: bytes) -> int:
        """Send it as a registry does: again when the gateway is busy."""
        while True:
            status, _ = await web.post(path, body, **BEARER)
            if status != HTTPStatus.SERVICE_UNAVAILABLE:
                return status

    statuses = await asyncio.gather(*map(send, bodies))
    assert set(statuses) <= {HTTPStatus.ACCEPTED, HTTPStatus.OK}
    assert (await web.count("deployments"), await web.count("deployment_deliveries")) == (5, 200)


# -- what each source may ask of us, shown with one that asks for all of it


def proven_by_a_key(request: Request, trust: Trust) -> None:
    if request.body not in request.keys.values() or abs(request.at - datetime.now(UTC)) > timedelta(minutes=1):
        raise Unauthenticated("no key of the registry signed this")


PARTICULAR = Source(
    "particular",
    title="Particular",
    header=None,
    header_value=None,
    verify=proven_by_a_key,
    parse=lambda _request, _trust: Notification(),
    keys=lambda request, _trust: [request.headers["x-key"]],
    handshake=lambda request, _trust: Handshake(
        headers={"WebHook-Allowed-Origin": request.query.get("from", "")}, visit=request.headers.get("x-visit")
    ),
    unavailable_status=500,
)


@pytest.fixture
async def particular(web: Web, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(webhooks, "SOURCES", {"particular": PARTICULAR})
    return await web.endpoint("particular", "s")


async def test_a_handshake_by_options_is_answered_by_its_source(web: Web, particular: str) -> None:
    async with web.client.options(f"{particular}?from=eventgrid", headers={"x-key": ""}) as answer:
        assert (answer.status, answer.headers["WebHook-Allowed-Origin"]) == (200, "eventgrid")


async def test_options_is_not_allowed_for_a_source_without_a_handshake(web: Web) -> None:
    async with web.client.options(await web.endpoint("dockerhub", "s")) as answer:
        assert answer.status == 405


async def test_a_public_key_is_cached_and_fetched_again_when_verification_fails(
    web: Web, particular: str, registry_of_keys: "RegistryOfKeys", monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"x-key": registry_of_keys.url}
    registry_of_keys.key = b"old"
    assert (await web.post(particular, b"old", **key))[0] == 200
    assert (await web.post(particular, b"old", **key))[0] == 200
    registry_of_keys.key = b"new"
    assert (await web.post(particular, b"new", **key))[0] == 401
    assert registry_of_keys.asked == 1
    monkeypatch.setattr(webhooks, "MIN_REFETCH_INTERVAL", 0.0)
    assert (await web.post(particular, b"new", **key))[0] == 200
    assert registry_of_keys.asked == 2


async def test_a_handshake_is_answered_after_its_visit_succeeds(
    web: Web, particular: str, registry_of_keys: "RegistryOfKeys"
) -> None:
    sent = {"x-key": registry_of_keys.url, "x-visit": registry_of_keys.url}
    assert (await web.post(particular, b"key", **sent))[0] == 200
    assert registry_of_keys.asked == 2
    async with web.pool.acquire() as connection:
        assert await connection.fetchval("SELECT ignored->0->>'reason' FROM deliveries") == "a handshake, answered"
    sent["x-visit"] = registry_of_keys.url + "/nothing"
    assert (await web.post(particular, b"key", **sent))[0] == 500


async def test_a_hanging_database_is_answered_within_the_deadline_and_the_push_is_stored_later(
    web: Web, particular: str, registry_of_keys: "RegistryOfKeys", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "SOURCES", {"particular": replace(PARTICULAR, response_deadline=0.2)})
    async with web.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE deliveries")
        status, _ = await web.post(particular, b"key", **{"x-key": registry_of_keys.url})
        assert status == 500

    async def stored() -> bool | None:
        return await web.count("deliveries") == 1 or None

    await until(stored)


@dataclass
class RegistryOfKeys:
    url: str = ""
    key: bytes = b"key"
    asked: int = 0

    async def answer(self, _request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.asked += 1
        return aiohttp.web.Response(body=self.key)


@pytest.fixture
async def registry_of_keys() -> AsyncIterator[RegistryOfKeys]:
    registry, application = RegistryOfKeys(), aiohttp.web.Application()
    application.router.add_get("/key", registry.answer)
    async with TestServer(application) as server:
        registry.url = str(server.make_url("/key"))
        yield registry


async def test_the_same_plain_body_an_hour_later_is_a_new_delivery(web: Web) -> None:
    await application(web, "r.io/acme/web")
    path, body = await web.endpoint("generic", "s"), b'{"image": "r.io/acme/web:latest"}'
    _, first = await web.post(path, body, **BEARER)
    status, soon = await web.post(path, body, **BEARER)
    assert (status, soon["duplicateOf"]) == (200, first["deliveryId"])
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = 'succeeded', finished_at = now()")
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at - interval '1 hour'")
    status, later = await web.post(path, body, **BEARER)
    assert (status, later["duplicateOf"]) == (202, None)


def digest(body: bytes, secret: str = "s") -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def gitea(tag: str) -> bytes:
    package = {
        "type": "container",
        "name": "web",
        "version": tag,
        "owner": {"login": "acme"},
        "html_url": "https://git.example.com/acme/-/packages/container/web/" + tag,
    }
    return orjson.dumps({"action": "created", "package": package})


SIGNED_SOURCES = [
    ("github", github, signed, "ghcr.io/acme/web"),
    ("gitea", gitea, lambda body: {"X-Gitea-Signature": digest(body)}, "git.example.com/acme/web"),
    (
        "generic",
        lambda tag: orjson.dumps({"image": f"r.io/acme/web:{tag}"}),
        signed,
        "r.io/acme/web",
    ),
]


async def served(web: Web) -> None:
    """Let all that waits have served, and all that was told be long ago."""
    async with web.pool.acquire() as connection:
        await connection.execute(
            """
            UPDATE applications a SET docker_image = d.reference FROM deployments d
             WHERE d.application_id = a.application_id AND d.status = 'queued'
            """
        )
        await connection.execute("UPDATE deployments SET status = 'succeeded', finished_at = now()")
        await connection.execute("UPDATE delivery_keys SET seen_at = seen_at - interval '11 minutes'")


@pytest.mark.parametrize(("source", "body", "proof", "image"), SIGNED_SOURCES)
async def test_a_replayed_signed_body_does_not_bring_a_former_tag_back(
    web: Web, source: str, body: Callable[[str], bytes], proof: Callable[[bytes], dict[str, str]], image: str
) -> None:
    application_id = await application(web, f"{image}:v0")
    await web.mutate("subscription.create", applicationId=application_id, policy="glob", pattern="v*")
    path = await web.endpoint(source, "s")
    for tag in ("v1", "v2"):
        assert (await web.post(path, body(tag), **proof(body(tag))))[0] == 202
        await served(web)
    status, again = await web.post(path, body("v1"), **proof(body("v1")))
    assert (status, again["deployments"]) == (200, [])
    assert await web.count("deployments") == 2


async def test_a_signed_form_with_another_wrapping_is_the_same_body(web: Web) -> None:
    application_id = await application(web, "git.example.com/acme/web:v0")
    await web.mutate("subscription.create", applicationId=application_id, policy="glob", pattern="v*")
    path = await web.endpoint("gitea", "s")
    proof = {"X-Gitea-Signature": digest(gitea("v1"))}
    await web.post(path, gitea("v1"), **proof)
    await served(web)
    form = b"payload=" + quote_plus(gitea("v1")).encode() + b"&more=1"
    status, again = await web.post(path, form, **proof)
    assert (status, again["duplicateOf"] is not None) == (200, True)


async def test_a_signed_body_without_an_id_is_another_push_of_the_serving_tag(web: Web) -> None:
    await application(web, "r.io/acme/web")
    path, body = await web.endpoint("generic", "s"), b'{"image": "r.io/acme/web:latest"}'
    await web.post(path, body, **signed(body))
    await served(web)
    status, later = await web.post(path, body, **signed(body))
    assert (status, later["duplicateOf"]) == (202, None)


async def test_a_former_tag_deploys_again_by_a_delivery_with_another_id(web: Web) -> None:
    application_id = await application(web, "r.io/acme/web:v0")
    await web.mutate("subscription.create", applicationId=application_id, policy="glob", pattern="v*")
    path = await web.endpoint("generic", "s")
    for number, tag in enumerate(("v1", "v2", "v1")):
        body = orjson.dumps({"image": f"r.io/acme/web:{tag}", "id": str(number)})
        assert (await web.post(path, body, **signed(body)))[0] == 202
        await served(web)


async def test_a_failed_signed_delivery_is_not_retried_after_a_newer_image_was_requested(
    web: Web,
) -> None:
    application_id = await application(web, "ghcr.io/acme/web:v0")
    await web.mutate("subscription.create", applicationId=application_id, policy="glob", pattern="v*")
    path = await web.endpoint("github", "s")
    await web.post(path, github("v1"), **signed(github("v1")))
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = 'failed', finished_at = now()")
    assert (await web.post(path, github("v1"), **signed(github("v1"))))[0] == 202, "nothing newer came"
    await served(web)
    await web.post(path, github("v2"), **signed(github("v2")))
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = 'failed', finished_at = now()")
    assert (await web.post(path, github("v1"), **signed(github("v1"))))[0] == 200


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("quay", {"docker_url": "quay.io/acme/web", "updated_tags": [f"v{number}" for number in range(4000)]}),
        ("distribution", {"events": [{}] * 340_000}),
        ("harbor", {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{}] * 5000}}),
        ("acr", [{}] * 5000),
        ("generic", [{"image": "r.io/a"}] * 5000),
    ],
)
async def test_a_delivery_with_too_many_pushes_is_rejected_and_stored(web: Web, source: str, body: object) -> None:
    path = await web.endpoint(source, "s")
    await web.post(path, body, **BEARER)
    (kept,) = await web.query("delivery.all")
    assert (kept["verdict"], "at most 1000 pushes" in kept["ignored"][0]["reason"]) == ("rejected", True)


async def test_a_version_policy_selects_the_highest_of_the_maximum_of_tags(web: Web) -> None:
    application_id = await application(web, "quay.io/acme/web:0.0.1")
    await web.mutate("subscription.create", applicationId=application_id, policy="semver", pattern="*")
    tags = [f"1.0.{number}" for number in range(1000)]
    status, answer = await web.post(
        await web.endpoint("quay", "s"), {"docker_url": "quay.io/acme/web", "updated_tags": tags}
    )
    one = await web.query("deployment.one", deploymentId=answer["deployments"][0]["deploymentId"])
    assert (status, one["image"], len(answer["ignored"])) == (202, "quay.io/acme/web:1.0.999", 999)


@pytest.mark.parametrize(
    "odd", [b"\xff\xfe", "\udcff".encode(errors="surrogateescape"), "\u00e9".encode(), b"a" * 3000]
)
async def test_a_push_with_an_undecodable_header_is_accepted(web: Web, odd: bytes) -> None:
    await application(web, "acme/web")
    path, body = await web.endpoint("dockerhub", "s"), dockerhub()
    reader, writer = await asyncio.open_connection(web.client.server.host, web.client.server.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\nX-Foo: ".encode()
    writer.write(head + odd + b"\r\n\r\n" + body)
    answer = await reader.read()
    writer.close()
    assert answer.split()[1] == b"202", answer
    assert await web.count("deployments") == 1


async def test_a_byte_order_mark_before_the_json_is_ignored(web: Web) -> None:
    path = await web.endpoint("generic", "s")
    body = b"\xef\xbb\xbf" + orjson.dumps({"image": "acme/app:v1"})
    status, told = await web.post(path, body, Authorization="Bearer s")
    assert (status, told["ignored"][0]["reference"]) == (200, "docker.io/acme/app:v1")
