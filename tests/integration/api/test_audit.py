"""The audit records who changed what, from where, and with which outcome, without secrets."""

import json
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from gateway.api import audit as auditing
from gateway.model.api_keys import Grants, Permission
from gateway.model.audit import CURRENT_ACTOR, Actor, Outcome
from gateway.store import api_keys, audit
from gateway.store.database import transaction
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.support.api_client import Web


@pytest.fixture
async def web(web: Web) -> Web:
    """The same, with nothing in the audit."""
    async with transaction(web.pool) as connection:
        await connection.execute("SET LOCAL gateway.expires_audit = 'on'")
        await connection.execute("DELETE FROM audit")
    return web


async def rows(web: Web, **filters: Any) -> list[dict[str, Any]]:
    """Return what is in the audit, the oldest first."""
    await auditing.write(web.client.server.app)
    page = await web.query("audit.list", **filters)
    return list(reversed(page["items"]))


SECRETS = {
    "env": "DB_PASSWORD=hush-env",
    "username": "robot",
    "password": "hush-password",
    "buildArgs": "hush-build",
    "mounts": [{"type": "file", "target": "/etc/app.conf", "content": "hush-file"}],
}


async def test_a_change_is_recorded_with_its_key_its_address_and_the_former_value(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web:v1")
    key, made = await a_key(web)
    async with asking_with(web, key):
        await web.mutate("application.update", applicationId="app-1", dockerImage="acme/web:v2", stopGrace=5)
    found = [one for one in await rows(web) if one["action"] == "application.update" and one["noun"] == "application"]
    assert [(one["who"], one["keyId"], one["address"], one["via"]) for one in found] == [
        ("of the test", made.key_id, "127.0.0.1", "api")
    ]
    (change,) = found
    assert (change["target"], change["applicationId"], change["outcome"]) == ("app-1", "app-1", "done")
    assert change["before"] == {"docker_image": "acme/web:v1"}
    assert change["after"] == {"docker_image": "acme/web:v2", "configuration.stopGrace": 5}


async def test_a_row_names_its_target_also_once_that_is_renamed_or_deleted(web: Web) -> None:
    project = (await web.mutate("project.create", name="shop"))["project"]["projectId"]
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web:v1")
    key = (await web.mutate("user.createApiKey", name="ci"))["id"]
    registry = await web.mutate(
        "registry.create", registryName="ours", registryUrl="ghcr.io", username="u", password="p"
    )
    await web.mutate("application.update", applicationId="app-1", name="front")
    await web.mutate("application.deploy", applicationId="app-1")
    await web.post("/api/application.update", {"applicationId": "app-1", "cpuLimit": "no"})
    await web.mutate("project.remove", projectId=project)
    await web.mutate("registry.remove", registryId=registry["registryId"])
    await web.mutate("user.deleteApiKey", apiKeyId=key)
    found = {(one["action"], one["noun"], one["outcome"], one["targetName"]) for one in await rows(web)}
    assert {
        ("project.create", "project", "done", "shop"),
        ("project.create", "environment", "done", "production"),
        ("project.remove", "project", "done", "shop"),
        ("application.create", "application", "done", "web"),
        ("application.create", "subscription", "done", "web"),
        ("application.update", "application", "done", "front"),
        ("application.deploy", "deployment", "done", "front"),
        ("application.update", None, "failed", "front"),
        ("user.createApiKey", "key", "done", "ci"),
        ("user.deleteApiKey", "key", "done", "ci"),
        ("registry.remove", "registry", "done", "ours"),
    } <= found


async def test_nothing_secret_is_in_the_audit(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web", **SECRETS)
    await web.mutate("application.update", applicationId="app-1", env="A=hush-other")
    await web.mutate("project.create", name="shop", env="P=hush-project")
    await web.mutate("registry.create", registryName="r", registryUrl="ghcr.io", username="u", password="hush-login")
    await web.mutate("webhook.create", source="github", secret="hush-webhook")
    made = await web.mutate("user.createApiKey", name="ci")
    await web.mutate("application.refreshToken", applicationId="app-1")
    token = (await web.query("application.one", applicationId="app-1"))["refreshToken"]
    await web.post("/api/application.update", {"applicationId": "app-1", "env": "hush-no-variable", "password": 5})
    told = orjson.dumps(await rows(web, limit=1000)).decode()
    assert "hush" not in told
    assert made["key"] not in told
    assert token not in told
    assert '"registry_password":"(secret)"' in told
    assert '"key_hash":"(secret)"' in told


@pytest.mark.parametrize(
    ("procedure", "given", "noun"),
    [
        ("project.create", {"name": "shop"}, "project"),
        ("application.create", {"name": "other"}, "application"),
        ("application.saveEnvironment", {"applicationId": "app-1", "env": "A=1"}, "application"),
        ("application.deploy", {"applicationId": "app-1"}, "deployment"),
        ("application.stop", {"applicationId": "app-1"}, "application"),
        ("application.refreshToken", {"applicationId": "app-1"}, "webhook"),
        ("port.create", {"applicationId": "app-1", "publishedPort": 1, "targetPort": 1}, "application"),
        ("mounts.create", {"serviceId": "app-1", "type": "file", "mountPath": "/f", "content": "c"}, "application"),
        ("domain.create", {"applicationId": "app-1", "host": "a.example.com"}, "domain"),
        ("subscription.create", {"applicationId": "app-1", "policy": "any"}, "subscription"),
        ("registry.create", {"registryName": "r", "registryUrl": "r.io", "username": "u", "password": "p"}, "registry"),
        ("server.create", {"name": "s", "host": "unix:///run/s.sock"}, "server"),
        ("webhook.create", {"source": "github"}, "webhook"),
        ("user.createApiKey", {"name": "ci"}, "key"),
        ("application.markRunning", {"applicationId": "app-1"}, None),
    ],
)  # fmt: skip
async def test_every_kind_of_change_is_recorded(
    web: Web, procedure: str, given: dict[str, Any], noun: str | None
) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    await web.mutate(procedure, **given)
    told = [one for one in await rows(web) if one["action"] == procedure]
    assert noun in {one["noun"] for one in told}
    assert {one["outcome"] for one in told} == {"done"}


async def test_a_plan_leaves_no_row_and_no_gap(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    before = await rows(web)
    document = {"applications": {"web": {"dockerImage": "acme/web:v2"}, "new": {"dockerImage": "acme/new"}}}
    planned = await web.mutate("declaration.plan", document=document)
    assert {one["action"] for one in planned["objects"]} >= {"created", "changed"}
    await web.post("/api/declaration.plan", {"document": {"applications": {"web": {"env": 1}}}})
    assert await rows(web) == before
    await web.mutate("application.markRunning", applicationId="app-1")
    assert (await rows(web))[-1]["number"] == before[-1]["number"] + 1


async def test_denied_and_failed_calls_are_recorded_and_counted(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    reading, made = await a_key(web, permission=Permission.READ)
    async with asking_with(web, reading):
        for _ in range(3):
            assert (await web.post("/api/application.update", {"applicationId": "app-1", "env": "A=1"}))[0] == 403
    assert (await web.post("/api/application.update", {"applicationId": "nowhere", "env": "A=1"}))[0] == 404
    # Of two seconds each, of which one may end between the calls.
    *several, failed = [one for one in await rows(web) if one["outcome"] != "done"]
    assert {(one["outcome"], one["keyId"]) for one in several} == {("refused", made.key_id)}
    assert sum(one["times"] for one in several) == 3
    refused = several[0]
    assert (refused["action"], refused["target"]) == ("application.update", "app-1")
    assert "needs scope admin" in refused["detail"]
    assert (failed["outcome"], failed["target"]) == ("failed", "nowhere")


async def test_wrong_keys_are_recorded_and_counted_without_the_key(web: Web) -> None:
    async with asking_with(web, "gw_a-guess"):
        for _ in range(30):
            assert (await web.get("/api/application.all"))[0] == 401
    (told,) = [one for one in await rows(web) if one["action"] == "key"]
    assert (told["outcome"], told["times"], told["address"]) == ("refused", 30, "127.0.0.1")
    assert "a-guess" not in orjson.dumps(told).decode()


async def test_wrong_keys_beyond_the_limit_are_still_recorded(web: Web) -> None:
    await web.query("audit.list")  # a key that is known goes past this
    for number in range(80):
        async with asking_with(web, f"gw_a-guess-{number}"):
            await web.get("/api/application.all")
    told = [one for one in await rows(web) if one["action"] == "key"]
    assert sum(one["times"] for one in told) == 80
    assert any("too many wrong API keys" in one["detail"] for one in told)


async def test_a_deployment_names_the_key_that_requested_it(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    key, made = await a_key(web, permission=Permission.DEPLOY)
    async with asking_with(web, key):
        await web.mutate("application.redeploy", applicationId="app-1")
    (asked,) = await web.query("deployment.all", applicationId="app-1")
    assert (asked["requestedBy"], asked["requestedByKeyId"]) == ("of the test", made.key_id)


async def test_a_webhooks_deployment_has_no_key_until_a_persons_request_joins_it(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="r.io/acme/web:v1")
    assert (await web.push("r.io/acme/web:v1"))[0] == 202
    assert [one["requestedBy"] for one in await web.query("deployment.all", applicationId="app-1")] == [None]
    await web.mutate("application.deploy", applicationId="app-1")
    assert [one["requestedBy"] for one in await web.query("deployment.all", applicationId="app-1")] == ["tests"]


async def test_pages_of_the_audit_follow_each_other_while_rows_are_added(web: Web) -> None:
    for number in range(5):
        await web.mutate("project.create", name=f"p{number}")
    first = await web.query("audit.list", limit=2)
    await web.mutate("project.create", name="meanwhile")
    seen = [one["number"] for one in first["items"]]
    cursor = first["nextCursor"]
    while cursor is not None:
        page = await web.query("audit.list", limit=2, cursor=cursor)
        seen += [one["number"] for one in page["items"]]
        cursor = page["nextCursor"]
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == first["items"][0]["number"] - seen[-1] + 1


async def test_only_an_unrestricted_admin_key_reads_the_audit(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    for how in ({"permission": Permission.DEPLOY}, {"grants": Grants(frozenset({"app-1"}))}):
        async with web.pool.acquire() as connection, connection.transaction():
            key, _ = await api_keys.insert_key(connection, "lesser", **how)
        async with asking_with(web, key):
            assert (await web.get("/api/audit.list"))[0] == 403
            assert (await web.get("/api/audit.list", applicationId="app-1"))[0] == 403


@pytest.mark.parametrize("attack", ["UPDATE audit SET who = 'me'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_a_row_of_the_audit_cannot_be_changed(web: Web, attack: str) -> None:
    await web.mutate("project.create", name="shop")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with transaction(web.pool) as connection:
            await connection.execute(attack)


async def test_many_denied_calls_do_not_displace_changes(web: Web) -> None:
    await web.mutate("project.create", name="shop")
    async with transaction(web.pool) as connection:
        actor = Actor("api", "somebody", "user.deleteApiKey")
        await audit.insert_unrecorded(
            connection, [audit.UnrecordedEvent(actor, Outcome.REFUSED, str(n)) for n in range(50)]
        )
        await audit.delete_expired(connection, older_than=timedelta(days=1), most=10)
    left = await rows(web, limit=1000)
    assert len([one for one in left if one["outcome"] == "refused"]) == 10
    assert len([one for one in left if one["outcome"] == "done"]) > 0
    async with transaction(web.pool) as connection:
        await audit.delete_expired(connection, older_than=timedelta(0), most=10)
        assert await audit.select_entries(connection) == []


async def test_changes_without_an_actor_are_not_recorded(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    before = len(await rows(web, limit=1000))
    async with transaction(web.pool) as connection:
        await connection.execute("UPDATE applications SET docker_image = 'acme/web:v9'")
    assert len(await rows(web, limit=1000)) == before
    token = CURRENT_ACTOR.set(Actor("cli", "root", "apps.update"))
    async with transaction(web.pool) as connection:
        await connection.execute("UPDATE applications SET docker_image = 'acme/web:v10'")
    CURRENT_ACTOR.reset(token)
    assert (await rows(web, limit=1000))[-1]["action"] == "apps.update"


async def test_changes_by_the_command_line_are_logged_by_the_server(web: Web) -> None:
    seen = await auditing.log_commands(web.client.server.app, None)
    token = CURRENT_ACTOR.set(Actor("cli", "root", "apps.update", address="host"))
    async with transaction(web.pool) as connection:
        await connection.execute("INSERT INTO projects (project_id, name) VALUES ('p-1', 'shop')")
    CURRENT_ACTOR.reset(token)
    await web.mutate("project.create", name="by the API")
    with capture_logs() as lines:
        seen = await auditing.log_commands(web.client.server.app, seen)
        assert await auditing.log_commands(web.client.server.app, seen) == seen
    assert [(one["event"], one["who"], one["action"], one["target"]) for one in lines] == [
        ("Audit", "root", "apps.update", "p-1")
    ]


@pytest.mark.parametrize("named", ["\x1b]52;c;aGk=\x07", "a\nb", "\ud800", "x" * 301, "\0"], ids=ascii)
async def test_control_characters_are_not_recorded_as_a_target(web: Web, named: str) -> None:
    body = orjson.dumps({"applicationId": "@"}).replace(b"@", json.dumps(named)[1:-1].encode())
    assert (await web.post("/api/application.stop", body))[0] in {400, 404}
    await web.mutate("project.create", name="after")
    told = await rows(web)
    assert {one["target"] for one in told if one["outcome"] == "failed"} <= {None}
    assert "\\u001b" not in orjson.dumps(told).decode()


async def test_each_call_of_a_batch_counts_for_a_limited_key(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", dockerImage="acme/web")
    limited = await web.mutate(
        "user.createApiKey", name="two a day", rateLimitEnabled=True, rateLimitMax=2, rateLimitTimeWindow=86_400_000
    )
    batch = "/api/trpc/" + ",".join(["application.redeploy"] * 50) + "?batch=1"
    given = {str(number): {"json": {"applicationId": "app-1"}} for number in range(50)}
    async with asking_with(web, limited["key"]):
        assert (await web.post(batch, given))[0] == 429
        for _ in range(2):
            await web.mutate("application.redeploy", applicationId="app-1")
        assert (await web.post("/api/application.redeploy", {"applicationId": "app-1"}))[0] == 429
    assert len(await web.query("deployment.all", applicationId="app-1")) == 2
