"""The inbox as it is read, and kept within its bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from gateway.deployments import Status
from gateway.errors import NotFound
from gateway.events import Ignored
from gateway.inbox import Caused, Delivery, Verdict
from gateway.store.database import Connection

_AT_ONCE = 1000  # rows that go in one statement
_ROW = 1000  # bytes that a delivery takes beside its body

_DERIVED = frozenset({Verdict.QUEUED, Verdict.DEPLOYED, Verdict.SUPERSEDED, Verdict.FAILED})

_COLUMNS = """
    delivery_id, endpoint_id, source, received_at, verdict, ignored, duplicate_of, replay_of, times,
    refusal IS NOT NULL AS refused, headers, octet_length(body) AS size,
    ARRAY(SELECT ARRAY[deployment_id, application_id, status::text]
            FROM deployment_deliveries l JOIN deployments USING (deployment_id)
           WHERE l.delivery_id = d.delivery_id
           ORDER BY application_id) AS caused
"""


def _from_row(row: asyncpg.Record) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        endpoint_id=row["endpoint_id"],
        source=row["source"],
        received_at=row["received_at"],
        stored=Verdict(row["verdict"]),
        ignored=tuple(Ignored(item["reference"], item["reason"]) for item in row["ignored"]),
        duplicate_of=row["duplicate_of"],
        replay_of=row["replay_of"],
        times=row["times"],
        refused=row["refused"],
        headers=row["headers"],
        size=row["size"],
        caused=tuple(Caused(one[0], one[1], Status(one[2])) for one in row["caused"]),
    )


async def select_inbox(
    connection: Connection,
    *,
    endpoint_id: str | None = None,
    source: str | None = None,
    verdict: Verdict | None = None,
    limit: int = 100,
) -> list[Delivery]:
    """Return the newest first, of one endpoint, source or verdict, or all.

    Of a verdict that depends on what has become of the deployments, those among the newest thousand.
    """
    derived = verdict in _DERIVED
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM deliveries d
         WHERE ($1::text IS NULL OR endpoint_id = $1)
           AND ($2::text IS NULL OR source = $2)
           AND ($3::text IS NULL OR verdict = $3::text::verdict)
         ORDER BY received_at DESC
         LIMIT $4
        """,  # noqa: S608 - constants
        endpoint_id,
        source,
        Verdict.QUEUED if derived else verdict,
        _AT_ONCE if derived else limit,
    )
    found = [_from_row(row) for row in rows]
    return [one for one in found if one.verdict is verdict][:limit] if derived else found


async def select_delivery(connection: Connection, delivery_id: str) -> tuple[Delivery, bytes]:
    """Return it and its body; raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, body FROM deliveries d WHERE delivery_id = $1",  # noqa: S608 - constants
        delivery_id,
    )
    if row is None:
        raise NotFound(f"there is no delivery {delivery_id!r}; see: gateway deliveries list")
    return _from_row(row), row["body"]


@dataclass(slots=True)
class Refusals:
    """How often one endpoint refused for one reason, and what the last request told of itself."""

    endpoint_id: str
    source: str
    reason: str
    times: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


async def add_refusals(connection: Connection, refusals: Sequence[Refusals]) -> None:
    """Count them in one row an endpoint, reason and hour; those of endpoints that went meanwhile are forgotten."""
    await connection.execute(
        """
        INSERT INTO deliveries AS d (endpoint_id, source, refusal, hour, times, headers, body, verdict, ignored)
        SELECT r.endpoint_id, r.source, r.reason, date_trunc('hour', now()), r.times, r.headers, '', 'rejected',
               jsonb_build_array(jsonb_build_object('reference', '', 'reason', r.reason))
          FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[])
            AS r (endpoint_id, source, reason, times, headers)
         WHERE EXISTS (SELECT FROM endpoints e WHERE e.endpoint_id = r.endpoint_id)
         ORDER BY r.endpoint_id, r.reason
            ON CONFLICT (endpoint_id, refusal, hour) DO UPDATE
           SET times = d.times + excluded.times, headers = excluded.headers, received_at = now()
        """,
        [one.endpoint_id for one in refusals],
        [one.source for one in refusals],
        [one.reason for one in refusals],
        [one.times for one in refusals],
        [dict(one.headers) for one in refusals],
    )


async def delete_rejected_beyond(connection: Connection, endpoint_id: str, kept: int) -> None:
    """Forget all but the newest of what an endpoint has rejected."""
    await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM deliveries
                WHERE endpoint_id = $1 AND verdict = 'rejected'
                ORDER BY received_at DESC
               OFFSET $2
               )
        """,
        endpoint_id,
        kept,
    )


async def delete_expired(connection: Connection, older_than: timedelta) -> bool:
    """Forget the oldest that are past their time; return whether there may be more."""
    done = await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM deliveries
                WHERE received_at < now() - $1::interval
                ORDER BY received_at
                LIMIT $2
               )
        """,
        older_than,
        _AT_ONCE,
    )
    return done == f"DELETE {_AT_ONCE}"


async def delete_overflow(connection: Connection, most_bytes: int) -> bool:
    """Forget the oldest beyond what the inbox may take; return whether there may be more."""
    done = await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM (
                      SELECT delivery_id,
                             sum(octet_length(body) + $2::integer) OVER (ORDER BY received_at DESC) AS total
                        FROM deliveries
                      ) AS sized
                WHERE total > $1
                LIMIT $3
               )
        """,
        most_bytes,
        _ROW,
        _AT_ONCE,
    )
    return done == f"DELETE {_AT_ONCE}"
