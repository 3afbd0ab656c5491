"""Tests registered servers: every kind of connection, and no engine that holds up another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from gateway.admin.servers import identify_engine
from gateway.api.procedures.server import ServerRow
from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.process import free_port, until
from gateway.config import Settings
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, connect
from gateway.model.deployments import FINISHED, Deployment, Kind, Status
from gateway.model.errors import Code, InvalidInput
from gateway.model.reference import Reference
from gateway.model.servers import Access, Server
from gateway.queue import enqueue
from gateway.registry import client
from gateway.store import applications, deployments, engines, servers, subscriptions, watches
from gateway.store.database import Pool
from gateway.store.engines import Place
from gateway.worker.supervisor import Supervisor, supervise
from tests.support.api_client import VAULT
from tests.support.databases import empty
from tests.support.real_parts import SIDE_BY_SIDE, Pushes
from tests.support.real_ssh import SSHServer, ssh_server


@dataclass
class Remote:
    """A second engine, and the ways to it."""

    unix: Access
    tls: Access
    ssh: SSHServer


@pytest.fixture(scope="module")
async def remote(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Remote]:
    directory = tmp_path_factory.mktemp("remote")
    authority = trustme.CA()
    ours, theirs = authority.issue_cert("gateway@example.org"), authority.issue_cert("127.0.0.1")
    pem = {
        "tlscacert": authority.cert_pem.bytes(),
        "tlscert": theirs.cert_chain_pems[0].bytes(),
        "tlskey": theirs.private_key_pem.bytes(),
    }
    for name, content in pem.items():
        (directory / name).write_bytes(content)
    port = free_port()
    arguments = [f"--host=tcp://127.0.0.1:{port}", "--tlsverify", *(f"--{name}={directory / name}" for name in pem)]
    async with (
        private_engine(arguments=[*SIDE_BY_SIDE, *arguments]) as engine,
        ssh_server(directory, engine.host) as ssh_to,
    ):
        tls = Access(
            f"tcp://127.0.0.1:{port}",
            tls_ca=authority.cert_pem.bytes().decode(),
            tls_cert=ours.cert_chain_pems[0].bytes().decode(),
            tls_key=ours.private_key_pem.bytes().decode(),
        )
        yield Remote(Access(engine.host), tls, ssh_to)


@pytest.fixture
async def supervisor(
    web_pool: Pool, engine: Engine, dockerd: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Supervisor]:
    """One rollout at a time on an engine, so that each would be in the other's way if they shared anything."""
    monkeypatch.setattr("gateway.worker.engine_pool._CHECK_INTERVAL", 0.5)
    async with web_pool.acquire() as connection:
        await empty(connection, "applications", "servers")
    settings = Settings.from_environ(
        {"HOME": "/", "DOCKER_HOST": dockerd.host, "GATEWAY_STABLE_WINDOW": "0.3",
         "GATEWAY_ROLLOUTS": "1", "GATEWAY_SWAPS": "1"}
    )  # fmt: skip
    async with client.connect() as registry, supervise(web_pool, VAULT, engine, registry, settings) as one:
        yield one


@dataclass
class Operator:
    """Registers servers, asks for deployments, looks what became of them."""

    pool: Pool
    supervisor: Supervisor
    image: str

    async def server(self, name: str, access: Access) -> Server:
        async with self.pool.acquire() as connection:
            made = await servers.insert_server(connection, VAULT, name=name, description="", access=access)
            await servers.notify(connection)
        return made

    async def ask(self, name: str, server: Server | None) -> str:
        async with self.pool.acquire() as connection:
            await applications.insert_application(
                connection, application_id=name, name=name, app_name=name, description=None
            )
            changes = {"docker_image": self.image, "server_id": server.server_id if server else None}
            await applications.update_application(connection, VAULT, name, changes)
            await subscriptions.replace_subscription(connection, name, Reference.parse(self.image))
            application = await applications.select_application(connection, VAULT, name)
        asked = await enqueue.request_deployment(self.pool, application, Kind.DEPLOY, title="asked")
        self.supervisor.wake()
        return asked

    async def now(self, deployment_id: str) -> Deployment:
        async with self.pool.acquire() as connection:
            return await deployments.select_deployment(connection, deployment_id)

    async def ended(self, deployment_id: str) -> Deployment:
        async def look() -> Deployment | None:
            found = await self.now(deployment_id)
            return found if found.status in FINISHED else None

        return await until(look)

    async def shown(self, server: Server) -> ServerRow:
        async with self.pool.acquire() as connection:
            found = await servers.select_server(connection, VAULT, server.server_id)
        return ServerRow.from_server(found, self.supervisor.engines)


@pytest.fixture
async def operator(
    web_pool: Pool, supervisor: Supervisor, pushes: Pushes, engine: Engine, remote: Remote
) -> AsyncIterator[Operator]:
    await pushes("v1")
    yield Operator(web_pool, supervisor, pushes.name())
    async with web_pool.acquire() as connection, connect(remote.unix) as second:
        for one in await applications.select_applications(connection, VAULT):
            for place in (engine, second):
                for container in await containers.list_labelled(place, one.application_id):
                    await containers.remove(place, container.container_id)


async def test_an_engine_is_reached_by_socket_tls_and_ssh(remote: Remote) -> None:
    ways = [remote.unix, remote.tls, remote.ssh.access]
    reached = await asyncio.gather(*map(identify_engine, ways))
    assert len({one.engine_id for one in reached}) == 1
    assert [one.address for one in reached] == ["127.0.0.1"] * 3
    assert [one.swarm_manager for one in reached] == [False] * 3


async def test_ssh_carries_many_concurrent_calls_and_no_environment(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_MASTER_KEY", "canary")
    async with connect(remote.ssh.access) as engine:
        answers = await asyncio.gather(*(engine.call("GET", "version") for _ in range(12)))
    assert len(answers) == 12
    sent = await asyncio.to_thread(remote.ssh.environment.read_text)
    assert "SSH_CONNECTION=" in sent
    assert "canary" not in sent
    assert "GATEWAY" not in sent
    assert "PYTEST" not in sent


async def test_an_engine_with_an_unknown_key_is_rejected(remote: Remote) -> None:
    other = trustme.CA().cert_pem.bytes().decode()
    with pytest.raises(InvalidInput, match="certificate verify failed"):
        await identify_engine(replace(remote.tls, tls_ca=other))
    host, _, key = (remote.ssh.access.known_hosts or "").partition(" ")
    changed = f"{host} {key[:40]}{'A' if key[40] != 'A' else 'B'}{key[41:]}"
    with pytest.raises(InvalidInput, match="Host key is not trusted"):
        await identify_engine(replace(remote.ssh.access, known_hosts=changed))


async def test_credentials_that_the_engine_rejects_are_reported(remote: Remote) -> None:
    authority = trustme.CA()
    ours = authority.issue_cert("gateway@example.org")
    strange = replace(
        remote.tls,
        tls_cert=ours.cert_chain_pems[0].bytes().decode(),
        tls_key=ours.private_key_pem.bytes().decode(),
    )
    with pytest.raises(InvalidInput, match=r"tcp://.*(alert|closed|reset)"):
        await identify_engine(strange)


# By its socket: test_two_engines_with_one_id_stay_separate_servers.
@pytest.mark.parametrize("way", [*(pytest.param(way, marks=pytest.mark.long) for way in ("unix", "tls")), "ssh"])
async def test_an_application_runs_on_the_server_it_names(
    operator: Operator, remote: Remote, engine: Engine, way: str
) -> None:
    access = remote.ssh.access if way == "ssh" else getattr(remote, way)
    server = await operator.server(way, access)
    deployment = await operator.ended(await operator.ask(f"app-{way}", server))
    assert (deployment.status, deployment.attempts) == (Status.SUCCEEDED, 1)
    assert await containers.inspect(engine, f"app-{way}") is None
    async with connect(access) as there:
        found = await containers.inspect(there, f"app-{way}")
    assert found is not None
    assert found.healthy
    assert (await operator.shown(server)).status == "ok"


@asynccontextmanager
async def valve(socket: Path, target: Path) -> AsyncIterator[asyncio.Event]:
    """Pass bytes on to an engine's socket while the event is set, and hold them, connected, while it is not."""
    opened = asyncio.Event()
    opened.set()
    here: set[asyncio.StreamWriter] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await opened.wait()
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(target)
        here.add(writer)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer), return_exceptions=True)

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield opened
    finally:
        opened.set()
        server.close()
        for writer in here:
            writer.close()
        await server.wait_closed()


async def test_a_hanging_engine_does_not_delay_other_engines(
    operator: Operator, remote: Remote, tmp_path: Path
) -> None:
    socket = tmp_path / "valve.sock"
    async with valve(socket, Path(remote.unix.address.host)) as opened:
        server = await operator.server("hangs", Access(f"unix://{socket}"))

        async def known() -> bool | None:
            return (await operator.shown(server)).status == "ok" or None

        await until(known)
        opened.clear()
        hanging = await operator.ask("hanging", server)

        async def taken() -> bool | None:
            return (await operator.now(hanging)).status is Status.RUNNING or None

        await until(taken)
        assert (await operator.ended(await operator.ask("own", None))).status is Status.SUCCEEDED
        assert (await operator.now(hanging)).status is Status.RUNNING
        opened.set()
        assert (await operator.ended(hanging)).status is Status.SUCCEEDED


async def test_deployments_for_an_unreachable_server_wait_until_its_address_is_fixed(
    operator: Operator, remote: Remote
) -> None:
    server = await operator.server("away", Access(f"tcp://127.0.0.1:{free_port()}"))
    waiting = await operator.ask("away", server)
    assert (await operator.ended(await operator.ask("here", None))).status is Status.SUCCEEDED

    async def told() -> Deployment | None:
        found = await operator.now(waiting)
        return found if found.reason else None

    found = await until(told)
    assert found.status is Status.QUEUED
    assert found.reason is not None
    assert found.reason.code is Code.ENGINE_UNREACHABLE
    assert found.reason.message.count(server.access.host) == 1
    assert (await operator.shown(server)).status == "unreachable"

    async with operator.pool.acquire() as connection:
        await servers.update_server(
            connection, VAULT, server.server_id, name="away", description="", access=remote.unix
        )
        await servers.notify(connection)
    assert (await operator.ended(waiting)).status is Status.SUCCEEDED


async def test_two_addresses_of_one_daemon_are_one_engine(
    operator: Operator, dockerd: PrivateEngine, engine: Engine, tmp_path: Path
) -> None:
    other = tmp_path / "other.sock"
    other.symlink_to(dockerd.socket)
    server = await operator.server("twice", Access(f"unix://{other}"))
    deployment = await operator.ended(await operator.ask("twice", server))
    assert (deployment.status, deployment.attempts) == (Status.SUCCEEDED, 1)
    assert await containers.inspect(engine, "twice") is not None
    own, second = operator.supervisor.engines
    assert operator.supervisor.engine_pool.servers_claimed_by(own) == [None, server.server_id]
    assert operator.supervisor.engine_pool.servers_claimed_by(second) == []
    shown = await operator.shown(server)
    assert (shown.status, shown.same_as) == ("ok", dockerd.host)


async def test_two_engines_with_one_id_stay_separate_servers(
    operator: Operator, remote: Remote, engine: Engine
) -> None:
    own = await engine.identify()
    there = await identify_engine(remote.unix)
    assert own.engine_id == there.engine_id, "private engines read one key"
    assert own.daemon != there.daemon
    server = await operator.server("clone", remote.unix)
    asked = {None: await operator.ask("here", None), server.server_id: await operator.ask("there", server)}
    for deployment_id in asked.values():
        assert (await operator.ended(deployment_id)).status is Status.SUCCEEDED
    assert await containers.inspect(engine, "there") is None
    async with operator.pool.acquire() as connection:
        for server_id, deployment_id in asked.items():
            watched = (await watches.select_watches(connection))[Place(own.engine_id, server_id)]
            assert [watch.deployment_id for watch in watched] == [deployment_id]
            resting = await applications.select_idle(connection, VAULT, own.engine_id, [server_id])
            assert [one.server_id for one in resting] == [server_id]


@pytest.mark.long
async def test_a_cloned_engine_does_not_replace_the_missing_one(operator: Operator, remote: Remote) -> None:
    server = await operator.server("clone", remote.unix)
    assert (await operator.ended(await operator.ask("there", server))).status is Status.SUCCEEDED
    long_ago, minute = (
        "UPDATE engine_addresses SET last_seen_at = '2026-01-01' WHERE server_id = $1",
        timedelta(minutes=1),
    )
    async with operator.pool.acquire() as connection:
        assert await engines.select_seen(connection, "there", minute)
        async with connection.transaction():  # the engine that shares its id is seen on
            await connection.execute("UPDATE engines SET last_seen_at = now()")
            await connection.execute("UPDATE engine_addresses SET last_seen_at = now()")
            await connection.execute(long_ago, server.server_id)
            assert not await engines.select_seen(connection, "there", minute)
            await connection.execute("UPDATE engine_addresses SET daemon = 'the same'")
            assert await engines.select_seen(connection, "there", minute)


async def test_another_address_of_a_daemon_takes_over_and_a_removed_server_is_dropped(
    operator: Operator, remote: Remote, tmp_path: Path
) -> None:
    socket = tmp_path / "valve.sock"

    async def state(server: Server, wanted: str) -> None:
        async def look() -> bool | None:
            return (await operator.shown(server)).status == wanted or None

        await until(look)

    async with valve(socket, Path(remote.unix.address.host)):
        first = await operator.server("first", Access(f"unix://{socket}"))
        await state(first, "ok")
        second = await operator.server("second", remote.unix)
        await state(second, "ok")
        assert (await operator.shown(second)).same_as == first.access.host
    await state(first, "unreachable")
    assert (await operator.ended(await operator.ask("first", first))).status is Status.SUCCEEDED

    async with operator.pool.acquire() as connection:
        await servers.delete_server(connection, second.server_id)
        await servers.notify(connection)

    async def let_go() -> bool | None:
        return [host.server_id for host in operator.supervisor.engines] == [None, first.server_id] or None

    await until(let_go)
