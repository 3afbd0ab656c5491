"""A real PostgreSQL that can be restarted, and a wire to it that can be cut."""

import asyncio
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from gateway.demo.process import until
from gateway.store.cluster import Cluster
from gateway.store.embedded import embedded_postgres
from tests.faults.wire import Wire, wire

KEY = b64encode(b"k" * 32).decode()


@dataclass
class Database:
    """One database of its own, which the gateway reaches over the wire and a test directly."""

    directory: Path
    wire: Wire

    @property
    def url(self) -> str:
        return self._cluster.url("gateway")

    @property
    def _cluster(self) -> Cluster:
        return Cluster(self.directory)

    @property
    def direct_settings(self) -> dict[str, str]:
        return {"GATEWAY_DATABASE_URL": self.url, "GATEWAY_MASTER_KEY": KEY}

    @property
    def settings(self) -> dict[str, str]:
        return {
            "GATEWAY_DATABASE_URL": self.url.replace("@/", f"@127.0.0.1:{self.wire.port}/").partition("?")[0],
            "GATEWAY_MASTER_KEY": KEY,
        }

    async def count(self, statement: str) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            return int(await connection.fetchval(statement))
        finally:
            await connection.close()

    async def restart(self) -> None:
        """End the server as a crash does, its connections with it; whoever uses it starts it again."""
        former = await asyncio.to_thread(self._cluster.postmaster)
        assert former is not None
        os.kill(former, signal.SIGQUIT)

        async def started() -> bool | None:
            try:
                await (await asyncpg.connect(self.url)).close()
            except (OSError, asyncpg.CannotConnectNowError):  # it recovers, and a busy machine takes its time
                return None
            return await asyncio.to_thread(self._cluster.postmaster) != former

        await until(started)


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    async with embedded_postgres(directory):

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_unix_connection(directory / "postgres/.s.PGSQL.5432")

        async with wire(connect) as leads_there:
            yield Database(directory, leads_there)
