"""Bounds of the outbox: for how long deliveries may wait, how many may, and when finished ones are deleted."""

from datetime import timedelta

from gateway.store.database import Connection

_AT_ONCE = 1000  # rows that one statement deletes


async def shorten_waits(connection: Connection, lease: timedelta, pause: timedelta) -> None:
    """Shorten leases, pauses and waits that are longer than any can be, because the clock was set back.

    A delivery that is held for quiet hours becomes due, and is then held again.
    """
    await connection.execute(
        "UPDATE outbox_deliveries SET lease_until = now() + $1 WHERE state = 'waiting' AND lease_until > now() + $1",
        lease,
    )
    await connection.execute("UPDATE alerts SET paused_until = now() + $1 WHERE paused_until > now() + $1", pause)
    # These rows were written before the clock was set back, by more than a transaction takes.
    await connection.execute(
        """
        UPDATE outbox_deliveries
           SET next_attempt_at = CASE WHEN queued_at > now() + interval '10 s' THEN now()
                                      ELSE least(next_attempt_at, now() + $1) END,
               queued_at = least(queued_at, now())
         WHERE state = 'waiting' AND (queued_at > now() + interval '10 s' OR next_attempt_at > now() + $1)
        """,
        pause,
    )


async def give_up_old(connection: Connection, *, older_than: timedelta, most: int) -> int:
    """Give up deliveries that wait too long, and the oldest of a receiver with too many; return their number."""
    done = await connection.execute(
        """
        UPDATE outbox_deliveries d
           SET state = 'failed', finished_at = now(), lease_until = NULL, claimed_by = NULL, epoch = epoch + 1,
               error = left('given up: ' || old.why || coalesce('; the last error: ' || d.error, ''), 1000)
          FROM (
               SELECT delivery_id, 'it waited for too long' AS why
                 FROM outbox_deliveries
                WHERE state = 'waiting' AND queued_at < now() - $1::interval AND coalesce(lease_until < now(), true)
                UNION ALL
               SELECT surplus.delivery_id, 'too much waits for this receiver'
                 FROM (SELECT DISTINCT alert_id FROM outbox_deliveries WHERE state = 'waiting') AS a
                CROSS JOIN LATERAL (
                      SELECT delivery_id
                        FROM outbox_deliveries w
                       WHERE w.alert_id = a.alert_id AND w.state = 'waiting'
                       ORDER BY w.number DESC
                      OFFSET $2
                      ) AS surplus
               ) AS old
         WHERE d.delivery_id = old.delivery_id AND d.state = 'waiting'
        """,
        older_than,
        most,
    )
    return int(done.rpartition(" ")[2])


async def delete_expired(connection: Connection, *, older_than: timedelta, most: int) -> bool:
    """Delete old deliveries that are finished, and the oldest beyond so many, with their events.

    Deletes a limited number, and returns whether there may be more.
    """
    rows = await connection.fetch(
        """
        DELETE FROM outbox_deliveries
         WHERE delivery_id IN (
                   SELECT delivery_id FROM outbox_deliveries
                    WHERE finished_at < now() - $1::interval
                       OR finished_at <= (
                              SELECT finished_at FROM outbox_deliveries
                               WHERE finished_at IS NOT NULL
                               ORDER BY finished_at DESC
                              OFFSET $2
                               LIMIT 1
                          )
                    ORDER BY finished_at
                    LIMIT $3
               )
        RETURNING event_id
        """,
        older_than,
        most,
        _AT_ONCE,
    )
    await connection.execute(
        """
        DELETE FROM outbox_events
         WHERE event_id IN (
                   SELECT event_id
                     FROM outbox_events e
                    WHERE (event_id = ANY($2) OR created_at < now() - $1::interval)
                      AND NOT EXISTS (SELECT FROM outbox_deliveries d WHERE d.event_id = e.event_id)
                    ORDER BY created_at
                    LIMIT $3
               )
        """,
        older_than,
        [row["event_id"] for row in rows],
        _AT_ONCE,
    )
    return len(rows) == _AT_ONCE
