"""application.pending: what the next deployment will change of what runs."""

from typing import Annotated, Any

from pydantic import Field

from gateway.admin import application_update
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._response import Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.store import applications
from gateway.store.database import transaction

procedures = Procedures()


class Named(Input):
    application_id: Id


class PendingChange(Response):
    """A field that the next deployment changes. Values that can be secret are left out; their names are shown."""

    field: str
    runs: Annotated[Any, Field(description="Value in the version that serves. Null if it is not set there.")]
    wanted: Annotated[
        Any, Field(description="Value in the next deployment. For variables: which are added, changed or removed.")
    ]


@procedures.query("application.pending", gives=list[PendingChange])
async def select_pending(context: Context, given: Named) -> Answer:
    """List what the next deployment changes.

    If no version has served yet, every set field is pending.
    """
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        application = await applications.select_application(connection, context.vault, given.application_id)
        found = await application_update.select_pending_changes(connection, context.vault, application)
    return Answer([PendingChange.make(one) for one in found])
