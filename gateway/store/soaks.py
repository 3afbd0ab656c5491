"""Soaks: for how long followed applications have run each digest well, and what else is known of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from gateway.model.applications import Desired
from gateway.model.observations import State
from gateway.model.reference import Digest, Reference
from gateway.model.soaks import Followed, Soak
from gateway.store.database import Connection
from gateway.store.observations import CURRENT

_KEPT = 50  # digests of an application
_COLUMNS = "digest, run, since, seen_at, longest, failed_at, failure"


class Sighting(NamedTuple):
    """What an application was observed to run: `run` is None if it was not well."""

    digest: Digest
    run: str | None


def _soak(row: asyncpg.Record) -> Soak:
    return Soak(
        Digest(row["digest"]),
        row["run"],
        row["since"],
        row["seen_at"],
        row["longest"],
        row["failed_at"],
        row["failure"],
    )


async def current_time(connection: Connection) -> datetime:
    """Return the time of the database, on which all gateways agree."""
    now: datetime = await connection.fetchval("SELECT now()")
    return now


async def record_sightings(connection: Connection, seen: Mapping[str, Sighting], at: datetime) -> None:
    """Continue or stop the soaks of these applications by what was observed. `at` is a time before the observation."""
    ids = sorted(seen)
    rows = await connection.fetch(
        f"""
        SELECT application_id, {_COLUMNS}
          FROM soaks
         WHERE application_id = ANY($1)
         ORDER BY application_id, digest
           FOR UPDATE
        """,  # noqa: S608 - a constant
        ids,
    )
    open_windows = await connection.fetch(
        "SELECT application_id FROM watches WHERE application_id = ANY($1) AND until > $2", ids, at
    )
    in_window = {row["application_id"] for row in open_windows}
    known: dict[str, dict[Digest, Soak]] = {application_id: {} for application_id in ids}
    for row in rows:
        soak = _soak(row)
        known[row["application_id"]][soak.digest] = soak
    changed: list[tuple[str, Soak]] = []
    for application_id in ids:
        (digest, run), soaks = seen[application_id], known[application_id]
        if run is not None or digest in soaks:
            now = soaks.get(digest, Soak(digest)).see(run, at, in_window=application_id in in_window)
            changed.append((application_id, now))
        changed += [(application_id, one.stop()) for one in soaks.values() if one.digest != digest and one.run]
    await _write(connection, changed)


async def _write(connection: Connection, changed: Sequence[tuple[str, Soak]]) -> None:
    await connection.executemany(
        """
        INSERT INTO soaks (application_id, digest, run, since, seen_at, longest)
        SELECT application_id, $2, $3, $4, $5, $6
          FROM applications
         WHERE application_id = $1  -- it may have been deleted meanwhile
           FOR KEY SHARE
            ON CONFLICT (application_id, digest) DO UPDATE
           SET run = excluded.run, since = excluded.since, seen_at = excluded.seen_at, longest = excluded.longest
        """,
        [
            (application_id, soak.digest, soak.run, soak.since, soak.seen_at, soak.longest)
            for application_id, soak in changed
        ],
    )


async def fail_digest(connection: Connection, application_id: str, deployment_id: str, failure: str) -> None:
    """Reset the soak of a deployment's digest, and record why: it had trouble in its monitor window."""
    await _fail(connection, application_id, deployment_id, failure)


async def fail_replaced(connection: Connection, application_id: str, rollback_id: str) -> None:
    """Reset the soak of the digest that this rollback replaced, unless the rollback brought the same digest."""
    replaced = await connection.fetchval(
        """
        SELECT before.deployment_id
          FROM deployments back
         CROSS JOIN LATERAL (
               SELECT deployment_id, digest
                 FROM deployments d
                WHERE d.application_id = back.application_id AND d.status = 'succeeded' AND d.replaced
                  AND d.deployment_id <> back.deployment_id
                ORDER BY d.finished_at DESC
                LIMIT 1
               ) AS before
         WHERE back.deployment_id = $1 AND before.digest IS DISTINCT FROM back.digest
        """,
        rollback_id,
    )
    if replaced is not None:
        await _fail(connection, application_id, replaced, f"rollback {rollback_id} turned away from it")


async def _fail(connection: Connection, application_id: str, deployment_id: str, failure: str) -> None:
    await connection.execute(
        """
        UPDATE soaks s
           SET run = NULL, since = NULL, longest = '0 seconds', failed_at = clock_timestamp(), failure = $3
          FROM deployments d
         WHERE d.deployment_id = $2 AND s.application_id = $1 AND s.digest = d.digest
        """,
        application_id,
        deployment_id,
        failure,
    )


async def delete_surplus(connection: Connection) -> None:
    """Delete the soaks of each application's least recently seen digests, beyond a number."""
    await connection.execute(
        """
        DELETE FROM soaks s
         USING (SELECT application_id, digest,
                       row_number() OVER (
                           PARTITION BY application_id
                           ORDER BY run IS NULL, coalesce(seen_at, failed_at) DESC NULLS LAST
                       ) AS number
                  FROM soaks) AS ranked
         WHERE ranked.number > $1 AND (s.application_id, s.digest) = (ranked.application_id, ranked.digest)
        """,
        _KEPT,
    )


async def select_serving(connection: Connection, application_id: str) -> Digest | None:
    """Return the digest that the application's last deployment brought."""
    digest = await connection.fetchval(
        """
        SELECT digest
          FROM deployments
         WHERE application_id = $1 AND status = 'succeeded' AND replaced
         ORDER BY finished_at DESC
         LIMIT 1
        """,
        application_id,
    )
    return None if digest is None else Digest(digest)


async def select_followed(
    connection: Connection, application_id: str, digest: Digest | None, now: datetime
) -> Followed | None:
    """Return what is known of a followed application and of a digest there, by default the one that it serves.

    None if there is no such application.
    """
    row = await connection.fetchrow(
        f"""
        SELECT a.application_id, a.name, a.desired, served.digest AS serving, served.reference, w.until AS window_until,
               coalesce({CURRENT}, 'unknown') AS state, coalesce($2, served.digest) AS digest,
               EXISTS (
                   SELECT FROM deployments r WHERE r.application_id = a.application_id AND r.status = 'running'
               )
                   OR EXISTS (SELECT FROM swaps s WHERE s.application_id = a.application_id)
                   OR EXISTS (
                          SELECT FROM releases r WHERE r.release_id = served.release_id AND r.finished_at IS NULL
                      ) AS is_busy,
               (SELECT e.kind::text
                  FROM deployments e
                  LEFT JOIN deployments target ON target.deployment_id = e.rolls_back_to
                 WHERE e.application_id = a.application_id AND e.status IN ('queued', 'running')
                   AND (
                           e.kind IN ('stop', 'delete')
                        OR e.kind = 'rollback' AND target.digest IS DISTINCT FROM served.digest
                       )
                 ORDER BY e.created_at DESC
                 LIMIT 1) AS ending,
               EXISTS (
                   SELECT FROM deployments n
                    WHERE n.application_id = a.application_id AND n.status IN ('queued', 'running')
                      AND n.kind IN ('deploy', 'redeploy')
                      AND coalesce(n.digest, substring(n.reference FROM '@(.*)$'), n.expected_digest, $2)
                          IS NOT DISTINCT FROM $2
               ) AS may_arrive,
               (SELECT CASE WHEN f.status IN ('failed', 'rolled_back') THEN f.deployment_id END
                  FROM deployments f
                 WHERE f.application_id = a.application_id AND f.digest = $2
                   AND f.status NOT IN ('superseded', 'cancelled')
                 ORDER BY f.created_at DESC
                 LIMIT 1) AS failed_deployment
          FROM applications a
          LEFT JOIN observations o USING (application_id)
          LEFT JOIN watches w ON w.application_id = a.application_id AND w.until > $3
          LEFT JOIN LATERAL (
               SELECT d.digest, d.reference, d.release_id
                 FROM deployments d
                WHERE d.application_id = a.application_id AND d.status = 'succeeded' AND d.replaced
                ORDER BY d.finished_at DESC
                LIMIT 1
               ) AS served ON true
         WHERE a.application_id = $1 AND a.desired <> 'deleted'
        """,  # noqa: S608 - a constant
        application_id,
        digest,
        now,
    )
    if row is None:
        return None
    found = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM soaks WHERE application_id = $1 AND digest = $2",  # noqa: S608 - a constant
        application_id,
        row["digest"],
    )
    return Followed(
        application_id=row["application_id"],
        name=row["name"],
        desired=Desired(row["desired"]),
        serving=None if row["serving"] is None else Digest(row["serving"]),
        image=None if row["reference"] is None else Reference.parse(row["reference"]),
        window_until=row["window_until"],
        is_busy=row["is_busy"],
        ending=row["ending"],
        may_arrive=row["may_arrive"],
        failed_deployment=row["failed_deployment"],
        state=State(row["state"]),
        soak=None if found is None else _soak(found),
    )
