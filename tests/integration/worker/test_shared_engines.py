"""Several gateways and many engines: each engine is watched by one gateway, and claimed for by any."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from gateway.cli.demo.process import free_port, until
from gateway.config import Settings
from gateway.docker.engine.client import connect
from gateway.model.servers import Access
from gateway.registry import client
from gateway.store import cancellations, leases, members, servers
from gateway.store.database import Connection, Pool
from gateway.store.engines import Seen
from gateway.worker import engine_pool
from gateway.worker.recorder import Recorder
from gateway.worker.supervisor import Supervisor, supervise
from tests.scale.engine import Delays
from tests.scale.engines import Fleet, address_of, digest_of
from tests.support.api_client import VAULT
from tests.support.databases import empty

ENGINES = 12
QUICK = Delays(pull=(0.0, 0.01), create=0.0, start=0.0, stop=0.0, healthy=0.0)


@dataclass
class Hosts:
    """Simulated engines, each a registered server with an application."""

    pool: Pool
    fleet: Fleet
    port: int

    async def ask(self) -> None:
        """Queue a deployment for each application."""
        self.fleet.versions.update({f"app-{number}": 1 for number in range(ENGINES)})
        await self.pool.execute(
            "INSERT INTO deployments (application_id, kind, forced, title, reference) "
            "SELECT application_id, 'deploy', false, '', docker_image FROM applications"
        )

    async def served(self) -> bool | None:
        """Return True once every engine serves."""
        wanted = [{f"app-{number}": digest_of(f"app-{number}", 1)} for number in range(ENGINES)]
        return [self.fleet.engines[address_of(number)].serving() for number in range(ENGINES)] == wanted or None

    def watchers(self) -> list[int]:
        """Return for each engine how many gateways follow its events."""
        return [len(self.fleet.engines[address_of(number)].listeners) for number in range(ENGINES)]


@pytest.fixture
async def hosts(web_pool: Pool) -> AsyncIterator[Hosts]:
    port, fleet = free_port(), Fleet(ENGINES, QUICK)
    server = await asyncio.get_running_loop().create_server(fleet.connection, "0.0.0.0", port)  # noqa: S104 - see Connection
    async with web_pool.acquire() as connection:
        await empty(connection, "applications", "servers")
        await connection.execute(
            "WITH made AS (INSERT INTO projects (name) VALUES ('p') RETURNING project_id)"
            " INSERT INTO environments (project_id, name) SELECT project_id, 'e' FROM made"
        )
        for number in range(ENGINES):
            access = Access(f"tcp://{address_of(number)}:{port}")
            made = await servers.insert_server(connection, VAULT, name=f"s-{number}", description="", access=access)
            await connection.execute(
                "INSERT INTO applications (application_id, name, app_name, server_id, docker_image, environment_id)"
                " SELECT $1, $1, $1, $2, $3, environment_id FROM environments LIMIT 1",
                f"app-{number}",
                made.server_id,
                f"127.0.0.1:{port}/app-{number}:latest",
            )
    yield Hosts(web_pool, fleet, port)
    server.close()
    async with web_pool.acquire() as connection:
        await empty(connection, "applications", "servers", "projects")


@asynccontextmanager
async def gateway(pool: Pool) -> AsyncIterator[Supervisor]:
    settings = Settings.from_environ({"HOME": "/", "DOCKER_HOST": "unix:///none", "GATEWAY_STABLE_WINDOW": "0.1"})
    async with (
        connect("unix:///none") as own,
        client.connect() as registry,
        supervise(pool, VAULT, own, registry, settings) as one,
    ):
        yield one


async def watched_by(hosts: Hosts, wanted: Callable[[list[int]], bool]) -> None:
    async def look() -> bool | None:
        return wanted(hosts.watchers()) or None

    await until(look)


@pytest.mark.long
async def test_of_two_gateways_one_watches_each_engine_and_the_other_takes_over(hosts: Hosts) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway(hosts.pool))
        await watched_by(hosts, lambda found: found == [1] * ENGINES)
        async with gateway(hosts.pool) as second:

            async def has_some() -> bool | None:
                return any(one.reached() for one in second.engine_pool.workers) or None

            await until(has_some)
            await watched_by(hosts, lambda found: found == [1] * ENGINES)
        await watched_by(hosts, lambda found: found == [1] * ENGINES)


async def test_what_a_silent_gateway_leaves_undone_another_one_does(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_UNSEEN_AFTER", 1.0)
    async with hosts.pool.acquire() as frozen:
        number = await members.join(frozen)
        try:
            async with gateway(hosts.pool) as one:

                async def leaves_some() -> bool | None:
                    return any(not one.engine_pool.watches(worker) for worker in one.engine_pool.workers) or None

                await until(leaves_some)
                await hosts.ask()
                await until(hosts.served)
                for table, column in (("engine_addresses", "last_seen_at"), ("servers", "changed_at")):
                    await hosts.pool.execute(f"UPDATE {table} SET {column} = '2026-01-01'")
                await watched_by(hosts, lambda found: found == [1] * ENGINES)
        finally:
            await members.leave(frozen, number)
    assert hosts.fleet.violations == []


@pytest.fixture
def others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines of another gateway's share wait for minutes until they are reached for the first time."""
    monkeypatch.setattr(engine_pool, "_OTHER_CHECKS", 0.01)


@pytest.mark.usefixtures("others_wait")
async def test_an_engine_that_waits_for_its_turn_is_reached_at_once_when_a_deployment_is_due(hosts: Hosts) -> None:
    async with hosts.pool.acquire() as silent:
        number = await members.join(silent)
        try:
            async with gateway(hosts.pool):
                await hosts.ask()
                await until(hosts.served)
        finally:
            await members.leave(silent, number)
    assert hosts.fleet.violations == []


@pytest.mark.usefixtures("others_wait")
async def test_an_engine_that_waits_for_its_turn_is_watched_at_once_when_its_gateway_leaves(hosts: Hosts) -> None:
    async with hosts.pool.acquire() as other:
        number = await members.join(other)
        async with gateway(hosts.pool):
            await watched_by(hosts, lambda found: 1 in found)  # of its own share
            await members.leave(other, number)
            await watched_by(hosts, lambda found: found == [1] * ENGINES)


@pytest.mark.usefixtures("others_wait")
async def test_what_is_left_to_a_gateway_is_done_as_soon_as_it_is_gone(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_LEFT_TO_WATCHER", 600.0)
    monkeypatch.setattr(engine_pool, "_MEMBERS_INTERVAL", 600.0)
    async with hosts.pool.acquire() as other:
        number = await members.join(other)
        async with gateway(hosts.pool):
            await watched_by(hosts, lambda found: 1 in found)
            await members.leave(other, number)
            await hosts.ask()
            await until(hosts.served)


async def test_a_known_engine_is_claimed_for_before_it_is_recorded_that_it_answers(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async with gateway(hosts.pool):
        await watched_by(hosts, lambda found: found == [1] * ENGINES)
    monkeypatch.setattr(Recorder, "record_now", never)
    async with gateway(hosts.pool):
        await hosts.ask()
        await until(hosts.served)
        assert hosts.watchers() == [0] * ENGINES, "watched before it is recorded"


async def test_no_rollout_waits_for_a_heartbeat_that_takes_long(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    written = asyncio.Event()
    select_overlong = leases.select_overlong

    async def write_meanwhile(connection: Connection) -> bool:
        async with hosts.pool.acquire() as rollout, rollout.transaction():
            await rollout.execute("SET LOCAL lock_timeout = '1s'")
            if await rollout.fetch("UPDATE deployments SET waits_for = NULL WHERE status = 'running' RETURNING 1"):
                written.set()
        return await select_overlong(connection)

    for engine in hosts.fleet.engines.values():
        engine.delays = replace(QUICK, pull=(2.0, 2.0))
    monkeypatch.setattr(leases, "select_overlong", write_meanwhile)
    async with gateway(hosts.pool):
        await hosts.ask()

        async def beat() -> bool | None:
            await hosts.pool.execute(f"NOTIFY {cancellations.CHANNEL}")
            return written.is_set() or None

        await until(beat, within=20)


def begun_or_waiting() -> set[str]:
    """Return the servers' addresses of which there is a task."""
    names = [task.get_name().split() for task in asyncio.all_tasks()]
    return {name[1] for name in names if name[0] == "engine" and len(name) > 1 and name[1].startswith("tcp:")}


async def none_is_left() -> bool | None:
    return not begun_or_waiting() or None


@pytest.mark.usefixtures("others_wait")
async def test_an_engine_that_waits_for_its_turn_does_not_hold_up_the_end(hosts: Hosts) -> None:
    async with hosts.pool.acquire() as silent:
        number = await members.join(silent)
        try:
            async with gateway(hosts.pool) as one:
                await watched_by(hosts, lambda found: 1 in found)
                assert len(begun_or_waiting()) == ENGINES > sum(hosts.watchers())
                one.engine_pool.retire()
                await until(none_is_left)
        finally:
            await members.leave(silent, number)


@pytest.mark.usefixtures("others_wait")
async def test_nothing_waits_for_a_server_that_was_removed_or_is_another_one_now(hosts: Hosts) -> None:
    async with hosts.pool.acquire() as silent:
        number = await members.join(silent)
        try:
            async with gateway(hosts.pool) as one:
                await watched_by(hosts, lambda found: 1 in found)
                await hosts.pool.execute(
                    "UPDATE servers SET host = replace(host, $1, ':1'), changed_at = now()", f":{hosts.port}"
                )
                one.engine_pool.refresh()

                async def are_others() -> bool | None:
                    found = begun_or_waiting()
                    return (len(found) == ENGINES and all(name.endswith(":1") for name in found)) or None

                await until(are_others)
                async with hosts.pool.acquire() as connection:
                    await empty(connection, "applications", "servers")
                one.engine_pool.refresh()
                await until(none_is_left)
        finally:
            await members.leave(silent, number)


async def test_a_server_that_cannot_be_used_is_logged_once(hosts: Hosts) -> None:
    await hosts.pool.execute("UPDATE servers SET credentials = '\\x00' WHERE name = 's-0'")
    with capture_logs() as logs:
        async with gateway(hosts.pool) as one:
            for number in range(5):
                await hosts.pool.execute("UPDATE servers SET description = $1 WHERE name = 's-1'", str(number))
                one.engine_pool.refresh()
                await asyncio.sleep(0.2)
            await watched_by(hosts, lambda found: sum(found) == ENGINES - 1)
    assert [line["server"] for line in logs if line["event"] == "A server cannot be used"] == ["s-0"]


async def test_an_engine_that_cannot_be_recorded_fails_alone(hosts: Hosts) -> None:
    recorder = Recorder(hosts.pool)

    def seen(name: str) -> Seen:
        return Seen(f"recorded-{name!r}", None, name, "1", "linux/amd64", name, swarm_manager=False, recovered=True)

    writing = asyncio.create_task(recorder.run())
    try:
        results = await asyncio.gather(
            *(recorder.record_now(seen(name)) for name in ("a", "\0", "b", "c")), return_exceptions=True
        )
    finally:
        writing.cancel()
    assert [result is None for result in results] == [True, False, True, True]
    found = await hosts.pool.fetch("SELECT name FROM engines WHERE engine_id LIKE 'recorded-%' ORDER BY name")
    assert [row["name"] for row in found] == ["a", "b", "c"]
