"""A real PostgreSQL that can be restarted, or refuse, and a wire to it that can be cut."""

import asyncio
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import asyncpg

from gateway.cli.demo.process import until
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.postgres_cluster import Cluster
from tests.faults.wire import Wire, wire

# The gateway's own role: a limit of connections does not hold the owner of the server.
ROLE = "app"
_TOO_MUCH = "INSERT INTO readiness_probes SELECT decode(repeat('00', 7900), 'hex') FROM generate_series(1, 20)"
_DISK = 64 * 1024**2  # of the folder that the gateway's database lies in

KEY = b64encode(b"k" * 32).decode()


@dataclass
class Database:
    """One database of its own, which the gateway reaches over the wire and a test directly."""

    directory: Path
    wire: Wire
    name: str = "gateway"

    @property
    def url(self) -> str:
        return self._cluster.url(self.name)

    @property
    def _cluster(self) -> Cluster:
        return Cluster(self.directory)

    @property
    def direct_settings(self) -> dict[str, str]:
        url = f"postgresql://{ROLE}:{ROLE}@/{self.name}?host={self.directory}/postgres"
        return {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": KEY}

    @property
    def settings(self) -> dict[str, str]:
        return {
            "GATEWAY_DATABASE_URL": f"postgresql://{ROLE}:{ROLE}@127.0.0.1:{self.wire.port}/{self.name}",
            "GATEWAY_MASTER_KEY": KEY,
        }

    async def count(self, statement: str, *arguments: object) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            return int(await connection.fetchval(statement, *arguments))
        finally:
            await connection.close()

    async def begin_empty(self) -> None:
        """Be an empty database, in place of the one that was there."""
        former, self.name = self.name, f"restored_{token_hex(4)}"
        await _execute(
            self._cluster.url("postgres"),
            f"DROP DATABASE {former} WITH (FORCE)",
            f"CREATE DATABASE {self.name} OWNER {ROLE} TABLESPACE small",
        )

    # -- what it refuses

    async def be_read_only(self) -> None:
        await self._execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")

    async def let_in(self, most: int) -> None:
        """Let the gateways have so many connections, and end those they have."""
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
        await self._execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {most}", end)

    async def fill_the_disk(self) -> None:
        await asyncio.to_thread(_fill, self.directory / "disk" / "full")
        try:
            await self._execute(_TOO_MUCH)
        except asyncpg.DiskFullError:
            return
        raise RuntimeError("the disk is not full")

    async def refuse_nothing(self) -> None:
        (self.directory / "disk" / "full").unlink(missing_ok=True)
        await self._execute(
            f"ALTER ROLE {ROLE} CONNECTION LIMIT -1",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )

    async def _execute(self, *statements: str) -> None:
        await _execute(self.url, "SET default_transaction_read_only = off", *statements)

    async def restart(self) -> None:
        """End the server as a crash does, its connections with it; whoever uses it starts it again."""
        former = await asyncio.to_thread(self._cluster.postmaster)
        assert former is not None
        os.kill(former, signal.SIGQUIT)

        async def started() -> bool | None:
            try:
                await (await asyncpg.connect(self.url)).close()
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):  # it ends, or recovers
                return None
            return await asyncio.to_thread(self._cluster.postmaster) != former

        await until(started)


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _lay_on(directory: Path, disk: Path) -> None:
    """Let the gateway's database lie on a disk of its own, and belong to a role that may do no more than it must."""
    cluster, owner = Cluster(directory), (directory / "postgres").stat()
    space = disk / "space"
    space.mkdir(mode=0o700)
    os.chown(space, owner.st_uid, owner.st_gid)
    await _execute(
        cluster.url("postgres"),
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'",
        f"ALTER DATABASE gateway OWNER TO {ROLE}",
        f"CREATE TABLESPACE small LOCATION '{space}'",
        "ALTER DATABASE gateway SET TABLESPACE small",
    )


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as full:
        while full.write(b"\0" * 65_536):
            pass
    with suppress(OSError), file.open("ab", buffering=0) as full:
        while full.write(b"\0" * 512):
            pass


@asynccontextmanager
async def small_disk(directory: Path, size: int) -> AsyncIterator[Path]:
    await asyncio.to_thread(directory.mkdir, parents=True)
    await _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        await _run("umount", "--lazy", str(directory))


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words)
    if await process.wait() != 0:
        raise RuntimeError(" ".join(words))


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    async with small_disk(directory / "disk", _DISK) as disk, embedded_postgres(directory):
        await _lay_on(directory, disk)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_unix_connection(directory / "postgres/.s.PGSQL.5432")

        async with wire(connect) as leads_there:
            yield Database(directory, leads_there)
