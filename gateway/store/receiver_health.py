"""Whether the receivers of alerts accept deliveries, and until when failing ones are paused."""

from datetime import timedelta

from gateway.store.database import Connection

#: the longest pause that a receiver can ask for
LONGEST_PAUSE = timedelta(hours=6)
#: failures in a row after which a receiver is paused
TRIPPED = 5


async def mark_well(connection: Connection, alert_id: str) -> None:
    """Record that the receiver has accepted a delivery."""
    await connection.execute(
        """
        UPDATE alerts SET failures = 0, paused_until = NULL, last_error = NULL, delivered_at = now()
         WHERE alert_id = $1
           AND (failures > 0 OR last_error IS NOT NULL OR delivered_at IS NULL
                OR delivered_at < now() - interval '10 s')
        """,
        alert_id,
    )


async def mark_failed(connection: Connection, alert_id: str, error: str, pause: timedelta | None, *, down: bool) -> int:
    """Record that the receiver did not accept a delivery, and pause it. Return its failures in a row.

    Failures during a pause do not count: these deliveries were under way when the pause began.
    """
    return int(
        await connection.fetchval(
            """
            UPDATE alerts
               SET failures = failures + CASE WHEN $4 AND coalesce(paused_until <= now(), true) THEN 1 ELSE 0 END,
                   last_error = $2,
                   paused_until = CASE WHEN $3::interval IS NULL THEN paused_until
                                       ELSE greatest(paused_until, now() + $3) END
             WHERE alert_id = $1
            RETURNING failures
            """,
            alert_id,
            error,
            pause,
            down,
        )
        or 0
    )


async def disable_alert(connection: Connection, alert_id: str, error: str) -> None:
    """Disable an alert, since its receiver wants no more deliveries."""
    await connection.execute("UPDATE alerts SET enabled = false, last_error = $2 WHERE alert_id = $1", alert_id, error)
