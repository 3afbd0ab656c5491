"""Claim deployments under a lease, renew the lease, and finish deployments or return them to the queue.

Each write names the epoch of its claim, so that the write of a stale owner changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.model.deployments import Deployment, Outcome
from gateway.model.errors import Code, GatewayError, Reason
from gateway.store.database import Connection
from gateway.store.deployments import COLUMNS, from_row
from gateway.store.engines import LAST_SEEN, Place
from gateway.store.queue import INHERIT_RELEASE

#: takeovers from which a deployment is a suspect: its gateways may have ended because of it
SUSPECT = 3
_TOGETHER = 32  # suspects that a gateway runs at once

#: whether the queued deployment `d`, which belongs to no release, waits for one: for the open release of its
#: application, or because its group is gathering pushes
HELD = """
    (
        EXISTS (SELECT FROM release_members m WHERE m.application_id = d.application_id AND m.open)
     OR d.kind IN ('deploy', 'redeploy')
        AND EXISTS (SELECT FROM group_members g WHERE g.application_id = d.application_id AND g.gathers)
    )
"""


@dataclass(frozen=True, slots=True)
class Due:
    """A deployment that may be claimed. `engine_id` is its application's engine, None before that is bound to one."""

    deployment_id: str
    engine_id: str | None
    server_id: str | None
    #: for how long it has been due
    waited: timedelta
    #: whether it is running and its lease has expired
    silent: bool
    #: for a suspect, how many suspects the gateway may claim now, including those before it; None for others
    room: int | None


# Evaluated once in a statement. Mostly there is no open release and no gathering group, and HELD need not be evaluated.
_ANY_HELD = """
    EXISTS (SELECT FROM release_members WHERE open) OR EXISTS (SELECT FROM group_members WHERE gathers)
"""


# A killed gateway leaves many running deployments, and mostly none of them was the cause. So suspects run together at
# first. A suspect with a further takeover runs beside no other suspect, before the takeover after which it is only put
# back. The claim itself counts a takeover, so a running deployment has one more than when it was due.
def _running(least: int) -> str:
    return f"""
        SELECT FROM deployments r
         WHERE r.status = 'running' AND r.claimed_by = $1 AND r.lease_until >= now() AND r.takeovers >= {least}
    """


_ROOM = f"""
    (
        CASE WHEN d.takeovers > {SUSPECT} OR EXISTS ({_running(SUSPECT + 2)}) THEN 1 ELSE {_TOGETHER} END
      - (SELECT count(*) FROM ({_running(SUSPECT + 1)}) AS suspects)
    )
"""  # noqa: S608 - constants

# What is due: an expired lease, or a queued deployment whose time has come while nothing of its application runs. If
# the next attempt is further in the future than its wait was long, the clock was set back, and the deployment is due.
_SILENT = f"""
    d.status = 'running' AND d.lease_until < now() AND (d.takeovers < {SUSPECT} OR {_ROOM} > 0)
"""
_WAITING = """
    d.status = 'queued' AND (d.next_attempt_at <= now() OR d.next_attempt_at > now() + d.wait_length)
    AND NOT EXISTS (SELECT FROM deployments r WHERE r.application_id = d.application_id AND r.status = 'running')
"""


async def select_due(connection: Connection, owner: str, *, limit: int, offset: int = 0) -> list[Due]:
    """Return the due deployments, in the order in which they are to be claimed.

    Deployments with an expired lease come first: no call of the silent owner can still be open. Of these, the ones with
    the fewest takeovers come first. A deployment with many may be what ends its gateways, and those that only ran
    beside it must get done before. Then come the queued deployments, the longest due first.
    """
    rows = await connection.fetch(
        f"""
        SELECT due.deployment_id, a.engine_id, a.server_id, due.waited, due.silent, due.room
          FROM (
               SELECT d.deployment_id, d.application_id, d.takeovers, d.next_attempt_at, d.created_at,
                      now() - d.lease_until AS waited, true AS silent,
                      CASE WHEN d.takeovers >= {SUSPECT} THEN {_ROOM} END AS room
                 FROM deployments d
                WHERE {_SILENT}
               UNION ALL
               SELECT d.deployment_id, d.application_id, d.takeovers, d.next_attempt_at, d.created_at,
                      now() - least(d.next_attempt_at, now()), false, NULL
                 FROM deployments d
                WHERE {_WAITING} AND (d.release_id IS NOT NULL OR NOT (SELECT {_ANY_HELD}) OR NOT {HELD})
               ) AS due
          JOIN applications a USING (application_id)
         ORDER BY due.silent DESC, due.takeovers, due.next_attempt_at, due.created_at
         LIMIT $2 OFFSET $3
        """,  # noqa: S608 - constants
        owner,
        limit,
        offset,
    )
    return [Due(*row) for row in rows]


async def claim_deployments(
    connection: Connection, owner: str, engines: Mapping[str, str], lease: timedelta
) -> list[Deployment | None]:
    """Claim those of the chosen deployments that are still due, and bind their applications to their engines.

    `engines` maps the chosen deployments to engine ids. An application is bound only to an engine that has a row. The
    caller chooses no more suspects than `Due.room` allows. HELD is not checked again: a release that begins meanwhile
    takes the queued deployments of its members with it. The queues of the applications are locked; a queue that is
    already locked is skipped. A row that cannot be read is ended as failed, and None is returned in its place.
    """
    rows = await connection.fetch(
        f"""
        WITH chosen AS (
            SELECT * FROM unnest($2::text[], $3::text[]) AS chosen (deployment_id, engine_id)
        ),
        next AS (
            SELECT d.deployment_id, a.application_id, chosen.engine_id, a.engine_id IS NULL AS unbound
              FROM chosen
              JOIN deployments d USING (deployment_id)
              JOIN applications a USING (application_id)
             WHERE (
                       a.engine_id = chosen.engine_id
                    OR a.engine_id IS NULL AND EXISTS (SELECT FROM engines e WHERE e.engine_id = chosen.engine_id)
                   )
               AND (({_SILENT}) OR ({_WAITING}))
             ORDER BY a.application_id
               FOR NO KEY UPDATE OF d, a SKIP LOCKED
        ),
        bound AS (
            UPDATE applications a SET engine_id = next.engine_id
              FROM next
             WHERE a.application_id = next.application_id AND next.unbound
        )
        UPDATE deployments d
           SET status = 'running', started_at = coalesce(started_at, now()), attempts = attempts + 1,
               takeovers = CASE WHEN status = 'running' THEN takeovers + 1 ELSE 0 END,
               epoch = epoch + 1, claimed_by = $1, lease_length = $4, lease_until = now() + $4,
               reason_code = NULL, reason_message = NULL, waits_for = NULL,
               marked_to = CASE WHEN marked_to = epoch THEN epoch + 1 ELSE marked_to END
          FROM next
         WHERE d.deployment_id = next.deployment_id
        RETURNING {", ".join("d." + column.strip() for column in COLUMNS.split(","))}
        """,  # noqa: S608 - constants
        owner,
        list(engines),
        list(engines.values()),
        lease,
    )
    claimed: list[Deployment | None] = []
    for row in rows:
        try:
            claimed.append(from_row(row))
        except (ValueError, GatewayError) as error:
            claimed.append(None)
            # Left as it is, the row would fail every later claim.
            await _end_unreadable(connection, row["deployment_id"], error)
    return claimed


async def _end_unreadable(connection: Connection, deployment_id: str, error: Exception) -> None:
    await connection.execute(
        """
        UPDATE deployments
           SET status = 'failed', finished_at = clock_timestamp(), lease_until = NULL,
               reason_code = $2, reason_message = $3
         WHERE deployment_id = $1
        """,
        deployment_id,
        Code.INTERNAL,
        f"its row in the database cannot be read: {error}",
    )


async def renew_leases(connection: Connection, owner: str, held: Mapping[str, int]) -> dict[str, bool]:
    """Renew the leases of `held` (deployment: epoch); return those still owned, and whether each is cancelled."""
    rows = await connection.fetch(
        """
        UPDATE deployments d
           SET lease_until = now() + lease_length
          FROM (
               SELECT r.deployment_id
                 FROM unnest($2::text[], $3::bigint[]) AS held (deployment_id, epoch)
                 JOIN deployments r USING (deployment_id, epoch)
                WHERE r.status = 'running' AND r.claimed_by = $1
                ORDER BY r.application_id, r.deployment_id  -- as whoever wakes them
                  FOR NO KEY UPDATE OF r
               ) AS owned
         WHERE d.deployment_id = owned.deployment_id
        RETURNING d.deployment_id, d.cancelled_at IS NOT NULL AS cancelled
        """,
        owner,
        list(held),
        list(held.values()),
    )
    return {row["deployment_id"]: row["cancelled"] for row in rows}


async def select_overlong(connection: Connection) -> bool:
    """Tell whether a lease or a monitor window ends later than its length from now, so that the clock was set back."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (SELECT FROM deployments WHERE status = 'running' AND lease_until > now() + lease_length)
                OR EXISTS (SELECT FROM watches WHERE until > now() + length)
            """
        )
    )


async def shorten_leases(connection: Connection) -> None:
    """Shorten the leases that end later than their length from now, because the clock was set back.

    This is safe, since a live owner renews its lease in time.
    """
    await connection.execute(
        """
        UPDATE deployments
           SET lease_until = now() + lease_length
         WHERE status = 'running' AND lease_until > now() + lease_length
        """
    )


async def stretch_lease(connection: Connection, deployment_id: str, epoch: int, least: float) -> float | None:
    """Renew a lease for at least so many seconds; return its new length, None for a stale owner."""
    length: float | None = await connection.fetchval(
        """
        UPDATE deployments
           SET lease_length = greatest(lease_length, make_interval(secs => $3)),
               lease_until = now() + greatest(lease_length, make_interval(secs => $3))
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        RETURNING extract(epoch FROM lease_length)::float8
        """,
        deployment_id,
        epoch,
        least,
    )
    return length


async def update_wait(connection: Connection, deployment_id: str, epoch: int, waits_for: str | None) -> bool:
    """Record what a running deployment waits for, None for nothing; return False for a stale owner."""
    done = await connection.execute(
        """
        UPDATE deployments SET waits_for = $3
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        """,
        deployment_id,
        epoch,
        waits_for,
    )
    return bool(done == "UPDATE 1")


@dataclass(frozen=True, slots=True)
class Finished:
    """What the caller needs to know to do what follows from the end of a deployment."""

    #: the image, as written, that becomes the application's once the deployment serves it, None for none
    image: str | None
    #: whether the subscription to the image moves to the new tag
    moves_subscription: bool
    #: the application's image before, as written
    present_image: str | None
    #: whether the deployment has ever opened a swap
    opened_swap: bool
    #: whether any alert is enabled
    has_alerts: bool


async def finish_deployment(
    connection: Connection,
    deployment: Deployment,
    outcome: Outcome,
    ran: bytes | None,
    *,
    closes_swap: bool,
    closes_watch: bool | None,
) -> Finished | None:
    """Record the outcome and the encrypted version that ran. Return None, and change nothing, for a stale owner.

    With `closes_swap`, deletes the swap. With `closes_watch`, closes the monitor window of the version before; None
    closes it only if the deployment has opened a swap. The images of the application are checked soon in any case.
    """
    row = await connection.fetchrow(
        """
        WITH ended AS (
            UPDATE deployments
               SET status = $3, finished_at = clock_timestamp(), lease_until = NULL, reason_code = $4,
                   reason_message = $5, log = $6, digest = coalesce($7, digest), spec_hash = $8, replaced = $9,
                   ran = coalesce($10, ran)
             WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
            RETURNING application_id, image, moves_subscription, object_id IS NOT NULL AS opened_swap
        ),
        closed AS (
            DELETE FROM swaps s USING ended WHERE $11 AND s.application_id = ended.application_id
        ),
        unwatched AS (
            DELETE FROM watches w USING ended
             WHERE coalesce($12, ended.opened_swap) AND w.application_id = ended.application_id
        ),
        looked AS (
            UPDATE pulled_images SET next_look_at = now() WHERE application_id = $13
        )
        SELECT ended.image, ended.moves_subscription, a.docker_image, ended.opened_swap,
               EXISTS (SELECT FROM alerts WHERE enabled) AS has_alerts
          FROM ended
          JOIN applications a USING (application_id)
        """,
        deployment.deployment_id,
        deployment.epoch,
        outcome.status,
        outcome.reason.code if outcome.reason else None,
        outcome.reason.message if outcome.reason else None,
        outcome.log,
        outcome.digest,
        outcome.spec_hash,
        outcome.replaced,
        ran,
        closes_swap,
        closes_watch,
        deployment.application_id,
    )
    return None if row is None else Finished(*row)


async def postpone_deployment(
    connection: Connection,
    deployment: Deployment,
    reason: Reason,
    delay: timedelta,
    *,
    counted: bool,
    defect: bool = False,
) -> bool:
    """Return the deployment to the queue for later. The caller holds the lock of the queue, which is empty."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET status = 'queued', lease_until = NULL, claimed_by = NULL, next_attempt_at = now() + $5,
               wait_length = $5, reason_code = $3, reason_message = $4,
               attempts = attempts - CASE WHEN $6 THEN 0 ELSE 1 END,
               defects = defects + CASE WHEN $7 THEN 1 ELSE 0 END
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        """,
        deployment.deployment_id,
        deployment.epoch,
        reason.code,
        reason.message,
        delay,
        counted,
        defect,
    )
    return bool(done == "UPDATE 1")


async def yield_to_successor(connection: Connection, deployment: Deployment, successor: str) -> bool:
    """Supersede a deployment, instead of postponing it, because a newer one is queued. Return False for a stale owner.

    The newer deployment takes its place in a release.
    """
    return bool(
        await connection.fetchval(
            f"""
            WITH replaced AS (
                UPDATE deployments
                   SET status = 'superseded', finished_at = clock_timestamp(), lease_until = NULL, superseded_by = $2
                 WHERE deployment_id = $1 AND epoch = $3 AND status = 'running'
                RETURNING release_id
            ),
            inherited AS ({INHERIT_RELEASE})
            SELECT EXISTS (SELECT FROM replaced)
            """,  # noqa: S608 - a constant
            deployment.deployment_id,
            successor,
            deployment.epoch,
        )
    )


async def inherit_force(connection: Connection, successor: str, *, replaces: bool) -> None:
    """Mark a queued deployment as forced, since it takes over a person's request.

    A queued rollback is not marked, since it brings back another version than the person requested. `replaces`: the
    request was for a new container, even of the same image.
    """
    await connection.execute(
        """
        UPDATE deployments
           SET forced = forced OR kind <> 'rollback',
               kind = CASE WHEN kind = 'deploy' AND $2 THEN 'redeploy' ELSE kind END
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        successor,
        replaces,
    )


# Whether no gateway works on the deployment `w`. In a release that swaps, it waits as `running` without an owner.
_UNOWNED = "(w.status = 'queued' OR w.status = 'running' AND w.claimed_by IS NULL)"


async def mark_waiting(connection: Connection, server_id: str | None, engine_id: str | None, reason: Reason) -> None:
    """Record the reason why the deployments of a server's engine wait, for those that no gateway works on."""
    await connection.execute(
        f"""
        UPDATE deployments d
           SET reason_code = $2, reason_message = $3
         WHERE d.deployment_id IN (
                   SELECT w.deployment_id
                     FROM deployments w
                     JOIN applications a USING (application_id)
                    WHERE {_UNOWNED} AND w.reason_code IS NULL
                      AND (a.server_id = $4 OR ($4::text IS NULL AND a.server_id IS NULL))
                      AND (a.engine_id IS NULL OR $1::text IS NULL OR a.engine_id = $1)
                      FOR NO KEY UPDATE OF w SKIP LOCKED
               )
        """,  # noqa: S608 - a constant
        engine_id,
        reason.code,
        reason.message,
        server_id,
    )


async def wake_waiting(connection: Connection, places: Collection[Place], codes: Sequence[Code]) -> None:
    """Make due the deployments at these places that wait for the engine or have an open swap.

    The reason of those that no gateway works on is cleared: they no longer wait for the engine, but perhaps for a slot.
    """
    await connection.execute(
        """
        UPDATE deployments d
           SET next_attempt_at = least(next_attempt_at, now()),
               lease_until = CASE WHEN status = 'running' THEN least(lease_until, now()) END,
               reason_code = CASE WHEN reason_code = $4 THEN NULL ELSE reason_code END,
               reason_message = CASE WHEN reason_code = $4 THEN NULL ELSE reason_message END
         WHERE d.deployment_id IN (
                   SELECT w.deployment_id
                     FROM deployments w
                     JOIN applications a USING (application_id)
                     JOIN unnest($1::text[], $2::text[]) AS place (engine_id, server_id)
                       ON coalesce(a.server_id, '') = place.server_id
                      AND (a.engine_id IS NULL OR a.engine_id = place.engine_id)
                    WHERE (
                              w.status = 'queued' AND (w.next_attempt_at > now() OR w.reason_code = $4)
                           OR w.status = 'running' AND w.claimed_by IS NULL
                              AND (w.lease_until > now() OR w.reason_code = $4)
                          )
                      AND (
                              w.reason_code = ANY($3::text[])
                           OR EXISTS (SELECT FROM swaps s WHERE s.application_id = w.application_id)
                          )
                      FOR NO KEY UPDATE OF w SKIP LOCKED
               )
        """,
        [place.engine_id for place in places],
        [place.server_id or "" for place in places],
        list(codes),
        Code.ENGINE_UNREACHABLE,
    )


async def mark_stranded(connection: Connection, silent: timedelta) -> None:
    """Give the waiting deployments of engines that no gateway reaches a reason: when the engine was last reached."""
    await connection.execute(
        f"""
        UPDATE deployments d
           SET reason_code = $2,
               reason_message = 'the engine ' || name || ' (' || engine_id || '), on which the application was '
                   || 'first deployed, has not been reached since ' || to_char(last AT TIME ZONE 'UTC',
                   'YYYY-MM-DD HH24:MI:SS') || ' UTC'
          FROM (
               SELECT w.deployment_id, e.name, e.engine_id, seen.last
                 FROM deployments w
                 JOIN applications a USING (application_id)
                 JOIN engines e USING (engine_id)
                CROSS JOIN LATERAL (SELECT {LAST_SEEN} AS last) seen
                WHERE seen.last < now() - $1::interval AND {_UNOWNED} AND w.reason_code IS NULL
                  FOR NO KEY UPDATE OF w SKIP LOCKED
               ) AS stranded
         WHERE d.deployment_id = stranded.deployment_id
        """,  # noqa: S608 - a constant
        silent,
        Code.ENGINE_UNREACHABLE,
    )
