"""Numbered SQL files, applied once and in order, by one process at a time, beside gateways that serve.

A file with the line `-- expands` leaves everything in its place that a former gateway uses: that one goes on. After any
other a gateway that does not know it is too old, as `select_newer` says.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import asyncpg
import structlog

from gateway.model.errors import GatewayError, Unavailable
from gateway.store.database import Connection, Pool
from gateway.store.transient_errors import heals

_LOG = structlog.get_logger()

_LOCK = 0x6761746577617900  # "gateway", as a number of our own
_LEDGER = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number     integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
    ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS expands boolean NOT NULL DEFAULT false;
"""
_EXPANDS = re.compile(r"^-- expands$", re.MULTILINE)
_AS_LONG_AS_IT_TAKES = 7 * 86_400.0  # seconds a statement may take
# Shorter than PostgreSQL waits before it looks for a deadlock: who serves is never the one that it ends.
_LOCK_TIMEOUT = "500ms"
_LOOK_AGAIN = 0.5  # seconds
_TELL_AGAIN = 10.0  # seconds
_PATIENCE = 600.0  # seconds in which the tables have to be free for a moment
_IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_initial.sql` is number 1."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def expands(self) -> bool:
        return _EXPANDS.search(self.sql) is not None


def shipped() -> list[Migration]:
    """Read the files: from the wheel, else from the checkout."""
    wheel = files("gateway").joinpath("_migrations")
    folder = wheel if wheel.is_dir() else Path(__file__).parents[2] / "migrations"
    found = [
        Migration(int(file.name.split("_")[0]), file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(pool: Pool, migrations: list[Migration] | None = None) -> list[Migration]:
    """Apply what is missing and return it; raises Unavailable where the database and the files disagree, or it fails.

    Either all that was missing is applied, or nothing. Gateways that start together wait for each other.
    """
    wanted = shipped() if migrations is None else migrations
    try:
        async with pool.acquire() as connection:
            if not await _missing(connection, wanted):
                return []
            async with _alone(connection):
                return await _apply_beside_others(connection, wanted)
    except Exception as error:
        if isinstance(error, GatewayError) or not heals(error):
            raise
        why = str(error) or "it does not answer in time"
        raise Unavailable(f"the database went away during its migration, which is done again: {why}") from error


async def select_newer(connection: Connection, known: Collection[int] | None = None) -> int | None:
    """Return the newest migration that makes a gateway too old that knows these, else ours; None where it can work."""
    newest: int | None = await connection.fetchval(
        "SELECT max(number) FROM schema_migrations WHERE number <> ALL($1) AND NOT expands",
        list(_known() if known is None else known),
    )
    return newest


@cache
def _known() -> frozenset[int]:
    return frozenset(migration.number for migration in shipped())


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    """Hold the lock of all that migrate, however long another one takes."""
    told = time.monotonic()
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if time.monotonic() - told >= _TELL_AGAIN:
            _LOG.warning("Waiting for another gateway that migrates the database")
            told = time.monotonic()
        await asyncio.sleep(_LOOK_AGAIN)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _apply_beside_others(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    """Apply them once the tables are free, a moment at a time, so that who serves waits no longer than that."""
    begun = told = time.monotonic()
    while True:
        try:
            return await _apply_at_once(connection, wanted)
        except _IN_THE_WAY as error:
            now = time.monotonic()
            if now - begun > _PATIENCE:
                raise Unavailable(
                    f"the database cannot be migrated, its tables were in use for {_PATIENCE:.0f} seconds: {error}. "
                    "End what holds them (pg_stat_activity names it), or stop the other gateways, and start again"
                ) from error
            if now - told >= _TELL_AGAIN:
                _LOG.warning("The migration waits for tables that are in use", error=str(error))
                told = now
        await asyncio.sleep(_LOOK_AGAIN)


async def _apply_at_once(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    await connection.execute("BEGIN")
    try:
        # Neither the server's limit of a statement nor the pool's is meant for these.
        await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute(_LEDGER)
        missing = await _missing(connection, wanted)
        for migration in missing:
            await _apply(connection, migration)
        await connection.execute("COMMIT", timeout=_AS_LONG_AS_IT_TAKES)
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    return missing


async def _missing(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    """Return those that are not applied yet; raises Unavailable where others are, or one was another."""
    try:
        rows = await connection.fetch("SELECT number, sha256 FROM schema_migrations")
        newer = await select_newer(connection, [migration.number for migration in wanted])
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # from before there was one
        return wanted
    if newer is not None:
        raise Unavailable(too_old(newer))
    applied = {row["number"]: row["sha256"] for row in rows}
    for migration in wanted:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise Unavailable(f"migration {migration.name} is not the one that was applied to this database")
    return [migration for migration in wanted if migration.number not in applied]


def too_old(newer: int) -> str:
    return f"the database is newer than this gateway: it has migration {newer}. Run a newer gateway."


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql, timeout=_AS_LONG_AS_IT_TAKES)
    except asyncpg.PostgresError as error:
        if heals(error):
            raise
        raise Unavailable(f"migration {migration.name} failed, and none is applied: {error}") from error
    await connection.execute(
        "INSERT INTO schema_migrations (number, name, sha256, expands) VALUES ($1, $2, $3, $4)",
        migration.number,
        migration.name,
        migration.sha256,
        migration.expands,
    )
