"""Deployments: what was asked for, one waiting an application, and what is read of them; see claims for the rest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, NotFound, Reason
from gateway.model.matching import Match
from gateway.model.reference import Digest, Reference
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, MOST, Page

CHANNEL = "gateway_deployments"
_TITLE, _DESCRIPTION = 500, 5000  # characters that are kept

COLUMNS = """
    deployment_id, application_id, kind, forced, status, title, description, reference, expected_digest, digest,
    attempts, created_at, requested_at, next_attempt_at, started_at, finished_at, reason_code, reason_message, log,
    superseded_by, rolls_back_to, epoch, cancelled_at, asked_by, asked_key, takeovers, defects,
    waits_for
"""


def from_row(row: asyncpg.Record) -> Deployment:
    code, reference = row["reason_code"], row["reference"]
    values = dict(row) | {
        "kind": Kind(row["kind"]),
        "status": Status(row["status"]),
        "reference": None if reference is None else Reference.parse(reference),
        "reason": None if code is None else Reason(Code.parse(code), row["reason_message"]),
    }
    if row["status"] == Status.RUNNING and row["waits_for"] is not None:
        values["reason"] = Reason(Code.SLOTS_TAKEN, row["waits_for"])
    del values["reason_code"], values["reason_message"], values["waits_for"]
    return Deployment(**values)


async def notify(connection: Connection) -> None:
    """Wake every gateway's supervisor: there may be something to claim."""
    await connection.execute(f"NOTIFY {CHANNEL}")


async def select_queued(connection: Connection, application_id: str) -> Deployment | None:
    """Return the one that waits, held: nobody claims it meanwhile. The caller holds the application's queue."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM deployments WHERE application_id = $1 AND status = 'queued' FOR NO KEY UPDATE",  # noqa: S608
        application_id,
    )
    return None if row is None else from_row(row)


async def select_running(connection: Connection, application_id: str) -> Deployment | None:
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM deployments WHERE application_id = $1 AND status = 'running'",  # noqa: S608
        application_id,
    )
    return None if row is None else from_row(row)


async def select_all_queued(connection: Connection, application_ids: Sequence[str]) -> dict[str, Deployment]:
    """Return those that wait, by application, held. The caller holds the queues."""
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


async def select_reached(connection: Connection, application_ids: Sequence[str]) -> dict[str, list[Reference]]:
    """Return by application the images that are being started, and that were last seen to run."""
    rows = await connection.fetch(
        """
        SELECT application_id, reference
          FROM deployments
         WHERE application_id = ANY($1) AND status = 'running' AND reference IS NOT NULL
         UNION ALL
        SELECT application_id, reference
          FROM unnest($1::text[]) AS wanted (application_id)
         CROSS JOIN LATERAL (
               SELECT reference
                 FROM deployments
                WHERE application_id = wanted.application_id
                  AND status IN ('succeeded', 'unchanged') AND reference IS NOT NULL
                  AND reason_code IS DISTINCT FROM 'no_image'
                ORDER BY created_at DESC
                LIMIT 1
               ) AS served
        """,
        application_ids,
    )
    reached: dict[str, list[Reference]] = {}
    for row in rows:
        reached.setdefault(row["application_id"], []).append(Reference.parse(row["reference"]))
    return reached


@dataclass(frozen=True, slots=True)
class Becoming:
    """The image, as it was written, that is the application's once a deployment serves it."""

    image: str
    #: whether the subscription to the tag it had moves along
    moves_subscription: bool


async def insert_pushed(connection: Connection, choices: Mapping[str, Match]) -> dict[str, str]:
    """Queue what was pushed, and return the ids by application. The caller holds their queues, which are empty."""
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
    """Return what is kept of words that somebody sent, so that a list of many stays small."""
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
    becoming: Becoming | None = None,
) -> str:
    """Queue it and return its id. The caller holds the application's queue and has emptied it."""
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
        becoming.image if becoming else None,
        becoming is not None and becoming.moves_subscription,
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
    becoming: Becoming | None,
) -> None:
    """Let a queued one answer this request too."""
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
        becoming.image if becoming else None,
        becoming is not None and becoming.moves_subscription,
    )


async def select_becoming(connection: Connection, deployment_id: str) -> Becoming | None:
    """Return the image that is the application's once this serves; None where none is."""
    row = await connection.fetchrow(
        "SELECT image, moves_subscription FROM deployments WHERE deployment_id = $1 AND image IS NOT NULL",
        deployment_id,
    )
    return Becoming(**dict(row)) if row else None


async def supersede_deployment(connection: Connection, deployment_id: str) -> None:
    """Take it out of the queue; `link_successor` names the one that comes instead."""
    await connection.execute(
        """
        UPDATE deployments
           SET status = 'superseded', finished_at = clock_timestamp(), reason_code = NULL, reason_message = NULL
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
    )


async def link_successor(connection: Connection, deployment_id: str, successor: str) -> None:
    await connection.execute(
        "UPDATE deployments SET superseded_by = $2 WHERE deployment_id = $1", deployment_id, successor
    )


async def clear_logs(connection: Connection, application_id: str) -> None:
    """Forget what the containers of deployments that have ended printed."""
    await connection.execute(
        "UPDATE deployments SET log = '' WHERE application_id = $1 AND status NOT IN ('queued', 'running')",
        application_id,
    )


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
        f"SELECT {COLUMNS} FROM deployments WHERE deployment_id = $1",  # noqa: S608
        deployment_id,
    )
    if row is None:
        raise NotFound("Deployment not found")
    return from_row(row)


async def select_deployments(connection: Connection, page: Page = FIRST) -> list[Deployment]:
    """Return a page of those of all applications."""
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS}
          FROM deployments
         WHERE (created_at, deployment_id) < ($1, $2)
         ORDER BY created_at DESC, deployment_id DESC
         LIMIT $3
        """,  # noqa: S608
        *page.bounds,
    )
    return [from_row(row) for row in rows]


async def select_deployments_of(
    connection: Connection, application_ids: Collection[str], page: Page = FIRST
) -> list[Deployment]:
    """Return a page of those of these applications, each of which is read no further than the page may reach."""
    rows = await connection.fetch(
        f"""
        WITH newest AS (
            SELECT one.deployment_id
              FROM unnest($4::text[]) AS wanted (application_id)
             CROSS JOIN LATERAL (
                   SELECT deployment_id, created_at
                     FROM deployments d
                    WHERE d.application_id = wanted.application_id AND (d.created_at, d.deployment_id) < ($1, $2)
                    ORDER BY d.created_at DESC, d.deployment_id DESC
                    LIMIT $3
                   ) AS one
             ORDER BY one.created_at DESC, one.deployment_id DESC
             LIMIT $3
        )
        SELECT {COLUMNS}
          FROM deployments
         WHERE deployment_id = ANY (ARRAY(SELECT deployment_id FROM newest))
         ORDER BY created_at DESC, deployment_id DESC
        """,  # noqa: S608
        *page.bounds,
        list(application_ids),
    )
    return [from_row(row) for row in rows]


def place(deployment: Deployment) -> tuple[datetime, str]:
    """Return what a cursor names it by."""
    return deployment.created_at, deployment.deployment_id


async def select_pending(
    connection: Connection, *, only: Collection[str] | None = None, limit: int = MOST
) -> list[Deployment]:
    """Return what waits and runs, what was asked for first at the head: of all applications, or `only` these."""
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
           -- Where the clock has stepped back since, it may have been long ago.
           AND finished_at <= clock_timestamp()
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


async def select_knows(connection: Connection, deployment: Deployment, digest: Digest) -> bool:
    """Tell whether another deployment of the application was of this digest."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM deployments WHERE application_id = $1 AND deployment_id <> $2 AND digest = $3
            )
            """,
            deployment.application_id,
            deployment.deployment_id,
            digest,
        )
    )


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
