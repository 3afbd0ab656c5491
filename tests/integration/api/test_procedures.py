"""Procedures answer as the contract has it, on both surfaces, and bad input changes nothing."""

import asyncio
from importlib import import_module
from threading import current_thread, main_thread
from types import ModuleType
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest

from gateway.api.context import CONTEXT
from gateway.api.procedures import catalog
from gateway.api.rpc.trpc import UNDEFINED as UNDEFINED_VALUE
from gateway.model.api_keys import Grants, Permission
from gateway.store import api_keys, applications
from tests.support.api_client import VAULT, Web
from tests.support.response_validation import violation

SEED_PROVIDER = {
    "applicationId": "app-123",
    "dockerImage": "mycompany/myapp:v1.0.0",
    "username": "dockerhub-user",
    "password": "dckr_pat_xxxxx",
    "registryUrl": "https://index.docker.io/v1/",
}
SEED_REDEPLOY = {"applicationId": "app-123", "title": "Update to latest image"}
SEED_REGISTRY = {
    "registryName": "Docker Hub Production",
    "registryUrl": "https://index.docker.io/v1/",
    "username": "dockerhub-user",
    "password": "dckr_pat_xxxxx",
    "registryType": "cloud",
}
SEED_PRODUCTION = {
    "name": "Production API",
    "sourceType": "docker",
    "dockerImage": "mycompany/api:v2.1.0",
    "username": "mycompany",
    "password": "dckr_pat_xxxxx",
    "registryUrl": "https://index.docker.io/v1/",
    "env": "DATABASE_URL=postgresql://... \n REDIS_URL=redis://...",
    "memoryLimit": "2048MB",
    "cpuLimit": "2",
    "ports": [{"targetPort": 3000, "publishedPort": 3000}],
}
SEED_STAGING = {
    "name": "Staging API",
    "sourceType": "docker",
    "dockerImage": "mycompany/api:staging",
    "username": "mycompany",
    "password": "dckr_pat_xxxxx",
    "env": "NODE_ENV=staging \n DEBUG=true",
    "memoryLimit": "512MB",
    "cpuLimit": "0.5",
    "replicas": 1,
}
SEED_REDIS = {
    "name": "Redis Cache",
    "sourceType": "docker",
    "dockerImage": "redis:7.2-alpine",
    "command": "redis-server --appendonly yes",
    "volumes": [{"source": "redis-data", "target": "/data", "type": "volume"}],
    "memoryLimit": "256MB",
}
UNDEFINED = {"result": {"data": {"json": None, "meta": {"values": ["undefined"], "v": 1}}}}


async def app_123(web: Web, **more: object) -> None:
    await web.mutate("application.create", name="app", applicationId="app-123", dockerImage="acme/app", **more)


async def test_the_curl_lines_of_the_documentation_work_as_printed(web: Web) -> None:
    await app_123(web)
    assert (await web.post("/api/trpc/registry.create", SEED_REGISTRY))[0] == 200
    assert await web.post("/api/trpc/application.saveDockerProvider", SEED_PROVIDER) == (
        200,
        {"result": {"data": {"json": True}}},
    )
    update = {"applicationId": "app-123", "dockerImage": "mycompany/myapp:v2.0.0"}
    assert (await web.post("/api/trpc/application.update", update))[0] == 200
    assert await web.post("/api/trpc/application.redeploy", SEED_REDEPLOY) == (200, UNDEFINED)
    queued = await web.query("deployment.all", applicationId="app-123")
    assert [(one["title"], one["image"]) for one in queued] == [
        ("Update to latest image", "docker.io/mycompany/myapp:v2.0.0")
    ]


@pytest.mark.parametrize(
    "body",
    [SEED_REDEPLOY, {"json": SEED_REDEPLOY}, {"json": SEED_REDEPLOY, "meta": {"values": {}}}],
    ids=["plain", "envelope", "meta"],
)
async def test_a_redeploy_is_understood_plain_and_in_an_envelope(web: Web, body: dict[str, Any]) -> None:
    await app_123(web)
    assert await web.post("/api/trpc/application.redeploy", body) == (200, UNDEFINED)


async def test_a_redeploy_by_rest_answers_an_empty_body_and_names_the_deployment(web: Web) -> None:
    await app_123(web)
    for path in ("/api/application.redeploy", "/api//application.redeploy", "///api/application.redeploy"):
        async with web.client.post(
            path, data=orjson.dumps(SEED_REDEPLOY), headers={"x-api-key": web.key, "Content-Type": "application/json"}
        ) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            deployment_id = answer.headers["X-Deployment-Id"]
        assert (await web.query("deployment.one", deploymentId=deployment_id))["state"] == "queued"


async def test_what_waits_is_cancelled_once_and_tells_its_place_until_then(web: Web) -> None:
    await app_123(web)
    await web.mutate("application.redeploy", **SEED_REDEPLOY)
    (waits,) = await web.query("deployment.all", applicationId="app-123")
    assert (waits["queuePosition"], waits["waitsFor"]) == (1, "a free slot on the engine")
    named = {"deploymentId": waits["deploymentId"]}
    assert await web.mutate("deployment.cancel", **named) == {**named, "state": "cancelled"}
    ended = await web.query("deployment.one", **named)
    assert (ended["status"], ended["reason"]["code"], ended["queuePosition"]) == ("cancelled", "cancelled", None)
    assert (await web.post("/api/trpc/deployment.cancel", named))[0] == 409
    assert (await web.post("/api/trpc/deployment.cancel", {"deploymentId": "nobody"}))[0] == 404


async def test_the_contracts_ways_to_cancel_end_what_waits(web: Web) -> None:
    await app_123(web)
    of_app = {"applicationId": "app-123"}
    await web.mutate("application.stop", **of_app)
    assert await web.mutate("application.cancelDeployment", **of_app) == {
        "success": True,
        "message": "Deployment cancellation requested",
    }
    await web.mutate("application.redeploy", **of_app)
    assert await web.post("/api/trpc/application.cleanQueues", of_app) == (200, UNDEFINED)
    assert [one["state"] for one in await web.query("deployment.all", **of_app)] == ["cancelled", "cancelled"]
    assert (await web.post("/api/trpc/application.cleanQueues", {"applicationId": "nobody"}))[0] == 404


async def test_a_client_that_streams_gets_the_batch_as_one_line(web: Web) -> None:
    await app_123(web)
    path = "/api/trpc/application.redeploy,application.redeploy?batch=1"
    status, answer = await web.post(
        path, {"0": {"json": SEED_REDEPLOY}, "1": {"json": {}}}, **{"trpc-accept": "application/jsonl"}
    )
    assert status == 200
    assert answer["meta"] == {"values": {"0.0.0.result.data": ["undefined"]}, "v": 1}
    assert answer["json"]["0"] == [[{"result": {"data": None}}]]
    assert answer["json"]["1"][0][0]["error"]["data"]["code"] == "BAD_REQUEST"


async def test_a_batch_answers_each_and_207_where_they_differ(web: Web) -> None:
    await app_123(web)
    path = "/api/trpc/application.redeploy,application.redeploy?batch=1"
    status, answer = await web.post(path, {"0": {"json": SEED_REDEPLOY}, "1": {"json": {"applicationId": "nobody"}}})
    assert status == 207
    assert answer[0] == UNDEFINED
    assert answer[1]["error"]["json"]["data"]["httpStatus"] == 404


@pytest.mark.parametrize("seed", [SEED_PRODUCTION, SEED_STAGING, SEED_REDIS], ids=lambda seed: seed["name"])
async def test_the_configurations_of_the_documentation_are_kept_and_shown(web: Web, seed: dict[str, Any]) -> None:
    made = await web.mutate("application.create", **seed)
    shown = await web.query("application.one", applicationId=made["applicationId"])
    for name in set(seed) - {"password", "volumes", "ports"}:
        assert shown[name] == seed[name]
    assert shown["password"] is None
    assert [one["targetPort"] for one in shown["ports"]] == [one["targetPort"] for one in seed.get("ports", [])]
    assert [one["source"] for one in shown["mounts"]] == [one["source"] for one in seed.get("volumes", [])]


async def test_more_than_one_replica_is_refused_naming_swarm(web: Web) -> None:
    status, answer = await web.post("/api/trpc/application.create", {**SEED_PRODUCTION, "replicas": 3})
    assert status == 400
    assert "Swarm" in answer["error"]["json"]["message"]
    assert list(answer["error"]["json"]["data"]["zodError"]["fieldErrors"]) == ["replicas"]
    assert await web.count("applications") == 0


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("dockerImage", "../x"),
        ("dockerImage", "A//b"),
        ("dockerImage", "app:"),
        ("dockerImage", "app@sha256:12"),
        ("dockerImage", 7),
        ("dockerImage", ""),
        ("dockerImage", "reg:65536/app"),
        ("dockerImage", "zero\0byte"),
        ("dockerImage", "a" * 5000),
        ("memoryLimit", "lots"),
        ("memoryLimit", -1),
        ("cpuLimit", "1000"),
        ("cpuLimit", {}),
        ("ports", [{"targetPort": 0, "publishedPort": 1}]),
        ("ports", "80:80"),
        ("volumes", [{"source": "../up", "target": "/data"}]),
        ("env", "no assignment"),
        ("command", "unclosed '"),
        ("registryUrl", "ftp://x"),
        ("registryUrl", "https://me:hunter2@ghcr.io"),
        ("name", ""),
        ("applicationId", "../x"),
        ("appName", "../x"),
        ("replicas", 0),
        ("description", "zero\0byte"),
    ],
)
async def test_a_wrong_value_is_refused_and_changes_nothing(web: Web, field: str, wrong: object) -> None:
    status, answer = await web.post("/api/trpc/application.create", {"name": "a", field: wrong})
    error = answer["error"]["json"]
    assert (status, error["data"]["code"], list(error["data"]["zodError"]["fieldErrors"])) == (
        400, "BAD_REQUEST", [field],
    )  # fmt: skip
    assert "hunter2" not in error["message"]
    assert await web.count("applications") == 0

    await app_123(web)
    before = await web.query("application.one", applicationId="app-123")
    if field not in {"applicationId", "appName"}:
        status, _ = await web.post("/api/application.update", {"applicationId": "app-123", "name": "b", field: wrong})
        assert status == 400
    assert before == await web.query("application.one", applicationId="app-123")


@pytest.mark.parametrize(
    ("image", "canonical"),
    [
        ("reg:5000/app", "reg:5000/app:latest"),
        ("app:16", "docker.io/library/app:16"),
        ("app@sha256:" + "a" * 64, "docker.io/library/app@sha256:" + "a" * 64),
        ("library/nginx", "docker.io/library/nginx:latest"),
    ],
)
async def test_an_image_means_what_docker_means(web: Web, image: str, canonical: str) -> None:
    await web.mutate("application.create", name="app", applicationId="app-123", dockerImage=image)
    await web.mutate("application.deploy", applicationId="app-123")
    assert [one["image"] for one in await web.query("deployment.all", applicationId="app-123")] == [canonical]


async def test_absent_keeps_and_null_clears(web: Web) -> None:
    await app_123(web, env="A=1", memoryLimit="64MB", username="me", password="secret")
    await web.mutate("application.update", applicationId="app-123", memoryLimit=None, description="new")
    shown = await web.query("application.one", applicationId="app-123")
    assert (shown["env"], shown["memoryLimit"], shown["description"], shown["username"]) == ("A=1", None, "new", "me")
    status, answer = await web.post("/api/application.update", {"applicationId": "app-123"})
    assert (status, answer["message"]) == (400, "No values to set")


async def test_a_user_name_is_shown_as_it_was_set_whatever_becomes_of_the_password(web: Web) -> None:
    await app_123(web, username="me")
    for changes, shown in (({"password": "secret"}, "me"), ({"username": None}, None), ({"username": ""}, "")):
        await web.mutate("application.update", applicationId="app-123", **changes)
        assert (await web.query("application.one", applicationId="app-123"))["username"] == shown


@pytest.mark.parametrize(("username", "password"), [("", ""), ("me", ""), ("", "secret"), (None, "secret")])
async def test_half_a_login_is_none(web: Web, username: str | None, password: str) -> None:
    await app_123(web, username=username, password=password, registryUrl="")
    async with web.pool.acquire() as connection:
        found = await applications.select_application(connection, VAULT, "app-123")
    assert found.own_login is None


async def test_of_requests_at_once_the_newest_is_the_one_not_superseded(web: Web) -> None:
    await app_123(web)
    await asyncio.gather(*(web.mutate("application.redeploy", applicationId="app-123") for _ in range(20)))
    newest, *others = await web.query("deployment.all", applicationId="app-123")
    assert (newest["state"], {one["state"] for one in others}) == ("queued", {"superseded"})
    assert all(one["createdAt"] <= one["finishedAt"] for one in others)


async def test_a_column_of_no_meaning_here_is_kept_for_the_client(web: Web) -> None:
    await app_123(web, buildPath="/srv", nonsense=1)
    shown = await web.query("application.one", applicationId="app-123")
    assert (shown["buildPath"], "nonsense" in shown) == ("/srv", False)


@pytest.mark.parametrize("wrong", [True, -1, "10s", 3601 * 10**9])
async def test_a_wrong_grace_is_named_as_it_was_sent(web: Web, wrong: object) -> None:
    status, answer = await web.post("/api/trpc/application.create", {"name": "a", "stopGracePeriodSwarm": wrong})
    assert status == 400
    assert list(answer["error"]["json"]["data"]["zodError"]["fieldErrors"]) == ["stopGracePeriodSwarm"]
    assert await web.count("applications") == 0


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ([], []),
        ({"ports": [1]}, ["ports", 0]),
        ({"mounts": ["a:/b"]}, ["mounts", 0]),
        ({"labels": ["a=b"]}, ["labels"]),
    ],
)
async def test_what_should_be_an_object_is_told_in_words_that_name_none_of_our_types(
    web: Web, given: Any, path: list[str | int]
) -> None:
    sent = {"name": "a", **given} if isinstance(given, dict) else given
    _, answer = await web.post("/api/application.create", sent)
    assert answer["issues"] == [{"code": "invalid_type", "path": path, "message": "Invalid input: expected object"}]


async def test_an_id_is_taken_once(web: Web) -> None:
    await app_123(web)
    status, answer = await web.post("/api/application.create", {"name": "b", "applicationId": "app-123"})
    assert (status, answer["code"]) == (409, "CONFLICT")


async def test_an_application_without_an_image_cannot_be_deployed(web: Web) -> None:
    await web.mutate("application.create", name="bare", applicationId="bare")
    status, answer = await web.post("/api/application.deploy", {"applicationId": "bare"})
    assert (status, "dockerImage" in answer["issues"][0]["path"]) == (400, True)


async def test_what_was_never_deployed_is_deleted_at_once(web: Web) -> None:
    await app_123(web)
    await web.mutate("application.delete", applicationId="app-123")
    status, answer = await web.post("/api/application.delete", {"applicationId": "app-123"})
    assert (status, answer["message"]) == (404, "Application not found")


@pytest.mark.parametrize("procedure", ["deploy", "redeploy", "start", "stop", "delete", "update"])
async def test_an_unknown_application_is_not_found(web: Web, procedure: str) -> None:
    given = {"applicationId": "nobody", "name": "x"}
    status, answer = await web.post(f"/api/trpc/application.{procedure}", given)
    error = answer["error"]["json"]
    assert (status, error["message"], error["code"]) == (404, "Application not found", -32004)


async def test_a_registry_is_kept_without_its_password_being_shown_or_stored_in_clear(web: Web) -> None:
    made = await web.mutate("registry.create", **SEED_REGISTRY)
    assert "password" not in made
    assert [one["registryName"] for one in await web.query("registry.all")] == ["Docker Hub Production"]
    async with web.pool.acquire() as connection:
        stored = await connection.fetchval("SELECT password FROM registries")
    assert b"dckr_pat" not in stored
    assert (await web.mutate("registry.remove", registryId=made["registryId"]))["registryId"] == made["registryId"]
    assert await web.query("registry.all") == []


async def test_secrets_of_an_application_are_sealed_at_rest(web: Web) -> None:
    await app_123(web, env="TOKEN=hunter2", username="me", password="hunter3", buildSecrets="hunter4")
    await web.mutate("application.update", applicationId="app-123", previewEnv="hunter5", buildPath="/srv")
    shown = await web.query("application.one", applicationId="app-123")
    assert (shown["buildSecrets"], shown["previewEnv"], shown["buildPath"]) == ("hunter4", "hunter5", "/srv")
    async with web.pool.acquire() as connection:
        row = await connection.fetchval("SELECT applications::text FROM applications")
    assert "hunter" not in row
    assert b"hunter".hex() not in row


@pytest.mark.parametrize("key", ["", "gw_nobody"])
async def test_without_a_valid_key_nothing_is_answered(web: Web, key: str) -> None:
    await app_123(web)
    status, answer = await web.post("/api/trpc/application.redeploy", SEED_REDEPLOY, **{"x-api-key": key})
    assert (status, answer["error"]["json"]["message"], answer["error"]["json"]["code"]) == (
        401,
        "UNAUTHORIZED",
        -32001,
    )
    assert await web.post("/api/application.redeploy", SEED_REDEPLOY, **{"x-api-key": key}) == (
        401,
        {"message": "Unauthorized"},
    )
    assert await web.count("deployments") == 0


async def test_a_revoked_key_is_refused(web: Web) -> None:
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE api_keys SET revoked_at = now()")
    assert (await web.get("/api/application.all"))[0] == 401


async def test_a_database_that_is_away_is_told_as_each_surface_tells_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "select_caller", AsyncMock(side_effect=ConnectionResetError))
    status, answer = await web.post("/api/trpc/application.redeploy", SEED_REDEPLOY)
    assert (status, answer["error"]["json"]["data"]["httpStatus"]) == (503, 503)
    status, answer = await web.post("/api/trpc/application.redeploy?batch=1", {"0": {"json": SEED_REDEPLOY}})
    assert (status, answer[0]["error"]["json"]["data"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    status, answer = await web.post("/api/application.redeploy", SEED_REDEPLOY)
    assert (status, answer["code"], answer["data"]["httpStatus"]) == (503, "SERVICE_UNAVAILABLE", 503)


async def test_a_validation_problem_is_told_as_each_surface_tells_it(web: Web) -> None:
    status, answer = await web.post("/api/trpc/application.redeploy", {})
    error = answer["error"]["json"]
    assert (status, error["code"], list(error["data"]["zodError"]["fieldErrors"])) == (400, -32600, ["applicationId"])
    assert orjson.loads(error["message"])[0]["path"] == ["applicationId"]
    status, answer = await web.post("/api/application.redeploy", {})
    assert (status, answer["message"], answer["issues"][0]["path"]) == (
        400,
        "Input validation failed: applicationId: Invalid input: expected nonoptional, received undefined",
        ["applicationId"],
    )


async def test_wrong_methods_types_and_names_are_told(web: Web) -> None:
    assert (await web.get("/api/trpc/application.redeploy"))[0] == 405
    assert (await web.get("/api/application.redeploy"))[0] == 404
    assert (await web.post("/api/trpc/application.one", {}))[0] == 405
    assert (await web.post("/api/trpc/application.fly", {}))[0] == 404
    assert (await web.post("/api/application.fly", {}))[0] == 404
    assert (await web.post("/api/application.redeploy", {}, **{"Content-Type": "text/plain"}))[0] == 415
    assert (await web.post("/api/application.redeploy", b"{"))[0] == 400
    assert (await web.post("/api/trpc/application.redeploy", b"[1]"))[0] == 400


async def test_a_body_that_is_too_large_or_broken_is_told_in_each_surfaces_envelope(web: Web) -> None:
    large = b'{"name": "' + b" " * (5 * 1024 * 1024) + b'"}'
    status, answer = await web.post("/api/trpc/application.create", large)
    assert (status, answer["error"]["json"]["data"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    status, answer = await web.post("/api/application.create", large)
    assert (status, answer["code"]) == (413, "PAYLOAD_TOO_LARGE")
    status, answer = await web.post("/api/application.create", b"no gzip", **{"Content-Encoding": "gzip"})
    assert (status, answer["code"]) == (400, "BAD_REQUEST")


async def test_a_query_takes_its_input_wrapped_plain_or_not_at_all(web: Web) -> None:
    await app_123(web)
    for given in ('{"json":{"applicationId":"app-123"}}', '{"applicationId":"app-123"}'):
        status, answer = await web.get("/api/trpc/application.one", input=given)
        assert (status, answer["result"]["data"]["json"]["name"]) == (200, "app")
    assert (await web.get("/api/trpc/application.all"))[0] == 200
    assert (await web.get("/api/application.one", applicationId="app-123"))[0] == 200


async def test_it_says_whether_it_lives_can_accept_and_what_it_did(web: Web) -> None:
    assert (await web.get("/healthz"))[0] == 200
    status, answer = await web.get("/readyz")
    assert (status, answer["database"], answer["engines"][0]["status"]) == (200, "ok", "unreachable")
    status, body = await web.get("/metrics")
    assert status == 200
    for name in (b"gateway_deliveries_total", b"gateway_queue_depth", b"gateway_rollout_step_seconds"):
        assert name in body


async def test_what_is_started_stopped_or_deleted_is_answered_as_the_whole_it_was(web: Web) -> None:
    await app_123(web)
    await web.mutate("application.deploy", applicationId="app-123")
    for deed in ("start", "stop", "delete"):
        before = await web.query("application.one", applicationId="app-123")
        assert await web.mutate(f"application.{deed}", applicationId="app-123") == before
        assert before["environment"]["project"]["name"] == "Default"


async def test_where_the_engines_are_is_told_to_a_key_or_a_network_alone(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(**headers: str) -> tuple[bool, bool]:
        found = []
        for path in ("/readyz", "/metrics"):
            async with web.client.get(path, headers=headers) as answer:
                assert answer.status == 200
                found.append("nowhere" in await answer.text())
        return found[0], found[1]

    async with web.pool.acquire() as connection, connection.transaction():
        reading, _ = await api_keys.insert_key(connection, "prometheus", permission=Permission.READ)
        limited, _ = await api_keys.insert_key(connection, "limited", grants=Grants())
    async with web.client.get("/readyz") as answer:
        assert await answer.json() == {"status": "ok", "database": "ok"}
    assert await told() == (False, False)
    assert await told(**{"x-api-key": "gw_wrong"}) == (False, False)
    assert await told(**{"x-api-key": limited}) == (False, False)
    assert await told(**{"x-api-key": reading}) == (True, True)
    assert await told(Authorization=f"Bearer {reading}") == (True, True)
    settings = web.client.server.app[CONTEXT].settings
    monkeypatch.setitem(settings.__dict__, "status_networks", "10.0.0.0/8, 192.0.2.7")
    assert await told() == (False, False)
    assert await told(**{"X-Forwarded-For": "192.0.2.7"}) == (True, True)
    assert await told(**{"X-Forwarded-For": "192.0.2.7, 192.0.2.8"}) == (False, False)


@pytest.mark.parametrize(
    "path", ["/api/user.get", "/api/trpc/user.get", "/api/nothing", "/readyz", "/metrics", "/api/deploy/none", "/none"]
)
async def test_no_cache_keeps_an_answer(web: Web, path: str) -> None:
    async with web.client.get(path, headers={"x-api-key": web.key}) as answer:
        assert answer.headers["Cache-Control"] == "no-store"


async def test_an_answer_that_is_not_what_its_procedure_gives_would_be_noticed() -> None:
    assert violation("settings.health", {"status": "ok"}) is None
    assert violation("application.redeploy", UNDEFINED_VALUE) is None
    for name, value in (
        ("settings.health", {"status": "fine"}),
        ("settings.health", {"status": "ok", "more": 1}),
        ("settings.health", UNDEFINED_VALUE),
        ("application.redeploy", True),
        ("application.one", {"applicationId": "app-123"}),
    ):
        assert violation(name, value) is not None


async def test_a_column_of_no_meaning_here_is_of_its_type_all_the_same(web: Web) -> None:
    await app_123(web, previewPort=4000, watchPaths=["src/**"], buildPath=None)
    found = await web.query("application.one", applicationId="app-123")
    assert (found["previewPort"], found["watchPaths"], found["buildPath"]) == (4000, ["src/**"], None)
    status, answer = await web.post("/api/application.update", {"applicationId": "app-123", "previewHttps": "perhaps"})
    assert (status, answer["data"]["zodError"]["fieldErrors"].keys()) == (400, {"previewHttps"})
    await web.mutate("application.update", applicationId="app-123", previewPort=None, sourceType=None)
    found = await web.query("application.one", applicationId="app-123")
    assert (found["previewPort"], found["sourceType"]) == (None, "docker")


async def test_a_registry_is_changed_in_part_and_nothing_to_change_is_refused(web: Web) -> None:
    made = await web.mutate("registry.create", **SEED_REGISTRY, imagePrefix="acme")
    registry_id = made["registryId"]
    assert (await web.post("/api/registry.update", {"registryId": registry_id}))[0] == 400
    assert (await web.post("/api/registry.update", {"registryId": registry_id, "registryName": None}))[0] == 400
    there = {"registryId": registry_id, "registryUrl": "ghcr.io", "imagePrefix": None}
    assert await web.mutate("registry.update", **there, password="ours-there") is True
    found = await web.query("registry.one", registryId=registry_id)
    assert found == made | {"registryUrl": "ghcr.io", "imagePrefix": None}
    assert (await web.get("/api/registry.one", registryId="nobody"))[0] == 404

    ecr = "123456789.dkr.ecr.us-east-1.amazonaws.com"
    status, _ = await web.post("/api/registry.update", {"registryId": registry_id, "registryType": "ecr"})
    assert status == 400  # which region is not known
    keys = {"awsAccessKeyId": "AKIAX", "awsSecretAccessKey": "hush-hush"}
    await web.mutate("registry.update", registryId=registry_id, registryType="ecr", registryUrl=ecr, **keys)
    await web.mutate("registry.update", registryId=registry_id, registryUrl=ecr.replace("us-east-1", "eu-west-1"))
    found = await web.query("registry.one", registryId=registry_id)
    assert (found["region"], found["accessKeyId"], found["username"]) == ("eu-west-1", "AKIAX", "AWS")
    assert "hush-hush" not in str(found)
    await web.mutate("registry.update", registryId=registry_id, accessKeyId=None, secretAccessKey=None, profile="ours")
    found = await web.query("registry.one", registryId=registry_id)
    assert (found["accessKeyId"], found["profile"]) == (None, "ours")


async def test_amazons_keys_are_sealed_and_its_client_is_asked_for_by_name(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecr = "123456789.dkr.ecr.us-east-1.amazonaws.com"
    given = {"registryName": "ECR", "registryType": "ecr", "registryUrl": ecr}
    await web.mutate("registry.create", **given, accessKeyId="AKIAX", secretAccessKey="hush-hush")
    async with web.pool.acquire() as connection:
        stored = await connection.fetchval("SELECT registries::text || encode(password, 'escape') FROM registries")
    assert "hush-hush" not in stored
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    status, answer = await web.post("/api/registry.create", given)
    assert status == 400
    assert "pip install 'pushdeploy[ecr]'" in str(answer)


@pytest.mark.parametrize("prefix", ["/api/", "/api/trpc/", "/api/trpc/status.one,"])
async def test_the_first_call_of_a_procedure_loads_it_beside_other_requests(
    shared_web: Web, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Its modules, which may take a tenth of a second, are not loaded on the event loop."""
    loaded: list[tuple[str, bool]] = []

    def load(name: str) -> ModuleType:
        loaded.append((name.rpartition(".")[2], current_thread() is main_thread()))
        return import_module(name)

    monkeypatch.setattr(catalog, "import_module", load)
    monkeypatch.setattr(catalog, "_LOADED", {})
    await asyncio.gather(*(shared_web.get(f"{prefix}gate.all", batch=str(prefix.count(","))) for _ in range(3)))
    assert [is_on_loop for name, is_on_loop in loaded if name == "gate"][:1] == [False]
