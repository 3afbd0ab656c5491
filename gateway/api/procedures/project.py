"""project.*: groups of applications with shared variables."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input, Text, Words
from gateway.api.procedures._pagination import Paged, headers
from gateway.api.procedures._project_rows import (
    EnvironmentRow,
    ProjectRow,
    WholeProject,
)
from gateway.api.procedures._response import Response
from gateway.api.procedures._visible import visible_to
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.applications import parse_environment
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.projects import PRODUCTION, ApplicationSummary, Project
from gateway.store import application_summaries, environments, projects, resource_owners
from gateway.store.database import Connection, transaction

procedures = Procedures()

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Variables = Annotated[str, Field(max_length=1_000_000)]
_MAX_NAMED = 5  # applications in the error


class Create(Input):
    name: Name
    description: Text | None = None
    env: Variables | None = None


class Named(Input):
    project_id: Id


class Update(Named):
    name: Name | None = None
    description: Text | None = None
    env: Variables | None = None


class Search(Input):
    q: Words = ""
    name: Words = ""
    description: Words = ""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class Created(Response):
    """A new project and its default environment."""

    project: ProjectRow
    environment: EnvironmentRow


class FoundProjects(Response):
    """A part of the search results. `total` counts all results."""

    items: list[ProjectRow]
    total: int


def changes_of(given: Input) -> dict[str, str | None]:
    """Return the changes of a project or an environment, by column; raises InvalidInput."""
    sent = given.sent_fields()
    columns = {"name": "name", "description": "description", "env": "variables"}
    changes = {column: getattr(given, field) for field, column in columns.items() if field in sent}
    if changes.get("name", "") is None:
        del changes["name"]
    parse_environment(changes.get("variables") or "")
    return changes


def refuse_filled(what: str, inside: list[ApplicationSummary]) -> None:
    """Raises Conflict when the project or environment to remove has applications."""
    if inside:
        named = ", ".join(summary.name for summary in inside[:_MAX_NAMED])
        more = f" and {len(inside) - _MAX_NAMED} more" if len(inside) > _MAX_NAMED else ""
        raise Conflict(
            f"{what} still has applications: {named}{more}. Delete them first (application.delete), "
            "or move them elsewhere (application.move)"
        )


def _place(one: Project) -> tuple[datetime, str]:
    return one.created_at, one.project_id


async def _whole(connection: Connection, context: Context, project: Project) -> WholeProject:
    inside = await environments.select_environments(connection, context.vault, [project.project_id])
    found = await application_summaries.select_summaries(connection, [one.environment_id for one in inside])
    return WholeProject.with_environments(project, inside, found, context.caller)


@procedures.mutation("project.create", gives=Created)
async def create(context: Context, given: Create) -> Answer:
    """Create a project with the environment production."""
    changes = changes_of(given)
    async with transaction(context.pool) as connection:
        project_id = await projects.insert_project(connection, given.name)
        await projects.update_project(connection, context.vault, project_id, changes)
        environment_id = await environments.insert_environment(
            connection, project_id, PRODUCTION, "Production environment", is_default=True
        )
        project = await projects.select_project(connection, context.vault, project_id)
        environment = await environments.select_environment(connection, context.vault, environment_id)
    return Answer(
        Created.make(
            project=ProjectRow.from_project(project, context.caller),
            environment=EnvironmentRow.from_environment(environment, context.caller),
        )
    )


@procedures.query("project.all", gives=list[WholeProject], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Paged) -> Answer:
    """List projects, newest first, with their environments and applications.

    A restricted key gets only its own projects and applications.
    """
    page, grants = given.page, context.caller.grants
    async with transaction(context.pool) as connection:
        only = await resource_owners.select_projects(connection, grants) if grants else None
        found = await projects.select_projects(connection, context.vault, page, only=only)
        inside = await environments.select_environments(connection, context.vault, [one.project_id for one in found])
        everything = await application_summaries.select_summaries(connection, [one.environment_id for one in inside])
        applications = await visible_to(connection, context.caller, everything)
    if grants is not None:
        peopled = {one.environment_id for one in applications}
        inside = [one for one in inside if one.project_id in grants.projects or one.environment_id in peopled]
        shown = grants.projects | {one.project_id for one in inside}
        following = page.next(found, _place)
        rows = [one for one in found if one.project_id in shown]
    else:
        following, rows = page.next(found, _place), found
    return Answer(
        [WholeProject.with_environments(project, inside, applications, context.caller) for project in rows],
        headers=headers(following),
    )


@procedures.query("project.one", gives=WholeProject)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a project with its environments and applications."""
    async with transaction(context.pool) as connection:
        project = await projects.select_project(connection, context.vault, given.project_id)
        return Answer(await _whole(connection, context, project))


@procedures.query("project.search", gives=FoundProjects)
async def search(context: Context, given: Search) -> Answer:
    """Search projects by words in their name or description."""
    async with transaction(context.pool) as connection:
        found, total = await projects.search_projects(
            connection,
            context.vault,
            q=given.q,
            name=given.name,
            description=given.description,
            limit=given.limit,
            offset=given.offset,
        )
    return Answer(
        FoundProjects.make(items=[ProjectRow.from_project(one, context.caller) for one in found], total=total)
    )


@procedures.mutation("project.update", gives=ProjectRow)
async def update(context: Context, given: Update) -> Answer:
    """Update a project, and return it.

    Absent fields stay unchanged; null clears a field.
    """
    changes = changes_of(given)
    if not changes:
        raise InvalidInput("No values to set")
    async with transaction(context.pool) as connection:
        await projects.update_project(connection, context.vault, given.project_id, changes)
        return Answer(
            ProjectRow.from_project(
                await projects.select_project(connection, context.vault, given.project_id), context.caller
            )
        )


@procedures.mutation("project.remove", gives=ProjectRow, raises=(Conflict,))
async def remove(context: Context, given: Named) -> Answer:
    """Remove a project and its environments, and return it as it was.

    You cannot remove a project that has applications.
    """
    async with transaction(context.pool) as connection:
        await projects.lock_project(connection, given.project_id)
        project = await projects.select_project(connection, context.vault, given.project_id)
        inside = await environments.select_environments(connection, context.vault, [given.project_id])
        for environment in inside:
            await environments.lock_environment(connection, environment.environment_id)
        ids = [one.environment_id for one in inside]
        refuse_filled(f"Project {project.name}", await application_summaries.select_summaries(connection, ids))
        await application_summaries.release_deleted(connection, ids)
        await projects.delete_project(connection, given.project_id)
    return Answer(ProjectRow.from_project(project, context.caller))
