"""PostgreSQL: one server for all workers of a run, and databases that are copies of one that was migrated once."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.cli.demo.process import until
from gateway.store.database import Connection, Pool, connect
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.migrate import migrate

_TEMPLATE = "migrated"
_LOCK = 1  # of whoever makes the template


@pytest.fixture(scope="session")
async def postgres_server(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> AsyncIterator[str]:
    """Start the server, or use the one that another worker has started; the last worker stops it."""
    own = tmp_path_factory.getbasetemp()
    async with embedded_postgres(own if worker_id == "master" else own.parent) as url:
        await _forgo_durability(url)
        yield url


@pytest.fixture(scope="session")
async def postgres(postgres_server: str, worker_id: str) -> str:
    """The address of a database for the tests that roll out."""
    return await create_database(postgres_server, f"rollout_{worker_id}")


@pytest.fixture(scope="session")
async def pool(postgres: str) -> AsyncIterator[Pool]:
    async with connect(postgres) as pool:
        yield pool


@pytest.fixture(scope="session")
async def web_postgres(postgres_server: str, worker_id: str) -> str:
    """The address of a database for the tests of the API."""
    return await create_database(postgres_server, f"web_{worker_id}")


@pytest.fixture(scope="session")
async def web_pool(web_postgres: str) -> AsyncIterator[Pool]:
    async with connect(web_postgres) as pool:
        yield pool


async def _forgo_durability(url: str) -> None:
    """Let no commit wait for the disk: this server is never started again after a crash."""
    connection = await asyncpg.connect(url)
    try:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


def address(url: str, name: str) -> str:
    """Return the address of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def database_settings(url: str, name: str) -> dict[str, str]:
    """Make a database as `create_database` does, and return the settings of a gateway that uses it."""
    return {
        "GATEWAY_DATABASE_URL": await create_database(url, name),
        "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode(),
    }


async def create_database(url: str, name: str) -> str:
    """Make a database that has the schema, on the server of any of its databases; return its address."""
    connection = await asyncpg.connect(address(url, "postgres"))
    try:
        await _create_template(connection, url)
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    finally:
        await connection.close()
    return address(url, name)


async def _create_template(connection: "asyncpg.Connection[asyncpg.Record]", url: str) -> None:
    """Migrate a database once, and give it its name when nobody is connected to it any more."""
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        if await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", _TEMPLATE):
            return
        draft = f"{_TEMPLATE}_draft"
        await connection.execute(f"DROP DATABASE IF EXISTS {draft} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {draft}")
        async with connect(address(url, draft)) as pool:
            await migrate(pool)

        async def renamed() -> bool | None:
            with suppress(asyncpg.ObjectInUseError):
                await connection.execute(f"ALTER DATABASE {draft} RENAME TO {_TEMPLATE}")
                return True
            return None

        await until(renamed)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


_REFERENCING = """
    WITH RECURSIVE found(oid) AS (
        SELECT unnest($1::text[])::regclass::oid
        UNION
        SELECT referring FROM (
            SELECT confrelid, conrelid FROM pg_constraint WHERE contype = 'f'
            UNION ALL  -- without a foreign key
            VALUES ('endpoints'::regclass::oid, 'deliveries'::regclass::oid),
                   ('endpoints'::regclass, 'delivery_keys'::regclass),
                   ('deliveries'::regclass, 'delivery_keys'::regclass),
                   ('deliveries'::regclass, 'deployment_deliveries'::regclass),
                   ('deployments'::regclass, 'deployment_deliveries'::regclass)
        ) AS reference (referred, referring)
        JOIN found ON referred = found.oid
    )
    SELECT oid::regclass::text AS name FROM found
"""


async def empty(connection: Connection, *tables: str) -> None:
    """Delete all rows of the tables and of those that reference them.

    TRUNCATE does the same with a new file for each table and index: with few rows it takes fifty times as long.
    """
    names = [row["name"] for row in await connection.fetch(_REFERENCING, tables)]
    deletes = "; ".join(f"DELETE FROM {name}" for name in names)
    await connection.execute(f"BEGIN; SET LOCAL session_replication_role = replica; {deletes}; COMMIT")


@asynccontextmanager
async def another_database(pool: Pool, url: str, name: str) -> AsyncIterator[Pool]:
    """Make a database without a table, on the same server."""
    await pool.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await pool.execute(f"CREATE DATABASE {name}")
    async with connect(address(url, name)) as other:
        yield other
