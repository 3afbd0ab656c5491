"""Images that rollouts pulled to engines: candidates for removal once no container uses them."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.reference import Digest, Reference, Repository, Tag
from gateway.store.database import Connection
from gateway.store.engines import Place

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image, by digest, that a rollout of the application pulled to an engine."""

    application_id: str
    engine_id: str
    server_id: str
    reference: Reference
    #: whether no application is configured with its tag, or subscribes to it, any more
    tag_is_free: bool


async def insert_pulled(connection: Connection, deployment_id: str, epoch: int, digest: Digest) -> bool:
    """Record the deployment's image, and that it is about to be pulled; return False for a stale owner.

    Also writes the event that the rollout has started to the outbox, if an alert wants it.
    """
    return bool(
        await connection.fetchval(
            f"""
            WITH owner AS (
                UPDATE deployments SET digest = $3 WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
                RETURNING application_id, deployment_id, reference, digest, created_at, kind, asked_by
            ),
            pulled AS ({_insert("owner")} {_AGAIN})
            SELECT count(*), max(outbox_write(
                   application_id, deployment_id, 'deployment:' || deployment_id || ':started', ARRAY['started'],
                   jsonb_build_object('reason', NULL, 'deployment', jsonb_build_object(
                       'deploymentId', deployment_id, 'kind', kind, 'image', reference, 'digest', digest,
                       'requestedBy', asked_by))))
              FROM owner
            """,  # noqa: S608 - constants
            deployment_id,
            epoch,
            digest,
        )
    )


async def insert_ahead(connection: Connection, deployment_id: str, epoch: int, digest: Digest) -> bool:
    """Record an image that is about to be pulled ahead, and may turn out not to be the deployment's image.

    Returns False for a stale owner.
    """
    return bool(
        await connection.fetchval(
            f"""
            WITH owner AS (
                SELECT application_id, reference, $3::text AS digest, created_at FROM deployments
                 WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
            ),
            pulled AS ({_insert("owner")} {_AGAIN})
            SELECT count(*) FROM owner
            """,  # noqa: S608 - constants
            deployment_id,
            epoch,
            digest,
        )
    )


async def insert_all_pulled(connection: Connection, application_id: str) -> None:
    """Record all images that deployments of the application pulled, before they are deleted with it."""
    await connection.execute(f"{_insert('deployments')} AND d.application_id = $1 {_AGAIN}", application_id)


def _insert(deployments: str) -> str:
    return f"""
    INSERT INTO pulled_images AS p (engine_id, server_id, application_id, repository, tag, digest)
    SELECT DISTINCT ON (repository, digest)
           a.engine_id, coalesce(a.server_id, ''), a.application_id,
           regexp_replace(split_part(d.reference, '@', 1), ':[^/:]*$', '') AS repository,
           substring(split_part(d.reference, '@', 1) from ':([^/:]*)$'), d.digest
      FROM {deployments} d
      JOIN applications a USING (application_id)
     WHERE d.digest IS NOT NULL AND d.reference IS NOT NULL AND a.engine_id IS NOT NULL
    """  # noqa: S608 - constants


_AGAIN = """
     ORDER BY repository, digest, d.created_at DESC
        ON CONFLICT (application_id, engine_id, server_id, repository, digest) DO UPDATE
       SET pulled_at = now(), next_look_at = now(), tag = excluded.tag
"""


async def schedule_check(connection: Connection, application_id: str) -> None:
    """Check the images of the application soon, since one of its deployments has ended."""
    await connection.execute("UPDATE pulled_images SET next_look_at = now() WHERE application_id = $1", application_id)


_SAME = "application_id = $1 AND engine_id = $2 AND server_id = $3 AND repository = $4 AND digest = $5"

_IDLE = """
    NOT EXISTS (SELECT FROM release_members m WHERE m.application_id = p.application_id AND m.open)
    AND NOT EXISTS (
        SELECT FROM deployments d
          JOIN applications a USING (application_id)
         WHERE d.status IN ('queued', 'running') AND (d.digest = p.digest OR (
                   d.digest IS NULL AND d.status = 'running' AND a.engine_id = p.engine_id
                   AND starts_with(d.reference, p.repository)
               ))
    )
    AND NOT EXISTS (
        SELECT FROM pulled_images alike
         CROSS JOIN LATERAL (
               SELECT digest
                 FROM deployments
                WHERE application_id = alike.application_id AND status IN ('succeeded', 'unchanged')
                  AND digest IS NOT NULL
                ORDER BY created_at DESC
                LIMIT 1
               ) AS serves
         WHERE alike.digest = p.digest AND alike.repository = p.repository AND alike.engine_id = p.engine_id
           AND serves.digest = p.digest
    )
"""


async def select_idle(connection: Connection, engine_id: str, server_ids: Sequence[str | None]) -> list[PulledImage]:
    """Return the images at this place whose check is due, and that no application serves or is about to run."""
    rows = await connection.fetch(
        f"""
        SELECT application_id, engine_id, server_id, repository, tag, digest,
               NOT EXISTS (
                   SELECT FROM subscriptions s WHERE s.repository = p.repository AND s.tag = coalesce(p.tag, '')
               ) AS tag_is_free
          FROM pulled_images p
         WHERE engine_id = $1 AND server_id = ANY($2::text[]) AND next_look_at <= now() AND {_IDLE}
         ORDER BY next_look_at
         LIMIT {_AT_ONCE}
        """,  # noqa: S608 - constants
        engine_id,
        [server_id or "" for server_id in server_ids],
    )
    return [
        PulledImage(
            row["application_id"],
            row["engine_id"],
            row["server_id"],
            Reference(
                Repository.parse(row["repository"]), Tag(row["tag"]) if row["tag"] else None, Digest(row["digest"])
            ),
            row["tag_is_free"],
        )
        for row in rows
    ]


async def select_places(connection: Connection) -> set[Place]:
    """Return the places with images that are due and idle."""
    rows = await connection.fetch(
        f"SELECT DISTINCT engine_id, server_id FROM pulled_images p WHERE next_look_at <= now() AND {_IDLE}"  # noqa: S608
    )
    return {Place(row["engine_id"], row["server_id"] or None) for row in rows}


async def is_idle(connection: Connection, pulled: PulledImage) -> bool:
    """Return whether no application serves the image or is about to run it."""
    return bool(
        await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM pulled_images p WHERE {_SAME} AND {_IDLE})",  # noqa: S608 - constants
            *_key(pulled),
        )
    )


def _key(pulled: PulledImage) -> tuple[str, ...]:
    reference = pulled.reference
    return pulled.application_id, pulled.engine_id, pulled.server_id, str(reference.repository), str(reference.digest)


async def postpone_check(connection: Connection, pulled: PulledImage) -> None:
    """Check the image again in an hour, since a container uses it."""
    await connection.execute(
        f"UPDATE pulled_images SET next_look_at = now() + interval '1 hour' WHERE {_SAME}",  # noqa: S608 - constants
        *_key(pulled),
    )


async def delete_pulled(connection: Connection, pulled: PulledImage) -> None:
    await connection.execute(f"DELETE FROM pulled_images WHERE {_SAME}", *_key(pulled))  # noqa: S608 - constants
