"""An endpoint's restrictions hold: repositories, networks, rate, secrets and settings."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.api.ingress.rate_limit import RATE_LIMITERS, RateLimiters
from gateway.cli.demo.process import until
from gateway.model.endpoints import Endpoint, parse_networks, sender_address
from gateway.model.errors import InvalidInput
from gateway.queue import ingest
from gateway.queue.ingest import Receipt
from gateway.sources import SOURCES
from gateway.store import endpoints
from tests.integration.api.test_webhooks import DIGEST, dockerhub, ecr, github, signed
from tests.support.api_client import Web
from tests.support.distribution_hooks import envelope

BEARER = {"Authorization": "Bearer s"}


async def _create(web: Web, source: str, **given: object) -> tuple[str, str, str]:
    made = await web.mutate("webhook.create", source=source, **given)
    return made["endpointId"], made["path"], made["secret"]


async def test_both_secrets_are_valid_during_a_rotation_and_then_only_the_new_one(web: Web) -> None:
    endpoint_id, path, old = await _create(web, "github")
    new = (await web.mutate("webhook.rotate", endpointId=endpoint_id, grace=60))["secret"]
    for secret in (old, new):
        assert (await web.post(path, github(), **signed(github(), secret)))[0] == 200
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE endpoints SET former_until = now() - interval '1 second'")
    assert (await web.post(path, github(), **signed(github(), old)))[0] == 401
    assert (await web.post(path, github(), **signed(github(), new)))[0] == 200


@pytest.mark.parametrize(
    ("source", "settings"), [("dockerhub", {}), ("generic", {"proof": "path", "image": "ghcr.io/acme/web"})]
)
async def test_rotation_changes_the_path_where_it_is_the_only_proof(
    web: Web, source: str, settings: dict[str, str]
) -> None:
    body = dockerhub() if source == "dockerhub" else b'{"tag": "1"}'
    endpoint_id, old, _ = await _create(web, source, settings=settings)
    made = await web.mutate("webhook.rotate", endpointId=endpoint_id)
    assert made["secret"] is None
    for path in (old, made["path"]):
        assert (await web.post(path, body))[0] == 200
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE endpoints SET former_until = now() - interval '1 second'")
    assert (await web.post(old, body))[0] == 404
    assert (await web.post(made["path"], body))[0] == 200


async def test_an_endpoint_accepts_only_its_repositories(web: Web) -> None:
    for name in ("a", "b"):
        await web.mutate("application.create", name=name, dockerImage=f"r.io/team-{name}/web")
    _, path, secret = await _create(web, "distribution", repositories=["r.io/team-a/*"])
    sent = {"Authorization": f"Bearer {secret}"}
    assert (await web.post(path, envelope("r.io/team-a/web", DIGEST), **sent))[0] == 202
    status, answer = await web.post(path, envelope("r.io/team-b/web", DIGEST), **sent)
    assert status == 200
    assert answer["ignored"][0]["reason"] == "this webhook may not report pushes to that repository"


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        (None, 403),
        ("192.0.2.7", 200),
        ("198.51.100.1", 403),
        ("192.0.2.7, 198.51.100.1", 403),
        ("198.51.100.1, 192.0.2.7", 200),
        ("nonsense", 403),
    ],
)
async def test_the_sender_is_the_address_that_a_trusted_proxy_forwards(
    web: Web, forwarded: str | None, status: int
) -> None:
    path = await web.endpoint("dockerhub", "s", networks=parse_networks(["192.0.2.0/24"]))
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert (await web.post(path, dockerhub(), **headers))[0] == status


def test_x_forwarded_for_counts_only_from_a_trusted_proxy() -> None:
    assert sender_address("203.0.113.9", "192.0.2.7", []) == ip_address("203.0.113.9")
    proxies = parse_networks(["10.0.0.0/8", "fd00::/8"])
    assert sender_address("fd00::1", "6.6.6.6, 192.0.2.7, 10.1.1.1", proxies) == ip_address("192.0.2.7")
    assert sender_address("::ffff:10.0.0.1", "192.0.2.7", proxies) == ip_address("192.0.2.7")
    assert sender_address(None, "192.0.2.7", proxies) is None


async def test_a_disabled_endpoint_deploys_nothing_and_does_not_block_its_sender(web: Web) -> None:
    await web.mutate("application.create", name="web", dockerImage="r.io/acme/web")
    endpoint_id, path, secret = await _create(web, "distribution")
    await web.mutate("webhook.disable", endpointId=endpoint_id)
    sent = {"Authorization": f"Bearer {secret}"}
    status, answer = await web.post(path, envelope("r.io/acme/web", DIGEST), **sent)
    assert (status, answer["ignored"][0]["reason"]) == (200, "this webhook is disabled")
    hub_id, hub, _ = await _create(web, "dockerhub")
    await web.mutate("webhook.disable", endpointId=hub_id)
    assert (await web.post(hub, dockerhub()))[0] == 404
    await web.mutate("webhook.enable", endpointId=endpoint_id)
    assert (await web.post(path, envelope("r.io/acme/web", DIGEST), **sent))[0] == 202


@pytest.mark.parametrize(
    ("source", "status", "retry_after"), [("ecr", 429, True), ("distribution", 503, False), ("dockerhub", 503, False)]
)
async def test_a_request_beyond_the_rate_gets_the_status_that_the_sender_retries(
    web: Web, source: str, status: int, *, retry_after: bool
) -> None:
    path = await web.endpoint(source, "s", rate=6)
    assert (await web.post(path, b"{}", **BEARER))[0] in {200, 400}
    async with web.client.post(path, data=b"{}", headers=BEARER) as answer:
        assert (answer.status, "Retry-After" in answer.headers) == (status, retry_after)
    assert (await web.post(await web.endpoint(source, "s"), b"{}", **BEARER))[0] in {200, 400}


async def test_a_flood_at_one_endpoint_leaves_connections_to_the_others(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, reached, deliver = asyncio.Event(), [], ingest.ingest_delivery

    async def held(*given: Any, **more: Any) -> Receipt:
        reached.append(given)
        await release.wait()
        return await deliver(*given, **more)

    path, other = await web.endpoint("ecr", "s"), await web.endpoint("dockerhub", "s")
    monkeypatch.setattr(ingest, "ingest_delivery", held)
    bodies = [ecr().replace(b"acme/web", f"acme/web{number}".encode()) for number in range(30)]
    flood = [asyncio.create_task(web.post(path, body, **{"x-api-key": "s"})) for body in bodies]
    limiters: RateLimiters = web.client.app[RATE_LIMITERS]

    async def waiting() -> bool | None:
        return (limiters.for_path(path).waiting == 30 and len(reached) == 5) or None

    await until(waiting)
    monkeypatch.undo()
    assert (await web.post(other, dockerhub()))[0] == 200
    assert len(reached) == 5
    release.set()
    assert {status for status, _ in await asyncio.gather(*flood)} == {200}


async def test_guessed_paths_leave_the_endpoints_their_connections_and_rate_limiters(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, reached, select = asyncio.Event(), [], endpoints.select_endpoint

    async def held(*given: Any) -> Endpoint:
        reached.append(given)
        await release.wait()
        return await select(*given)

    path = await web.endpoint("dockerhub", "s")
    assert (await web.post(path, dockerhub()))[0] == 200
    limiters: RateLimiters = web.client.app[RATE_LIMITERS]
    known = limiters.for_path(path)
    monkeypatch.setattr(endpoints, "select_endpoint", held)
    guesses = [asyncio.create_task(web.post(f"/webhooks/dockerhub/{guess}", b"{}")) for guess in range(30)]

    async def waiting() -> bool | None:
        return limiters.for_path("/webhooks/dockerhub/another").waiting == 30 or None

    await until(waiting)
    monkeypatch.undo()
    assert (await web.post(path, dockerhub("v2")))[0] == 200
    assert len(reached) < 5
    release.set()
    assert {status for status, _ in await asyncio.gather(*guesses)} == {404}
    assert limiters.for_path(path) is known


async def test_pushes_of_one_repository_are_ingested_one_at_a_time_and_others_do_not_wait(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, reached, deliver = asyncio.Event(), [], ingest.ingest_delivery

    async def held(*given: Any, **more: Any) -> Receipt:
        reached.append(given)
        await release.wait()
        return await deliver(*given, **more)

    path = await web.endpoint("dockerhub", "s")
    monkeypatch.setattr(ingest, "ingest_delivery", held)
    pushes = [asyncio.create_task(web.post(path, dockerhub(f"v{number}"))) for number in range(4)]

    async def one() -> bool | None:
        return len(reached) == 1 or None

    await until(one)
    monkeypatch.undo()
    other = dockerhub().replace(b"acme/web", b"acme/api")
    assert (await web.post(path, other))[0] == 200
    assert len(reached) == 1
    release.set()
    assert {status for status, _ in await asyncio.gather(*pushes)} == {200}


async def test_secrets_and_paths_are_shown_once(web: Web) -> None:
    endpoint_id, path, secret = await _create(web, "github", name="mine", networks=["192.0.2.1"], rate=60)
    shown = await web.query("webhook.one", endpointId=endpoint_id)
    assert (shown["name"], shown["networks"], shown["rate"], shown["enabled"]) == ("mine", ["192.0.2.1/32"], 60, True)
    everything = str(await web.query("webhook.all")) + str(shown)
    assert secret not in everything
    assert path.rpartition("/")[2] not in everything
    await web.mutate("webhook.remove", endpointId=endpoint_id)
    assert (await web.post(path, github(), **signed(github(), secret)))[0] == 404


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"source": "pigeon"}, "source"),
        ({"source": "github", "networks": ["192.0.2.1/24"]}, "networks"),
        ({"source": "github", "repositories": ["web"]}, "repositories"),
        ({"source": "ecr", "settings": {"replicaton": "true"}}, "settings"),
        ({"source": "github", "rate": 0}, "rate"),
        ({"source": "distribution", "aliases": ["registry:5000"]}, "aliases"),
    ],
)
async def test_an_invalid_endpoint_is_rejected_naming_the_field(web: Web, given: dict[str, object], field: str) -> None:
    status, answer = await web.post("/api/webhook.create", given)
    assert (status, answer["issues"][0]["path"]) == (400, [field])


def test_an_unknown_setting_of_a_source_is_rejected() -> None:
    source = replace(SOURCES["dockerhub"], settings={"topic": "Its ARN."})
    source.check_settings({"topic": "arn"})
    with pytest.raises(InvalidInput, match="dockerhub has no setting 'x'; it has: topic"):
        source.check_settings({"topic": "arn", "x": "1"})
