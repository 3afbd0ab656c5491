"""Delete ended deployments and rollback targets. What serves now, or is the target of a rollback, cannot be deleted."""

from gateway.model.deployments import FINISHED, Deployment
from gateway.model.errors import Conflict, NotFound
from gateway.store import applications, deployment_removal, deployments, versions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.versions import KeptVersion


async def delete_deployment(pool: Pool, deployment_id: str) -> Deployment:
    """Delete an ended deployment and return it. Raises NotFound, and Conflict when it is still needed."""
    async with transaction(pool) as connection:
        found = await _lock_and_select(connection, deployment_id)
        if found.status not in FINISHED:
            raise Conflict(f"Deployment {deployment_id} has not ended: cancel it first with deployment.cancel")
        await _check_not_wanted(connection, deployment_id)
        if await deployment_removal.is_serving(connection, found.application_id, deployment_id):
            raise Conflict(f"Deployment {deployment_id} serves now: it can be deleted once another deployment serves")
        await deployment_removal.delete_deployment(connection, deployment_id)
    return found


async def delete_version(pool: Pool, deployment_id: str) -> KeptVersion:
    """Delete the rollback target that a deployment left, and return it.

    Raises NotFound, and Conflict when a queued or running rollback needs it.
    """
    async with transaction(pool) as connection:
        try:
            found = await _lock_and_select(connection, deployment_id)
        except NotFound as error:
            raise NotFound("Rollback not found") from error
        kept = await versions.select_kept(connection, found.application_id)
        if deployment_id not in kept:
            raise NotFound("Rollback not found")
        await _check_not_wanted(connection, deployment_id)
        await deployment_removal.delete_version(connection, deployment_id)
    return kept[deployment_id]


async def _lock_and_select(connection: Connection, deployment_id: str) -> Deployment:
    application_id = (await deployments.select_deployment(connection, deployment_id)).application_id
    await applications.lock_row(connection, application_id)
    return await deployments.select_deployment(connection, deployment_id)


async def _check_not_wanted(connection: Connection, deployment_id: str) -> None:
    if await deployment_removal.is_wanted(connection, deployment_id):
        raise Conflict(f"Deployment {deployment_id} is the target of a queued or running rollback")
