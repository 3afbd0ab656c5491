"""Cancel deployments: a queued one ends at once; a running one first puts back what it has begun."""

from contextlib import suppress

from gateway.model.deployments import FINISHED, Deployment, Kind, Status
from gateway.model.errors import Code, Conflict, Reason
from gateway.store import applications, cancellations, deployments, queue, releases, swaps
from gateway.store.database import Connection, Pool, transaction

# Each of these is a single call to the engine, without a swap that could be put back.
_NOT_CANCELLABLE = frozenset({Kind.START, Kind.STOP, Kind.DELETE})


async def cancel_deployment(pool: Pool, deployment_id: str) -> Status:
    """Cancel a deployment and return its status: cancelled, or running until it has put back what it has begun.

    Raises NotFound, and Conflict when the deployment has ended or cannot be cancelled.
    """
    async with transaction(pool) as connection:
        application_id = (await deployments.select_deployment(connection, deployment_id)).application_id
        await applications.lock_row(connection, application_id)
        found = await deployments.select_deployment(connection, deployment_id)
        if found.status in FINISHED:
            raise Conflict(f"Deployment {deployment_id} has already ended: {found.status}")
        if found.status is Status.RUNNING and found.kind in _NOT_CANCELLABLE:
            raise Conflict(f"A running {found.kind} cannot be cancelled: it ends by itself, and cannot be undone")
        return await _cancel(connection, found)


async def cancel_deployments(pool: Pool, application_id: str, *, running: bool) -> None:
    """Cancel the queued deployment of an application; with `running` also the running one, where that is possible."""
    async with transaction(pool) as connection:
        await applications.lock_row(connection, application_id)
        queued = await queue.select_queued(connection, application_id)
        if queued is not None:
            await _cancel(connection, queued)
        running_deployment = await deployments.select_running(connection, application_id) if running else None
        if running_deployment is not None and running_deployment.kind not in _NOT_CANCELLABLE:
            with suppress(Conflict):  # it has just ended
                await _cancel(connection, running_deployment)


async def _cancel(connection: Connection, found: Deployment) -> Status:
    """Cancel a deployment that has not ended. The caller holds the lock of the application's queue."""
    if found.release_id is not None:
        await releases.notify(connection)  # the whole release is put back
    return await cancel_locked(connection, found, Reason(Code.CANCELLED, "cancelled while it was queued"))


async def cancel_locked(connection: Connection, found: Deployment, reason: Reason) -> Status:
    """Cancel a deployment that has not ended; `reason` is for a queued one. The caller holds the lock of the queue."""
    swap_open = await swaps.select_swap(connection, found.application_id) is not None
    busy = await deployments.select_running(connection, found.application_id) is not None
    if found.status is Status.QUEUED and (busy or not swap_open):
        await cancellations.cancel_queued(connection, found.deployment_id, reason)
        await cancellations.restore_desired(connection, found.application_id)
        return Status.CANCELLED
    # An open swap must be put back, even by a deployment that is queued for its next attempt.
    if not await cancellations.request_cancel(connection, found.deployment_id):
        raise Conflict(f"Deployment {found.deployment_id} has just ended")
    await queue.notify(connection)
    return found.status
