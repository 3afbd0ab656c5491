"""The inbox in parts by time, so that expired deliveries are dropped as whole tables, not deleted row by row.

The newest part is the table `deliveries` itself, into which every statement of every version inserts. To begin a part,
that table is renamed, and becomes the child (by inheritance) of a new table `deliveries`. So each part is the child of
the next newer one, and `deliveries` reads all of them. A part ends when it is old or large enough.

PostgreSQL's declarative partitions need their bounds in advance, and every unique index must contain the partition key.
But the unique index `deliveries_refused`, with which gateways count refused requests, cannot.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.store.database import Connection

#: statements that store deliveries wait behind a change of the tables, so the change soon gives up, and is retried
_LOCK_TIMEOUT = "50ms"
_AT_ONCE = 2000  # deliveries of a dropped part, for one statement
NAME_OF_PART = "^deliveries_[0-9]{8}_[0-9]{9}$"  # of a part that is not the newest, after the moment of its end


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is not the newest."""

    name: str
    #: when its first and its last delivery came; None if it has none
    since: datetime | None
    until: datetime | None


async def is_part_full(connection: Connection, *, lasts: timedelta, most: int) -> bool:
    """Return whether the newest part has more than `most` bytes, or a delivery that is older than `lasts`."""
    return bool(
        await connection.fetchval(
            """
            SELECT min(received_at) < now() - $1::interval OR pg_table_size('deliveries') > $2::bigint
              FROM ONLY deliveries
            """,
            lasts,
            most,
        )
    )


async def begin_part(connection: Connection) -> bool:
    """Begin a part, in a transaction; return False if the table was not free just now."""
    suffix = await connection.fetchval("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MISSMS')")
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await _make_next(connection, suffix)
            await connection.execute(
                f"""
                LOCK TABLE ONLY deliveries IN ACCESS EXCLUSIVE MODE;
                ALTER TABLE deliveries RENAME TO deliveries_{suffix};
                ALTER TABLE deliveries_next RENAME TO deliveries;
                ALTER TABLE deliveries_{suffix} INHERIT deliveries
                """
            )
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def _make_next(connection: Connection, suffix: str) -> None:
    """Make the next table as the newest one is, while deliveries are stored there, and give it the names of indexes."""
    await connection.execute("CREATE TABLE deliveries_next (LIKE deliveries INCLUDING ALL)")
    changes = await connection.fetch(
        r"""
        WITH indexes AS (
            SELECT indrelid, indexrelid::regclass::text AS name,
                   regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \S+ ON \S+', '') AS definition
              FROM pg_index
             WHERE indrelid IN ('deliveries'::regclass, 'deliveries_next'::regclass)
        )
        SELECT format('ALTER INDEX %1$s RENAME TO %1$s_%2$s; ALTER INDEX %3$s RENAME TO %1$s',
                      newest.name, $1::text, made.name) AS change
          FROM indexes newest
          JOIN indexes made USING (definition)
         WHERE newest.indrelid = 'deliveries'::regclass AND made.indrelid <> newest.indrelid
         UNION ALL
        -- What LIKE leaves out: triggers, and who else may read the table.
        SELECT regexp_replace(pg_get_triggerdef(oid), ' ON \S+ ', ' ON deliveries_next ')
          FROM pg_trigger
         WHERE tgrelid = 'deliveries'::regclass AND NOT tgisinternal
         UNION ALL
        SELECT format('GRANT %s ON deliveries_next TO %s', privilege_type,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
          FROM pg_class, aclexplode(relacl)
         WHERE oid = 'deliveries'::regclass AND grantee <> relowner
        """,
        suffix,
    )
    await connection.execute("; ".join(row["change"] for row in changes))


async def select_oldest(connection: Connection) -> Part | None:
    """Return the part that has no older one; None if there is only the newest."""
    name: str | None = await connection.fetchval(
        """
        WITH RECURSIVE part AS (
            SELECT inhrelid AS oid, 1 AS depth FROM pg_inherits WHERE inhparent = 'deliveries'::regclass
             UNION ALL
            SELECT inhrelid, depth + 1 FROM pg_inherits JOIN part ON inhparent = part.oid
        )
        SELECT oid::regclass::text FROM part ORDER BY depth DESC LIMIT 1
        """
    )
    if name is None:
        return None
    row = await connection.fetchrow(f"SELECT min(received_at), max(received_at) FROM ONLY {name}")  # noqa: S608
    return Part(name, *(row or (None, None)))


async def detach(connection: Connection, part: Part) -> bool:
    """Take the deliveries of the oldest part out of the inbox, in a transaction.

    Returns False if it was not free just now.
    """
    parent = await connection.fetchval(
        "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = $1::text::regclass", part.name
    )
    try:
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; ALTER TABLE {part.name} NO INHERIT {parent}"
            )
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def select_detached(connection: Connection) -> list[str]:
    """Return the parts that are no longer in the inbox, and not dropped yet."""
    rows = await connection.fetch(
        """
        SELECT relname AS name
          FROM pg_class
         WHERE relname ~ $1 AND relkind = 'r' AND oid NOT IN (SELECT inhrelid FROM pg_inherits)
           AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'deliveries'::regclass)
        """,
        NAME_OF_PART,
    )
    return [row["name"] for row in rows]


async def forget(connection: Connection, name: str, after: str) -> str | None:
    """Delete what refers to the next deliveries of a detached part, as triggers of the inbox do for deleted deliveries.

    These are the next ones after the id `after`. Returns the id of the last one, or None if there are no more.
    """
    rows = await connection.fetch(
        f"SELECT delivery_id FROM {name} WHERE delivery_id > $1 ORDER BY delivery_id LIMIT {_AT_ONCE}",  # noqa: S608
        after,
    )
    gone = [row["delivery_id"] for row in rows]
    for statement in (
        "DELETE FROM delivery_keys WHERE delivery_id = ANY($1)",
        "DELETE FROM deployment_deliveries WHERE delivery_id = ANY($1)",
        "UPDATE deliveries SET duplicate_of = NULL WHERE duplicate_of = ANY($1)",
        "UPDATE deliveries SET replay_of = NULL WHERE replay_of = ANY($1)",
    ):
        await connection.execute(statement, gone)
    return gone[-1] if gone else None


async def drop(connection: Connection, name: str) -> None:
    """Drop a detached part that nothing refers to."""
    await connection.execute(f"DROP TABLE {name}")
