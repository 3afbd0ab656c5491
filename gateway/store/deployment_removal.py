"""Delete ended deployments and kept versions. The caller holds the lock of the application's queue."""

from gateway.store.database import Connection

# What the application runs now: the deployment that started it, and the one whose version it is.
_SERVING = """
    SELECT deployment_id, rolls_back_to
      FROM deployments
     WHERE application_id = $1 AND status = 'succeeded' AND replaced
     ORDER BY finished_at DESC
     LIMIT 1
"""


async def is_serving(connection: Connection, application_id: str, deployment_id: str) -> bool:
    """Return whether the application runs the version of this deployment."""
    row = await connection.fetchrow(_SERVING, application_id)
    return row is not None and deployment_id in {row["deployment_id"], row["rolls_back_to"]}


async def is_wanted(connection: Connection, deployment_id: str) -> bool:
    """Return whether a queued or running rollback returns to this deployment."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM deployments WHERE rolls_back_to = $1 AND status IN ('queued', 'running'))",
            deployment_id,
        )
    )


async def delete_version(connection: Connection, deployment_id: str) -> None:
    """Delete the version of this deployment: no rollback can return to it."""
    await connection.execute("UPDATE deployments SET ran = NULL WHERE deployment_id = $1", deployment_id)


async def delete_deployment(connection: Connection, deployment_id: str) -> None:
    """Delete the deployment and all that depends on it."""
    await connection.execute("DELETE FROM deployments WHERE deployment_id = $1", deployment_id)
