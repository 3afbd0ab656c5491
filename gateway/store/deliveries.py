"""Store deliveries with what they caused, and detect duplicates. See `delivery_log` for reading them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from gateway.model.errors import NotFound
from gateway.model.events import Ignored
from gateway.store.database import Connection

_DELETED = "the webhook or the application was deleted while its delivery was received"


async def insert_delivery(
    connection: Connection,
    delivery_id: str,
    *,
    endpoint_id: str | None,
    source: str,
    body: bytes,
    headers: Mapping[str, str],
    verdict: str,
    ignored: Sequence[Ignored] = (),
    duplicate_of: str | None = None,
    replay_of: str | None = None,
    deployments: Sequence[str] = (),
) -> None:
    """Store a delivery, its verdict, and the deployments that it caused or joined.

    Raises NotFound if the endpoint was deleted meanwhile.
    """
    stored = await connection.fetchval(
        """
        WITH endpoint AS (
            SELECT endpoint_id FROM endpoints WHERE endpoint_id = $2 FOR KEY SHARE
        ),
        delivery AS (
            INSERT INTO deliveries
                   (delivery_id, endpoint_id, source, body, headers, verdict, ignored, duplicate_of, replay_of)
            SELECT $1, $2, $3, $4, $5, $6::verdict, $7, $8, $9
             WHERE $2::text IS NULL OR EXISTS (SELECT FROM endpoint)
            RETURNING delivery_id
        ),
        links AS (
            INSERT INTO deployment_deliveries (delivery_id, deployment_id)
            SELECT delivery_id, unnest($10::text[]) FROM delivery
        )
        SELECT count(*) FROM delivery
        """,
        delivery_id,
        endpoint_id,
        source,
        body,
        dict(headers),
        verdict,
        [{"reference": item.reference, "reason": item.reason} for item in ignored],
        duplicate_of,
        replay_of,
        deployments,
    )
    if not stored:
        raise NotFound(_DELETED)


async def select_first_received(connection: Connection, delivery_ids: Sequence[str]) -> datetime | None:
    """Return when the first of these deliveries came. None if there is none, or none is kept any more."""
    received: datetime | None = await connection.fetchval(
        "SELECT min(received_at) FROM deliveries WHERE delivery_id = ANY($1)", delivery_ids
    )
    return received


async def ignore_deliveries(connection: Connection, deployment_id: str, ignored: Ignored) -> None:
    """Record why the deliveries of this deployment deploy nothing. Those that caused nothing else become ignored."""
    await connection.execute(
        """
        UPDATE deliveries d
           SET ignored = ignored || $2::jsonb,
               verdict = CASE WHEN EXISTS (
                   SELECT FROM deployment_deliveries o
                     JOIN deployments USING (deployment_id)
                    WHERE o.delivery_id = d.delivery_id
                      AND (status <> 'unchanged' OR reason_code IS DISTINCT FROM 'no_image')
               ) THEN verdict ELSE 'ignored' END
          FROM deployment_deliveries l
         WHERE l.deployment_id = $1 AND l.delivery_id = d.delivery_id
        """,
        deployment_id,
        [{"reference": ignored.reference, "reason": ignored.reason}],
    )


async def claim_delivery_key(
    connection: Connection, endpoint_id: str, key: str, delivery_id: str, *, valid_for: timedelta | None
) -> str | None:
    """Give this delivery the key, and return None; or return the delivery that has the key already.

    Concurrent deliveries with one key wait for each other. A key is valid for `valid_for`, or as long as its delivery
    is kept. A key that was seen further in the future than `valid_for` is not valid, since the clock was set back after
    that. Raises NotFound if the endpoint was deleted meanwhile.
    """
    row = await connection.fetchrow(
        """
        WITH endpoint AS (
            -- Whoever deletes it locks it first, then its keys.
            SELECT endpoint_id FROM endpoints WHERE endpoint_id = $1 FOR KEY SHARE
        )
        INSERT INTO delivery_keys AS k (endpoint_id, key, delivery_id)
        SELECT endpoint_id, $2, $3 FROM endpoint
            ON CONFLICT (endpoint_id, key) DO UPDATE
           SET delivery_id = CASE WHEN k.seen_at NOT BETWEEN now() - $4::interval AND now() + $4::interval
                                  THEN $3 ELSE k.delivery_id END,
               seen_at = CASE WHEN k.seen_at NOT BETWEEN now() - $4::interval AND now() + $4::interval
                              THEN now() ELSE k.seen_at END
        RETURNING delivery_id
        """,
        endpoint_id,
        key,
        delivery_id,
        valid_for,
    )
    if row is None:
        raise NotFound(_DELETED)
    holder = str(row["delivery_id"])
    return None if holder == delivery_id else holder


async def reassign_delivery_key(connection: Connection, endpoint_id: str, key: str, delivery_id: str) -> None:
    """Move the key from an earlier delivery to this one."""
    await connection.execute(
        "UPDATE delivery_keys SET delivery_id = $3, seen_at = now() WHERE endpoint_id = $1 AND key = $2",
        endpoint_id,
        key,
        delivery_id,
    )


async def is_outdated(connection: Connection, delivery_id: str) -> bool:
    """Return whether an application of this delivery has a later request for another image."""
    row = await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM deployment_deliveries
              JOIN deployments AS mine USING (deployment_id)
              JOIN deployments AS later USING (application_id)
             WHERE delivery_id = $1
               AND later.created_at > mine.created_at AND later.reference IS DISTINCT FROM mine.reference
        ) OR EXISTS (  -- deleted deployments are old
            SELECT FROM deliveries WHERE delivery_id = $1 AND ended <> '{}'
        )
        """,
        delivery_id,
    )
    return bool(row)


async def has_taken_effect(connection: Connection, delivery_id: str, *, waiting: bool = False) -> bool:
    """Return whether this delivery caused a deployment that did not fail: then a duplicate starts nothing.

    With `waiting`, only queued deployments count: their tag is not resolved yet.
    """
    row = await connection.fetchval(
        """
        SELECT (
            NOT $2 AND EXISTS (
                SELECT FROM deliveries, unnest(ended) AS ends
                 WHERE delivery_id = $1 AND ends NOT IN ('failed', 'rolled_back')
            )
        ) OR EXISTS (
            SELECT FROM deployment_deliveries
              JOIN deployments USING (deployment_id)
             WHERE delivery_id = $1
               AND status NOT IN ('failed', 'rolled_back')
               AND (status = 'queued' OR NOT $2)
        )
        """,
        delivery_id,
        waiting,
    )
    return bool(row)
