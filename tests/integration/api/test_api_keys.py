"""An API key may call what its scope and grants allow, and learns nothing of the rest."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic.alias_generators import to_camel

from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc.auth import OWNED_IDS
from gateway.api.rpc.procedure import KeyAccess, Procedure
from gateway.model import api_keys as rules
from gateway.model.alerts import EventKind, Occurrence
from gateway.model.api_keys import Grants, Permission
from gateway.model.errors import InvalidInput
from gateway.store import api_keys as keys
from gateway.store import lookup, outbox
from gateway.store.database import transaction
from tests.support.api_client import Web
from tests.support.approving import Asking

UNAUTHORIZED = {"message": "Unauthorized"}


async def a_key(web: Web, *applications: str, projects: Sequence[str] = (), **how: Any) -> tuple[str, keys.Key]:
    """Make one, for these applications and projects where some are named."""
    grants = Grants(frozenset(applications), frozenset(projects)) if applications or projects else None
    async with web.pool.acquire() as connection, connection.transaction():
        return await keys.insert_key(connection, "of the test", grants=grants, **how)


async def an_application(web: Web, name: str) -> dict[str, str]:
    """Make one in a project of its own, and return what leads to it."""
    made = await web.mutate("project.create", name=name, env=f"P={name}")
    ids = {"projectId": made["project"]["projectId"], "environmentId": made["environment"]["environmentId"]}
    given = {"name": name, "applicationId": name, "dockerImage": f"acme/{name}", "env": f"A={name}"}
    await web.mutate("application.create", **given, environmentId=ids["environmentId"])
    await web.mutate("application.deploy", applicationId=name)
    (deployment,) = await web.query("deployment.all", applicationId=name)
    (subscription,) = await web.query("subscription.all", applicationId=name)
    port = await web.mutate("port.create", applicationId=name, publishedPort=8080, targetPort=80)
    file = {"type": "file", "mountPath": "/etc/f", "content": f"C={name}"}
    mount = await web.mutate("mounts.create", serviceId=name, **file)
    domain = await web.mutate("domain.create", applicationId=name, host=f"{name}.example.com")
    gate = await web.mutate("gate.create", applicationId=name, kind="maturity", rule={"age": "1h"})
    group = await web.mutate("group.create", name=name, members=[{"applicationId": name}])
    release = await web.mutate("release.create", groupId=group["groupId"])
    asking = Asking(web.pool, {"count": 1, "approvers": ["nobody"], "deadline": "3d"}, application_id=name)
    await asking.ask()
    alert = await web.mutate(
        "alert.create", applicationId=name, name=name, receiver="webhook", address="https://hooks.example.com"
    )
    async with transaction(web.pool) as connection:
        event = Occurrence(name, None, alert["alertId"], EventKind.FAILED, {"deployment": None})
        await outbox.write_event(connection, event)
    (delivery,) = await web.query("alert.deliveries", alertId=alert["alertId"])
    return {
        "applicationId": name,
        "alertId": alert["alertId"],
        "alertDeliveryId": delivery["alertDeliveryId"],
        "approvalId": await asking.open_id(),
        "serviceId": name,
        "portId": port["portId"],
        "mountId": mount["mountId"],
        "domainId": domain["domainId"],
        "gateId": gate["gateId"],
        "groupId": group["groupId"],
        "releaseId": release["releaseId"],
        "deploymentId": deployment["deploymentId"],
        "rollbackId": deployment["deploymentId"],
        "subscriptionId": subscription["subscriptionId"],
        "targetEnvironmentId": ids["environmentId"],
        **ids,
    }


@asynccontextmanager
async def asking_with(web: Web, key: str) -> AsyncIterator[None]:
    before, web.key = web.key, key
    yield
    web.key = before


async def call(web: Web, procedure: Procedure, given: Mapping[str, Any]) -> tuple[int, Any]:
    if procedure.kind == "query":
        return await web.get(f"/api/{procedure.name}", **{name: str(value) for name, value in given.items()})
    return await web.post(f"/api/{procedure.name}", given)


async def call_by_trpc(web: Web, procedure: Procedure, given: Mapping[str, Any]) -> tuple[int, Any]:
    path = f"/api/trpc/{procedure.name}"
    if procedure.kind == "query":
        return await web.get(path, input=orjson.dumps({"json": given}).decode())
    return await web.post(path, {"json": given})


@pytest.mark.parametrize("permission", [Permission.READ, Permission.DEPLOY])
async def test_every_procedure_denies_a_key_of_a_lower_scope(web: Web, permission: Permission) -> None:
    key, _ = await a_key(web, permission=permission)
    async with asking_with(web, key):
        for procedure in PROCEDURES.values():
            if procedure.permission <= permission:
                continue
            status, answer = await call(web, procedure, {})
            assert (status, answer["code"]) == (403, "FORBIDDEN"), procedure.name
            assert f"needs scope {procedure.permission.scope_name}" in answer["message"]
            status, answer = await call_by_trpc(web, procedure, {})
            assert (status, answer["error"]["json"]["code"]) == (403, -32003)


def test_every_mutation_requires_more_than_the_scope_read() -> None:
    assert [
        one.name for one in PROCEDURES.values() if one.kind == "mutation" and one.permission < Permission.DEPLOY
    ] == []


async def test_a_key_to_deploy_deploys_and_reads_and_changes_no_configuration(web: Web) -> None:
    ids = await an_application(web, "mine")
    key, _ = await a_key(web, permission=Permission.DEPLOY)
    async with asking_with(web, key):
        await web.mutate("application.redeploy", applicationId="mine")
        assert (await web.query("application.one", applicationId="mine"))["env"] is None
        assert [one["env"] for one in await web.query("application.all")] == [None]
        assert (await web.query("mounts.one", mountId=ids["mountId"]))["content"] is None
        assert (await web.mutate("application.stop", applicationId="mine"))["env"] is None
        status, _ = await web.post("/api/application.update", {**ids, "dockerImage": "evil/image"})
        assert status == 403
    shown = await web.query("application.one", applicationId="mine")
    assert (shown["dockerImage"], shown["env"]) == ("acme/mine", "A=mine")


async def test_a_restricted_key_reaches_its_application_by_any_id_that_belongs_to_it(web: Web) -> None:
    ids = await an_application(web, "mine")
    key, _ = await a_key(web, "mine")
    async with asking_with(web, key):
        assert (await web.query("application.one", applicationId="mine"))["env"] == "A=mine"
        assert (await web.query("deployment.one", deploymentId=ids["deploymentId"]))["applicationId"] == "mine"
        await web.mutate("application.update", applicationId="mine", env="A=2", serverId=None)
        assert (await web.mutate("mounts.update", mountId=ids["mountId"], content="C=2"))["content"] == "C=2"
        await web.mutate("port.delete", portId=ids["portId"])
        await web.mutate("deployment.cancel", deploymentId=ids["deploymentId"])


async def test_a_group_is_for_keys_that_cover_all_of_its_members(web: Web) -> None:
    ids, theirs = await an_application(web, "mine"), await an_application(web, "theirs")
    both = [{"applicationId": "mine"}, {"applicationId": "theirs"}]
    shared = await web.mutate("group.create", name="shared", members=both)
    key, _ = await a_key(web, "mine")
    async with asking_with(web, key):
        assert [one["groupId"] for one in await web.query("group.all")] == [ids["groupId"]]
        assert [one["releaseId"] for one in await web.query("release.all")] == [ids["releaseId"]]
        await web.mutate("release.cancel", releaseId=ids["releaseId"])
        for procedure, given in (
            ("group.create", {"name": "new", "members": both}),
            ("group.update", {"groupId": ids["groupId"], "members": both}),
            ("group.remove", {"groupId": shared["groupId"]}),
            ("release.create", {"groupId": shared["groupId"]}),
            ("release.cancel", {"releaseId": theirs["releaseId"]}),
            ("release.create", {"environmentId": theirs["environmentId"]}),
        ):
            status, _ = await web.post(f"/api/{procedure}", given)
            assert status == 403, procedure


async def test_every_procedure_denies_a_key_for_another_application(web: Web) -> None:
    """What there is, what there is not and what leads nowhere are all answered the same."""
    await an_application(web, "mine")
    theirs, nobodys = await an_application(web, "theirs"), {to_camel(name): "nobody" for name in OWNED_IDS}
    key, _ = await a_key(web, "mine")
    assert theirs.keys() == nobodys.keys()
    before = await web.query("application.one", applicationId="theirs")
    async with asking_with(web, key):
        for procedure in PROCEDURES.values():
            if procedure.access is KeyAccess.ANY_KEY:
                continue
            for ask in (call, call_by_trpc):
                refused = await ask(web, procedure, theirs)
                assert refused[0] == 403, procedure.name
                assert await ask(web, procedure, nobodys) == refused
                mixed = {**theirs, "applicationId": "mine"}
                assert await ask(web, procedure, mixed) == refused
                assert await ask(web, procedure, {**mixed, "application_id": "mine"}) == refused
                if procedure.access is KeyAccess.BY_ID:
                    assert (await ask(web, procedure, {}))[0] == 403
    assert before == await web.query("application.one", applicationId="theirs")


async def test_a_refused_restricted_key_learns_which_key_it_takes(web: Web) -> None:
    await an_application(web, "mine")
    key, _ = await a_key(web, "mine")
    async with asking_with(web, key):
        _, another = await web.get("/api/application.one", applicationId="theirs")
        _, every = await web.post("/api/server.create", {"name": "a", "host": "unix:///a"})
    assert another["message"].endswith(" may use only application mine. Use a key that covers this one.")
    assert every["message"].endswith(" may use only application mine. server.create needs an unrestricted key.")


async def test_a_refused_restricted_key_learns_which_field_no_restricted_key_may_set(web: Web) -> None:
    await an_application(web, "mine")
    key, _ = await a_key(web, "mine")
    async with asking_with(web, key):
        status, refused = await web.post("/api/application.update", {"applicationId": "mine", "serverId": "x"})
    assert status == 403
    assert refused["message"].endswith(" may use only application mine. serverId needs an unrestricted key.")


async def test_a_refused_restricted_key_learns_which_id_is_missing(web: Web) -> None:
    ids = await an_application(web, "mine")
    key, _ = await a_key(web, projects=[ids["projectId"]])
    async with asking_with(web, key):
        for given in ({"name": "a"}, {"name": "a", "environmentId": None}):
            status, refused = await web.post("/api/application.create", given)
            assert status == 403
            assert refused["message"].endswith(". application.create needs environmentId with this key.")
        assert (await web.post("/api/application.create", {"name": "a", "environmentId": ids["environmentId"]}))[
            0
        ] == 200


@pytest.mark.parametrize(
    ("procedure", "restriction"),
    [("project.create", ""), ("project.update", " --project ID"), ("application.update", " --application ID")],
)
async def test_a_key_of_a_lower_scope_learns_of_a_key_that_may_call_the_procedure(
    web: Web, procedure: str, restriction: str
) -> None:
    await an_application(web, "mine")
    key, _ = await a_key(web, "mine", permission=Permission.READ)
    async with asking_with(web, key):
        _, refused = await web.post(f"/api/{procedure}", {})
    assert refused["message"].endswith(f"gateway keys create NAME --scope admin{restriction}")


async def test_an_id_that_the_input_does_not_have_authorizes_nothing(web: Web) -> None:
    await an_application(web, "mine")
    key, _ = await a_key(web, "mine")
    async with asking_with(web, key):
        for procedure in PROCEDURES.values():
            if procedure.access is KeyAccess.BY_ID and "application_id" not in procedure.takes.model_fields:
                assert (await call(web, procedure, {"applicationId": "mine"}))[0] == 403, procedure.name


#: the inputs of lists that require one
REQUIRED: Mapping[str, dict[str, object]] = {
    "lookup.one": {"kind": "application", "word": "mine"},
    "lookup.names": {"applications": "mine,theirs"},
}


async def test_lists_show_a_restricted_key_only_its_applications(web: Web) -> None:
    await an_application(web, "mine")
    theirs = await an_application(web, "theirs")
    key, _ = await a_key(web, "mine", permission=Permission.READ)
    lists = [one for one in PROCEDURES.values() if one.access is KeyAccess.FILTERED]
    assert {"application.all", "subscription.all"} <= {one.name for one in lists}
    async with asking_with(web, key):
        for procedure in lists:
            if procedure.permission > Permission.READ:
                continue
            status, answer = await call_by_trpc(web, procedure, REQUIRED.get(procedure.name, {}))
            said = orjson.dumps(answer).decode()
            assert status == 200
            assert [one for one in theirs.values() if one in said] == []
        assert [one["applicationId"] for one in await web.query("application.all")] == ["mine"]
        assert [one["name"] for one in await web.query("project.all")] == ["mine"]


async def test_a_key_for_a_project_reaches_what_is_created_in_it(web: Web) -> None:
    mine, theirs = await an_application(web, "mine"), await an_application(web, "theirs")
    key, _ = await a_key(web, projects=[mine["projectId"]])
    async with asking_with(web, key):
        assert (await web.query("project.one", projectId=mine["projectId"]))["env"] == "P=mine"
        made = await web.mutate("environment.create", name="staging", projectId=mine["projectId"])
        await web.mutate("application.create", name="new", environmentId=made["environmentId"])
        assert [one["name"] for one in await web.query("application.all")] == ["new", "mine"]
        assert (await web.query("deployment.one", deploymentId=mine["deploymentId"]))["applicationId"] == "mine"
        for elsewhere in ({}, {"environmentId": theirs["environmentId"]}, {"environment_id": theirs["environmentId"]}):
            assert (await web.post("/api/application.create", {"name": "new", **elsewhere}))[0] == 403
        moved = {"applicationId": "mine", "environmentId": theirs["environmentId"]}
        assert (await web.post("/api/application.update", moved))[0] == 403


async def test_a_restricted_key_finds_its_own_as_if_nothing_else_were_there(web: Web) -> None:
    mine = await an_application(web, "mine")
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO projects (name) SELECT 'other ' || n FROM generate_series(1, 250) AS n;"
            "INSERT INTO environments (environment_id, project_id, name)"
            " SELECT '0' || project_id, project_id, 'production' FROM projects WHERE name LIKE 'other %'"
        )
    await web.mutate("application.create", name=mine["environmentId"][:4], applicationId="theirs")
    key, _ = await a_key(web, projects=[mine["projectId"]])
    async with asking_with(web, key):
        found = await web.query("lookup.one", kind="environment", word="production")
        assert found["id"] == mine["environmentId"]
        assert [one["id"] for one in await web.query("lookup.all", kind="environment", limit=1)] == [found["id"]]
        for kind in lookup.OWNED:
            assert "theirs" not in str(await web.query("lookup.all", kind=kind))
        for noun in ("alert", "alert-delivery", "gate", "group", "application"):
            assert (await web.query("lookup.all", kind=noun)) != []


async def test_a_key_for_a_project_may_use_the_alerts_of_its_applications(web: Web) -> None:
    mine, theirs = await an_application(web, "mine"), await an_application(web, "theirs")
    key, _ = await a_key(web, projects=[mine["projectId"]])
    async with asking_with(web, key):
        assert (await web.query("alert.one", alertId=mine["alertId"]))["applicationId"] == "mine"
        assert (await web.post("/api/alert.remove", {"alertId": theirs["alertId"]}))[0] == 403
        await web.mutate("alert.replay", alertDeliveryId=mine["alertDeliveryId"])


async def test_a_restricted_key_does_not_see_what_alerts_of_the_whole_gateway_tell(web: Web) -> None:
    hook = {"name": "for all", "receiver": "webhook", "address": "https://hooks.example.com"}
    await web.mutate("alert.create", **hook)
    mine = await an_application(web, "mine")
    keys_of_mine = [await a_key(web, projects=[mine["projectId"]]), await a_key(web, "mine")]
    assert len(await web.query("alert.deliveries", applicationId="mine")) > 1
    for key, _ in keys_of_mine:
        async with asking_with(web, key):
            for given in ({}, {"applicationId": "mine"}):
                seen = await web.query("alert.deliveries", **given)
                assert {one["alertName"] for one in seen} == {"mine"}


async def test_a_projects_variables_are_shown_only_to_keys_for_the_whole_project(web: Web) -> None:
    ids = await an_application(web, "mine")
    assert [one["env"] for one in await web.query("project.all")] == ["P=mine"]
    for key, _ in (await a_key(web, "mine"), await a_key(web, permission=Permission.READ)):
        async with asking_with(web, key):
            assert [one["env"] for one in await web.query("project.all")] == [""]
            whole = await web.query("application.one", applicationId=ids["applicationId"])
            assert whole["environment"]["project"]["env"] == ""


def test_only_listed_procedures_without_ids_are_open_to_every_key() -> None:
    assert {one.name for one in PROCEDURES.values() if one.access is KeyAccess.ANY_KEY} == {
        "application.readAppMonitoring",
        "certificates.all",
        "destination.all",
        "gitProvider.getAll",
        "notification.all",
        "sshKey.all",
        "user.all",
        "user.get",
        "user.session",
        "settings.health",
        "settings.getDokployVersion",
        "settings.getOpenApiDocument",
        "status.address",
    }


async def test_deleting_an_application_deletes_its_grants(web: Web) -> None:
    await an_application(web, "mine")
    key, _ = await a_key(web, "mine")
    async with web.pool.acquire() as connection:
        await connection.execute("DELETE FROM applications")
    await web.mutate("application.create", name="another", applicationId="mine")
    async with asking_with(web, key):
        status, answer = await web.get("/api/application.one", applicationId="mine")
        assert (status, "deleted applications or projects" in answer["message"]) == (403, True)
        assert await web.query("application.all") == []


async def test_a_key_for_an_unknown_application_is_rejected(web: Web) -> None:
    with pytest.raises(InvalidInput, match="nobody"):
        await a_key(web, "nobody")
    assert await web.count("api_keys") == 1


async def test_an_expired_key_is_rejected_as_an_unknown_one(web: Web) -> None:
    key, _ = await a_key(web, expires_at=datetime.now(UTC) + timedelta(hours=1))
    async with asking_with(web, key):
        assert (await web.get("/api/application.all"))[0] == 200
        async with web.pool.acquire() as connection:
            await connection.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL")
        assert await web.get("/api/application.all") == (401, UNAUTHORIZED)
        assert await web.get("/api/no.such") == (401, UNAUTHORIZED)
        status, answer = await web.get("/api/trpc/application.all")
        assert (status, answer["error"]["json"]["code"]) == (401, -32001)


@pytest.mark.parametrize("mangle", [lambda key: "X" + key[1:], lambda key: key[:-1], lambda key: key + "\udcff"])
async def test_a_nearly_valid_key_takes_the_same_query_as_any_wrong_key(web: Web, mangle: Any) -> None:
    """One look-up by the hash of all of it, the same whatever is sent, and no early way out of it."""
    statements: list[str] = []
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE api_keys SET last_used_at = now()")

        def listen(query: asyncpg.connection.LoggedQuery) -> None:
            statements.append(query.query)

        with connection.query_logger(listen):
            assert await keys.select_caller(connection, mangle(web.key)) is None
            assert await keys.select_caller(connection, "x") is None
            assert await keys.select_caller(connection, web.key) is not None
    assert len(statements) == 3
    assert len(set(statements)) == 1
    assert "WHERE key_hash = $1" in statements[0]


async def test_an_undecodable_key_is_rejected_as_an_unknown_one(web: Web) -> None:
    assert await web.post("/api/application.all", {}, **{"x-api-key": "\xff\xfe"}) == (401, UNAUTHORIZED)


async def test_a_rate_limited_key_gets_retry_after(web: Web) -> None:
    key, _ = await a_key(web, rate=keys.Rate(2, timedelta(hours=1)))
    async with asking_with(web, key):
        assert [(await web.get("/api/settings.health"))[0] for _ in range(3)] == [200, 200, 429]
        async with web.client.get("/api/trpc/settings.health", headers={"x-api-key": key}) as answer:
            said = (await answer.json())["error"]["json"]
            assert (answer.status, said["code"], said["data"]["code"]) == (429, -32029, "TOO_MANY_REQUESTS")
            assert 3500 < int(answer.headers["Retry-After"]) <= 3600
        async with web.pool.acquire() as connection:
            await connection.execute("UPDATE api_keys SET window_from = now() - interval '2 hours'")
        assert (await web.get("/api/settings.health"))[0] == 200


async def test_the_last_use_of_a_key_is_recorded_with_its_address(web: Web) -> None:
    async with web.client.get(
        "/api/settings.health", headers={"x-api-key": web.key, "X-Forwarded-For": "192.0.2.7"}
    ) as answer:
        assert answer.status == 200
    async with web.pool.acquire() as connection:
        (used,) = await keys.select_keys(connection)
    assert used.last_used_from == "192.0.2.7"
    assert used.last_used_at is not None


@pytest.mark.parametrize(
    ("text", "expires"),
    [("3650d", "2035-12-30"), ("90d", "2026-04-01"), ("12h", "2026-01-01T12:00"), ("2027-01-01", "2027-01-01")],
)
def test_an_expiry_is_a_future_time_or_date(text: str, expires: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert rules.parse_expiry(text, now) == datetime.fromisoformat(expires).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("soon", "0d", "2020-01-01", "11y", "-1d", "", "3651d"),
        *("99999999y", "99999999w", "99999999d", "9999-12-31", "0001-01-01"),
    ],
)
def test_an_expiry_in_the_past_or_the_far_future_is_rejected(text: str) -> None:
    with pytest.raises(InvalidInput):
        rules.parse_expiry(text, datetime(2026, 1, 1, tzinfo=UTC))
