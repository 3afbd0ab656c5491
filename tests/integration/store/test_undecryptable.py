"""A secret that no key opens stands in the way of nothing but what needs it, and can be replaced."""

import pytest

from gateway.api.procedures.catalog import PROCEDURES
from gateway.model.errors import Unavailable, UndecryptableSecret
from gateway.model.reference import Domain, Repository
from gateway.model.registries import select_login
from gateway.store import applications, deploy_tokens, registries, servers
from gateway.store.encryption import Vault
from gateway.store.reencryption import ENCRYPTED
from tests.support.api_client import VAULT, Web

LISTS = {
    "application.all": "name",
    "project.all": "name",
    "registry.all": "registryName",
    "server.all": "name",
    "webhook.all": "name",
}


async def one_of_each(web: Web, name: str) -> None:
    await web.mutate("application.create", name=name, dockerImage="acme/a", applicationId=name, env="A=1")
    await web.mutate("project.create", name=name, env="A=1")
    await web.mutate("registry.create", registryName=name, username="u", password="p", registryUrl=f"ghcr.io/{name}")
    await web.mutate("server.create", name=name, host=f"tcp://127.0.0.1:{len(name)}")
    await web.mutate("webhook.create", source="github", name=name, secret="s")


@pytest.fixture
async def half(web: Web) -> Web:
    """Two of everything that holds secrets; no key opens those of what is called lost."""
    await one_of_each(web, "lost")
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('e', '', '', '') ON CONFLICT DO NOTHING"
        )
        for column in ENCRYPTED:
            await connection.execute(
                f"UPDATE {column.table} SET {column.name} = '\\x0102' WHERE {column.name} IS NOT NULL"
            )
        await connection.execute("UPDATE servers SET credentials = '\\x0102'")
    await one_of_each(web, "kept")
    await web.pool.execute("UPDATE applications SET engine_id = 'e'")
    return web


async def test_every_list_shows_what_can_be_read_and_what_cannot(half: Web) -> None:
    for column in ENCRYPTED:
        if column.table == "applications":
            await half.pool.execute(f"UPDATE applications SET {column.name} = '\\x01' WHERE name = 'lost'")
    for procedure, name in LISTS.items():
        assert procedure in PROCEDURES
        found = {row[name]: row for row in await half.query(procedure)}
        assert {"lost", "kept"} <= found.keys(), procedure
        if procedure == "server.all":
            assert "was encrypted with another key" in found["lost"]["error"]


async def test_the_rest_is_worked_on(half: Web) -> None:
    async with half.pool.acquire() as connection:
        resting = await applications.select_idle(connection, VAULT, "e", [None])
        assert [one.name for one in resting] == ["kept"]
        assert {one.name: one.unreadable is None for one in await servers.select_servers(connection, VAULT)} == {
            "lost": False,
            "kept": True,
        }
        assert (await deploy_tokens.select_tokens(connection, VAULT, ["lost", "kept"])).keys() == {"kept"}
        found = await registries.select_registries(connection, VAULT, Domain("ghcr.io"))
    assert select_login(Repository.of(Domain("ghcr.io"), "kept/web"), None, found).credentials is not None
    with pytest.raises(Unavailable, match="encrypted with another key"):
        select_login(Repository.of(Domain("ghcr.io"), "lost/web"), None, found)


async def test_what_is_lost_is_set_anew_or_removed(half: Web) -> None:
    servers_by_name = {row["name"]: row["serverId"] for row in await half.query("server.all")}
    registries_by_name = {row["registryName"]: row["registryId"] for row in await half.query("registry.all")}
    await half.mutate("registry.update", registryId=registries_by_name["lost"], password="again")
    await half.mutate("application.update", applicationId="lost", env="A=2", name="found")
    await half.mutate("server.remove", serverId=servers_by_name["lost"])
    async with half.pool.acquire() as connection:
        found = await registries.select_registries(connection, VAULT, Domain("ghcr.io"))
    assert all(one.unreadable is None for one in found)
    assert [row["name"] for row in await half.query("server.all")] == ["kept"]
    assert (await half.query("application.one", applicationId="lost"))["env"] == "A=2"


async def test_what_is_lost_is_kept_where_it_is_not_set_anew(half: Web) -> None:
    status, answer = await half.post("/api/application.update", {"applicationId": "lost", "name": "found"})
    assert (status, "applications:lost:environment" in answer["message"]) == (503, True)
    assert (await half.query("application.one", applicationId="kept"))["env"] == "A=1"


async def test_an_application_is_removed_without_its_secrets(half: Web) -> None:
    await half.pool.execute("UPDATE applications SET engine_id = NULL")
    assert (await half.mutate("application.delete", applicationId="lost"))["name"] == "lost"
    assert [row["name"] for row in await half.query("application.all")] == ["kept"]


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" * 13, b"\x01" * 40])
def test_what_is_no_sealed_secret_is_unreadable(sealed: bytes) -> None:
    with pytest.raises(UndecryptableSecret):
        Vault(b"k" * 32).decrypt(sealed, "servers:one:credentials")
