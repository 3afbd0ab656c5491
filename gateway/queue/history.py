"""Deployments that have ended, and ways back, that somebody wants to see no more. What runs stays known."""

from gateway.model.deployments import FINISHED, Deployment
from gateway.model.errors import Conflict, NotFound
from gateway.store import applications, deployment_removal, deployments, versions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.versions import KeptVersion


async def delete_deployment(pool: Pool, deployment_id: str) -> Deployment:
    """Return it as it was; raises NotFound, or Conflict where it is still of use."""
    async with transaction(pool) as connection:
        found = await _held(connection, deployment_id)
        if found.status not in FINISHED:
            raise Conflict(f"Deployment {deployment_id} has not ended: cancel it first, with deployment.cancel")
        await _refuse_wanted(connection, deployment_id)
        if await deployment_removal.is_serving(connection, found.application_id, deployment_id):
            raise Conflict(f"Deployment {deployment_id} is what runs now: it can be removed once another one does")
        await deployment_removal.delete_deployment(connection, deployment_id)
    return found


async def delete_version(pool: Pool, deployment_id: str) -> KeptVersion:
    """Let there be no way back to what it ran, and return what that was; raises NotFound, Conflict."""
    async with transaction(pool) as connection:
        try:
            found = await _held(connection, deployment_id)
        except NotFound as error:
            raise NotFound("Rollback not found") from error
        kept = await versions.select_kept(connection, found.application_id)
        if deployment_id not in kept:
            raise NotFound("Rollback not found")
        await _refuse_wanted(connection, deployment_id)
        await deployment_removal.delete_version(connection, deployment_id)
    return kept[deployment_id]


async def _held(connection: Connection, deployment_id: str) -> Deployment:
    application_id = (await deployments.select_deployment(connection, deployment_id)).application_id
    await applications.lock_row(connection, application_id)
    return await deployments.select_deployment(connection, deployment_id)


async def _refuse_wanted(connection: Connection, deployment_id: str) -> None:
    if await deployment_removal.is_wanted(connection, deployment_id):
        raise Conflict(f"a rollback that waits or runs goes back to deployment {deployment_id}")
