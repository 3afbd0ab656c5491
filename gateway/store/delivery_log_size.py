"""What the inbox takes, measured in spans of ten minutes, so that no look at it reads all of it.

A span is measured when it is new, and from time to time again, since rows may go by other ways. What is to make room is
measured just before.
"""

from datetime import UTC, datetime, timedelta

from gateway.store.database import Connection

SPAN = timedelta(minutes=10)
_ROW = 1000  # bytes that a delivery takes beside its body
_AT_ONCE = 1000  # rows that go in one statement
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_BEGINS = f"date_bin('{SPAN.seconds} seconds', received_at, '2000-01-01 00:00:00+00')"


def span_of(moment: datetime) -> datetime:
    """Return when the span begins that this is in."""
    return moment - (moment - _EPOCH) % SPAN


async def select_gap(connection: Connection) -> tuple[datetime, datetime] | None:
    """Return from when until when no span is measured; None where nothing has come."""
    row = await connection.fetchrow(
        """
        SELECT coalesce((SELECT max(begins) FROM inbox_spans), min(received_at)) AS since, max(received_at) AS until
          FROM deliveries
        """
    )
    return None if row is None or row["until"] is None else (span_of(row["since"]), row["until"])


async def select_stalest(connection: Connection, limit: int) -> list[datetime]:
    """Return the spans that were measured the longest ago."""
    rows = await connection.fetch("SELECT begins FROM inbox_spans ORDER BY measured_at LIMIT $1", limit)
    return [row["begins"] for row in rows]


async def measure(connection: Connection, since: datetime, until: datetime) -> None:
    """Measure the spans that begin from then on until then; one in which nothing is left is forgotten."""
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


async def select_oldest(connection: Connection) -> datetime | None:
    """Return the first span of which something is left."""
    oldest: datetime | None = await connection.fetchval("SELECT min(begins) FROM inbox_spans")
    return oldest


async def delete_oldest(connection: Connection, excess: int, before: datetime) -> None:
    """Forget the oldest deliveries of before then, until so many bytes are free; a thousand at most."""
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
