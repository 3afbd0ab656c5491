"""Back up the database while gateways serve: all tables, as of one moment, into one sealed file.

The rows are read with COPY in one snapshot, not by pg_dump. pg_dump must be as new as the server, which is often not
under the gateway's control, and its files are restored by psql, which runs whatever they contain. Here the schema comes
from this program's own migrations, and the file contains only rows.
"""

import asyncio
import fcntl
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import asyncpg

from gateway.model.errors import Conflict, InvalidInput, Unavailable
from gateway.store.backup_records import Applied, Contents, RecordWriter, Rows, Table, TableEnd, read_records
from gateway.store.database import Connection, Pool, is_lost
from gateway.store.inbox_parts import NAME_OF_PART
from gateway.store.migrate import has_former_numbers, shipped
from gateway.store.sealed_file import SealedReader, SealedWriter
from gateway.version import VERSION

#: tables that a backup never has, and why
LEFT_OUT: Final = {
    "schema_migrations": "its content is in the backup's contents",
    "serving": "the address of the gateway that ran",
    "readiness_probes": "always empty",
    "sign_ins": "sessions end when a backup is restored",
    "sign_in_links": "open links end when a backup is restored",
    "approval_links": "open links end when a backup is restored",
    "observations": "what is there is observed anew",
    "watches": "a window of minutes after a rollout, which is past",
    "inbox_spans": "the inbox is measured anew",
}
#: tables that it does not have without the inbox
OF_INBOX: Final = ("deliveries", "delivery_keys", "deployment_deliveries")
NO_LIMIT: Final = 7 * 86_400.0  # seconds; the client's limit for a statement
_ASK_AGAIN: Final = 0.2  # seconds
_PATIENCE: Final = 60.0  # seconds until no table may be locked any more
_LEAST_PASSPHRASE: Final = 12  # characters


@dataclass(frozen=True, slots=True)
class Backup:
    """What is known of a backup after it was read to its end: `size` in bytes, `rows` as the number of each table."""

    version: str
    schema: int
    created_at: str
    inbox: bool
    size: int
    rows: dict[str, int]


def require_passphrase(text: str) -> str:
    """Return the passphrase. Raises InvalidInput if it is too short to protect anything."""
    if len(text) < _LEAST_PASSPHRASE:
        raise InvalidInput(f"the passphrase of a backup has at least {_LEAST_PASSPHRASE} characters")
    return text


async def write_backup(
    pool: Pool, keys: Sequence[bytes], target: Path, passphrase: str, *, inbox: bool, replaces: bool = False
) -> Backup:
    """Write the backup, read it back, and only then give it its name. Raises GatewayError; then nothing is left.

    `keys` are the master keys, the present one first. Only with `replaces` is a file of this name replaced.
    """
    require_passphrase(passphrase)
    if not replaces and await asyncio.to_thread(target.exists):
        raise Conflict(f"{target} exists: give another name, or --force to replace it")
    try:
        with _draft(target) as (draft, descriptor):
            with os.fdopen(os.dup(descriptor), "wb") as file:
                written = await _write(pool, keys, file, passphrase, inbox=inbox)
            read = await asyncio.to_thread(verify_backup, draft, passphrase)
            if read.rows != written:
                raise Unavailable(
                    f"{target} does not have the rows that were written to it: the disk is not to be trusted"
                )
            _put_in_place(draft, target, replaces=replaces)
    except OSError as error:
        why = error.strerror if target.parent.is_dir() else f"create the directory {target.parent} first"
        raise Unavailable(f"the backup cannot be written: {why} ({target})") from error
    return read


@contextmanager
def _draft(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield a new file beside the target, locked while it is written, and delete it unless it got another name.

    Before that, files that killed backups left are deleted: nobody holds their lock.
    """
    _delete_abandoned(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # a file system without locks, where abandoned files are not deleted either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield draft, descriptor
    finally:
        os.close(descriptor)
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _delete_abandoned(target: Path) -> None:
    drafts = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}")
    for left in target.parent.iterdir():
        if not drafts.fullmatch(left.name):
            continue
        with suppress(OSError):  # somebody writes it now, or has just deleted it
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def _put_in_place(draft: Path, target: Path, *, replaces: bool) -> None:
    if replaces:
        draft.replace(target)
    else:
        try:
            os.link(draft, target)
        except FileExistsError:
            raise Conflict(f"{target} exists now: somebody else wrote it meanwhile") from None
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _write(pool: Pool, keys: Sequence[bytes], file: IO[bytes], passphrase: str, *, inbox: bool) -> dict[str, int]:
    rows: dict[str, int] = {}
    async with _snapshot(pool) as (connection, tables):
        ledger = await connection.fetch("SELECT number, name, sha256, expands FROM schema_migrations ORDER BY number")
        schema = tuple(Applied(**dict(one)) for one in ledger)
        header = {
            "version": VERSION,
            "schema": max(one.number for one in schema),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "inbox": inbox,
        }
        sealed = await asyncio.to_thread(SealedWriter, file, passphrase, header)
        out = RecordWriter(sealed)
        out.write_contents(Contents(schema, tuple(dict.fromkeys(keys))))
        for table in tables:
            if table.name in LEFT_OUT or (not inbox and table.name in OF_INBOX):
                continue
            out.begin_table(table)
            columns = ", ".join(map(quoted, table.columns))
            copied = await connection.copy_from_query(
                f"SELECT {columns} FROM {quoted(table.name)}",  # noqa: S608 - names of the catalog
                output=out.write_rows,
                timeout=NO_LIMIT,
            )
            rows[table.name] = int(copied.rpartition(" ")[2])
            out.end_table(rows[table.name])
        out.finish()
    return rows


@asynccontextmanager
async def _snapshot(pool: Pool) -> AsyncIterator[tuple[Connection, list[Table]]]:
    """Yield a connection with a snapshot, and the tables, which nobody can rename or drop meanwhile."""
    async with pool.acquire() as connection:
        if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
            raise Conflict("there is nothing to back up: the database has no schema")
        if await has_former_numbers(connection, shipped()):
            raise Conflict("the database is from before 0.1.0: migrate it first: gateway migrate")
        async with asyncio.timeout(_PATIENCE):
            while not await _begin(connection):  # noqa: ASYNC110 - others hold the locks
                await asyncio.sleep(_ASK_AGAIN)
        try:
            yield connection, await select_tables(connection)
        finally:
            if not is_lost(connection):
                await connection.execute("ROLLBACK")


async def _begin(connection: Connection) -> bool:
    """Begin the snapshot, with locks that do not conflict with writers. Return False if a lock was not free.

    The locks are taken first, since the snapshot is as of the first statement after them.
    """
    names = [table.name for table in await select_tables(connection)]
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        await connection.execute(
            "SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = 0;"
            "SET LOCAL idle_in_transaction_session_timeout = '10min';"
            f"LOCK TABLE {', '.join(map(quoted, names))} IN ACCESS SHARE MODE"
        )
        if [table.name for table in await select_tables(connection)] == names:
            return True
    except (asyncpg.LockNotAvailableError, asyncpg.UndefinedTableError):
        pass
    await connection.execute("ROLLBACK")
    return False


def quoted(name: str) -> str:
    """Return a name of the catalog as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


async def select_tables(connection: Connection) -> list[Table]:
    """Return all tables but the ledger with their columns, each after the tables that it refers to.

    Parts of the inbox are left out, since they are read with the inbox itself. So are the tables of extensions.
    """
    rows = await connection.fetch(
        """
        SELECT c.relname AS name,
               (SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') FROM pg_attribute
                 WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '') AS columns,
               ARRAY(SELECT f.relname::text FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid
                      WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.confrelid <> c.oid) AS after
          FROM pg_class c
         WHERE c.relkind = 'r' AND c.relname !~ $1
           AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'schema_migrations'::regclass)
           AND NOT EXISTS (SELECT FROM pg_depend
                            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
         ORDER BY c.relname
        """,
        NAME_OF_PART,
    )
    tables = {row["name"]: Table(row["name"], tuple(row["columns"])) for row in rows}
    return [tables[name] for name in in_order({row["name"]: row["after"] for row in rows})]


def in_order(after: dict[str, Iterable[str]]) -> list[str]:
    """Return the names, each after the names that it refers to. Raises ValueError if they refer to each other."""
    placed: dict[str, None] = {}
    while len(placed) < len(after):
        ready = [name for name, others in after.items() if name not in placed and set(others) <= placed.keys()]
        if not ready:
            raise ValueError(f"tables refer to each other in a circle: {sorted(after.keys() - placed.keys())}")
        placed.update(dict.fromkeys(ready))
    return list(placed)


def verify_backup(path: Path, passphrase: str) -> Backup:
    """Read a backup to its end without changing anything. Raises InvalidInput if it is not as it was written."""
    with open_backup(path) as file:
        reader = SealedReader.of(file)
        reader.unlock(passphrase)
        return read_through(reader)


def open_backup(path: Path) -> IO[bytes]:
    """Open a backup for reading. Raises InvalidInput, also for a pipe, since a backup is read twice."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it waits for no writer
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{path} is not a file on a disk: write the backup into one first, since it is read twice")
    return os.fdopen(descriptor, "rb")


def read_through(reader: SealedReader) -> Backup:
    """Read what is unlocked to its end. Raises InvalidInput."""
    rows: dict[str, int] = {}
    table, contents, found = "", 0, 0
    for record in read_records(reader.chunks()):
        match record:
            case Contents():
                contents += 1
            case Table(name=name):
                table, found = name, 0
            case Rows(text=text):
                found += text.count(b"\n")  # COPY writes a line break within a value as \n
            case TableEnd(rows=number):
                if number != found:
                    raise InvalidInput(f"the backup does not have all rows of {table}")
                rows[table] = number
    if contents != 1:
        raise InvalidInput("the backup does not say what it contains")
    header = reader.header
    return Backup(
        str(header["version"]),
        int(header["schema"]),
        str(header["created_at"]),
        bool(header["inbox"]),
        reader.size,
        rows,
    )
