"""application.*: where it belongs, and finding it."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input, Words
from gateway.api.procedures._application_row import ApplicationRow
from gateway.api.procedures._project_rows import ApplicationStatus, application_status
from gateway.api.procedures.application import Named, shown_row
from gateway.api.rpc.procedure import Answer, KeyAccess, Moment, Procedures
from gateway.model.observations import State
from gateway.model.projects import ApplicationSummary
from gateway.store import application_summaries, applications, resource_owners
from gateway.store.database import transaction

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


class FoundRow(TypedDict):
    """An application that was found."""

    applicationId: str
    name: str
    appName: str
    description: str | None
    environmentId: str
    applicationStatus: ApplicationStatus
    observed: Annotated[State | None, Field(description="What it is seen to do; null before it was deployed.")]
    sourceType: str
    createdAt: Moment


class FoundApplications(TypedDict):
    """Some of the applications that were found, and how many there are."""

    items: list[FoundRow]
    total: int


def _found(summary: ApplicationSummary) -> FoundRow:
    return {
        "applicationId": summary.application_id,
        "name": summary.name,
        "appName": summary.app_name,
        "description": summary.description,
        "environmentId": summary.environment_id,
        "applicationStatus": application_status(summary.desired, summary.status),
        "observed": summary.observed,
        "sourceType": "docker",
        "createdAt": summary.created_at.isoformat(),
    }


@procedures.mutation("application.move", gives=ApplicationRow)
async def move(context: Context, given: Move) -> Answer:
    """Let it belong to another environment; what that one's variables make of it runs with its next deploy."""
    async with transaction(context.pool) as connection:
        await applications.lock_application(connection, given.application_id)
        await applications.update_application(
            connection, context.vault, given.application_id, {"environment_id": given.target_environment_id}
        )
        return Answer(await shown_row(connection, context, given.application_id))


@procedures.query("application.search", gives=FoundApplications, access=KeyAccess.FILTERED)
async def search(context: Context, given: Search) -> Answer:
    """Find applications by words in their name, container, description or image."""
    async with transaction(context.pool) as connection:
        grants = context.caller.grants
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        found, total = await application_summaries.search_summaries(connection, only=only, **given.model_dump())
    return Answer({"items": [_found(one) for one in found], "total": total})
