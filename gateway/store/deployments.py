"""Deployments, as they are listed and shown. See `queue` for those that wait, and `leases` for the claim."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, NotFound, Reason
from gateway.model.reference import Digest, Reference
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Page

COLUMNS = """
    deployment_id, application_id, kind, forced, status, title, description, reference, expected_digest, digest,
    attempts, created_at, requested_at, next_attempt_at, started_at, finished_at, reason_code, reason_message, log,
    superseded_by, rolls_back_to, epoch, cancelled_at, asked_by, asked_key, takeovers, defects,
    waits_for, release_id
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


async def select_abandoned(
    connection: Connection, deployment_ids: Collection[str], as_of: datetime
) -> dict[str, tuple[str, str]]:
    """Return those deployments that ended before `as_of` and whose application has no running deployment or open swap.

    By deployment: the application's id and container name.
    """
    rows = await connection.fetch(
        """
        SELECT d.deployment_id, a.application_id, a.app_name
          FROM deployments d
          JOIN applications a USING (application_id)
         WHERE d.deployment_id = ANY($1) AND d.finished_at < $2
           AND NOT EXISTS (SELECT FROM swaps s WHERE s.application_id = a.application_id)
           AND NOT EXISTS (
                   SELECT FROM deployments r WHERE r.application_id = a.application_id AND r.status = 'running'
               )
        """,
        list(deployment_ids),
        as_of,
    )
    return {row["deployment_id"]: (row["application_id"], row["app_name"]) for row in rows}


async def select_known(connection: Connection, deployment_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that belong to a deployment in the database."""
    rows = await connection.fetch(
        "SELECT deployment_id FROM deployments WHERE deployment_id = ANY($1)", list(deployment_ids)
    )
    return {row["deployment_id"] for row in rows}


async def is_older_than(connection: Connection, deployment: Deployment, made_by: str) -> bool:
    """Tell whether `deployment` was requested before the database was restored, and `made_by` is not in the backup.

    `made_by` is the id of the deployment that made what serves.
    """
    return bool(
        await connection.fetchval(
            """
            SELECT d.requested_at < i.restored_at
                   AND NOT EXISTS (SELECT FROM deployments m WHERE m.deployment_id = $2)
              FROM deployments d, installation i
             WHERE d.deployment_id = $1
            """,
            deployment.deployment_id,
            made_by,
        )
    )


async def select_running(connection: Connection, application_id: str) -> Deployment | None:
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM deployments WHERE application_id = $1 AND status = 'running'",  # noqa: S608
        application_id,
    )
    return None if row is None else from_row(row)


async def select_current_references(
    connection: Connection, application_ids: Sequence[str]
) -> dict[str, list[Reference]]:
    """Return by application the image that is being started and the one that served last."""
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


async def clear_logs(connection: Connection, application_id: str) -> None:
    """Delete the container logs of ended deployments."""
    await connection.execute(
        "UPDATE deployments SET log = '' WHERE application_id = $1 AND status NOT IN ('queued', 'running')",
        application_id,
    )


async def select_seconds_since_request(connection: Connection, deployment_id: str) -> float:
    """Return the seconds since the last request, or since the gates where the deployment waited let it pass."""
    return float(
        await connection.fetchval(
            "SELECT extract(epoch FROM now() - greatest(requested_at, passed_gates_at)) FROM deployments"
            " WHERE deployment_id = $1",
            deployment_id,
        )
    )


async def select_deployment(connection: Connection, deployment_id: str) -> Deployment:
    """Return a deployment. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM deployments WHERE deployment_id = $1",  # noqa: S608
        deployment_id,
    )
    if row is None:
        raise NotFound("Deployment not found")
    return from_row(row)


async def select_deployments(connection: Connection, page: Page = FIRST) -> list[Deployment]:
    """Return a page of the deployments of all applications."""
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
    """Return a page of the deployments of these applications, reading at most a page of each."""
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
    """Return the cursor of a deployment."""
    return deployment.created_at, deployment.deployment_id


async def select_satisfying_rollout(
    connection: Connection, deployment: Deployment, digest: Digest, spec_hash: str, within: timedelta
) -> str | None:
    """Return the rollout that replaced the container with the same version during, or shortly before, this request."""
    row = await connection.fetchval(
        """
        SELECT deployment_id
          FROM deployments
         WHERE application_id = $1 AND deployment_id <> $2 AND status = 'succeeded' AND replaced
           AND digest = $3 AND spec_hash = $4 AND finished_at > $5::timestamptz - $6::interval
           -- After the clock was set back, that may be long ago.
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


async def is_known_digest(connection: Connection, deployment: Deployment, digest: Digest) -> bool:
    """Return whether another deployment of the application had this digest."""
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


async def select_reference_of(connection: Connection, application_id: str, digest: Digest) -> Reference | None:
    """Return the image that last brought the digest into service, None if none is kept."""
    reference = await connection.fetchval(
        """
        SELECT reference
          FROM deployments
         WHERE application_id = $1 AND digest = $2 AND status IN ('succeeded', 'unchanged') AND reference IS NOT NULL
         ORDER BY created_at DESC
         LIMIT 1
        """,
        application_id,
        digest,
    )
    return None if reference is None else Reference.parse(reference)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the database has about a deployment, beside its row and its application."""

    #: by deployment, the id of the container or service that it let serve. None for a queued or running deployment, and
    #: for the serving one if an older gateway deployed it
    recorded: dict[str, str | None]
    #: the deliveries that caused the deployment
    deliveries: Sequence[str]
    has_open_swap: bool
    has_registries: bool


async def select_surroundings(connection: Connection, deployment: Deployment) -> Surroundings:
    (row,) = await connection.fetch(
        """
        WITH serving AS (
            SELECT deployment_id, rolls_back_to
              FROM deployments
             WHERE application_id = $1 AND status = 'succeeded' AND replaced
             ORDER BY finished_at DESC
             LIMIT 1
        )
        SELECT array_agg(d.deployment_id) AS recorded, array_agg(d.object_id) AS objects,
               (SELECT array_agg(delivery_id) FROM deployment_deliveries WHERE deployment_id = $2) AS deliveries,
               EXISTS (SELECT FROM swaps WHERE application_id = $1) AS has_open_swap,
               EXISTS (SELECT FROM registries) AS has_registries
          FROM deployments d
          LEFT JOIN serving ON d.deployment_id IN (serving.deployment_id, serving.rolls_back_to)
         WHERE d.application_id = $1
           AND (d.object_id IS NOT NULL OR d.finished_at IS NULL OR serving.deployment_id IS NOT NULL)
        """,
        deployment.application_id,
        deployment.deployment_id,
    )
    return Surroundings(
        dict(zip(row["recorded"] or (), row["objects"] or (), strict=True)),
        row["deliveries"] or (),
        row["has_open_swap"],
        row["has_registries"],
    )


async def select_deliveries_of(connection: Connection, deployment_id: str) -> Sequence[str]:
    rows = await connection.fetch(
        "SELECT delivery_id FROM deployment_deliveries WHERE deployment_id = $1", deployment_id
    )
    return [row["delivery_id"] for row in rows]
