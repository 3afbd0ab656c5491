"""Deliveries of the outbox, as they are listed, and delivered once more."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.model.alerts import Event
from gateway.model.errors import NotFound
from gateway.store.database import Connection
from gateway.store.outbox import CHANNEL, EVENT_COLUMNS, read_event
from gateway.store.pagination import Page


@dataclass(frozen=True, slots=True)
class LoggedDelivery:
    """A delivery as it is listed."""

    delivery_id: str
    alert_id: str
    alert_name: str
    event: Event
    state: str
    attempts: int
    next_attempt_at: datetime
    status_code: int | None
    error: str | None
    queued_at: datetime
    finished_at: datetime | None

    @property
    def application_id(self) -> str:
        return self.event.application_id


async def select_deliveries(
    connection: Connection,
    page: Page,
    *,
    alert_ids: Sequence[str] | None = None,
    application_ids: Sequence[str] | None = None,
    state: str | None = None,
    set_on: tuple[Collection[str], Collection[str]] | None = None,
) -> list[LoggedDelivery]:
    """Return a page of the deliveries; of these alerts, or about these applications, where they are given.

    With `set_on`, only of alerts that are set on these applications or projects.
    """
    applications, projects = set_on or (None, ())
    rows = await connection.fetch(
        f"""
        SELECT d.delivery_id, d.alert_id, a.name AS alert_name, d.state::text, d.attempts, d.next_attempt_at,
               d.status_code, d.error, d.queued_at, d.finished_at, {EVENT_COLUMNS}
          FROM outbox_deliveries d
          JOIN outbox_events e USING (event_id)
          JOIN alerts a USING (alert_id)
         WHERE (d.queued_at, d.delivery_id) < ($1, $2) AND ($4::text[] IS NULL OR d.alert_id = ANY($4))
           AND ($5::text[] IS NULL OR d.application_id = ANY($5)) AND ($6::text IS NULL OR d.state = $6::outbox_state)
           AND ($7::text[] IS NULL OR a.application_id = ANY($7) OR a.project_id = ANY($8))
         ORDER BY d.queued_at DESC, d.delivery_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
        None if alert_ids is None else list(alert_ids),
        None if application_ids is None else list(application_ids),
        state,
        None if applications is None else list(applications),
        list(projects),
    )
    return [
        LoggedDelivery(
            row["delivery_id"],
            row["alert_id"],
            row["alert_name"],
            read_event(row),
            row["state"],
            row["attempts"],
            row["next_attempt_at"],
            row["status_code"],
            row["error"],
            row["queued_at"],
            row["finished_at"],
        )
        for row in rows
    ]


async def replay_delivery(connection: Connection, delivery_id: str) -> int:
    """Queue a finished delivery again, and return 1. Return 0 if it still waits. Raises NotFound."""
    if not await connection.fetchval("SELECT true FROM outbox_deliveries WHERE delivery_id = $1", delivery_id):
        raise NotFound("Delivery not found")
    return await _replay(connection, "delivery_id = $1", delivery_id)


async def replay_failed(connection: Connection, alert_id: str) -> int:
    """Queue again the deliveries of an alert that were given up; return their number."""
    return await _replay(connection, "alert_id = $1 AND state = 'failed'", alert_id)


async def _replay(connection: Connection, which: str, value: str) -> int:
    done = await connection.execute(
        f"""
        UPDATE outbox_deliveries
           SET state = 'waiting', finished_at = NULL, attempts = 0, next_attempt_at = now(), error = NULL,
               status_code = NULL, queued_at = clock_timestamp(), progress = progress || '{{"replayed": true}}'
         WHERE {which} AND state <> 'waiting'
        """,  # noqa: S608 - constants
        value,
    )
    if (count := int(done.rpartition(" ")[2])) > 0:
        await connection.execute("SELECT pg_notify($1, '')", CHANNEL)
    return count
