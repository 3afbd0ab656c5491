"""Queued deployments: at most one an application. A newer request joins or supersedes it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gateway.model.deployments import Deployment, Kind
from gateway.model.matching import Match
from gateway.model.reference import Digest, Reference
from gateway.store.database import Connection
from gateway.store.deployments import COLUMNS, from_row
from gateway.store.pagination import MOST

CHANNEL = "gateway_deployments"
_TITLE, _DESCRIPTION = 500, 5000  # characters

#: gives the deployment $2 the release of the row `replaced`
INHERIT_RELEASE = """
    UPDATE deployments d
       SET release_id = replaced.release_id
      FROM replaced
     WHERE d.deployment_id = $2 AND d.kind IN ('deploy', 'redeploy') AND replaced.release_id IS NOT NULL
"""


#: whether the queued deployment `w` waits at a gate, which may take days
AT_GATE = """
    (
        w.reason_code IS NOT NULL
    AND EXISTS (SELECT FROM gate_verdicts v WHERE v.deployment_id = w.deployment_id AND v.verdict = 'unknown')
    )
"""


@dataclass(frozen=True, slots=True)
class ImageChange:
    """An image, as written, that becomes the application's once the deployment serves it."""

    image: str
    #: whether the subscription to the former tag changes with it
    moves_subscription: bool


async def notify(connection: Connection) -> None:
    """Wake the workers of every gateway: there may be something to claim."""
    await connection.execute(f"NOTIFY {CHANNEL}")


async def select_queued(connection: Connection, application_id: str) -> Deployment | None:
    """Return the queued deployment and lock its row against a claim. The caller holds the lock of the queue."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM deployments WHERE application_id = $1 AND status = 'queued' FOR NO KEY UPDATE",  # noqa: S608
        application_id,
    )
    return None if row is None else from_row(row)


async def select_all_queued(connection: Connection, application_ids: Sequence[str]) -> dict[str, Deployment]:
    """Return the queued deployments by application, and lock their rows. The caller holds the locks of the queues."""
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS}
          FROM deployments
         WHERE application_id = ANY($1) AND status = 'queued'
         ORDER BY application_id
           FOR NO KEY UPDATE
        """,  # noqa: S608
        application_ids,
    )
    return {row["application_id"]: from_row(row) for row in rows}


async def insert_pushed(connection: Connection, choices: Mapping[str, Match]) -> dict[str, str]:
    """Queue a deployment for each match; return the ids by application. The caller holds their empty queues."""
    rows = await connection.fetch(
        """
        INSERT INTO deployments (application_id, kind, forced, title, description, reference, expected_digest,
                                 image, moves_subscription)
        SELECT application_id, 'deploy', false, title, description, reference, expected_digest,
               reference, moves_subscription
          FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[])
            AS pushed (application_id, title, description, reference, expected_digest, moves_subscription)
        RETURNING application_id, deployment_id
        """,
        list(choices),
        [_short(choice.title, _TITLE) for choice in choices.values()],
        [_short(choice.description, _DESCRIPTION) for choice in choices.values()],
        [str(choice.event.reference) for choice in choices.values()],
        [choice.event.digest for choice in choices.values()],
        [choice.changes_subscription for choice in choices.values()],
    )
    return {row["application_id"]: row["deployment_id"] for row in rows}


def _short(text: str, most: int) -> str:
    """Truncate text of a sender, so that lists stay small."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


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
    rolls_back_to: str | None = None,
    image_change: ImageChange | None = None,
) -> str:
    """Queue a deployment and return its id. The caller holds the lock of the application's queue, which is empty."""
    row = await connection.fetchval(
        """
        INSERT INTO deployments (application_id, kind, forced, title, description, reference, expected_digest,
                                 rolls_back_to, image, moves_subscription)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        RETURNING deployment_id
        """,
        application_id,
        kind,
        forced,
        _short(title, _TITLE),
        _short(description, _DESCRIPTION),
        None if reference is None else str(reference),
        expected_digest,
        rolls_back_to,
        image_change.image if image_change else None,
        image_change is not None and image_change.moves_subscription,
    )
    return str(row)


async def update_origin(connection: Connection, deployment_id: str, origin: Mapping[str, str]) -> None:
    """Record from which commit a call says that the image was built, in the form of its labels."""
    await connection.execute("UPDATE deployments SET origin = $2 WHERE deployment_id = $1", deployment_id, dict(origin))


async def join_deployment(
    connection: Connection,
    deployment_id: str,
    *,
    kind: Kind,
    forced: bool,
    reference: Reference,
    expected_digest: Digest | None,
    image_change: ImageChange | None,
) -> None:
    """Let a queued deployment also fulfil this request."""
    await connection.execute(
        """
        UPDATE deployments
           SET kind = $2, forced = $3, reference = $4, expected_digest = coalesce($5, expected_digest),
               image = coalesce($6, image), moves_subscription = moves_subscription OR $7,
               requested_at = now(), next_attempt_at = now(), wait_length = '0 seconds', attempts = 0, takeovers = 0,
               defects = 0, cancelled_at = NULL,
               reason_code = NULL, reason_message = NULL,
               asked_by = CASE WHEN actor IS NULL THEN asked_by ELSE actor ->> 'who' END,
               asked_key = CASE WHEN actor IS NULL THEN asked_key ELSE actor ->> 'key_id' END
          FROM (SELECT nullif(current_setting('gateway.actor', true), '')::jsonb AS actor) AS acting
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
        kind,
        forced,
        str(reference),
        expected_digest,
        image_change.image if image_change else None,
        image_change is not None and image_change.moves_subscription,
    )


async def select_image_change(connection: Connection, deployment_id: str) -> ImageChange | None:
    """Return the image that becomes the application's once this deployment serves; None if there is none."""
    row = await connection.fetchrow(
        "SELECT image, moves_subscription FROM deployments WHERE deployment_id = $1 AND image IS NOT NULL",
        deployment_id,
    )
    return ImageChange(**dict(row)) if row else None


async def supersede_deployment(connection: Connection, deployment_id: str) -> None:
    """Mark a queued deployment as superseded; `link_successor` then names its successor."""
    await connection.execute(
        """
        UPDATE deployments
           SET status = 'superseded', finished_at = clock_timestamp(), reason_code = NULL, reason_message = NULL
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
    )


async def requeue_waiting(connection: Connection, successor: str) -> str | None:
    """Queue again the deployment that waited at a gate until `successor` superseded it, unless a newer one is queued.

    The new deployment keeps the deliveries, the overrides and the time since which the gates are asked. Returns its id,
    or None. The caller holds the lock of the queue.
    """
    row = await connection.fetchval(
        """
        WITH waited AS (
            SELECT d.*
              FROM deployments d
             WHERE d.superseded_by = $1 AND d.status = 'superseded'
               AND EXISTS (
                       SELECT FROM gate_verdicts v WHERE v.deployment_id = d.deployment_id AND v.verdict = 'unknown'
                   )
               AND NOT EXISTS (
                       SELECT FROM deployments q WHERE q.application_id = d.application_id AND q.status = 'queued'
                   )
             ORDER BY d.created_at DESC
             LIMIT 1
        ),
        again AS (
            INSERT INTO deployments (application_id, kind, forced, title, description, asked_by, asked_key, reference,
                                     expected_digest, rolls_back_to, image, moves_subscription, origin)
            SELECT application_id, kind, forced, title, description, asked_by, asked_key, reference,
                   expected_digest, rolls_back_to, image, moves_subscription, origin
              FROM waited
            RETURNING deployment_id
        ),
        linked AS (
            UPDATE deployments d SET superseded_by = again.deployment_id
              FROM again, waited
             WHERE d.deployment_id = waited.deployment_id
        ),
        delivered AS (
            INSERT INTO deployment_deliveries (delivery_id, deployment_id)
            SELECT l.delivery_id, again.deployment_id
              FROM deployment_deliveries l JOIN waited USING (deployment_id) CROSS JOIN again
        ),
        let_pass AS (
            INSERT INTO gate_overrides (deployment_id, gate_id, digest, name, application_id, reason, overridden_by)
            SELECT again.deployment_id, o.gate_id, o.digest, o.name, o.application_id, o.reason, o.overridden_by
              FROM gate_overrides o JOIN waited USING (deployment_id) CROSS JOIN again
        )
        SELECT deployment_id FROM again
        """,
        successor,
    )
    return None if row is None else str(row)


async def is_free(connection: Connection, application_id: str) -> bool:
    """Return whether the application has no running deployment, and no queued one that does not wait at a gate."""
    return not await connection.fetchval(
        f"""
        SELECT EXISTS (
            SELECT FROM deployments w
             WHERE w.application_id = $1 AND (w.status = 'running' OR w.status = 'queued' AND NOT {AT_GATE})
        )
        """,  # noqa: S608 - a constant
        application_id,
    )


async def link_successor(connection: Connection, deployment_id: str, successor: str) -> None:
    """Record the successor of a superseded deployment. The successor takes its place in a release if it has one."""
    await connection.execute(
        f"""
        WITH replaced AS (
            UPDATE deployments SET superseded_by = $2 WHERE deployment_id = $1 RETURNING release_id
        )
        {INHERIT_RELEASE}
        """,  # noqa: S608 - a constant
        deployment_id,
        successor,
    )


async def select_pending(
    connection: Connection, *, only: Collection[str] | None = None, limit: int = MOST
) -> list[Deployment]:
    """Return the queued and running deployments, the oldest request first: of all applications, or of `only` these."""
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS}
          FROM deployments
         WHERE status IN ('queued', 'running') AND ($1::text[] IS NULL OR application_id = ANY($1))
         ORDER BY requested_at, deployment_id
         LIMIT $2
        """,  # noqa: S608
        None if only is None else list(only),
        limit,
    )
    return [from_row(row) for row in rows]


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The numbers of queued and running deployments, and the age of the oldest queued one in seconds."""

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
