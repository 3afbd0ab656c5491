"""Hosts as they are registered: their addresses, what lets us in there, and the applications on them."""

from datetime import timedelta

import asyncssh
import pytest
import trustme

from gateway.cli.demo.process import Refused, free_port
from gateway.model.errors import InvalidInput
from gateway.model.servers import Access, Address
from gateway.store import engines, leases
from tests.support.api_client import Web
from tests.support.command_line import CommandLine
from tests.support.databases import database_settings, empty


@pytest.fixture(scope="module")
async def shell(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> CommandLine:
    """Commands without a server: they open the database themselves."""
    settings = await database_settings(postgres_server, "servers_cli")
    return CommandLine(tmp_path_factory.mktemp("cli"), "unix:///nowhere", settings)


KEY = asyncssh.generate_private_key("ssh-ed25519")
SSH = {
    "sshKey": KEY.export_private_key().decode(),
    "knownHosts": f"10.0.0.5 {KEY.export_public_key().decode()}",
}


def tls() -> dict[str, str]:
    authority = trustme.CA()
    ours = authority.issue_cert("gateway@example.org")
    return {
        "tlsCa": authority.cert_pem.bytes().decode(),
        "tlsCert": ours.cert_chain_pems[0].bytes().decode(),
        "tlsKey": ours.private_key_pem.bytes().decode(),
    }


@pytest.mark.parametrize(
    ("text", "address", "published"),
    [
        ("unix:///var/run/docker.sock", Address("unix", "/var/run/docker.sock"), "127.0.0.1"),
        ("tcp://10.0.0.5", Address("tcp", "10.0.0.5", 2375), "10.0.0.5"),
        ("tcp://docker.example.org:2376", Address("tcp", "docker.example.org", 2376), "docker.example.org"),
        ("tcp://[fd00::5]:2376", Address("tcp", "fd00::5", 2376), "fd00::5"),
        ("ssh://deploy@10.0.0.5", Address("ssh", "10.0.0.5", 22, "deploy"), "10.0.0.5"),
        ("ssh://10.0.0.5:2222", Address("ssh", "10.0.0.5", 2222), "10.0.0.5"),
    ],
)
def test_an_address_is_read(text: str, address: Address, published: str) -> None:
    assert (address, published) == (Address.parse(text), Address.parse(text).published_host)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.5", "unix://docker.sock", "unix://host/path", "tcp://", "tcp://a:b", "tcp://a:70000", "tcp://a/path",
     "tcp://me@a", "ssh://me:secret@a", "ssh://-oProxyCommand=x", "ssh://-l@a", "ssh://a?b", "ftp://a", "tcp://a b"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Address.parse(text)
    assert refused.value.field == "host"
    assert "secret" not in str(refused.value)


def test_another_scheme_drops_what_let_us_in_by_the_former() -> None:
    access = Access("tcp://a:2376", tls_ca="ca", tls_cert="cert", tls_key="key")
    assert Access("tcp://b:2376", "ca", "cert", "new") == access.with_changes(
        {"host": "tcp://b:2376", "tls_key": "new"}
    )
    assert Access("unix:///s") == access.with_changes({"host": "unix:///s"})
    assert Access("tcp://a:2376", "ca", "new", "key") == access.with_changes({"tls_cert": "new"})
    assert "key" not in repr(access)


async def test_a_server_is_kept_with_its_secrets_sealed_and_never_shown(web: Web) -> None:
    pem = tls()
    made = await web.mutate("server.create", name="edge", description="at the edge", host="tcp://10.0.0.5:2376", **pem)
    assert (made["name"], made["host"], made["ipAddress"], made["port"]) == (
        "edge",
        "tcp://10.0.0.5:2376",
        "10.0.0.5",
        2376,
    )
    assert (made["tls"], made["status"], made["engineId"]) == (True, "unknown", None)
    answers = [made, await web.query("server.one", serverId=made["serverId"]), *(await web.query("server.all"))]
    assert [answers[0]] * 3 == answers
    async with web.pool.acquire() as connection:
        (stored,) = await connection.fetch("SELECT * FROM servers")
    for shown in (str(answers), str(dict(stored))):
        assert "PRIVATE KEY" not in shown
        assert "CERTIFICATE" not in shown


async def test_a_server_by_ssh_may_be_given_as_the_contract_has_it(web: Web) -> None:
    given = {"ipAddress": "10.0.0.5", "port": 2222, "username": "deploy", "sshKeyId": "x", "serverType": "deploy"}
    made = await web.mutate("server.create", name="dokploy", **given, **SSH)
    assert made["host"] == "ssh://deploy@10.0.0.5:2222"
    assert (made["ipAddress"], made["port"], made["username"]) == ("10.0.0.5", 2222, "deploy")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"host": "10.0.0.5"}, "host"),
        ({}, "host"),
        ({"host": "ssh://10.0.0.5"}, "sshKey"),
        ({"host": "ssh://10.0.0.5", "sshKey": SSH["sshKey"]}, "knownHosts"),
        ({"host": "ssh://10.0.0.5", **SSH, "sshKey": "nonsense"}, "sshKey"),
        ({"host": "ssh://10.0.0.5", **SSH, "tlsCa": "x"}, "tlsCa"),
        ({"host": "tcp://10.0.0.5", "tlsCa": "x"}, "tlsCert"),
        ({"host": "tcp://10.0.0.5", "tlsCa": "x", "tlsCert": "x", "tlsKey": "x"}, "tlsCa"),
        ({"host": "tcp://10.0.0.5", **tls(), "tlsKey": tls()["tlsKey"]}, "tlsCert"),
        ({"host": "unix:///s", "sshKey": "x"}, "sshKey"),
    ],
)
async def test_what_could_never_connect_is_refused_when_saved(web: Web, given: dict[str, str], field: str) -> None:
    status, answer = await web.post("/api/server.create", {"name": "wrong", **given})
    assert (status, answer["issues"][0]["path"]) == (400, [field]), answer
    assert await web.count("servers") == 0


async def test_a_name_is_taken_once(web: Web) -> None:
    await web.mutate("server.create", name="one", host="tcp://10.0.0.5")
    assert (await web.post("/api/server.create", {"name": "one", "host": "tcp://10.0.0.6"}))[0] == 409


async def test_what_is_not_sent_is_kept_and_null_clears(web: Web) -> None:
    made = await web.mutate("server.create", name="a", description="b", host="ssh://10.0.0.5", **SSH)
    await web.mutate("server.update", serverId=made["serverId"], host="ssh://deploy@10.0.0.5")
    await web.mutate("server.update", serverId=made["serverId"], name="c", description=None)
    shown = await web.query("server.one", serverId=made["serverId"])
    assert (shown["name"], shown["description"], shown["host"]) == ("c", "", "ssh://deploy@10.0.0.5")
    status, _ = await web.post("/api/server.update", {"serverId": made["serverId"], "sshKey": None})
    assert status == 400


async def test_a_test_says_what_keeps_us_from_the_engine(web: Web) -> None:
    host = f"tcp://127.0.0.1:{free_port()}"
    status, answer = await web.post("/api/server.test", {"host": host})
    assert status == 400
    assert "no Docker Engine answers at" in answer["message"]
    assert host.removeprefix("tcp://") in answer["message"]
    assert answer["message"].endswith("Start the engine or correct the address.")
    assert (await web.get("/api/server.validate", serverId="nobody"))[0] == 404
    assert (await web.get("/api/server.validate", host=host))[0] == 400, "what may hold keys is no part of a URL"


async def test_an_application_names_its_server_and_keeps_it_there(web: Web) -> None:
    status, _ = await web.post("/api/application.create", {"name": "a", "serverId": "nowhere"})
    assert status == 400
    server = await web.mutate("server.create", name="edge", host="tcp://10.0.0.5")
    await web.mutate("application.create", name="a", applicationId="a", serverId=server["serverId"])
    shown = await web.query("application.one", applicationId="a")
    assert (shown["serverId"], shown["server"]) == (server["serverId"], server)
    status, answer = await web.post("/api/server.remove", {"serverId": server["serverId"]})
    assert (status, answer["message"]) == (409, "applications are on this server: delete them first")
    await web.mutate("application.update", applicationId="a", serverId=None)
    assert (await web.query("application.one", applicationId="a"))["server"] is None
    await web.mutate("server.remove", serverId=server["serverId"])
    assert await web.query("server.all") == []


async def test_a_deployed_application_changes_its_server_only_when_its_engine_is_gone(web: Web) -> None:
    server = await web.mutate("server.create", name="edge", host="tcp://10.0.0.5")
    await web.mutate("application.create", name="a", applicationId="a")
    async with web.pool.acquire() as connection:
        await engines.upsert_engine(
            connection, engine_id="E", name="e", version="1", platform="linux/amd64", swarm_manager=False
        )
        await connection.execute("UPDATE applications SET engine_id = 'E'")
    await web.mutate("application.update", applicationId="a", serverId=None)  # as it is
    move = {"applicationId": "a", "serverId": server["serverId"]}
    status, answer = await web.post("/api/application.update", move)
    assert (status, "containers on another engine" in answer["message"]) == (409, True)
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE engines SET last_seen_at = now() - interval '6 minutes'")
    await web.mutate("application.update", **move)
    async with web.pool.acquire() as connection:
        (row,) = await connection.fetch("SELECT server_id, engine_id FROM applications")
        assert tuple(row) == (server["serverId"], None)
        await connection.execute("DELETE FROM engines WHERE engine_id = 'E'")


async def test_what_waits_for_an_engine_that_nobody_reaches_says_since_when(web: Web) -> None:
    await web.mutate("application.create", name="a", applicationId="a", dockerImage="nginx")
    async with web.pool.acquire() as connection:
        await engines.upsert_engine(
            connection, engine_id="E", name="lost", version="1", platform="linux/amd64", swarm_manager=False
        )
        await connection.execute("UPDATE engines SET last_seen_at = '2026-01-02 03:04:05+00' WHERE engine_id = 'E'")
        await connection.execute("UPDATE applications SET engine_id = 'E'")
    await web.mutate("application.deploy", applicationId="a")
    async with web.pool.acquire() as connection:
        await leases.mark_stranded(connection, timedelta(seconds=60))
    (shown,) = await web.query("deployment.all", applicationId="a")
    assert (shown["state"], shown["reason"]["code"]) == ("queued", "engine_unreachable")
    assert "lost (E)" in shown["reason"]["message"]
    assert "2026-01-02 03:04:05 UTC" in shown["reason"]["message"]
    async with web.pool.acquire() as connection:
        await empty(connection, "applications")

        await connection.execute("DELETE FROM engines WHERE engine_id = 'E'")


async def test_the_command_line_registers_shows_and_forgets(shell: CommandLine) -> None:
    for name, content in (("key", SSH["sshKey"]), ("known", SSH["knownHosts"])):
        shell.log.with_name(name).write_text(content)
    files = ["--ssh-key", str(shell.log.with_name("key")), "--known-hosts", str(shell.log.with_name("known"))]
    made = await shell.cli("servers", "create", "edge", "ssh://deploy@127.0.0.1:1", *files)
    listed = await shell.cli("servers", "list", "--json")
    assert made in listed
    assert "PRIVATE" not in listed
    app = await shell.cli("apps", "create", "web", "nginx", "--server", "edge", "--json")
    assert "applicationId" in app
    with pytest.raises(Refused, match="applications are on this server"):
        await shell.cli("servers", "remove", "edge")
    with pytest.raises(Refused, match=r"ssh://deploy@127\.0\.0\.1:1: .*SSH to 127\.0\.0\.1:1: "):
        await shell.cli("servers", "test", "edge")
