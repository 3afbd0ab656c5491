"""Claims of deliveries of the outbox.

A receiver gets the events of one application in order. The deliveries of one application to one receiver are a lane:
only the one with the lowest number is claimed, and the next one once that is delivered or given up. As for deployments,
a claim is a lease with an epoch.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from gateway.model.alerts import Alert, Event, EventKind, ReceiverKind
from gateway.store import alerts
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.outbox import EVENT_COLUMNS, read_event

#: the lanes of one receiver that a claim looks at
_MOST_LANES = 256


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

    `after` has, by receiver, the application after which the next claim goes on; other receivers begin with the first.
    `more`: there are lanes after that which the claim did not look at.
    """

    deliveries: Sequence[ClaimedDelivery] = ()
    after: Mapping[str, str] = field(default_factory=dict)
    more: bool = False


@dataclass(slots=True)
class _Walk:
    """The lanes of one receiver that a claim looked at, and the due ones among them, in order."""

    alert_id: str
    room: int
    is_idle: bool  # nothing is being sent to it, and its last delivery succeeded
    is_cut: bool
    last: str
    due: list[tuple[str, str]]  # deliveries and applications
    former: str

    def goes_on_after(self, taken: int) -> str:
        """Return the application after which the next claim goes on, or "" to begin with the first."""
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
    common: int,
    per_alert: int,
    settings: Collection[str],
    after: Mapping[str, str],
) -> Claims:
    """Claim due deliveries, at most `per_alert` at a time for each receiver, and one for a receiver that fails.

    At most `most` are claimed. Only the first `common` may be for any receiver. The rest is for receivers to which
    nothing is being sent and whose last delivery succeeded: one for each.

    A claim looks at a limited number of lanes, and only of receivers that are not paused, so that its cost does not
    grow with what waits. `after` comes from the previous claim. `settings` are the ids of the alerts whose addresses
    are in the settings of this gateway.
    """
    walks = await _walk(connection, per_alert=per_alert, settings=settings, after=after)
    turns = _take_turns(walks, most, common)
    taken = Counter(order for order, _ in turns)
    goes_on = {walk.alert_id: walk.goes_on_after(taken[order]) for order, walk in enumerate(walks)}
    more = any(walk.is_cut and taken[order] == len(walk.due) for order, walk in enumerate(walks))
    claimed = await _claim(connection, vault, owner, [one for _, one in turns], lease) if turns else []
    return Claims(claimed, {alert_id: place for alert_id, place in goes_on.items() if place}, more)


def _take_turns(walks: Sequence[_Walk], most: int, common: int) -> list[tuple[int, str]]:
    """Return the deliveries to claim, each with the number of its walk. Receivers take turns, so none takes all."""
    turns = sorted(
        (turn, order, delivery_id)
        for order, walk in enumerate(walks)
        for turn, (delivery_id, _) in enumerate(walk.due[: walk.room])
    )
    taken: list[tuple[int, str]] = []
    for turn, order, delivery_id in turns:
        if len(taken) < (most if walks[order].is_idle and turn == 0 else min(common, most)):
            taken.append((order, delivery_id))
    return taken


async def _walk(
    connection: Connection, *, per_alert: int, settings: Collection[str], after: Mapping[str, str]
) -> list[_Walk]:
    rows = await connection.fetch(
        f"""
        SELECT a.alert_id, greatest(free.room, 0) AS room, free.held = 0 AND a.failures = 0 AS is_idle,
               walked.number = {_MOST_LANES} AS is_cut, walked.last, walked.deliveries, walked.applications
          FROM alerts a
          LEFT JOIN unnest($4::text[], $5::text[]) AS former (alert_id, application_id) USING (alert_id)
         CROSS JOIN LATERAL (
               SELECT CASE WHEN a.failures > 0 THEN 1 ELSE $1 END - count(*) AS room, count(*) AS held
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
            row["is_idle"],
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
    """Claim those of these deliveries that are still free, each the first of its lane."""
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
        RETURNING d.delivery_id, d.epoch, d.attempts, d.alert_id, d.progress, d.queued_at, {EVENT_COLUMNS}, (
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
            read_event(row),
            row["progress"],
            row["queued_at"],
            row["earlier"] or {},
        )
        for row in rows
        if row["alert_id"] in known
    ]
