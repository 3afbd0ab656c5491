"""The size of the inbox, measured in spans of ten minutes, so that no statement reads all of it.

A span is measured when it is new, and again from time to time, since rows are also deleted for other reasons. A span
whose deliveries are to be deleted to make room is measured just before.
"""

from datetime import UTC, datetime, timedelta

from gateway.store.database import Connection

SPAN = timedelta(minutes=10)
_ROW = 1000  # bytes of a delivery beside its body
_AT_ONCE = 1000  # rows for one statement
_READ_TIMEOUT = 600.0  # seconds, for reading all of a part that is about to be dropped
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_BEGINS = f"date_bin('{SPAN.seconds} seconds', received_at, '2000-01-01 00:00:00+00')"


def span_of(moment: datetime) -> datetime:
    """Return the beginning of the span that contains this moment."""
    return moment - (moment - _EPOCH) % SPAN


async def select_gap(connection: Connection) -> tuple[datetime, datetime] | None:
    """Return the time range without measured spans; None if there is no delivery."""
    row = await connection.fetchrow(
        """
        SELECT coalesce((SELECT max(begins) FROM inbox_spans), min(received_at)) AS since, max(received_at) AS until
          FROM deliveries
        """
    )
    return None if row is None or row["until"] is None else (span_of(row["since"]), row["until"])


async def select_stalest(connection: Connection, limit: int) -> list[datetime]:
    """Return the spans whose measurements are the oldest."""
    rows = await connection.fetch("SELECT begins FROM inbox_spans ORDER BY measured_at LIMIT $1", limit)
    return [row["begins"] for row in rows]


async def measure(connection: Connection, since: datetime, until: datetime) -> None:
    """Measure the spans that begin in this time range; delete those without deliveries."""
    await connection.execute(
        f"""
        WITH found AS (
            SELECT {_BEGINS} AS begins, sum(octet_length(body) + $3::integer) AS bytes
              FROM deliveries
             WHERE received_at >= $1 AND received_at < $2
             GROUP BY 1
        ),
        gone AS (
            DELETE FROM inbox_spans
             WHERE begins >= $1 AND begins < $2 AND begins NOT IN (SELECT begins FROM found)
        )
        INSERT INTO inbox_spans (begins, bytes)
        SELECT begins, bytes FROM found
            ON CONFLICT (begins) DO UPDATE SET bytes = excluded.bytes, measured_at = now()
        """,  # noqa: S608 - constants
        since,
        until,
        _ROW,
    )


async def select_size(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT coalesce(sum(bytes), 0) FROM inbox_spans"))


async def select_size_of_part(connection: Connection, name: str, most: int) -> int | None:
    """Return the bytes of a part of the inbox. None if they are far more than `most`, since so much is not read."""
    size: int | None = await connection.fetchval(
        f"""
        SELECT CASE WHEN pg_table_size('{name}') <= 2 * $1::bigint
               THEN (SELECT coalesce(sum(octet_length(body) + $2::integer), 0) FROM ONLY {name}) END
        """,  # noqa: S608 - the name of a table
        most,
        _ROW,
        timeout=_READ_TIMEOUT,
    )
    return size


async def select_oldest(connection: Connection) -> datetime | None:
    """Return the first span that has deliveries."""
    oldest: datetime | None = await connection.fetchval("SELECT min(begins) FROM inbox_spans")
    return oldest


async def delete_oldest(connection: Connection, excess: int, before: datetime) -> None:
    """Delete the oldest deliveries before a moment until `excess` bytes are free, at most a thousand deliveries."""
    await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id = ANY (ARRAY(
               SELECT delivery_id
                 FROM (
                      SELECT delivery_id, size, sum(size) OVER (ORDER BY received_at, delivery_id) AS total
                        FROM (
                             SELECT delivery_id, received_at, octet_length(body) + $2::integer AS size
                               FROM deliveries
                              WHERE received_at < $4
                              ORDER BY received_at, delivery_id
                              LIMIT $3
                             ) AS oldest
                      ) AS summed
                WHERE total - size < $1
               ))
        """,
        excess,
        _ROW,
        _AT_ONCE,
        before,
    )
