"""The deployments of a release: they are prepared, swap wave by wave ("move"), and may be put back.

A prepared deployment that waits has the status `running` and no owner. It becomes due when its lease is set to end:
then any gateway claims it, like a deployment whose owner fell silent. The caller holds the locks of the release and of
its applications. Where a function takes the deployment with its epoch, the caller owns the deployment instead.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from gateway.model.deployments import Deployment
from gateway.model.errors import Code, Reason
from gateway.model.reference import Digest
from gateway.store.database import Connection

# A wait without an end: so long that a change of the clock does not end it.
_FOR_EVER = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Part:
    """The part that a deployment has in its open release."""

    #: whether it may change what serves
    moves: bool
    #: whether it deploys the new version, and does not put the application back
    forward: bool
    #: the digest and the hash of the configuration that were prepared; the digest is None until the deployment may move
    digest: Digest | None
    spec_hash: str | None
    #: seconds since it may move
    moving_for: float


async def select_part(connection: Connection, deployment: Deployment) -> Part | None:
    """Return the part of the deployment in its release. None if it belongs to no open release."""
    if deployment.release_id is None:
        return None
    row = await connection.fetchrow(
        """
        SELECT m.due_at IS NOT NULL AS moves, d.kind IN ('deploy', 'redeploy') AS forward,
               CASE WHEN m.prepared_by = d.deployment_id THEN d.digest END AS digest, m.prepared_spec,
               coalesce(extract(epoch FROM now() - m.due_at), 0)::float8 AS moving_for
          FROM release_members m
          JOIN deployments d USING (release_id, application_id)
         WHERE d.deployment_id = $1 AND m.open
        """,
        deployment.deployment_id,
    )
    if row is None:
        return None
    forward = row["forward"]
    return Part(
        row["moves"] or not forward,
        forward,
        row["digest"] if row["moves"] else None,
        row["prepared_spec"],
        row["moving_for"],
    )


async def park_deployment(
    connection: Connection,
    deployment: Deployment,
    reason: Reason,
    delay: timedelta | None,
    *,
    counted: bool,
    defect: bool = False,
) -> bool:
    """Let a deployment wait without an owner: for `delay`, or until it is made due. Returns False for a stale owner."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET lease_until = now() + $5::interval, lease_length = $5::interval + interval '1 second', claimed_by = NULL,
               next_attempt_at = now() + least($5::interval, interval '1 day'), takeovers = -1,
               reason_code = $3, reason_message = $4, waits_for = NULL,
               attempts = attempts - CASE WHEN $6 THEN 0 ELSE 1 END,
               defects = defects + CASE WHEN $7 THEN 1 ELSE 0 END
         WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
        """,
        deployment.deployment_id,
        deployment.epoch,
        reason.code,
        reason.message,
        _FOR_EVER if delay is None else delay,
        counted,
        defect,
    )
    return bool(done == "UPDATE 1")


async def record_prepared(connection: Connection, deployment: Deployment, spec_hash: str) -> None:
    """Record that the deployment is pulled, verified and created, and the image its application had before."""
    await connection.execute(
        """
        UPDATE release_members m
           SET prepared_by = $3, prepared_at = now(), prepared_spec = $4, image_before = a.docker_image
          FROM applications a
         WHERE m.release_id = $1 AND m.application_id = $2 AND a.application_id = $2 AND m.open
        """,
        deployment.release_id,
        deployment.application_id,
        deployment.deployment_id,
        spec_hash,
    )


async def let_move(connection: Connection, release_id: str, application_ids: Collection[str]) -> None:
    """Let prepared deployments change what serves."""
    await connection.execute(
        "UPDATE release_members SET due_at = now() WHERE release_id = $1 AND application_id = ANY($2)",
        release_id,
        list(application_ids),
    )
    await _make_due(connection, release_id, application_ids)


async def prepare_again(connection: Connection, release_id: str, application_ids: Collection[str]) -> None:
    """Let prepared deployments be prepared once more."""
    await connection.execute(
        "UPDATE release_members SET prepared_by = NULL WHERE release_id = $1 AND application_id = ANY($2)",
        release_id,
        list(application_ids),
    )
    await _make_due(connection, release_id, application_ids)


async def _make_due(connection: Connection, release_id: str, application_ids: Collection[str]) -> None:
    await connection.execute(
        """
        UPDATE deployments
           SET lease_until = now(), lease_length = '1 second', next_attempt_at = now(),
               reason_code = NULL, reason_message = NULL
         WHERE release_id = $1 AND application_id = ANY($2) AND status = 'running' AND claimed_by IS NULL
        """,
        release_id,
        list(application_ids),
    )


async def wake_cancelled(connection: Connection, release_id: str) -> None:
    """Make cancelled deployments that wait due now, so that they remove what they have created."""
    await connection.execute(
        """
        UPDATE deployments SET lease_until = now(), lease_length = '1 second', next_attempt_at = now()
         WHERE release_id = $1 AND status = 'running' AND claimed_by IS NULL AND cancelled_at IS NOT NULL
        """,
        release_id,
    )


async def supersede_waiting(connection: Connection, deployment_id: str, successor: str) -> bool:
    """Let a newer deployment take the place of a waiting one. Return False if that does not wait any more.

    If a person requested the waiting one, the successor is forced too, as `leases.inherit_force` says.
    """
    replaced = await connection.fetchrow(
        """
        UPDATE deployments
           SET status = 'superseded', finished_at = clock_timestamp(), lease_until = NULL, superseded_by = $2,
               reason_code = NULL, reason_message = NULL
         WHERE deployment_id = $1 AND status = 'running' AND claimed_by IS NULL
        RETURNING release_id, forced, kind
        """,
        deployment_id,
        successor,
    )
    if replaced is None:
        return False
    await connection.execute(
        """
        UPDATE deployments
           SET release_id = $2, forced = forced OR $3,
               kind = CASE WHEN $4 AND kind = 'deploy' THEN 'redeploy' ELSE kind END
         WHERE deployment_id = $1
        """,
        successor,
        replaced["release_id"],
        replaced["forced"],
        replaced["kind"] == "redeploy",
    )
    return True


async def attach(connection: Connection, release_id: str, deployment_ids: Collection[str]) -> None:
    """Give queued deployments their release."""
    await connection.execute(
        """
        UPDATE deployments SET release_id = $1, reason_code = NULL, reason_message = NULL
         WHERE deployment_id = ANY($2) AND status = 'queued'
        """,
        release_id,
        list(deployment_ids),
    )


async def insert_put_back(connection: Connection, release_id: str, application_id: str, title: str) -> str | None:
    """Insert the deployment that puts a member back to what it ran before the release, and return its id.

    An adopted container is restored. If nothing ran before, the application is stopped. The deployment is due at once,
    before any queued one. Returns None while another deployment of the application runs.
    """
    return await connection.fetchval(  # type: ignore[no-any-return]
        """
        WITH forward AS (
            SELECT * FROM deployments
             WHERE release_id = $1 AND application_id = $2 AND kind IN ('deploy', 'redeploy')
             ORDER BY created_at DESC LIMIT 1
        ),
        before AS (
            SELECT d.deployment_id, d.reference, d.kind = 'rollback' AND d.rolls_back_to IS NULL AS adopted
              FROM deployments d, forward f
             WHERE d.application_id = $2 AND d.status = 'succeeded' AND d.replaced AND d.ran IS NOT NULL
               AND d.reference IS NOT NULL AND d.digest IS NOT NULL
               AND d.deployment_id <> f.deployment_id AND d.release_id IS DISTINCT FROM $1
               AND d.finished_at < coalesce(f.finished_at, now())
             ORDER BY d.finished_at DESC LIMIT 1
        ),
        target AS (
            SELECT coalesce(NOT b.adopted, false) AS ran, b.deployment_id, b.reference, a.base IS NOT NULL AS adopted,
                   CASE WHEN a.docker_image = f.image AND m.image_before <> f.image THEN m.image_before END AS image,
                   f.moves_subscription
              FROM forward f
              JOIN applications a ON a.application_id = $2
              JOIN release_members m ON m.release_id = $1 AND m.application_id = $2
              LEFT JOIN before b ON true
        )
        INSERT INTO deployments (application_id, kind, status, forced, title, reference, rolls_back_to, release_id,
                                 image, moves_subscription, lease_until, lease_length, takeovers)
        SELECT $2, (CASE WHEN ran OR adopted THEN 'rollback' ELSE 'stop' END)::kind, 'running', false, $3,
               CASE WHEN ran THEN reference END, CASE WHEN ran THEN deployment_id END, $1,
               CASE WHEN ran OR adopted THEN image END, moves_subscription AND image IS NOT NULL, now(), '1 second', -1
          FROM target
         WHERE NOT EXISTS (SELECT FROM deployments WHERE application_id = $2 AND status = 'running')
        RETURNING deployment_id
        """,
        release_id,
        application_id,
        title,
    )


async def mark_held(connection: Connection, held: str) -> None:
    """Record for queued deployments that wait for a release, or are being gathered, what they wait for."""
    await connection.execute(
        f"""
        UPDATE deployments d
           SET reason_code = $1,
               reason_message = coalesce(
                   (SELECT 'release ' || r.release_id || ' of ' || r.name || ' goes first'
                      FROM release_members m JOIN releases r USING (release_id)
                     WHERE m.application_id = d.application_id AND m.open),
                   'pushes of the other members of its group are being gathered')
         WHERE d.deployment_id IN (
                   SELECT d.deployment_id FROM deployments d
                    WHERE d.status = 'queued' AND d.reason_code IS NULL AND d.release_id IS NULL AND {held}
                      AND d.application_id IN (
                              SELECT application_id FROM release_members WHERE open
                               UNION ALL
                              SELECT application_id FROM group_members WHERE gathers
                          )
                      FOR NO KEY UPDATE SKIP LOCKED
               )
        """,  # noqa: S608 - a constant
        Code.RELEASE_WAITS,
    )
