"""Restore a backup into an empty database: in one transaction, at the schema that it was made with, then migrated.

The gateway that starts next brings the backup in line with the engines, as after a crash: the leases of running
deployments have ended, so they are claimed at once, and go on by what the journal and the engine show.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg

from gateway.model.audit import Actor, Outcome
from gateway.model.errors import Conflict, DatabaseUnavailable, InvalidInput, Unavailable
from gateway.store import audit, migrate
from gateway.store.backup import NO_LIMIT, Backup, open_backup, quoted, read_through, select_tables
from gateway.store.backup_records import Applied, Contents, Record, Rows, Table, TableEnd, read_records
from gateway.store.database import Connection, Pool, joined, unless_lost
from gateway.store.encryption import FixedKeys, Keyring, Vault
from gateway.store.master_key_file import KeyFile
from gateway.store.reencryption import reencrypt
from gateway.store.sealed_file import SealedReader
from gateway.store.transient_errors import describe, is_transient

_NOT_EMPTY: Final = (
    "the database is not empty (it has {found}), and a backup is restored into an empty one only: name another "
    "database in GATEWAY_DATABASE_URL (createdb NAME), or another directory in GATEWAY_DATA_DIR. Nothing was changed"
)
_OF_DATABASE = (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError, TimeoutError)


async def restore_backup(
    pool: Pool, keyring: Keyring, path: Path, passphrase: str, actor: Actor
) -> tuple[Backup, list[str], list[str]]:
    """Restore; return what was restored, the tables that are not the gateway's, and the secrets that no key opens.

    A key file gets the keys of the backup, and keeps its own; with any other keyring, all secrets are encrypted with
    its first key. Raises GatewayError; then the database is as empty as before.
    """
    with open_backup(path) as file:
        reader = SealedReader.of(file)
        await asyncio.to_thread(reader.unlock, passphrase)
        # All of it is proven before anything is changed.
        backup = await asyncio.to_thread(read_through, reader)
        records = read_records(reader.chunks())
        contents = next(records)
        if not isinstance(contents, Contents):
            raise InvalidInput("the backup does not say what it contains")
        migrations = _migrations_of(contents.schema, backup.version)
        async with pool.acquire() as connection, migrate.exclusively(connection):
            await _require_empty(connection)
            async with _whole_or_nothing(connection):
                await connection.execute(
                    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '10min'"
                )
                await migrate.apply_to_empty(connection, migrations, [one.number for one in contents.schema])
                skipped = await _load(connection, records)
                await _settle(connection)
                await migrate.apply_missing(connection)
                await connection.execute("UPDATE installation SET restored_at = now()")
                lost = await _take_keys(connection, keyring, contents.keys)
                event = audit.UnrecordedEvent(actor, Outcome.DONE, f"restored the backup of {backup.created_at}")
                await audit.insert_unrecorded(connection, [event])
    return backup, skipped, lost


@asynccontextmanager
async def _whole_or_nothing(connection: Connection) -> AsyncIterator[None]:
    """Run the block in a transaction. Raises Unavailable, with the first reason, if the database fails meanwhile."""
    is_complete = False
    try:
        async with connection.transaction():
            yield
            is_complete = True
    except Exception as error:
        # A database without disk space may crash during the rollback. The first error is the reason, not the crash.
        reasons = [why for one in _with_contexts(error) if (why := _database_reason(one))]
        if not reasons:
            raise
        outcome = (
            "It is not known whether the backup was restored: restore it again, which is refused where it was"
            if is_complete
            else "Nothing was changed: restore it again when that is mended"
        )
        raise Unavailable(f"{reasons[-1].removesuffix(': try again')}; its log says more. {outcome}") from error


def _database_reason(error: BaseException) -> str | None:
    """Return why the database failed, or None if the error is not one of the database."""
    if isinstance(error, _OF_DATABASE) and is_transient(error):
        return describe(error)
    return str(error) if isinstance(error, DatabaseUnavailable) else None


def _with_contexts(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, and then the errors that were being handled when it was raised."""
    while error is not None:
        yield error
        error = error.__context__


async def _require_empty(connection: Connection) -> None:
    """Raise Conflict unless the database is empty. Objects of other programs count, but not those of extensions.

    The ledger counts even if the search path finds it in another schema than the one where tables are created.
    """
    found = await connection.fetchval(
        """
        SELECT c.relname
          FROM pg_class c
         WHERE (c.oid = to_regclass('schema_migrations') OR c.relnamespace = current_schema()::regnamespace)
           AND NOT EXISTS (SELECT FROM pg_depend
                            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
         ORDER BY c.relname = 'schema_migrations' DESC, c.relkind = 'r' DESC, c.relname
         LIMIT 1
        """
    )
    if found is not None:
        raise Conflict(_NOT_EMPTY.format(found=found))


def _migrations_of(schema: tuple[Applied, ...], version: str) -> list[migrate.Migration]:
    """Return the migrations that made the schema of a backup. Raises InvalidInput if one is not known here."""
    known = {one.number: one for one in migrate.shipped()}
    wanted = [one for one in schema if one.number]
    for one in wanted:
        if one.number not in known:
            raise InvalidInput(
                f"the backup was made by version {version} and has migration {one.number}, which this version does not "
                "know: restore it with that version or a newer one. Nothing was changed"
            )
        if known[one.number].sha256 != one.sha256:
            raise InvalidInput(
                f"migration {one.name} of the backup is another one than this version's: restore it with version "
                f"{version}. Nothing was changed"
            )
    return [known[one.number] for one in wanted]


async def _load(connection: Connection, records: Iterator[Record]) -> list[str]:
    """Copy the rows into the tables. Return the names of tables in the backup that the schema does not have."""
    tables = {table.name: table for table in await select_tables(connection)}
    everything = ", ".join(quoted(name) for name in tables if name != "schema_migrations")
    for name in tables:
        await connection.execute(f"ALTER TABLE {quoted(name)} DISABLE TRIGGER USER")
    await connection.execute(f"TRUNCATE {everything}")  # what migrations put in
    skipped = []
    for record in records:
        if not isinstance(record, Table):
            raise InvalidInput("the backup has rows of no table")
        there = tables.get(record.name)
        if there is None or record.name == "schema_migrations":
            skipped.append(record.name)
            for following in records:
                if isinstance(following, TableEnd):
                    break
            continue
        if unknown := set(record.columns) - set(there.columns):
            raise InvalidInput(f"the backup has columns of {record.name} that its schema has not: {sorted(unknown)}")
        await _copy(connection, record, records)
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for name in tables:
        await connection.execute(f"ALTER TABLE {quoted(name)} ENABLE TRIGGER USER")
    await _move_sequences(connection)
    return skipped


async def _copy(connection: Connection, table: Table, records: Iterator[Record]) -> None:
    end: list[int] = []

    async def rows() -> AsyncIterator[bytes]:
        for record in records:
            if isinstance(record, TableEnd):
                end.append(record.rows)
                return
            if not isinstance(record, Rows):
                raise InvalidInput(f"the rows of {table.name} do not end")
            yield record.text

    try:
        copied = await unless_lost(
            connection,
            connection.copy_to_table(table.name, source=rows(), columns=list(table.columns), timeout=NO_LIMIT),
        )
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
        raise InvalidInput(f"the rows of {table.name} cannot be restored: {error}. Nothing was changed") from error
    if end != [int(copied.rpartition(" ")[2])]:
        raise Unavailable(f"the database did not take all rows of {table.name}. Nothing was changed")


async def _move_sequences(connection: Connection) -> None:
    """Set each sequence to continue after the highest number of its column."""
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, a.attname AS attribute,
               pg_get_serial_sequence(quote_ident(c.relname), a.attname) AS of
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relkind = 'r' AND a.attidentity <> '' AND NOT a.attisdropped
           AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'schema_migrations'::regclass)
        """
    )
    for row in rows:
        await connection.execute(
            f"SELECT setval($1::text::regclass, coalesce(max({quoted(row['attribute'])}), 0) + 1, false) "  # noqa: S608
            f"FROM {quoted(row['name'])}",
            row["of"],
        )


async def _settle(connection: Connection) -> None:
    """End every lease, since its owner does not exist any more. Deployments that wait for a time stay due then."""
    await connection.execute("UPDATE deployments SET lease_until = now(), waits_for = NULL WHERE status = 'running'")
    if await connection.fetchval("SELECT to_regclass('outbox_deliveries')") is not None:
        # A waiting delivery may have been delivered since the backup. Without `sending`, its host is asked before.
        await connection.execute(
            """
            UPDATE outbox_deliveries
               SET claimed_by = NULL, lease_until = NULL, progress = (progress - 'sending') || '{"restored": true}'
             WHERE state = 'waiting'
            """
        )


async def _take_keys(connection: Connection, keyring: Keyring, keys: tuple[bytes, ...]) -> list[str]:
    """Make the secrets decryptable here; return the places of those that no key decrypts."""
    if isinstance(keyring, KeyFile):
        own = keyring.own() if keyring.is_there() else ()
        keyring.replace(list(dict.fromkeys([*keys, *own])))
        return []
    present = keyring.keys()
    if list(present[:1]) == list(keys[:1]) and set(keys) <= set(present):
        return []
    vault = Vault(FixedKeys(present[0], (*present[1:], *keys)))
    return (await reencrypt(joined(connection), vault)).lost
