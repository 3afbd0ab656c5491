"""The queue of deployments: one waiting and one running an application, held by leases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from gateway.deployments import Deployment, Kind, Outcome, Status
from gateway.errors import Code, NotFound, Reason
from gateway.reference import Digest, Reference
from gateway.store.database import Connection

CHANNEL = "gateway_deployments"

_COLUMNS = """
    deployment_id, application_id, kind, forced, status, title, description, reference, expected_digest, digest,
    attempts, created_at, requested_at, next_attempt_at, started_at, finished_at, reason_code, reason_message, log,
    superseded_by, epoch
"""


def _from_row(row: asyncpg.Record) -> Deployment:
    code, reference = row["reason_code"], row["reference"]
    values = dict(row) | {
        "kind": Kind(row["kind"]),
        "status": Status(row["status"]),
        "reference": None if reference is None else Reference.parse(reference),
        "reason": None if code is None else Reason(Code(code), row["reason_message"]),
    }
    del values["reason_code"], values["reason_message"]
    return Deployment(**values)


async def notify(connection: Connection) -> None:
    """Wake every gateway's supervisor: there may be something to claim."""
    await connection.execute(f"NOTIFY {CHANNEL}")


# -- what is asked


async def select_queued(connection: Connection, application_id: str) -> Deployment | None:
    """Return the one that waits, held: nobody claims it meanwhile. The caller holds the application's queue."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM deployments WHERE application_id = $1 AND status = 'queued' FOR NO KEY UPDATE",  # noqa: S608
        application_id,
    )
    return None if row is None else _from_row(row)


async def insert_deployment(
    connection: Connection,
    *,
    application_id: str,
    kind: Kind,
    forced: bool,
    title: str,
    description: str = "",
    reference: Reference | None = None,
    expected_digest: Digest | None = None,
) -> str:
    """Queue it and return its id. The caller holds the application's queue and has emptied it."""
    row = await connection.fetchval(
        """
        INSERT INTO deployments (application_id, kind, forced, title, description, reference, expected_digest)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        RETURNING deployment_id
        """,
        application_id,
        kind,
        forced,
        title,
        description,
        None if reference is None else str(reference),
        expected_digest,
    )
    return str(row)


async def join_deployment(
    connection: Connection,
    deployment_id: str,
    *,
    kind: Kind,
    forced: bool,
    reference: Reference,
    expected_digest: Digest | None,
) -> None:
    """Let a queued one answer this request too."""
    await connection.execute(
        """
        UPDATE deployments
           SET kind = $2, forced = $3, reference = $4, expected_digest = coalesce($5, expected_digest),
               requested_at = now(), next_attempt_at = now(), attempts = 0, reason_code = NULL, reason_message = NULL
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
        kind,
        forced,
        str(reference),
        expected_digest,
    )


async def supersede_deployment(connection: Connection, deployment_id: str) -> None:
    """Take it out of the queue; `link_successor` names the one that comes instead."""
    await connection.execute(
        """
        UPDATE deployments
           SET status = 'superseded', finished_at = now(), reason_code = NULL, reason_message = NULL
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
    )


async def link_successor(connection: Connection, deployment_id: str, successor: str) -> None:
    await connection.execute(
        "UPDATE deployments SET superseded_by = $2 WHERE deployment_id = $1", deployment_id, successor
    )


# -- what is done


async def claim_deployment(
    connection: Connection, *, owner: str, engine_id: str, lease: timedelta
) -> Deployment | None:
    """Take the one that has waited longest and whose time has come; None where there is none.

    One whose owner fell silent comes first: its lease has run out, and with it the longest call it could be in.
    The application's queue is held with it; one that somebody else holds is passed over, never waited for.
    """
    row = await connection.fetchrow(
        f"""
        WITH next AS (
            SELECT d.deployment_id
              FROM deployments d
              JOIN applications a USING (application_id)
             WHERE (a.engine_id IS NULL OR a.engine_id = $2)
               AND (
                       (d.status = 'running' AND d.lease_until < now())
                    OR (
                           d.status = 'queued' AND d.next_attempt_at <= now()
                       AND NOT EXISTS (
                               SELECT FROM deployments r
                                WHERE r.application_id = d.application_id AND r.status = 'running'
                           )
                       )
                   )
             ORDER BY d.status DESC, d.next_attempt_at, d.created_at
             LIMIT 1
               FOR NO KEY UPDATE OF d, a SKIP LOCKED
        )
        UPDATE deployments d
           SET status = 'running', started_at = coalesce(started_at, now()), attempts = attempts + 1,
               epoch = epoch + 1, claimed_by = $1, lease_length = $3, lease_until = now() + $3,
               reason_code = NULL, reason_message = NULL
          FROM next
         WHERE d.deployment_id = next.deployment_id
        RETURNING {", ".join("d." + column.strip() for column in _COLUMNS.split(","))}
        """,  # noqa: S608 - constants
        owner,
        engine_id,
        lease,
    )
    return None if row is None else _from_row(row)


async def renew_leases(connection: Connection, owner: str, held: Mapping[str, int]) -> set[str]:
    """Heartbeat: return those of `held` (deployment and epoch) that are still ours."""
    rows = await connection.fetch(
        """
        UPDATE deployments d
           SET lease_until = now() + lease_length
          FROM unnest($2::text[], $3::bigint[]) AS held (deployment_id, epoch)
         WHERE d.deployment_id = held.deployment_id AND d.epoch = held.epoch
           AND d.status = 'running' AND d.claimed_by = $1
        RETURNING d.deployment_id
        """,
        owner,
        list(held),
        list(held.values()),
    )
    return {row["deployment_id"] for row in rows}


async def finish_deployment(connection: Connection, deployment: Deployment, outcome: Outcome) -> bool:
    """Write down how it ended, once; False where it is no longer ours."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET status = $3, finished_at = clock_timestamp(), lease_until = NULL, reason_code = $4, reason_message = $5,
               log = $6, digest = coalesce($7, digest), spec_hash = $8, replaced = $9
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
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
    )
    return bool(done == "UPDATE 1")


async def postpone_deployment(
    connection: Connection, deployment: Deployment, reason: Reason, delay: timedelta, *, counted: bool
) -> bool:
    """Put it back into the queue for later; the caller holds the application's queue, which is empty."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET status = 'queued', lease_until = NULL, claimed_by = NULL, next_attempt_at = now() + $5,
               reason_code = $3, reason_message = $4, attempts = attempts - CASE WHEN $6 THEN 0 ELSE 1 END
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        """,
        deployment.deployment_id,
        deployment.epoch,
        reason.code,
        reason.message,
        delay,
        counted,
    )
    return bool(done == "UPDATE 1")


async def yield_to_successor(connection: Connection, deployment: Deployment, successor: str) -> bool:
    """End one that would be postponed while a newer one waits already."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET status = 'superseded', finished_at = clock_timestamp(), lease_until = NULL, superseded_by = $3
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        """,
        deployment.deployment_id,
        deployment.epoch,
        successor,
    )
    return bool(done == "UPDATE 1")


async def inherit_force(connection: Connection, successor: str, kind: Kind) -> None:
    """Let a queued deployment carry the force of the person whose request it takes over."""
    await connection.execute(
        """
        UPDATE deployments
           SET forced = true, kind = CASE WHEN kind = 'deploy' THEN $2::kind ELSE kind END
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        successor,
        kind,
    )


async def mark_waiting(connection: Connection, engine_id: str | None, reason: Reason) -> None:
    """Tell those that wait for an engine what they wait for."""
    await connection.execute(
        """
        UPDATE deployments d
           SET reason_code = $2, reason_message = $3
         WHERE d.deployment_id IN (
                   SELECT w.deployment_id
                     FROM deployments w
                     JOIN applications a USING (application_id)
                    WHERE w.status = 'queued' AND w.reason_code IS NULL
                      AND (a.engine_id IS NULL OR $1::text IS NULL OR a.engine_id = $1)
                      FOR NO KEY UPDATE OF w SKIP LOCKED
               )
        """,
        engine_id,
        reason.code,
        reason.message,
    )


# -- what is read


async def select_age(connection: Connection, deployment_id: str) -> float:
    """Return the seconds since it was last asked for."""
    return float(
        await connection.fetchval(
            "SELECT extract(epoch FROM now() - requested_at) FROM deployments WHERE deployment_id = $1",
            deployment_id,
        )
    )


async def select_deployment(connection: Connection, deployment_id: str) -> Deployment:
    """Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM deployments WHERE deployment_id = $1",  # noqa: S608
        deployment_id,
    )
    if row is None:
        raise NotFound("Deployment not found")
    return _from_row(row)


async def select_deployments(
    connection: Connection, application_id: str | None = None, *, limit: int = 100
) -> list[Deployment]:
    """Return the newest first, of one application or of all."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM deployments
         WHERE $1::text IS NULL OR application_id = $1
         ORDER BY created_at DESC, deployment_id
         LIMIT $2
        """,  # noqa: S608
        application_id,
        limit,
    )
    return [_from_row(row) for row in rows]


async def select_satisfying(
    connection: Connection, deployment: Deployment, digest: Digest, spec_hash: str, within: timedelta
) -> str | None:
    """Return the rollout that replaced the container with just this while, or shortly before, this was asked for."""
    row = await connection.fetchval(
        """
        SELECT deployment_id
          FROM deployments
         WHERE application_id = $1 AND deployment_id <> $2 AND status = 'succeeded' AND replaced
           AND digest = $3 AND spec_hash = $4 AND finished_at > $5::timestamptz - $6::interval
         ORDER BY finished_at DESC
         LIMIT 1
        """,
        deployment.application_id,
        deployment.deployment_id,
        digest,
        spec_hash,
        deployment.requested_at,
        within,
    )
    return None if row is None else str(row)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How many wait and run, and for how many seconds the oldest has waited."""

    queued: int
    running: int
    oldest: float


async def select_queue_depth(connection: Connection) -> QueueDepth:
    row = await connection.fetchrow(
        """
        SELECT count(*) FILTER (WHERE status = 'queued') AS queued,
               count(*) FILTER (WHERE status = 'running') AS running,
               coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE status = 'queued')), 0)::float8
                   AS oldest
          FROM deployments
         WHERE status IN ('queued', 'running')
        """
    )
    return QueueDepth(**dict(row)) if row else QueueDepth(0, 0, 0.0)


async def select_deliveries_of(connection: Connection, deployment_id: str) -> Sequence[str]:
    rows = await connection.fetch(
        "SELECT delivery_id FROM deployment_deliveries WHERE deployment_id = $1", deployment_id
    )
    return [row["delivery_id"] for row in rows]
