"""A command reaches a gateway over HTTP, over its socket, or does without: with the same values and the same errors."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trustme
from aiohttp import web as http

from gateway import installation
from gateway.app import running
from gateway.client import Gateway, Wanted, connect
from gateway.client.address import Address
from gateway.client.gateway import UnknownProcedure
from gateway.client.http import HttpGateway
from gateway.config import Settings
from gateway.model.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated, Unavailable
from gateway.store import api_keys
from gateway.store.database import Pool
from gateway.store.database import connect as connect_database
from gateway.store.migrate import shipped
from tests.support.databases import another_database, database_settings


@pytest.fixture(scope="module")
async def environment(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The settings of a gateway whose data directory has a path longer than a socket's address."""
    directory = tmp_path_factory.mktemp("client") / ("d" * 120)
    return {
        **(await database_settings(postgres_server, "connecting")),
        "GATEWAY_DATA_DIR": str(directory),
        "GATEWAY_DOCKER_HOST": "unix:///nowhere",
        "GATEWAY_LISTEN": "127.0.0.1:0",
        "HOME": str(directory.parent),
    }


@pytest.fixture(scope="module")
async def served(environment: Mapping[str, str]) -> AsyncIterator[str]:
    """The URL of a gateway that runs."""
    async with running(Settings.from_environ(environment)) as url:
        yield url


@pytest.fixture(scope="module")
async def pool(environment: Mapping[str, str]) -> AsyncIterator[Pool]:
    async with connect_database(environment["GATEWAY_DATABASE_URL"]) as pool:
        yield pool


@pytest.fixture(scope="module")
async def key(pool: Pool) -> str:
    async with pool.acquire() as connection:
        return (await api_keys.insert_key(connection, "remote"))[0]


async def outcomes(gateway: Gateway) -> list[object]:
    """Return what some calls give, without what differs each time."""
    made = await gateway.call("application.create", {"name": "Shop", "dockerImage": "acme/shop:1"})
    told: list[object] = [sorted(made), made["createdAt"][-1], type(made["ports"])]
    told.append(await gateway.find("application", made["applicationId"][:8]) == made["applicationId"])
    rows, cursor = await gateway.page("application.all", {"limit": 1})
    told.append((rows[0]["applicationId"] == made["applicationId"], cursor is None))
    for procedure, given in (
        ("lookup.one", {"kind": "deployment", "word": "nope"}),
        ("application.create", {"name": "", "dockerImage": "x"}),
        ("application.one", {"applicationId": "nope"}),
        ("webhook.create", {"source": "carrier-pigeon"}),
        ("application.nope", {}),
    ):
        try:
            told.append(await gateway.call(procedure, given))
        except Exception as error:
            told.append((type(error), "" if isinstance(error, UnknownProcedure) else str(error)))
    told.append(await gateway.call("application.clearDeployments", {"applicationId": made["applicationId"]}))
    await gateway.call("application.delete", {"applicationId": made["applicationId"]})
    return told


async def test_values_and_errors_are_the_same_over_http_the_socket_and_in_process(
    served: str, environment: Mapping[str, str], key: str
) -> None:
    told = []
    over_http = {"GATEWAY_URL": served, "GATEWAY_API_KEY": key, "HOME": environment["HOME"]}
    for wanted, environ in ((Wanted(), over_http), (Wanted(), environment), (Wanted(local=True), environment)):
        async with connect(wanted, environ) as gateway:
            told.append((gateway.place, await outcomes(gateway)))
    assert [place for place, _ in told] == [
        f"the gateway at {served}",
        "the gateway on this host",
        "the database of this host",
    ]
    assert told[0][1] == told[1][1] == told[2][1]
    assert [kind[0] for kind in told[0][1] if isinstance(kind, tuple) and isinstance(kind[0], type)] == [
        NotFound, InvalidInput, NotFound, InvalidInput, UnknownProcedure,
    ]  # fmt: skip


async def test_a_local_user_is_audited_with_the_command_and_by_sudo_only_as_root_says(
    served: str, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    async with connect(Wanted(command="webhooks.create"), environment) as gateway:
        await gateway.call("webhook.create", {"source": "generic", "name": "audited"})
        (row, *_) = (await gateway.call("audit.list", {"action": "webhooks.create"}))["items"]
    assert (row["via"], row["keyId"], row["address"]) == ("cli", None, socket.gethostname())
    assert row["who"].endswith("(sudo by alice)") is (os.geteuid() == 0)


@pytest.mark.parametrize("local", [False, True])
async def test_a_plan_is_not_in_the_audit(served: str, environment: Mapping[str, str], local: bool) -> None:
    async with connect(Wanted(command="apply", local=local), environment) as gateway:
        await gateway.call("declaration.plan", {"document": {"projects": {"shop": {}}}})
        assert (await gateway.call("audit.list", {"action": "apply"}))["items"] == []


async def test_an_older_gateway_is_told_by_what_it_does_not_have(served: str, key: str) -> None:
    gateway = HttpGateway.at(Address.parse(served), key)
    with pytest.raises(UnknownProcedure, match=f"{served} is of version .* and has no nothing.here: update it"):
        await gateway.call("nothing.here")
    gateway.close()


async def test_a_wrong_key_is_refused_and_a_key_is_never_sent_after_a_redirect(served: str, key: str) -> None:
    gateway = HttpGateway.at(Address.parse(served), "gw_wrong")
    with pytest.raises(Unauthenticated, match="does not accept the key"):
        await gateway.call("settings.health")
    gateway.close()
    asked = []

    async def redirect(request: http.Request) -> http.Response:
        asked.append(request.path)
        return http.Response(status=307, headers={"Location": "/elsewhere\x1b[2J"[:10]})

    application = http.Application()
    application.router.add_route("*", "/{path:.*}", redirect)
    runner = http.AppRunner(application)
    await runner.setup()
    await http.TCPSite(runner, "127.0.0.1", 0).start()
    gateway = HttpGateway.at(Address.parse("http://127.0.0.1:{1}".format(*runner.addresses[0])), key)
    with pytest.raises(Unavailable, match="redirects to /elsewhere, and the key is not sent there"):
        await gateway.call("settings.health")
    gateway.close()
    await runner.cleanup()
    assert asked == ["/api/settings.health"]


async def test_the_certificate_of_a_gateway_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, asked = trustme.CA(), []

    async def answer(request: http.Request) -> http.Response:
        asked.append(request.headers["x-api-key"])
        return http.json_response({"status": "ok"})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    application = http.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = http.AppRunner(application)
    await runner.setup()
    await http.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    for host, trusted, answered in (("localhost", False, False), ("localhost", True, True), ("127.0.0.1", True, False)):
        if trusted:
            authority.cert_pem.write_to_path(tmp_path / "ca.pem")
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        gateway = HttpGateway.at(Address.parse(f"https://{host}:{port}/prefix/"), "gw_1")
        if answered:
            assert await gateway.call("settings.health") == {"status": "ok"}
        else:
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await gateway.call("settings.health")
        gateway.close()
    await runner.cleanup()
    assert asked == ["gw_1"]


async def test_only_the_gateways_own_socket_needs_no_key(served: str, environment: Mapping[str, str]) -> None:
    directory = installation.socket_directory(Path(environment["GATEWAY_DATA_DIR"]))
    (path,) = await asyncio.to_thread(lambda: list(directory.iterdir()))
    assert (directory.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    dead = directory / path.name.replace("-", "-0")
    with socket.socket(socket.AF_UNIX) as left, installation.short_address(dead) as address:
        left.bind(address)
    async with running(Settings.from_environ(environment)):  # a second gateway, which cleans up and leaves the first
        assert not dead.exists()
        assert len(await asyncio.to_thread(lambda: list(directory.iterdir()))) == 2
    async with connect(Wanted(), environment) as gateway:
        assert gateway.is_local
        assert await gateway.call("settings.health") == {"status": "ok"}


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
async def test_another_user_of_the_host_is_refused(
    served: str, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.local_users._CREDENTIALS", _Forged())
    async with connect(Wanted(), environment) as gateway:
        with pytest.raises(Forbidden, match="may not use this socket: only root and root may"):
            await gateway.call("settings.health")


class _Forged:
    """Stands for the kernel, which says that another user is at the other end."""

    size = 12

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, 65_534, 65_534


async def test_where_no_gateway_is_the_command_says_what_to_do_and_makes_nothing(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with pytest.raises(Unavailable, match=r"No gateway was found.*gateway serve.*gateway login URL"):
        async with connect(Wanted(), environ):
            pass
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []


async def test_a_service_manager_hears_that_it_serves_and_that_an_engine_is_away(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        async with running(Settings.from_environ(environment)) as url:
            assert await asyncio.to_thread(manager.recv, 4096) == f"STATUS=Serving at {url}\nREADY=1".encode()
            while b"; " not in (told := await asyncio.to_thread(manager.recv, 4096)):
                pass
            assert told.startswith(f"STATUS=Serving at {url}; no Docker Engine answers at unix:///nowhere".encode()), (
                told
            )


async def test_beside_the_gateway_of_the_machine_not_even_a_first_key_makes_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for root, between `systemctl start` and a gateway that serves, or one that does not start."""
    monkeypatch.setattr(installation, "_OF_MACHINE", tmp_path / "lib")
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    await asyncio.to_thread((tmp_path / "lib").mkdir)
    for wanted in (Wanted(creates=True), Wanted(local=True, creates=True)):
        with pytest.raises(Unavailable, match=r"of this machine.*lib, does not answer.*systemctl status pushdeploy"):
            async with connect(wanted, environ):
                pass
    assert await asyncio.to_thread(lambda: [one.name for one in tmp_path.iterdir()]) == ["lib"]


def test_the_gateway_of_the_machine_is_meant_unless_the_user_has_or_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib, home = tmp_path / "lib", tmp_path / "home"
    monkeypatch.setattr(installation, "_OF_MACHINE", lib)
    environ = {"HOME": str(home)}
    assert installation.machine_directory(environ) is None
    lib.mkdir()
    assert installation.machine_directory(environ) == lib
    assert installation.machine_directory({**environ, "GATEWAY_DATA_DIR": str(home)}) is None
    (home / ".local/share/pushdeploy/postgres").mkdir(parents=True)
    assert installation.machine_directory(environ) is None


async def test_a_command_migrates_neither_an_older_nor_a_newer_database_but_makes_an_empty_one(
    pool: Pool, environment: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with another_database(pool, environment["GATEWAY_DATABASE_URL"], "client_empty") as empty:
        url = environment["GATEWAY_DATABASE_URL"].replace("/connecting", "/client_empty")
        environ = {**environment, "GATEWAY_DATABASE_URL": url}
        async with connect(Wanted(), environ) as gateway:
            assert await gateway.call("application.all") == []
        assert "created a new installation in the database of GATEWAY_DATABASE_URL" in capsys.readouterr().err
        last = shipped()[-1].number
        await empty.execute("DELETE FROM schema_migrations WHERE number = $1", last)
        with pytest.raises(Unavailable, match=r"schema of an older version.*gateway migrate"):
            async with connect(Wanted(), environ):
                pass
        assert not await empty.fetchval("SELECT count(*) FROM schema_migrations WHERE number = $1", last)
        await empty.execute("INSERT INTO schema_migrations (number, name, sha256) VALUES (9999, 'later', '')")
        with pytest.raises(Unavailable, match="newer than this gateway"):
            async with connect(Wanted(), environ):
                pass


async def test_a_word_that_can_mean_several_is_refused_with_them(served: str, environment: Mapping[str, str]) -> None:
    async with connect(Wanted(), environment) as gateway:
        for number in (1, 2):
            await gateway.call("project.create", {"name": "Twice", "description": str(number)})
        with pytest.raises(Conflict, match=r"'Twice' can mean 2 projects: .* \(Twice\), .* \(Twice\)\. Use the id"):
            await gateway.find("project", "Twice")
        (first, _) = await gateway.call("lookup.all", {"kind": "project", "start": "Twi"})
        assert await gateway.find("project", first["id"]) == first["id"]


async def test_a_restricted_key_finds_what_is_its_own(served: str, environment: Mapping[str, str]) -> None:
    async with connect(Wanted(), environment) as owner:
        own = await owner.call(
            "application.create", {"name": "own-1", "dockerImage": "a/b", "applicationId": "prefix-1"}
        )
        await owner.call("application.create", {"name": "own-2", "dockerImage": "a/b", "applicationId": "prefix-2"})
        await owner.call("webhook.create", {"source": "generic", "name": "hook"})
        given = {"name": "r", "applicationIds": [own["applicationId"]], "scope": "read"}
        key = (await owner.call("user.createApiKey", given))["key"]
    gateway = HttpGateway.at(Address.parse(served), key)
    assert await gateway.find("application", "prefix") == "prefix-1"
    assert [one["id"] for one in await gateway.call("lookup.all", {"kind": "application"})] == ["prefix-1"]
    assert await gateway.names(["prefix-1", "prefix-2"]) == {"prefix-1": "own-1"}
    with pytest.raises(NotFound):
        await gateway.find("application", "own-2")
    with pytest.raises(Forbidden, match="needs an unrestricted key"):
        await gateway.find("webhook", "hook")
    with pytest.raises(Forbidden):
        await gateway.find("key", "remote")
    gateway.close()
