"""Forgetting deployments that have ended, and versions to go back to. The caller holds the application's queue."""

from gateway.store.database import Connection

# What the application runs now, by the deployment that brought it and the one whose version that is.
_SERVING = """
    SELECT deployment_id, rolls_back_to
      FROM deployments
     WHERE application_id = $1 AND status = 'succeeded' AND replaced
     ORDER BY finished_at DESC
     LIMIT 1
"""


async def is_serving(connection: Connection, application_id: str, deployment_id: str) -> bool:
    """Tell whether what it ran is what the application runs now."""
    row = await connection.fetchrow(_SERVING, application_id)
    return row is not None and deployment_id in {row["deployment_id"], row["rolls_back_to"]}


async def is_wanted(connection: Connection, deployment_id: str) -> bool:
    """Tell whether a rollback that waits or runs goes back to it."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM deployments WHERE rolls_back_to = $1 AND status IN ('queued', 'running'))",
            deployment_id,
        )
    )


async def delete_version(connection: Connection, deployment_id: str) -> None:
    """Let there be no way back to what it ran."""
    await connection.execute("UPDATE deployments SET ran = NULL WHERE deployment_id = $1", deployment_id)


async def delete_deployment(connection: Connection, deployment_id: str) -> None:
    """Remove the row and all that hangs on it."""
    await connection.execute("DELETE FROM deployments WHERE deployment_id = $1", deployment_id)
