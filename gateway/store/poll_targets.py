"""What the poller asks registries for, when, and the last response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.model.reference import Digest, Reference, Repository, Tag
from gateway.model.tag_policies import TagPolicy
from gateway.store.database import Connection
from gateway.store.subscriptions import POLICY, policy_of

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class PollTarget:
    """A tag of a repository, or the list of its tags if `tag` is None. `digest` and `etag` are of the last response."""

    repository: Repository
    tag: Tag | None
    looked_at: datetime | None
    digest: Digest | None
    etag: str | None


def _from_row(row: asyncpg.Record) -> PollTarget:
    repository = Repository.parse(row["repository"])
    return PollTarget(repository, row["tag"] or None, row["looked_at"], row["digest"], row["etag"])


async def merge_poll_targets(connection: Connection, seconds: Mapping[str, int]) -> None:
    """Make a target of each subscription that is polled, and delete the others. `seconds` are intervals by domain.

    A new target is polled at a random moment within its interval.
    """
    # If no registry is polled as a whole, only the few applications with an interval of their own are read.
    wanting = "true" if seconds else "a.reconcile IS NOT NULL"
    await connection.execute(
        f"""
        WITH wanted AS (
            SELECT s.repository, s.tag, split_part(s.repository, '/', 1) AS domain,
                   min(coalesce(a.reconcile, named.seconds, $3)) AS seconds
              FROM subscriptions s
              JOIN applications a USING (application_id)
              LEFT JOIN unnest($1::text[], $2::integer[]) AS named (domain, seconds)
                ON named.domain = split_part(s.repository, '/', 1)
             WHERE a.desired = 'running' AND a.auto_deploy AND s.rule IN ('exact', 'semver') AND {wanting}
               AND coalesce(a.reconcile, named.seconds, $3) > 0
             GROUP BY s.repository, s.tag
        ), gone AS (
            DELETE FROM looks
             WHERE (repository, tag) NOT IN (SELECT repository, tag FROM wanted)
        )
        INSERT INTO looks AS l (repository, tag, domain, seconds, next_at)
        SELECT repository, tag, domain, seconds, now() + random() * seconds * interval '1 second'
          FROM wanted
         ORDER BY repository, tag
            ON CONFLICT (repository, tag) DO UPDATE
           SET seconds = excluded.seconds, next_at = excluded.next_at
         WHERE l.seconds <> excluded.seconds
        """,  # noqa: S608 - constants
        list(seconds),
        list(seconds.values()),
        seconds.get(EVERYWHERE),
    )


# A target that is further in the future than its interval: the clock was set back.
_DUE = "(next_at <= now() OR next_at > now() + seconds * 1.2 * interval '1 second')"


async def claim_poll_targets(connection: Connection, resting: Sequence[str]) -> list[PollTarget]:
    """Claim one due target of each registry that is not `resting`, and set its next time, a little at random."""
    rows = await connection.fetch(
        f"""
        UPDATE looks
           SET next_at = now() + seconds * (0.9 + 0.2 * random()) * interval '1 second'
          FROM (
               SELECT one.repository, one.tag
                 FROM (SELECT DISTINCT domain FROM looks WHERE {_DUE} AND domain <> ALL($1::text[])) AS due
                CROSS JOIN LATERAL (
                      SELECT repository, tag
                        FROM looks
                       WHERE domain = due.domain AND {_DUE}
                       ORDER BY next_at
                       LIMIT 1
                         FOR UPDATE SKIP LOCKED
                      ) AS one
               ) AS taken
         WHERE looks.repository = taken.repository AND looks.tag = taken.tag
        RETURNING looks.repository, looks.tag, looks.looked_at, looks.digest, looks.etag
        """,  # noqa: S608 - a constant
        resting,
    )
    return [_from_row(row) for row in rows]


async def update_poll_target(
    connection: Connection, target: PollTarget, *, digest: Digest | None, etag: str | None
) -> None:
    """Store the response."""
    await connection.execute(
        """
        UPDATE looks
           SET looked_at = now(), digest = $3, etag = $4
         WHERE repository = $1 AND tag = $2
        """,
        str(target.repository),
        target.tag or "",
        digest,
        etag,
    )


async def select_polling_application(connection: Connection, target: PollTarget) -> str | None:
    """Return a subscribed application, whose credentials the poll uses."""
    found = await connection.fetchval(
        """
        SELECT application_id
          FROM subscriptions
          JOIN applications USING (application_id)
         WHERE repository = $1 AND tag = $2 AND desired = 'running' AND auto_deploy
         ORDER BY registry_password IS NULL, application_id
         LIMIT 1
        """,
        str(target.repository),
        target.tag or "",
    )
    return None if found is None else str(found)


async def is_missed(connection: Connection, target: PollTarget, digest: Digest) -> bool:
    """Return whether an application that was deployed before has no deployment of this digest of the tag.

    A deployment of it since the last poll counts, whatever followed.
    """
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM subscriptions s
                  JOIN applications a USING (application_id)
                 CROSS JOIN LATERAL (
                       SELECT coalesce(digest, expected_digest) AS digest, status
                         FROM deployments
                        WHERE application_id = a.application_id AND reference = $3
                          AND status NOT IN ('superseded', 'cancelled')
                        ORDER BY created_at DESC
                        LIMIT 1
                       ) AS newest
                 WHERE s.repository = $1 AND s.tag = $2 AND a.desired = 'running' AND a.auto_deploy
                   AND newest.status NOT IN ('queued', 'running')
                   AND newest.digest IS DISTINCT FROM $4
                   AND NOT EXISTS (
                       SELECT FROM deployments
                        WHERE application_id = a.application_id AND reference = $3
                          AND coalesce(digest, expected_digest) = $4
                          AND created_at > coalesce($5::timestamptz, '-infinity')
                       )
            )
            """,
            str(target.repository),
            target.tag,
            str(Reference(target.repository, target.tag)),
            digest,
            target.looked_at,
        )
    )


async def select_version_policies(connection: Connection, target: PollTarget) -> list[tuple[str, TagPolicy]]:
    """Return the deployed applications that subscribe to versions of this repository, with their policies."""
    rows = await connection.fetch(
        f"""
        SELECT a.application_id, {POLICY}
          FROM subscriptions s
          JOIN applications a USING (application_id)
         WHERE s.repository = $1 AND s.rule = 'semver' AND a.desired = 'running' AND a.auto_deploy
           AND EXISTS (SELECT FROM deployments d WHERE d.application_id = a.application_id)
        """,  # noqa: S608 - constants
        str(target.repository),
    )
    return [(row["application_id"], policy_of(row)) for row in rows]


async def is_known_reference(connection: Connection, application_id: str, reference: Reference) -> bool:
    """Return whether the application had a deployment of this image, whatever its outcome."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM deployments WHERE application_id = $1 AND reference = $2)",
            application_id,
            str(reference),
        )
    )
