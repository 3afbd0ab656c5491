"""Tests the inbox: deliveries are stored without secrets, within bounds, and can be replayed."""

from datetime import timedelta
from urllib.parse import quote_plus

import orjson
import pytest

from gateway.cli.demo.process import until
from gateway.model.deliveries import redact_headers
from gateway.model.errors import NotFound
from gateway.model.events import Notification, PushEvent
from gateway.model.reference import Reference
from gateway.queue import ingest
from gateway.sources import redact_body
from gateway.store import applications, delivery_log, endpoints
from gateway.worker.retention import prune_inbox
from tests.integration.api.test_webhooks import BEARER, dockerhub, github, signed
from tests.support.api_client import Web
from tests.support.concluding import conclude
from tests.support.rollout_env import VAULT


async def _list(web: Web, **given: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = await web.query("delivery.all", **given)
    return found


async def test_a_delivery_is_shown_with_its_request_and_its_deployments(web: Web) -> None:
    await web.mutate("application.create", name="web", dockerImage="ghcr.io/acme/web")
    headers = {**signed(github()), "X-GitHub-Event": "package", "Authorization": "Bearer hunter2"}
    _, answer = await web.post(await web.endpoint("github", "s"), github(), **headers)
    one = await web.query("delivery.one", deliveryId=answer["deliveryId"])
    assert (one["verdict"], one["source"], orjson.loads(one["body"])) == ("queued", "github", orjson.loads(github()))
    assert one["headers"]["x-github-event"] == "package"
    assert one["headers"]["authorization"] == one["headers"]["x-hub-signature-256"] == "(removed)"
    assert "hunter2" not in str(one)
    assert one["deployments"][0]["deploymentId"] == answer["deployments"][0]["deploymentId"]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("succeeded", "deployed"), ("unchanged", "deployed"), ("rolled_back", "failed"), ("superseded", "superseded")],
)
async def test_the_verdict_follows_the_deployment(web: Web, status: str, verdict: str) -> None:
    await web.mutate("application.create", name="web", dockerImage="acme/web")
    await web.post(await web.endpoint("dockerhub", "s"), dockerhub())
    assert [one["verdict"] for one in await _list(web)] == ["queued"]
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET status = $1, finished_at = now()", status)
    assert [one["verdict"] for one in await _list(web)] == [verdict]
    assert len(await _list(web, verdict=verdict)) == 1
    assert await _list(web, verdict="queued") == []


async def test_the_verdict_stays_after_the_application_is_deleted(web: Web) -> None:
    made = await web.mutate("application.create", name="a", dockerImage="r.io/a/web")
    await web.push("r.io/a/web:latest")
    await conclude(web)
    async with web.pool.acquire() as connection:
        await applications.delete_application(connection, made["applicationId"])
    (delivery,) = await web.query("delivery.all")
    assert delivery["verdict"] == "deployed"


async def test_reasons_of_ignored_rejected_and_duplicate_deliveries_are_kept(web: Web) -> None:
    await web.mutate("application.create", name="web", dockerImage="acme/web")
    path = await web.endpoint("dockerhub", "s")
    _, first = await web.post(path, dockerhub())
    for body in (dockerhub(), dockerhub("other"), b"{"):
        await web.post(path, body)
    rejected, ignored, duplicate, queued = await _list(web)
    assert [one["verdict"] for one in (rejected, ignored, duplicate, queued)] == [
        "rejected", "ignored", "duplicate", "queued",
    ]  # fmt: skip
    assert "not JSON" in str(rejected["ignored"])
    assert "no subscription" in str(ignored["ignored"])
    assert duplicate["duplicateOf"] == first["deliveryId"]
    assert [one["verdict"] for one in await _list(web, verdict="rejected")] == ["rejected"]
    assert await _list(web, source="github") == []


async def test_unauthenticated_requests_are_counted_by_reason(web: Web) -> None:
    path = await web.endpoint("github", "s")
    for number in range(20):
        assert (await web.post(path, github(), **signed(github(), f"wrong{number}")))[0] == 401
    assert (await web.post(path, github()))[0] == 401

    async def written() -> list[dict[str, object]] | None:
        found = await _list(web)
        return found if sum(int(str(one["times"])) for one in found) == 21 else None

    wrong, none = sorted(await until(written), key=lambda one: -int(str(one["times"])))
    assert (wrong["verdict"], wrong["proven"], wrong["times"], wrong["bytes"]) == ("rejected", False, 20, 0)
    assert (none["times"], await web.count("deployments")) == (1, 0)
    status, _ = await web.post("/api/delivery.replay", {"deliveryId": wrong["deliveryId"]})
    assert status == 400


async def test_new_rejected_deliveries_replace_the_oldest(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.ingest._MAX_REJECTED", 3)
    path = await web.endpoint("distribution", "s")
    for _ in range(5):
        assert (await web.post(path, b"{" + b"x" * 200_000, **BEARER))[0] == 200
    found = await _list(web)
    assert [one["bytes"] for one in found] == [64 * 1024] * 3


async def test_a_delivery_is_replayed(web: Web) -> None:
    _, answer = await web.post(await web.endpoint("dockerhub", "s"), dockerhub())
    assert answer["deployments"] == []
    await web.mutate("application.create", name="web", dockerImage="acme/web")
    again = await web.mutate("delivery.replay", deliveryId=answer["deliveryId"])
    assert (again["verdict"], again["replayOf"]) == ("queued", answer["deliveryId"])
    once_more = await web.mutate("delivery.replay", deliveryId=again["deliveryId"])
    assert once_more["deployments"] == again["deployments"], "it joins what waits"


async def test_the_inbox_is_kept_within_its_days_and_its_bytes(web: Web) -> None:
    path = await web.endpoint("dockerhub", "s")
    for moment in range(4):
        await web.post(path, dockerhub(f"v{moment}"))
    async with web.pool.acquire() as connection:
        await connection.execute(
            """
            UPDATE deliveries SET received_at = now() - interval '3 days'
             WHERE convert_from(body, 'UTF8') LIKE '%v0%'
            """
        )
        assert not await delivery_log.delete_expired(connection, timedelta(days=2))
        assert await web.count("deliveries") == 3
    await prune_inbox(web.pool, 2300)
    assert ["v3" in str(one["ignored"]) for one in await _list(web)] == [True, False]


def test_secret_headers_are_not_stored() -> None:
    sent = {
        "x-api-key": "k",
        "x-custom": "prefix s3cret",
        "content-type": "application/json",
        "cookie": "a",
        "x-goog-iap-jwt-assertion": "a.b.c",
        "x-original-uri": "/hooks/webhooks/dockerhub/unguessable?x=1",
    }
    removed = dict.fromkeys(sent, "(removed)")
    assert redact_headers(sent, ["s3cret", ""]) == {**removed, "content-type": "application/json"}


PIPELINE = {
    "object_kind": "pipeline",
    "object_attributes": {"status": "success", "variables": [{"key": "DB_PASSWORD", "value": "s3cret"}]},
    "project": {"path_with_namespace": "acme/web"},
}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (orjson.dumps(PIPELINE), {"key": "DB_PASSWORD", "value": "(removed)"}),
        (b"payload=" + quote_plus(orjson.dumps(PIPELINE)).encode(), {"key": "DB_PASSWORD", "value": "(removed)"}),
    ],
)
async def test_pipeline_variables_are_not_stored(web: Web, body: bytes, kept: dict[str, str]) -> None:
    await web.post(await web.endpoint("gitlab", "s"), body, Authorization="Bearer s")
    (delivery,) = await web.query("delivery.all")
    one = await web.query("delivery.one", deliveryId=delivery["deliveryId"])
    assert "s3cret" not in orjson.dumps(one).decode()
    async with web.pool.acquire() as connection:
        stored = orjson.loads(await connection.fetchval("SELECT body FROM deliveries"))
    assert stored["object_attributes"]["variables"] == [kept]
    assert stored["project"] == PIPELINE["project"]


@pytest.mark.parametrize(
    "body",
    [
        {"secret": "s3cret"},  # Gitea repeats it
        {"a": [{"auth": {"api_key": "s3cret", "access_token": "s3cret"}}]},
        {"config": {"webhookSecret": "s3cret", "PASSWORD": "s3cret"}},
        {"Type": "SubscriptionConfirmation", "Token": "s3cret", "SubscribeURL": "https://s3cret"},
        {"variables": {"A": "s3cret"}},
        {"variables": "s3cret"},
    ],
)
def test_secret_fields_of_a_body_are_not_stored(body: object) -> None:
    assert b"s3cret" not in redact_body(orjson.dumps(body))


@pytest.mark.parametrize(
    "body", [b'{"password": "s3cret"', b"variables: s3cret", b'{"a":' * 300 + b'{"token":"s3cret"}' + b"}" * 300]
)
def test_a_body_that_is_not_json_is_not_stored_when_it_mentions_secrets(body: bytes) -> None:
    assert b"s3cret" not in redact_body(body)


def test_a_body_without_secrets_is_stored_unchanged() -> None:
    for body in (b'{ "a" : 1.0 }', b"\xff not JSON", b'{"secret": "", "tags": ["token"]}'):
        assert redact_body(body) == body


async def test_a_delivery_whose_webhook_is_deleted_meanwhile_is_not_found(web: Web) -> None:
    async with web.pool.acquire() as connection:
        endpoint_id, token = await endpoints.insert_endpoint(
            connection, VAULT, source="dockerhub", name="", secret="s", host=None, aliases=[], settings={}
        )
        found = await endpoints.select_endpoint(connection, VAULT, "dockerhub", token)
        await connection.execute("DELETE FROM endpoints WHERE endpoint_id = $1", endpoint_id)
    reference = Reference.parse("acme/web:v1")
    assert reference.tag is not None
    push = PushEvent(reference.repository, reference.tag)
    with pytest.raises(NotFound, match="deleted"):
        await ingest.ingest_delivery(web.pool, found, b"{}", Notification((push,)))
    with pytest.raises(NotFound, match="deleted"):
        await ingest.ingest_rejected(web.pool, found, b"{", "the body is not JSON", headers={})
