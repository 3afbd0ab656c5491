"""Apply the numbered SQL files once and in order, by one process at a time, beside gateways that serve.

A file with the line `-- expands` keeps everything that a gateway of the previous release uses, so that gateway goes on.
After any other file, a gateway that does not know the file is too old: see `select_newer`.

Before the first release the files had other numbers. They are in `migrations/former`, and run only for a database that
has some of them. It gets the rest of these, and then its ledger is replaced by number 1, the whole schema.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import asyncpg
import structlog

from gateway.model.errors import GatewayError, Unavailable
from gateway.store.database import Connection, Pool, is_lost
from gateway.store.transient_errors import is_transient

_LOG = structlog.get_logger()

_LOCK = 0x6761746577617900  # the key of an advisory lock: "gateway"
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
_STATEMENT_TIMEOUT = 7 * 86_400.0  # seconds
# Less than PostgreSQL's deadlock_timeout, so that a deadlock ends the migration and never a gateway's transaction.
_LOCK_TIMEOUT = "500ms"
_RETRY_INTERVAL = 0.5  # seconds
_WARNING_INTERVAL = 10.0  # seconds
_DEADLINE = 600.0  # seconds until the tables must have been free for a moment
_LOCKED = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_schema.sql` is number 1."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def expands(self) -> bool:
        return _EXPANDS.search(self.sql) is not None


#: the ledger entry of a database whose ledger was replaced. A gateway that knows only the former numbers does not know
#: this one. So it finds itself too old, even if later files get numbers that it knows
_RENUMBERED = Migration(0, "renumbered", "")


def shipped() -> list[Migration]:
    """Read the files: from the wheel, else from the checkout."""
    return _read(_folder())


def former() -> list[Migration]:
    """Read the files from before they were numbered anew."""
    return _read(_folder() / "former")


def _folder() -> Traversable:
    wheel = files("gateway").joinpath("_migrations")
    return wheel if wheel.is_dir() else Path(__file__).parents[2] / "migrations"


def _read(folder: Traversable) -> list[Migration]:
    found = [
        Migration(int(file.name.split("_")[0]), file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(pool: Pool, migrations: list[Migration] | None = None) -> list[Migration]:
    """Apply the missing files, all or none, and return them.

    Gateways that start together wait for each other. Raises Unavailable when the database and the files disagree, or
    when a file fails.
    """
    wanted = shipped() if migrations is None else migrations
    try:
        async with pool.acquire() as connection:
            if not await has_former_numbers(connection, wanted) and not await _missing(connection, wanted):
                return []
            async with exclusively(connection):
                return await _apply_when_free(connection, wanted)
    except Exception as error:
        if isinstance(error, GatewayError) or not is_transient(error):
            raise
        why = str(error) or "it does not answer in time"
        raise Unavailable(f"the database went away during its migration, which is done again: {why}") from error


async def require_current(pool: Pool, *, on_empty: Callable[[], None]) -> None:
    """Check that the schema is the one that this program knows, or an expansion of it, without migrating it.

    An empty database is given the schema, after `on_empty`. Raises Unavailable for an older or a newer schema.
    """
    state, _ = await standing(pool)
    if state is Standing.EMPTY:
        on_empty()
        await migrate(pool, shipped())
    elif state is Standing.OLDER:
        raise Unavailable(
            "the database has the schema of an older version. Start this version's gateway, which migrates it, or run: "
            "gateway migrate. To use the older gateway that serves it, use its command line"
        )


class Standing(Enum):
    """How the schema of a database compares with the one that this program knows."""

    EMPTY = auto()
    OLDER = auto()
    CURRENT = auto()


async def standing(pool: Pool) -> tuple[Standing, list[Migration]]:
    """Return a database's standing and its missing migrations. Raises Unavailable for a newer or changed schema."""
    wanted = shipped()
    async with pool.acquire() as connection:
        older = await has_former_numbers(connection, wanted)
        missing = await _missing(connection, wanted)
    if not older and len(missing) == len(wanted):
        return Standing.EMPTY, missing
    return (Standing.OLDER if older or missing else Standing.CURRENT), missing


async def select_newer(connection: Connection, known: Collection[int] | None = None) -> int | None:
    """Return the newest applied migration that makes a gateway too old that knows only `known`; None if there is none.

    By default, `known` are the migrations that this gateway was shipped with.
    """
    newest: int | None = await connection.fetchval(
        "SELECT max(number) FROM schema_migrations WHERE number <> ALL($1) AND NOT expands",
        list(_known() if known is None else known),
    )
    return newest


@cache
def _known() -> frozenset[int]:
    return frozenset(migration.number for migration in (_RENUMBERED, *shipped()))


@asynccontextmanager
async def exclusively(connection: Connection) -> AsyncIterator[None]:
    """Hold the lock that every migration takes; wait for it without a deadline."""
    warned = time.monotonic()
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if time.monotonic() - warned >= _WARNING_INTERVAL:
            _LOG.warning("Waiting for another gateway that migrates the database")
            warned = time.monotonic()
        await asyncio.sleep(_RETRY_INTERVAL)
    try:
        yield
    finally:
        if not is_lost(connection):
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _apply_when_free(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    """Apply the files once no table is locked; between attempts, gateways that serve go on."""
    started = warned = time.monotonic()
    while True:
        try:
            return await _apply_all(connection, wanted)
        except _LOCKED as error:
            now = time.monotonic()
            if now - started > _DEADLINE:
                raise Unavailable(
                    f"the database cannot be migrated, its tables were in use for {_DEADLINE:.0f} seconds: {error}. "
                    "End what holds them (pg_stat_activity names it), or stop the other gateways, and start again"
                ) from error
            if now - warned >= _WARNING_INTERVAL:
                _LOG.warning("The migration waits for tables that are in use", error=str(error))
                warned = now
        await asyncio.sleep(_RETRY_INTERVAL)


async def _apply_all(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    await connection.execute("BEGIN")
    try:
        # A migration may take longer than the server's and the pool's limits for a statement allow.
        await connection.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute(_LEDGER)
        applied = await _renumber(connection, wanted)
        for migration in await _missing(connection, wanted):
            await _apply(connection, migration)
            applied.append(migration)
        await connection.execute("COMMIT", timeout=_STATEMENT_TIMEOUT)
    except BaseException:
        if not is_lost(connection):
            await connection.execute("ROLLBACK")
        raise
    return applied


async def apply_to_empty(connection: Connection, migrations: Iterable[Migration], numbers: Collection[int]) -> None:
    """Give an empty database this schema, in the caller's transaction, under the lock of `exclusively`.

    `numbers` are all that its ledger had, which is more if the database is from before the files were numbered anew.
    """
    await connection.execute(_LEDGER)
    if _RENUMBERED.number in numbers:
        await _record(connection, _RENUMBERED)
    for migration in migrations:
        await _apply(connection, migration)


async def apply_missing(connection: Connection) -> None:
    """Apply the missing migrations in the caller's transaction, under the lock of `exclusively`."""
    for migration in await _missing(connection, shipped()):
        await _apply(connection, migration)


async def _renumber(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    """Complete a database of former numbers, record it as the whole schema, and return what was applied."""
    if not await has_former_numbers(connection, wanted):
        return []
    missing = await _missing(connection, former())
    for migration in missing:
        await _apply(connection, migration)
    await connection.execute("DELETE FROM schema_migrations")
    await _record(connection, _RENUMBERED)
    await _record(connection, wanted[0])
    return [*missing, wanted[0]]


async def has_former_numbers(connection: Connection, wanted: list[Migration]) -> bool:
    """Tell whether the database began with the first of the former migrations, and that is not the first wanted one."""
    try:
        sha256 = await connection.fetchval("SELECT sha256 FROM schema_migrations WHERE number = 1")
    except asyncpg.UndefinedTableError:
        return False
    return sha256 is not None and sha256 == former()[0].sha256 != wanted[0].sha256


async def _missing(connection: Connection, wanted: list[Migration]) -> list[Migration]:
    """Return the files that are not applied yet.

    Raises Unavailable when the database is newer than these files, when an applied file has another content, and when a
    file is missing below one that is applied.
    """
    try:
        rows = await connection.fetch("SELECT number, sha256 FROM schema_migrations")
        newer = await select_newer(connection, [_RENUMBERED.number, *(migration.number for migration in wanted)])
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # a database without a ledger, or a former one
        return wanted
    if newer is not None:
        raise Unavailable(too_old(newer))
    applied = {row["number"]: row["sha256"] for row in rows}
    for migration in wanted:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise Unavailable(f"migration {migration.name} is not the one that was applied to this database")
    missing = [migration for migration in wanted if migration.number not in applied]
    # Former numbers were given ahead of time: there, a lower one may come later.
    if missing and missing[0].number < max(applied, default=0) and wanted[0].sha256 != former()[0].sha256:
        raise Unavailable(f"migration {missing[0].name} is missing below {max(applied):04}, which is applied already")
    return missing


def too_old(newer: int) -> str:
    """Return why a gateway does not use a database that has this migration, and what to do."""
    return (
        f"the database is newer than this gateway: it has migration {newer}. Run a newer gateway. To go back to this "
        "version, restore the backup from before the upgrade into an empty database: gateway restore FILE "
        "(docs/upgrade.md)"
    )


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        await connection.execute(migration.sql, timeout=_STATEMENT_TIMEOUT)
    except asyncpg.PostgresError as error:
        if is_transient(error):
            raise
        raise Unavailable(f"migration {migration.name} failed, and none is applied: {error}") from error
    await _record(connection, migration)


async def _record(connection: Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (number, name, sha256, expands) VALUES ($1, $2, $3, $4)",
        migration.number,
        migration.name,
        migration.sha256,
        migration.expands,
    )
