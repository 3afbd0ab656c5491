"""Delete ended deployments beyond their retention. The caller holds the lock of the application's queue."""

from datetime import timedelta

from gateway.store.database import Connection

_AT_ONCE = 500  # rows for one statement
_RETENTION_LOCK = 0x676174656B636C6E  # the key of an advisory lock


async def try_retention_lock(connection: Connection) -> bool:
    """Take the lock of the retention until the end of the transaction; return False if another gateway has it."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _RETENTION_LOCK))


async def select_after(
    connection: Connection, application_id: str, limit: int, *, most: int, older_than: timedelta, details: timedelta
) -> dict[str, bool]:
    """Return the next ids of applications after this one, with those that are being deleted.

    The value is False where nothing can be deleted: no deployment is beyond `most` or older than `older_than`, and none
    that ended longer ago than `details` has steps or a log. OFFSET keeps the planner from reading whole tables.
    """
    rows = await connection.fetch(
        """
        SELECT application_id,
               EXISTS (SELECT FROM deployments d WHERE d.application_id = a.application_id OFFSET $3)
            OR EXISTS (
                   SELECT FROM deployments d
                    WHERE d.application_id = a.application_id AND created_at <= now() - $4::interval
                   OFFSET 0
               )
            OR EXISTS (
                   SELECT FROM deployments d
                    WHERE d.application_id = a.application_id AND finished_at < now() - $5::interval
                      AND (log <> '' OR EXISTS (SELECT FROM steps s WHERE s.deployment_id = d.deployment_id OFFSET 0))
                   OFFSET 0
               ) AS prunable
          FROM applications a
         WHERE application_id > $1
         ORDER BY application_id
         LIMIT $2
        """,
        application_id,
        limit,
        most,
        older_than,
        details,
    )
    return {row["application_id"]: row["prunable"] for row in rows}


async def delete_surplus(
    connection: Connection, application_id: str, *, previous: str | None, most: int, older_than: timedelta
) -> bool:
    """Delete the oldest deployments, beyond a number or older than a limit. Return whether there may be more.

    These always stay: queued and running deployments, and those with a monitor window or an open swap; the one that
    tells the application's state; the one that serves, the version before it (`previous`), and one of each version that
    the engine may keep; and all that one of these names as its successor or as the target of its rollback.
    """
    done = await connection.execute(
        """
        WITH RECURSIVE roots AS (
            (SELECT deployment_id
               FROM deployments
              WHERE application_id = $1 AND created_at > now() - $4::interval
              ORDER BY created_at DESC, deployment_id DESC
              LIMIT $3)
             UNION ALL
            SELECT deployment_id
              FROM deployments
             WHERE application_id = $1 AND status IN ('queued', 'running')
             UNION ALL
            SELECT deployment_id FROM watches WHERE application_id = $1
             UNION ALL
            SELECT deployment_id FROM swaps WHERE application_id = $1
             UNION ALL
            (SELECT deployment_id
               FROM deployments
              WHERE application_id = $1 AND status NOT IN ('superseded', 'cancelled')
              ORDER BY created_at DESC
              LIMIT 1)
             UNION ALL
            (SELECT deployment_id
               FROM deployments
              WHERE application_id = $1 AND status = 'succeeded' AND replaced
              ORDER BY finished_at DESC
              LIMIT 1)
             UNION ALL
            SELECT $2::text WHERE $2 IS NOT NULL
             UNION ALL
            (SELECT deployment_id
               FROM (
                    SELECT DISTINCT ON (digest, spec_hash) deployment_id, finished_at
                      FROM deployments
                     WHERE application_id = $1 AND status = 'succeeded' AND replaced AND ran IS NOT NULL
                     ORDER BY digest, spec_hash, finished_at DESC
                    ) AS versions
              ORDER BY finished_at DESC
              LIMIT (
                    SELECT 2 + greatest(coalesce((configuration ->> 'kept')::integer, 1), 1)
                      FROM applications
                     WHERE application_id = $1
                    ))
        ),
        held AS (
            SELECT deployment_id FROM roots
             UNION
            SELECT named.deployment_id
              FROM held
             CROSS JOIN LATERAL (
                   SELECT superseded_by, rolls_back_to FROM deployments WHERE deployment_id = held.deployment_id LIMIT 1
                   ) AS d
             CROSS JOIN LATERAL (VALUES (d.superseded_by), (d.rolls_back_to)) AS named (deployment_id)
             WHERE named.deployment_id IS NOT NULL
        )
        DELETE FROM deployments
         WHERE deployment_id = ANY (ARRAY(
               SELECT deployment_id
                 FROM deployments
                WHERE application_id = $1 AND deployment_id NOT IN (SELECT deployment_id FROM held)
                ORDER BY created_at, deployment_id
                LIMIT $5
               ))
        """,
        application_id,
        previous,
        most,
        older_than,
        _AT_ONCE,
    )
    return done == f"DELETE {_AT_ONCE}"


async def delete_details(connection: Connection, application_id: str, older_than: timedelta) -> None:
    """Delete the steps and container logs of deployments that ended longer ago than this."""
    await connection.execute(
        """
        WITH old AS (
            SELECT deployment_id
              FROM deployments
             WHERE application_id = $1 AND finished_at < now() - $2::interval
        ),
        silenced AS (
            UPDATE deployments SET log = ''
             WHERE deployment_id IN (SELECT deployment_id FROM old) AND log <> ''
        )
        DELETE FROM steps WHERE deployment_id IN (SELECT deployment_id FROM old)
        """,
        application_id,
        older_than,
    )
