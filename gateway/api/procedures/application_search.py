"""application.*: where it belongs, and finding it."""

from typing import Annotated, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.gate_rights import require_movable
from gateway.admin.inputs import Id, Input, Words
from gateway.api.procedures._application_row import ApplicationRow
from gateway.api.procedures._project_rows import ApplicationStatus, application_status
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures.application import Named, select_application_row
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.gates import Level
from gateway.model.observations import State
from gateway.model.projects import ApplicationSummary
from gateway.store import application_summaries, applications, gate_verdicts, resource_owners
from gateway.store.database import transaction
from gateway.store.gates import Owner

procedures = Procedures()


class Move(Named):
    target_environment_id: Id


class Search(Input):
    q: Words = ""
    name: Words = ""
    app_name: Words = ""
    description: Words = ""
    docker_image: Words = ""
    project_id: Id | None = None
    environment_id: Id | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class FoundRow(Response):
    """An application in a search result."""

    application_id: str
    name: str
    app_name: str
    description: str | None
    environment_id: str
    application_status: ApplicationStatus
    observed: Annotated[State | None, Field(description="Observed state. Null before the first deployment.")]
    source_type: str
    created_at: Moment

    @classmethod
    def from_summary(cls, summary: ApplicationSummary) -> Self:
        status = application_status(summary.desired, summary.status)
        return cls.make(summary, application_status=status, source_type="docker")


class FoundApplications(Response):
    """A part of the search results. `total` counts all results."""

    items: list[FoundRow]
    total: int


@procedures.mutation("application.move", gives=ApplicationRow)
async def move(context: Context, given: Move) -> Answer:
    """Move an application to another environment.

    Its next deployment uses that environment's variables.
    """
    async with transaction(context.pool) as connection:
        await applications.lock_application(connection, given.application_id)
        await require_movable(connection, context.vault, context.caller, given.application_id)
        await applications.update_application(
            connection, context.vault, given.application_id, {"environment_id": given.target_environment_id}
        )
        await gate_verdicts.wake_owned(connection, Owner(Level.APPLICATION, given.application_id))
        return Answer(await select_application_row(connection, context, given.application_id))


@procedures.query("application.search", gives=FoundApplications, access=KeyAccess.FILTERED)
async def search(context: Context, given: Search) -> Answer:
    """Search applications by words in their name, container name, description or image.

    A restricted key finds only its own applications.
    """
    async with transaction(context.pool) as connection:
        grants = context.caller.grants
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found, total = await application_summaries.search_summaries(connection, only=only, **given.model_dump())
    return Answer(FoundApplications.make(items=[FoundRow.from_summary(one) for one in found], total=total))
