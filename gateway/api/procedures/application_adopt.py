"""application.adopt: take over what docker run, compose or a stack started."""

from typing import Annotated

from pydantic import Field

from gateway.admin.adoption import adopt
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._application_row import ApplicationRow
from gateway.api.procedures.application import select_application_row
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.docker.engine.client import Engine
from gateway.model.errors import Conflict, NotFound, Unavailable
from gateway.store.database import transaction

procedures = Procedures()


class Adopt(Input):
    container: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$")]
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    server_id: Id | None = None


def _engine(context: Context, server_id: str | None) -> Engine:
    """Raises NotFound, or Unavailable where the engine does not answer."""
    host = next((one for one in context.rollouts.engines if one.server_id == server_id), None)
    if host is None:
        raise NotFound("Server not found")
    if host.error is not None:
        raise Unavailable(f"the Docker Engine at {host.address} does not answer: {host.error}")
    return host.engine


@procedures.mutation("application.adopt", gives=ApplicationRow, raises=(Conflict,))
async def adopt_container(context: Context, given: Adopt) -> Answer:
    """Adopt a container or service that the gateway did not create.

    The gateway does not change it before the first deployment.
    """
    engine = _engine(context, given.server_id)
    application_id = await adopt(
        context.pool, context.vault, engine, given.container, name=given.name, server_id=given.server_id
    )
    async with transaction(context.pool) as connection:
        return Answer(await select_application_row(connection, context, application_id))
