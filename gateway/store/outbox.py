"""The outbox: what happened, for those who are to be notified of it.

Each event has a delivery for each alert that is for it: they are claimed in `outbox_claims`, listed and repeated in
`outbox_deliveries`, and bounded in `outbox_retention`.
"""

from gateway.model.alerts import Event, EventKind, Occurrence
from gateway.store.database import Connection
from gateway.store.undecryptable import Row

CHANNEL = "outbox"

#: what `read_event` reads, of `outbox_events e`
EVENT_COLUMNS = "e.event_id, e.kinds, e.application_id, e.deployment_id, e.content, e.created_at"


async def write_event(connection: Connection, occurrence: Occurrence) -> None:
    """Write an event, with a delivery for each alert that wants it. Without any alert, nothing is written.

    The caller's transaction is the one that makes the event true, and holds the lock of the application's queue.
    """
    await connection.execute(
        "SELECT outbox_write($1, $2, $3, $4, $5)",
        occurrence.application_id,
        occurrence.deployment_id,
        occurrence.key,
        [occurrence.kind],
        dict(occurrence.content),
    )


async def close_overtaken(connection: Connection) -> None:
    """Write the missing `cancelled` events of ended deployments with a `started` or `waiting` event.

    The statement that supersedes or cancels a queued deployment writes no event, so that it stays cheap.
    """
    await connection.execute(
        """
        SELECT outbox_write(application_id, deployment_id, key, ARRAY['cancelled'],
                            jsonb_build_object('reason', NULL, 'deployment', deployment))
          FROM (
               SELECT DISTINCT d.application_id, d.deployment_id, e.content -> 'deployment' AS deployment,
                      'deployment:' || d.deployment_id || ':cancelled' AS key
                 FROM outbox_events e
                 JOIN deployments d USING (deployment_id)
                WHERE e.kinds && ARRAY['started', 'waiting'] AND d.status IN ('superseded', 'cancelled')
                  AND NOT EXISTS (SELECT FROM outbox_events c
                                   WHERE c.key = 'deployment:' || d.deployment_id || ':cancelled')
                LIMIT 100
               ) AS overtaken
        """
    )


def read_event(row: Row) -> Event:
    return Event(
        row["event_id"],
        tuple(EventKind(one) for one in row["kinds"]),
        row["application_id"],
        row["deployment_id"],
        row["content"],
        row["created_at"],
    )
