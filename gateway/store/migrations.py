"""Numbered SQL files, applied once and in order, by one process at a time."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from gateway.errors import Unavailable
from gateway.store.database import Connection, Pool

_LOCK = 0x6761746577617900  # "gateway", as a number of our own
_LEDGER = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number     integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_initial.sql` is number 1."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


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
    """Apply what is missing and return it; raises Unavailable where the database and the files disagree.

    Either all that was missing is applied, or nothing. Gateways that start together wait for each other.
    """
    wanted = shipped() if migrations is None else migrations
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        try:
            async with connection.transaction():
                return await _apply(connection, wanted)
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _apply(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    await connection.execute(_LEDGER)
    rows = await connection.fetch("SELECT number, sha256 FROM schema_migrations")
    applied = {row["number"]: row["sha256"] for row in rows}
    if newer := set(applied) - {migration.number for migration in wanted}:
        raise Unavailable(
            f"the database is newer than this gateway: it has migration {max(newer)}. Run a newer gateway."
        )
    for migration in wanted:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise Unavailable(f"migration {migration.name} is not the one that was applied to this database")
    missing = [migration for migration in wanted if migration.number not in applied]
    for migration in missing:
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.sha256,
        )
    return missing
