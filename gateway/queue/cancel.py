"""A deployment that is not wanted any more: one that waits ends at once, one that runs puts back what it has begun."""

from contextlib import suppress

from gateway.model.deployments import FINISHED, Deployment, Kind, Status
from gateway.model.errors import Code, Conflict, Reason
from gateway.store import applications, cancellations, deployments, queue, swaps
from gateway.store.database import Connection, Pool, transaction

# What these begin is one call to the engine: there is nothing between two versions to put back.
_AT_ONCE = frozenset({Kind.START, Kind.STOP, Kind.DELETE})


async def cancel_deployment(pool: Pool, deployment_id: str) -> Status:
    """Return what it is now: cancelled, or still on its way there.

    Raises NotFound where there is none, Conflict where it has ended or does what is not put back.
    """
    async with transaction(pool) as connection:
        application_id = (await deployments.select_deployment(connection, deployment_id)).application_id
        await applications.lock_row(connection, application_id)
        found = await deployments.select_deployment(connection, deployment_id)
        if found.status in FINISHED:
            raise Conflict(f"Deployment {deployment_id} has ended already: {found.status}")
        if found.status is Status.RUNNING and found.kind in _AT_ONCE:
            raise Conflict(f"A {found.kind} that runs is not cancelled: it ends by itself, and nothing would undo it")
        return await _cancel(connection, found)


async def cancel_deployments(pool: Pool, application_id: str, *, running: bool) -> None:
    """Cancel what waits of an application, and what runs of it where that is wanted and can be."""
    async with transaction(pool) as connection:
        await applications.lock_row(connection, application_id)
        waits = await queue.select_queued(connection, application_id)
        if waits is not None:
            await _cancel(connection, waits)
        runs = await deployments.select_running(connection, application_id) if running else None
        if runs is not None and runs.kind not in _AT_ONCE:
            with suppress(Conflict):  # it has just ended
                await _cancel(connection, runs)


async def _cancel(connection: Connection, found: Deployment) -> Status:
    """The caller holds the application's queue."""
    between = await swaps.select_swap(connection, found.application_id) is not None
    runs = await deployments.select_running(connection, found.application_id) is not None
    if found.status is Status.QUEUED and (runs or not between):
        reason = Reason(Code.CANCELLED, "cancelled while it waited")
        await cancellations.cancel_queued(connection, found.deployment_id, reason)
        await cancellations.restore_desired(connection, found.application_id)
        return Status.CANCELLED
    # Between two versions somebody must put back, though it waits for its next attempt.
    if not await cancellations.request_cancel(connection, found.deployment_id):
        raise Conflict(f"Deployment {found.deployment_id} has ended meanwhile")
    await queue.notify(connection)
    return found.status
