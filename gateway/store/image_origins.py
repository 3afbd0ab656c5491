"""The origins of the images of events. An origin that was looked up is stored with its event."""

from collections.abc import Mapping
from typing import Any

from gateway.store.database import Connection


async def select_origin(connection: Connection, event_id: str) -> Mapping[str, Any] | None:
    """Return what was looked up for this event, or for the first one of its deployment with the same image."""
    found: Mapping[str, Any] | None = await connection.fetchval(
        """
        SELECT coalesce(e.origin, (
                   SELECT o.origin
                     FROM outbox_events o
                    WHERE o.key = 'deployment:' || e.deployment_id || ':started'
                      AND o.content -> 'deployment' ->> 'digest' = e.content -> 'deployment' ->> 'digest'))
          FROM outbox_events e
         WHERE e.event_id = $1
        """,
        event_id,
    )
    return found


async def select_called_origin(
    connection: Connection, deployment_id: str
) -> tuple[list[str], Mapping[str, Any] | None]:
    """Return the ids of a deployment and its rollback target, and the origin that the calls for them name, if any."""
    rows = await connection.fetch(
        """
        SELECT d.deployment_id, d.origin
          FROM deployments w
          JOIN deployments d ON d.deployment_id IN (w.deployment_id, w.rolls_back_to)
         WHERE w.deployment_id = $1
         ORDER BY d.deployment_id = $1 DESC
        """,
        deployment_id,
    )
    called = (row["origin"] for row in rows if row["origin"] is not None)
    return [row["deployment_id"] for row in rows], next(called, None)


async def update_origin(connection: Connection, event_id: str, origin: Mapping[str, Any]) -> None:
    await connection.execute("UPDATE outbox_events SET origin = $2 WHERE event_id = $1", event_id, dict(origin))
