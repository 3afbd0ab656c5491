"""What serves an application, what served before, and which webhooks caused that. Nothing is decrypted."""

from dataclasses import dataclass
from datetime import datetime

from gateway.model.deployments import Kind, Status
from gateway.store.database import Connection


@dataclass(frozen=True, slots=True)
class Serving:
    """The image that a deployment brought into service. `reference` is its name, None where that is not known."""

    deployment_id: str
    digest: str | None
    reference: str | None
    since: datetime


async def select_serving_deployment(
    connection: Connection, application_id: str, *, before: datetime | None = None
) -> Serving | None:
    """Return the deployment that brought what serves, or served before this time; None where there is none."""
    row = await connection.fetchrow(
        """
        SELECT d.deployment_id, d.digest, coalesce(d.reference, brought.reference) AS reference, d.finished_at AS since
          FROM deployments d
          LEFT JOIN deployments brought ON brought.deployment_id = d.rolls_back_to
         WHERE d.application_id = $1 AND d.status = 'succeeded' AND d.replaced
           AND ($2::timestamptz IS NULL OR d.finished_at < $2)
         ORDER BY d.finished_at DESC
         LIMIT 1
        """,
        application_id,
        before,
    )
    return None if row is None else Serving(*row)


@dataclass(frozen=True, slots=True)
class Feed:
    """A webhook whose deliveries caused deployments of an application."""

    endpoint_id: str
    source: str
    name: str
    last: datetime


async def select_feeds(connection: Connection, application_id: str, newest: int = 20, each: int = 3) -> list[Feed]:
    """Return the webhooks that brought the `newest` deployments of an application, the last one first.

    If many deliveries joined a deployment, only `each` of them are looked at.
    """
    rows = await connection.fetch(
        """
        WITH own AS (
            SELECT deployment_id
              FROM deployments
             WHERE application_id = $1
             ORDER BY created_at DESC, deployment_id DESC
             LIMIT $2
        )
        SELECT e.endpoint_id, e.source, e.name, max(d.received_at) AS last
          FROM own
         CROSS JOIN LATERAL (
               SELECT delivery_id FROM deployment_deliveries l WHERE l.deployment_id = own.deployment_id LIMIT $3
               ) AS links
          JOIN deliveries d USING (delivery_id)
          JOIN endpoints e ON e.endpoint_id = d.endpoint_id
         GROUP BY e.endpoint_id
         ORDER BY last DESC
        """,
        application_id,
        newest,
        each,
    )
    return [Feed(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class Ended:
    """A deployment that has ended, and the seconds that it took from its start."""

    deployment_id: str
    kind: Kind
    state: Status
    ended: datetime
    seconds: float

    @property
    def at(self) -> int:
        """Its end in Unix time."""
        return int(self.ended.timestamp())

    @property
    def good(self) -> bool:
        return self.state is Status.SUCCEEDED


async def select_ended(connection: Connection, application_id: str, limit: int) -> list[Ended]:
    """Return the newest deployments of an application that tried to change something and have ended."""
    rows = await connection.fetch(
        """
        SELECT deployment_id, kind, status, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds
          FROM deployments
         WHERE application_id = $1 AND status IN ('succeeded', 'failed', 'rolled_back') AND started_at IS NOT NULL
         ORDER BY created_at DESC, deployment_id DESC
         LIMIT $2
        """,
        application_id,
        limit,
    )
    return [
        Ended(row["deployment_id"], Kind(row["kind"]), Status(row["status"]), row["finished_at"], row["seconds"])
        for row in rows
    ]
