"""Records the result of an attempt at a claimed delivery of the outbox: progress, the end, or another wait."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from gateway.store.database import Connection
from gateway.store.outbox_claims import ClaimedDelivery


async def store_progress(connection: Connection, claimed: ClaimedDelivery, progress: Mapping[str, Any]) -> bool:
    """Store what the receiver has accepted so far, and what is sent next; return False for a stale owner."""
    done = await connection.execute(
        """
        UPDATE outbox_deliveries SET progress = $3
         WHERE delivery_id = $1 AND epoch = $2 AND state = 'waiting'
        """,
        claimed.delivery_id,
        claimed.epoch,
        dict(progress),
    )
    return bool(done == "UPDATE 1")


async def finish_delivery(
    connection: Connection,
    claimed: ClaimedDelivery,
    *,
    delivered: bool,
    status_code: int | None,
    error: str | None,
    progress: Mapping[str, Any],
) -> bool:
    """Record that the delivery was accepted, or is given up; return False for a stale owner."""
    done = await connection.execute(
        """
        UPDATE outbox_deliveries
           SET state = $3, finished_at = now(), status_code = $4, error = $5, progress = $6, lease_until = NULL,
               claimed_by = NULL
         WHERE delivery_id = $1 AND epoch = $2 AND state = 'waiting'
        """,
        claimed.delivery_id,
        claimed.epoch,
        "delivered" if delivered else "failed",
        status_code,
        error,
        dict(progress),
    )
    return bool(done == "UPDATE 1")


async def postpone_delivery(
    connection: Connection,
    claimed: ClaimedDelivery,
    *,
    delay: timedelta,
    status_code: int | None,
    error: str | None,
    progress: Mapping[str, Any] | None,
    counted: bool = True,
) -> bool:
    """Let the delivery wait for its next attempt; return False for a stale owner. `progress` None changes none."""
    done = await connection.execute(
        """
        UPDATE outbox_deliveries
           SET next_attempt_at = now() + $3, status_code = $4, error = coalesce($5, error),
               progress = coalesce($6, progress),
               lease_until = NULL, claimed_by = NULL, attempts = attempts - CASE WHEN $7 THEN 0 ELSE 1 END
         WHERE delivery_id = $1 AND epoch = $2 AND state = 'waiting'
        """,
        claimed.delivery_id,
        claimed.epoch,
        delay,
        status_code,
        error,
        None if progress is None else dict(progress),
        counted,
    )
    return bool(done == "UPDATE 1")
