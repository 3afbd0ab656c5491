"""application.adopt: take over what docker run, compose or a stack started."""

from typing import Annotated

from pydantic import Field

from gateway.admin.adoption import adopt
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._application_row import ApplicationRow
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures.application import select_application_row
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.docker.adoption import list_adoptable
from gateway.docker.engine.client import Engine
from gateway.model.api_keys import Permission
from gateway.model.errors import Conflict, NotFound, RolloutError, Unavailable
from gateway.store import applications, labelled
from gateway.store.database import statement, transaction
from gateway.store.labelled import Paused

procedures = Procedures()

_MOST_LISTED = 500  # containers


class Adopt(Input):
    container: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$")]
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    server_id: Id | None = None


def engine_of(context: Context, server_id: str | None) -> Engine:
    """Return the engine of a server, by default the gateway's own.

    Raises NotFound, or Unavailable where the engine does not answer.
    """
    host = next((one for one in context.rollouts.engines if one.server_id == server_id), None)
    if host is None and server_id is None:
        raise Unavailable("no Docker Engine is connected here: ask the gateway that serves")
    if host is None:
        raise NotFound("Server not found")
    if host.error is not None:
        raise Unavailable(f"the Docker Engine at {host.address} does not answer: {host.error}")
    return host.engine


async def select_adopted_ids(context: Context) -> set[str]:
    """Return the ids of the containers and services that applications adopted."""
    async with statement(context.pool) as connection:
        return {one.object_id for one in await applications.select_adopted_specs(connection, context.vault)}


class OfServer(Input):
    server_id: Id | None = None


class AdoptableRow(Response):
    """A container that runs and belongs to no application."""

    name: str
    image: str
    status: Annotated[str, Field(description="In the engine's words, for example: Up 3 hours (healthy).")]


@procedures.query(
    "application.adoptable", gives=list[AdoptableRow], raises=(NotFound, Unavailable), needs=Permission.ADMIN
)
async def select_adoptable(context: Context, given: OfServer) -> Answer:
    """List the containers that you can adopt.

    Without `serverId`, they are those of the gateway's own engine.
    """
    engine = engine_of(context, given.server_id)
    adopted = await select_adopted_ids(context)
    try:
        found = await list_adoptable(engine, adopted)
    except RolloutError as error:
        raise Unavailable(f"cannot list the containers of the Docker Engine: {error}") from error
    return Answer(
        [AdoptableRow.make(name=name, image=image, status=status) for name, image, status in found[:_MOST_LISTED]]
    )


class DiscoveredRow(Response):
    """A container or service that carries a label of GATEWAY_DISCOVER, or the application that came of it."""

    name: Annotated[str, Field(description="Name of the container or service.")]
    server_id: Annotated[str | None, Field(description="Null: the gateway's own engine.")]
    application_id: Annotated[
        str | None,
        Field(description="Application that it became. Null: it was left alone, or the application is gone."),
    ]
    paused: Annotated[
        Paused | None,
        Field(
            description="Why pushes do not deploy the application: `monitor-only` by a label; `unlabelled`: what has "
            "its name no longer carries the label; `gone`: nothing has its name."
        ),
    ]
    reason: Annotated[str, Field(description="Why it was left alone.")]
    not_carried: Annotated[
        list[str], Field(description="Labels of Watchtower without an effect, each with what has one.")
    ]
    at: Annotated[Moment, Field(description="When this was decided.")]


_DELETED = "its application was deleted; create the container again to have it adopted again"


@procedures.query("application.discovered", gives=list[DiscoveredRow], needs=Permission.ADMIN)
async def select_discovered(context: Context, _given: Input) -> Answer:
    """List what carries a label of GATEWAY_DISCOVER, and whether it was adopted."""
    async with statement(context.pool) as connection:
        found = await labelled.select_discovered(connection, _MOST_LISTED)
    return Answer(
        [
            DiscoveredRow.make(
                one,
                application_id=one.application_id if one.exists else None,
                reason=one.reason if one.exists or one.application_id is None else _DELETED,
                not_carried=list(one.not_carried),
            )
            for one in found
        ]
    )


@procedures.mutation("application.adopt", gives=ApplicationRow, raises=(Conflict,))
async def adopt_container(context: Context, given: Adopt) -> Answer:
    """Adopt a container or service that the gateway did not create.

    The gateway does not change it before the first deployment.
    """
    engine = engine_of(context, given.server_id)
    application_id = await adopt(
        context.pool, context.vault, engine, given.container, name=given.name, server_id=given.server_id
    )
    async with transaction(context.pool) as connection:
        return Answer(await select_application_row(connection, context, application_id))
