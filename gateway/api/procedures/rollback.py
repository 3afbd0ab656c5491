"""rollback.*: the versions that a rollback can restore. The id of a version is the id of the deployment that ran it."""

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures.deployment import RollbackRow
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.api_keys import Permission
from gateway.model.errors import Conflict, NotFound
from gateway.queue import enqueue, history
from gateway.store import applications, deployments, versions
from gateway.store.database import statement

procedures = Procedures()


class Named(Input):
    rollback_id: Id


@procedures.mutation("rollback.rollback", gives=None, raises=(Conflict,), needs=Permission.DEPLOY, queues=True)
async def roll_back(context: Context, given: Named) -> Answer:
    """Queue a rollback to this version, with its configuration and its variables."""
    async with statement(context.pool) as connection:
        try:
            found = await deployments.select_deployment(connection, given.rollback_id)
        except NotFound as error:
            raise NotFound("Rollback not found") from error
        if given.rollback_id not in await versions.select_kept(connection, found.application_id):
            raise NotFound("Rollback not found")
        await applications.require_live(connection, found.application_id)
        application = await applications.select_application(connection, context.vault, found.application_id)
    queued = await enqueue.request_rollback(
        context.pool, context.vault, application, to=given.rollback_id, title="Rollback"
    )
    return Answer(headers={"X-Deployment-Id": queued}, changed=True)


@procedures.mutation("rollback.delete", gives=RollbackRow, raises=(Conflict,))
async def delete(context: Context, given: Named) -> Answer:
    """Remove this version from the rollback targets, and return it.

    Its deployment stays.
    """
    return Answer(RollbackRow.from_version(await history.delete_version(context.pool, given.rollback_id)))
