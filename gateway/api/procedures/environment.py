"""environment.*: the parts of a project, each with variables of its own."""

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._project_rows import (
    EnvironmentRow,
    FilledEnvironment,
    ProjectRow,
)
from gateway.api.procedures.project import Name, Variables, changes_of, refuse_filled
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.projects import PRODUCTION
from gateway.store import application_summaries, environments, projects
from gateway.store.database import transaction
from gateway.store.pagination import MOST

procedures = Procedures()


class Create(Input):
    name: Name
    project_id: Id
    description: Text | None = None
    env: Variables | None = None


class Named(Input):
    environment_id: Id


class OfProject(Input):
    project_id: Id


class Update(Named):
    name: Name | None = None
    description: Text | None = None
    env: Variables | None = None


class Duplicate(Named):
    name: Name
    description: Text | None = None


class WholeEnvironment(FilledEnvironment):
    """An environment with its applications and its project."""

    project: ProjectRow


def _refuse_reserved(name: str) -> None:
    if name == PRODUCTION:
        raise InvalidInput(
            f"each project has an environment called {PRODUCTION} from the beginning: choose another name", field="name"
        )


@procedures.mutation("environment.create", gives=EnvironmentRow)
async def create(context: Context, given: Create) -> Answer:
    """Create an environment in a project."""
    _refuse_reserved(given.name)
    changes = changes_of(given)
    async with transaction(context.pool) as connection:
        made = await environments.insert_environment(connection, given.project_id, given.name, given.description)
        await environments.update_environment(connection, context.vault, made, changes)
        return Answer(
            EnvironmentRow.from_environment(
                await environments.select_environment(connection, context.vault, made), context.caller
            )
        )


@procedures.query("environment.one", gives=WholeEnvironment)
async def select_one(context: Context, given: Named) -> Answer:
    """Return an environment with its applications and its project."""
    async with transaction(context.pool) as connection:
        found = await environments.select_environment(connection, context.vault, given.environment_id)
        project = await projects.select_project(connection, context.vault, found.project_id)
        inside = await application_summaries.select_summaries(connection, [found.environment_id])
    return Answer(
        WholeEnvironment.with_applications(
            found, inside, context.caller, project=ProjectRow.from_project(project, context.caller)
        )
    )


@procedures.query("environment.byProjectId", gives=list[FilledEnvironment])
async def select_of_project(context: Context, given: OfProject) -> Answer:
    """List the environments of a project, with their applications."""
    async with transaction(context.pool) as connection:
        await projects.select_project(connection, context.vault, given.project_id)
        found = (await environments.select_environments(connection, context.vault, [given.project_id]))[:MOST]
        inside = await application_summaries.select_summaries(connection, [one.environment_id for one in found])
    return Answer([FilledEnvironment.with_applications(one, inside, context.caller) for one in found])


@procedures.mutation("environment.update", gives=EnvironmentRow)
async def update(context: Context, given: Update) -> Answer:
    """Update an environment, and return it.

    Absent fields stay unchanged; null clears a field.
    """
    changes = changes_of(given)
    if not changes:
        raise InvalidInput("No values to set")
    async with transaction(context.pool) as connection:
        before = await environments.select_environment(connection, context.vault, given.environment_id)
        if given.name is not None and given.name != before.name:
            if before.is_default:
                raise InvalidInput(f"the default environment is called {before.name} for good", field="name")
            _refuse_reserved(given.name)
        await environments.update_environment(connection, context.vault, given.environment_id, changes)
        found = await environments.select_environment(connection, context.vault, given.environment_id)
    return Answer(EnvironmentRow.from_environment(found, context.caller))


@procedures.mutation("environment.remove", gives=EnvironmentRow, raises=(Conflict,))
async def remove(context: Context, given: Named) -> Answer:
    """Remove an environment, and return it as it was.

    You cannot remove the default environment, or one that has applications.
    """
    async with transaction(context.pool) as connection:
        await environments.lock_environment(connection, given.environment_id)
        found = await environments.select_environment(connection, context.vault, given.environment_id)
        if found.is_default:
            raise InvalidInput("the default environment goes with its project: project.remove", field="environmentId")
        inside = await application_summaries.select_summaries(connection, [given.environment_id])
        refuse_filled(f"Environment {found.name}", inside)
        await application_summaries.release_deleted(connection, [given.environment_id])
        await environments.delete_environment(connection, given.environment_id)
    return Answer(EnvironmentRow.from_environment(found, context.caller))


@procedures.mutation("environment.duplicate", gives=EnvironmentRow)
async def duplicate(context: Context, given: Duplicate) -> Answer:
    """Create an environment with the variables of another one.

    Applications are not copied.
    """
    _refuse_reserved(given.name)
    async with transaction(context.pool) as connection:
        like = await environments.select_environment(connection, context.vault, given.environment_id)
        description = given.description if "description" in given.sent_fields() else like.description
        made = await environments.insert_environment(connection, like.project_id, given.name, description)
        await environments.update_environment(connection, context.vault, made, {"variables": like.variables})
        return Answer(
            EnvironmentRow.from_environment(
                await environments.select_environment(connection, context.vault, made), context.caller
            )
        )
