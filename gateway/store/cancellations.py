"""Cancel deployments. The caller holds the lock of the application's queue."""

from gateway.model.errors import Reason
from gateway.store import projects
from gateway.store.database import Connection

CHANNEL = "gateway_cancellations"


async def cancel_queued(connection: Connection, deployment_id: str, reason: Reason) -> None:
    """Cancel a queued deployment."""
    await connection.execute(
        """
        UPDATE deployments
           SET status = 'cancelled', cancelled_at = now(), finished_at = now(), reason_code = $2, reason_message = $3
         WHERE deployment_id = $1 AND status = 'queued'
        """,
        deployment_id,
        reason.code,
        reason.message,
    )


async def request_cancel(connection: Connection, deployment_id: str) -> bool:
    """Request that the worker which runs or next claims the deployment undoes it; return False if it has ended."""
    done = await connection.execute(
        """
        UPDATE deployments
           SET cancelled_at = coalesce(cancelled_at, now()), next_attempt_at = least(next_attempt_at, now())
         WHERE deployment_id = $1 AND status IN ('queued', 'running')
        """,
        deployment_id,
    )
    await connection.execute(f"NOTIFY {CHANNEL}")
    return bool(done == "UPDATE 1")


async def restore_desired(connection: Connection, application_id: str) -> None:
    """Set the desired state to that of the newest request that was not cancelled."""
    if await connection.fetchval(
        "SELECT environment_id IS NULL FROM applications WHERE application_id = $1", application_id
    ):
        # Its environment was deleted while the application was being deleted.
        await connection.execute(
            "UPDATE applications SET environment_id = $2 WHERE application_id = $1",
            application_id,
            await projects.ensure_default(connection),
        )
    await connection.execute(
        """
        UPDATE applications a
           SET desired = coalesce(
                   (SELECT CASE d.kind WHEN 'stop' THEN 'stopped' WHEN 'delete' THEN 'deleted' ELSE 'running' END
                      FROM deployments d
                     WHERE d.application_id = a.application_id AND d.status NOT IN ('superseded', 'cancelled')
                     ORDER BY d.created_at DESC, d.deployment_id
                     LIMIT 1),
                   'running')::desired
         WHERE a.application_id = $1
        """,
        application_id,
    )
