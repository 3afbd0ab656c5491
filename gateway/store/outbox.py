"""The outbox: what happened, and who is to be notified of it.

Of one application, a receiver gets events in order: they are a lane, in which only the delivery with the lowest number
is claimed, and the next one after it is delivered or given up. A claim is a lease with an epoch, as that of a
deployment.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from gateway.model.alerts import Alert, Event, EventKind, Occurrence, ReceiverKind
from gateway.model.errors import NotFound
from gateway.store import alerts
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import Page
from gateway.store.undecryptable import Row

CHANNEL = "outbox"

#: a receiver may not ask to be left alone for longer
LONGEST_PAUSE = timedelta(hours=6)
#: failures in a row after which a receiver is only tried by one delivery at a time
TRIPPED = 5
_AT_ONCE = 1000  # rows that one statement deletes
#: lanes of a receiver, which are the applications for which something waits, that a claim looks at
_MOST_LANES = 256
_EVENT = "e.event_id, e.kinds, e.application_id, e.deployment_id, e.content, e.created_at"


async def write_event(connection: Connection, occurrence: Occurrence) -> None:
    """Write down what happened, for the alerts that are for it. Without any alert, this only looks.

    The caller's transaction is the one that makes it true, and holds the lock of the application's queue.
    """
    await connection.execute(
        "SELECT outbox_write($1, $2, $3, $4, $5)",
        occurrence.application_id,
        occurrence.deployment_id,
        occurrence.key,
        [occurrence.kind],
        dict(occurrence.content),
    )


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this gateway works on, until its lease runs out."""

    delivery_id: str
    epoch: int
    attempts: int
    alert: Alert
    event: Event
    progress: Mapping[str, Any]
    queued_at: datetime
    #: the progress of an earlier event of the same deployment that made one at its host
    earlier: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claims:
    """What was claimed, and how far a claim looked.

    `after` has, by receiver, the application behind which the next claim goes on; what is not in it begins with the
    first. `more` says that there are applications behind it.
    """

    deliveries: Sequence[ClaimedDelivery] = ()
    after: Mapping[str, str] = field(default_factory=dict)
    more: bool = False


@dataclass(slots=True)
class _Walk:
    """The lanes of one receiver that were looked at, and those of them that are due, in order."""

    alert_id: str
    room: int
    is_cut: bool
    last: str
    due: list[tuple[str, str]]  # deliveries and applications
    former: str

    def goes_on_after(self, taken: int) -> str:
        """Return the application behind which the next claim goes on; "" to begin with the first."""
        if self.room == 0:
            return self.former
        if taken < len(self.due):
            return self.due[taken - 1][1] if taken else self.former
        return self.last if self.is_cut else ""


async def claim_deliveries(
    connection: Connection,
    vault: Vault,
    owner: str,
    *,
    lease: timedelta,
    most: int,
    per_alert: int,
    settings: Collection[str],
    after: Mapping[str, str],
) -> Claims:
    """Claim deliveries that are due, at most `per_alert` of each receiver at a time.

    It looks at a number of lanes of each receiver that may be sent to, and not at what waits for the others, so that
    its cost does not grow with what waits. `after` is of the former claim. `settings` are the ids of the alerts whose
    addresses this gateway has in its settings.
    """
    walks = await _walk(connection, per_alert=per_alert, settings=settings, after=after)
    # By turns, so that no receiver takes all that there is room for.
    turns = sorted(
        (turn, order, delivery_id)
        for order, walk in enumerate(walks)
        for turn, (delivery_id, _) in enumerate(walk.due[: walk.room])
    )[:most]
    taken = Counter(order for _, order, _ in turns)
    goes_on = {walk.alert_id: walk.goes_on_after(taken[order]) for order, walk in enumerate(walks)}
    more = any(walk.is_cut and taken[order] == len(walk.due) for order, walk in enumerate(walks))
    claimed = await _claim(connection, vault, owner, [one for _, _, one in turns], lease) if turns else []
    return Claims(claimed, {alert_id: place for alert_id, place in goes_on.items() if place}, more)


async def _walk(
    connection: Connection, *, per_alert: int, settings: Collection[str], after: Mapping[str, str]
) -> list[_Walk]:
    rows = await connection.fetch(
        f"""
        SELECT a.alert_id, greatest(free.room, 0) AS room, walked.number = {_MOST_LANES} AS is_cut, walked.last,
               walked.deliveries, walked.applications
          FROM alerts a
          LEFT JOIN unnest($4::text[], $5::text[]) AS former (alert_id, application_id) USING (alert_id)
         CROSS JOIN LATERAL (
               SELECT CASE WHEN a.failures >= {TRIPPED} THEN 1 ELSE $1 END - count(*) AS room
                 FROM outbox_deliveries d
                WHERE d.alert_id = a.alert_id AND d.state = 'waiting' AND d.lease_until > now()
               ) AS free
         CROSS JOIN LATERAL (
               WITH RECURSIVE lanes AS (  -- the applications for which something waits, from one to the next
                   (SELECT d.application_id, 1 AS place
                      FROM outbox_deliveries d
                     WHERE free.room > 0 AND d.state = 'waiting'
                       AND d.alert_id = a.alert_id AND d.application_id > coalesce(former.application_id, '')
                     ORDER BY d.application_id
                     LIMIT 1)
                    UNION ALL
                   SELECT following.application_id, lanes.place + 1
                     FROM lanes
                    CROSS JOIN LATERAL (
                          SELECT d.application_id
                            FROM outbox_deliveries d
                           WHERE d.state = 'waiting'
                             AND d.alert_id = a.alert_id AND d.application_id > lanes.application_id
                           ORDER BY d.application_id
                           LIMIT 1
                          ) AS following
                    WHERE lanes.place < {_MOST_LANES}
               )
               SELECT count(*) AS number, max(lanes.application_id) AS last,
                      array_agg(head.delivery_id ORDER BY lanes.place) FILTER (WHERE head.is_due) AS deliveries,
                      array_agg(lanes.application_id ORDER BY lanes.place) FILTER (WHERE head.is_due) AS applications
                 FROM lanes
                CROSS JOIN LATERAL (
                      SELECT d.delivery_id,
                             d.next_attempt_at <= now() AND coalesce(d.lease_until <= now(), true) AS is_due
                        FROM outbox_deliveries d
                       WHERE d.alert_id = a.alert_id AND d.application_id = lanes.application_id
                         AND d.state = 'waiting'
                       ORDER BY d.number
                       LIMIT 1
                      ) AS head
               ) AS walked
         WHERE a.enabled AND coalesce(a.paused_until <= now(), true)
           AND (a.address IS NOT NULL OR a.alert_id = ANY($2)) AND a.receiver = ANY($3)
         ORDER BY a.alert_id
        """,  # noqa: S608 - constants
        per_alert,
        list(settings),
        list(ReceiverKind),  # what a newer gateway knows is left to it
        list(after),
        list(after.values()),
    )
    return [
        _Walk(
            row["alert_id"],
            row["room"],
            row["is_cut"],
            row["last"] or "",
            list(zip(row["deliveries"] or (), row["applications"] or (), strict=True)),
            after.get(row["alert_id"], ""),
        )
        for row in rows
    ]


async def _claim(
    connection: Connection, vault: Vault, owner: str, delivery_ids: Sequence[str], lease: timedelta
) -> list[ClaimedDelivery]:
    """Claim those of these heads of their lanes that are still free."""
    rows = await connection.fetch(
        f"""
        WITH chosen AS (
            SELECT d.delivery_id
              FROM outbox_deliveries d
              JOIN outbox_events e USING (event_id)
             WHERE d.delivery_id = ANY($3) AND d.state = 'waiting' AND d.next_attempt_at <= now()
               AND coalesce(d.lease_until <= now(), true) AND e.kinds <@ $4
               FOR NO KEY UPDATE OF d SKIP LOCKED
        )
        UPDATE outbox_deliveries d
           SET claimed_by = $1, lease_until = now() + $2, epoch = epoch + 1, attempts = attempts + 1
          FROM chosen, outbox_events e
         WHERE d.delivery_id = chosen.delivery_id AND e.event_id = d.event_id
        RETURNING d.delivery_id, d.epoch, d.attempts, d.alert_id, d.progress, d.queued_at, {_EVENT}, (
                      SELECT f.progress
                        FROM outbox_events s
                        JOIN outbox_deliveries f USING (event_id)
                       WHERE s.deployment_id = e.deployment_id AND f.alert_id = d.alert_id AND f.number < d.number
                         AND f.progress ? 'deployment'
                       ORDER BY f.number DESC
                       LIMIT 1
                  ) AS earlier
        """,  # noqa: S608 - constants
        owner,
        lease,
        list(delivery_ids),
        list(EventKind),  # what a newer gateway knows is left to it
    )
    if not rows:
        return []
    found = await connection.fetch(
        "SELECT * FROM alerts WHERE alert_id = ANY($1)", list({row["alert_id"] for row in rows})
    )
    known = {one.alert_id: one for one in alerts.read(found, vault)}
    return [
        ClaimedDelivery(
            row["delivery_id"],
            row["epoch"],
            row["attempts"],
            known[row["alert_id"]],
            _event(row),
            row["progress"],
            row["queued_at"],
            row["earlier"] or {},
        )
        for row in rows
        if row["alert_id"] in known
    ]


def _event(row: Row) -> Event:
    return Event(
        row["event_id"],
        tuple(EventKind(one) for one in row["kinds"]),
        row["application_id"],
        row["deployment_id"],
        row["content"],
        row["created_at"],
    )


async def store_progress(connection: Connection, claimed: ClaimedDelivery, progress: Mapping[str, Any]) -> bool:
    """Store what the receiver has taken so far, and what it is sent next; return False for a stale owner."""
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
    """Record that the receiver has taken it, or that it is given up; return False for a stale owner."""
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
    """Let it wait for its next attempt; return False for a stale owner. Without `progress`, what is stored stays."""
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


# -- how a receiver does


async def mark_well(connection: Connection, alert_id: str) -> None:
    """Record that the receiver took something."""
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
    """Record that the receiver took something not, and pause it; return its failures in a row.

    Those that were under way when it was paused failed together: they count no more.
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
    """Turn an alert off, since its receiver wants nothing more."""
    await connection.execute("UPDATE alerts SET enabled = false, last_error = $2 WHERE alert_id = $1", alert_id, error)


# -- where an image comes from


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
    """Return the ids of a deployment and the one that it goes back to, and the origin that their calls name, if any."""
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


# -- lists, replays


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
               d.status_code, d.error, d.queued_at, d.finished_at, {_EVENT}
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
            _event(row),
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
    """Deliver once more what was delivered or given up, and return 1; 0 if it waits still. Raises NotFound."""
    if not await connection.fetchval("SELECT true FROM outbox_deliveries WHERE delivery_id = $1", delivery_id):
        raise NotFound("Delivery not found")
    return await _replay(connection, "delivery_id = $1", delivery_id)


async def replay_failed(connection: Connection, alert_id: str) -> int:
    """Deliver once more what was given up of an alert; return the number."""
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


# -- bounds


async def close_overtaken(connection: Connection) -> None:
    """Write that deployments ended which others overtook while they waited: nothing else says so.

    What supersedes or cancels a queued deployment writes no events, so that it costs nothing.
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


async def shorten_waits(connection: Connection, lease: timedelta, pause: timedelta) -> None:
    """Shorten leases, pauses and waits that are longer than any: there, the clock was set back.

    What is held for quiet hours is looked at again, and held again.
    """
    await connection.execute(
        "UPDATE outbox_deliveries SET lease_until = now() + $1 WHERE state = 'waiting' AND lease_until > now() + $1",
        lease,
    )
    await connection.execute("UPDATE alerts SET paused_until = now() + $1 WHERE paused_until > now() + $1", pause)
    # What was written before the clock was set back, as long as it differs by more than a transaction takes.
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
    """Give up what waits for too long, and the oldest of a receiver for which too much waits; return the number."""
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

    A number at a time: returns whether there may be more.
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
