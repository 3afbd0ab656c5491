"""When each digest of a repository was first seen. All applications and gates share this time."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.reference import Digest, Repository
from gateway.store.database import Connection

#: for how long a digest is kept that nobody asks about: longer than the longest maturity that a rule may require
KEPT = timedelta(days=400)
_MOST = 200_000  # rows
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """When a digest was first seen, and the time of the database, which all gateways share."""

    seen_at: datetime
    now: datetime


async def note_seen(connection: Connection, repository: Repository, digest: Digest) -> None:
    """Note that the registry has shown this digest. A digest that was seen before keeps its time."""
    await connection.execute(
        "INSERT INTO first_seen (repository, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING", str(repository), digest
    )


async def select_first_seen(
    connection: Connection, repository: Repository, digest: Digest, application_id: str
) -> FirstSeen:
    """Return when the digest was first seen, which is now if it never was before.

    An ended deployment of the application has seen it too. A time in the future does not count, since the clock was set
    back after it. A digest counts only once the registry has answered with it: what a webhook names may not be out yet.
    """
    # clock_timestamp(): when two transactions ask first at once, now() of the one that writes later may be earlier.
    row = await connection.fetchrow(
        """
        WITH deployed AS (
            SELECT min(finished_at) AS at
              FROM deployments
             WHERE application_id = $3 AND digest = $2 AND finished_at <= now()
               AND (reference = $1 OR starts_with(reference, $1 || ':') OR starts_with(reference, $1 || '@'))
        )
        INSERT INTO first_seen AS f (repository, digest, seen_at)
        SELECT $1, $2, coalesce(deployed.at, now()) FROM deployed
            ON CONFLICT (repository, digest) DO UPDATE
           SET seen_at = least(f.seen_at, (SELECT at FROM deployed), clock_timestamp()), asked_at = now()
        RETURNING seen_at, greatest(seen_at, now()) AS now
        """,
        str(repository),
        digest,
        application_id,
    )
    if row is None:  # pragma: no cover - the statement always returns its row
        raise AssertionError
    return FirstSeen(row["seen_at"], row["now"])


async def delete_unused(connection: Connection) -> bool:
    """Forget digests that nobody has asked about for long, and the most unused beyond 200,000.

    A digest that a deployment waits for stays. Returns whether there may be more to delete.
    """
    done = await connection.execute(
        f"""
        DELETE FROM first_seen
         WHERE (repository, digest) IN (
               SELECT repository, digest
                 FROM first_seen f
                WHERE (asked_at < now() - $1::interval
                       OR asked_at < (SELECT asked_at FROM first_seen ORDER BY asked_at DESC OFFSET {_MOST} LIMIT 1))
                  AND NOT EXISTS (
                      SELECT FROM deployments d
                       WHERE d.status IN ('queued', 'running') AND d.digest = f.digest
                         AND (d.reference = f.repository OR starts_with(d.reference, f.repository || ':')
                              OR starts_with(d.reference, f.repository || '@'))
                      )
                LIMIT {_AT_ONCE}
               )
        """,  # noqa: S608 - constants
        KEPT,
    )
    return done == f"DELETE {_AT_ONCE}"
