"""The parts of one run: a PostgreSQL, the simulated engines, and gateways that can be killed and started again."""

import asyncio
import contextlib
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from gateway.cli.demo.process import WITH_US, GatewayProcess, free_port
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.postgres_cluster import Cluster
from tests.scale.engines import address_of, digest_of
from tests.support.distribution_hooks import Hook

_START_DEADLINE = 60.0  # seconds


def engine_id(number: int) -> str:
    return f"scale-{number}"


def repository(number: int) -> str:
    return f"app-{number}"


@dataclass
class World:
    """Engine N is the server `s-N`, with one application `app-N` of the repository of the same name."""

    url: str
    port: int
    postgres: int
    database: "asyncpg.Connection[asyncpg.Record]"
    engines: asyncio.subprocess.Process
    gateways: Sequence[GatewayProcess]
    session: aiohttp.ClientSession
    hook: Hook | None = None

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def prepare(self) -> None:
        """Make the environment that the applications are in."""
        await self.database.execute(
            """
            WITH project AS (INSERT INTO projects (name) VALUES ('scale') RETURNING project_id)
            INSERT INTO environments (project_id, name, is_default) SELECT project_id, 'scale', true FROM project
            """
        )

    async def register(self, first: int, end: int) -> None:
        """Register the engines with these numbers, each with an application, as `gateway servers create` does."""
        numbers = list(range(first, end))
        hosts = [f"tcp://{address_of(number)}:{self.port}" for number in numbers]
        async with self.database.transaction():
            await self.database.execute(
                "INSERT INTO servers (server_id, name, host) SELECT 's-' || n, 's-' || n, host "
                "FROM unnest($1::int[], $2::text[]) AS made (n, host)",
                numbers,
                hosts,
            )
            await self.database.execute(
                """
                INSERT INTO applications (application_id, name, app_name, server_id, docker_image, environment_id)
                SELECT 'app-' || n, 'app-' || n, 'app-' || n, 's-' || n, $2 || '/app-' || n || ':latest',
                       (SELECT environment_id FROM environments LIMIT 1)
                  FROM unnest($1::int[]) AS made (n)
                """,
                numbers,
                self.registry,
            )
            await self.database.execute(
                """
                INSERT INTO subscriptions (application_id, repository, tag, pattern, from_image)
                SELECT 'app-' || n, $2 || '/app-' || n, 'latest', 'latest', true FROM unnest($1::int[]) AS made (n)
                """,
                numbers,
                self.registry,
            )
            await self.database.execute("NOTIFY gateway_servers")
        await self.database.execute("ANALYZE")

    async def publish(self, versions: dict[str, int]) -> None:
        """Let the registry's tags name these versions."""
        async with self.session.put(f"http://{self.registry}/versions", json=versions) as answer:
            answer.raise_for_status()

    async def state(self) -> dict[str, Any]:
        """Return what the engines run, and what must not have happened."""
        async with self.session.get(f"http://{self.registry}/state") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def reached(self) -> int:
        """Return how many of the registered engines a gateway has reached within the last minute."""
        return int(
            await self.database.fetchval(
                "SELECT count(*) FROM engine_addresses WHERE server_id IS NOT NULL AND last_seen_at > now() - interval "
                "'60 seconds'"
            )
        )

    async def wrong(self, versions: dict[str, int]) -> list[str]:
        """Return the applications that do not serve the version that was pushed last."""
        serving = (await self.state())["serving"]
        return [
            name
            for name, version in versions.items()
            if serving.get(engine_id(int(name.removeprefix("app-"))), {}).get(name) != digest_of(name, version)
        ]


@asynccontextmanager
async def world(
    directory: Path, *, gateways: int, engines: int, pull: float, settings: dict[str, str]
) -> AsyncIterator[World]:
    """Start all parts; however the block is left, they end."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_postgres(directory))
        postgres = Cluster(directory).postmaster()
        assert postgres is not None
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            *WITH_US,
            sys.executable,
            "-m",
            "tests.scale.engines",
            str(port),
            str(engines),
            str(pull),
            stdout=-1,
            start_new_session=True,
        )
        stack.push_async_callback(_end, process)
        assert process.stdout is not None
        async with asyncio.timeout(_START_DEADLINE):
            await process.stdout.readline()
        made = []
        for number in range(gateways):
            place = directory / f"gateway-{number}"
            place.mkdir()
            given = {
                "GATEWAY_DATABASE_URL": url,
                "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
                "GATEWAY_WATCH_WINDOW": "120",
                "GATEWAY_LOG_LEVEL": "warning",
                **settings,
            }
            gateway = GatewayProcess(place, f"unix://{place}/no-engine.sock", given)
            gateway.prefix = ("setsid",)  # Linux shares the processors between sessions, not between processes
            stack.push_async_callback(gateway.stop, signal.SIGKILL)
            await gateway.start()
            made.append(gateway)
        database = await asyncpg.connect(url)
        stack.push_async_callback(database.close, timeout=5)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        one = World(url, port, postgres, database, process, made, session)
        one.hook = await Hook.open(made[0])
        await one.prepare()
        yield one


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
