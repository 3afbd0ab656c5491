"""application.*: create, configure, deploy, roll back and delete applications."""

import string
from collections.abc import Collection
from secrets import choice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, create_model

from gateway.admin.application_create import create_application
from gateway.admin.application_update import update_application
from gateway.admin.applications import Changes
from gateway.admin.context import Context
from gateway.admin.gate_rights import require_movable
from gateway.admin.inputs import Id, Input
from gateway.admin.privileges import KeyLimits, limits_for
from gateway.admin.probe_reachability import validate_probe
from gateway.api.procedures._application_row import ApplicationRow, application_row
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._project_rows import EnvironmentRow, ProjectRow
from gateway.api.procedures._reason_rows import select_names
from gateway.api.procedures.deployment import DeploymentRow
from gateway.api.procedures.domain import DomainRow
from gateway.api.procedures.server import ServerRow
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.applications import Application, parse_app_name
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.slug import slug
from gateway.store import (
    applications,
    deploy_tokens,
    deployments,
    domains,
    environments,
    observations,
    projects,
    resource_owners,
    servers,
    steps,
)
from gateway.store.database import Connection, statement, transaction
from gateway.store.pagination import Page
from gateway.store.resource_owners import ResourceKind

procedures = Procedures()

_SUFFIX_LENGTH = 6  # characters, as the contract has it
_LONGEST_BEFORE_SUFFIX = 56  # characters
_RECENT_DEPLOYMENTS = 10  # deployments that are shown with an application


class Create(Changes):
    creates: ClassVar = True
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    application_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")] | None = None
    app_name: Annotated[str, StringConstraints(min_length=1, max_length=56)] | None = None
    container_name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=255,
            description="Name of the container, used as it is; a suffix is added if an application is called so, and "
            "with a key that is restricted. Null: appName with a suffix.",
        ),
    ] = None
    project_id: Annotated[
        Id | None, Field(description="Has no effect together with environmentId. The call fails if you send it alone.")
    ] = None


class Named(Input):
    application_id: Id


class Update(Changes, Named):
    expected_env: Annotated[
        str | None,
        Field(
            max_length=1_000_000,
            description="The variables as you read them, empty if there were none. The call fails with CONFLICT if "
            "they are others now. Absent: they are not compared.",
        ),
    ] = None

    def on(self, current: Application) -> Changes:
        """Return the changes, for an application as it is now. Raises Conflict where it is not as expected."""
        if self.expected_env is not None and (current.environment or "") != self.expected_env:
            raise Conflict(f"Somebody else has changed the variables of {current.name}. Read them again")
        return self


class EnvironmentOfProject(EnvironmentRow):
    """The environment of an application, with its project."""

    project: ProjectRow


# Dokploy's columns for an application that is built from source.
_SOURCES = ("github", "gitlab", "bitbucket", "gitea", "registry", "buildRegistry", "rollbackRegistry")
_SOURCE_COLUMNS: dict[str, Any] = {
    **dict.fromkeys((*_SOURCES, "unauthorizedProvider"), type(None)),
    "hasGitProviderAccess": bool,
}
_SOURCE_VALUES = {**dict.fromkeys(_SOURCES), "hasGitProviderAccess": True, "unauthorizedProvider": None}

WholeApplication: Any = create_model(
    "WholeApplication",
    __base__=ApplicationRow,
    __doc__="An application with its environment, its server and its newest deployments. Fields that "
    "belong to builds are empty.",
    server=ServerRow | None,
    environment=EnvironmentOfProject,
    deployments=list[DeploymentRow],
    domains=list[DomainRow],
    redirects=list[Any],
    security=list[Any],
    previewDeployments=list[Any],
    **_SOURCE_COLUMNS,
)


def _suffix() -> str:
    return "".join(choice(string.ascii_lowercase + string.digits) for _ in range(_SUFFIX_LENGTH))


async def _container_name(connection: Connection, given: Create, limits: KeyLimits | None) -> str:
    """Return the name of the new container; a wanted one gets a suffix where it leads to another application.

    It does too where the caller is limited: who chooses a container's name may mount the volumes that begin with it.
    """
    if given.container_name is None:
        return _app_name(given)
    wanted = parse_app_name(given.container_name)
    if limits is not None or await applications.select_names_taken(connection, wanted):
        return f"{wanted[:_LONGEST_BEFORE_SUFFIX]}-{_suffix()}"
    return wanted


def _app_name(given: Create) -> str:
    suffix = _suffix()
    wanted = "-".join(given.app_name.lower().split()) if given.app_name else slug(given.name)
    return parse_app_name(f"{wanted}-{suffix}")


async def require_application(
    connection: Connection, context: Context, given: Named, *, without: Collection[str] = ()
) -> Application:
    """Return the application; raises NotFound when it does not exist or is being deleted."""
    await applications.require_live(connection, given.application_id)
    return await applications.select_application(connection, context.vault, given.application_id, without=without)


async def select_application_row(
    connection: Connection, context: Context, application_id: str, *, without: Collection[str] = ()
) -> dict[str, Any]:
    application = await applications.select_application(connection, context.vault, application_id, without=without)
    states = await applications.select_states(connection, [application_id])
    tokens = await deploy_tokens.select_tokens(connection, context.vault, [application_id])
    seen = await observations.select_observations(connection, [application_id])
    return application_row(
        application,
        states.get(application_id),
        secrets=context.caller.sees_secrets,
        token=tokens.get(application_id),
        seen=seen.get(application_id),
    )


@procedures.mutation(
    "application.create", gives=ApplicationRow, raises=(Conflict,), authorized_by=frozenset({"environment_id"})
)
async def create(context: Context, given: Create) -> Answer:
    """Create an application.

    Nothing is deployed yet.
    """
    await validate_probe(context, None, given)
    async with transaction(context.pool) as connection:
        await _validate_environment(connection, given)
        limits = limits_for(context)
        app_name = await _container_name(connection, given, limits)
        application_id = await create_application(
            connection,
            context.vault,
            given,
            name=given.name,
            app_name=app_name,
            application_id=given.application_id,
            limits=limits,
        )
        return Answer(await select_application_row(connection, context, application_id))


async def _validate_environment(connection: Connection, given: Create) -> None:
    """Raises InvalidInput when the environment does not exist, or only a project is named."""
    if given.environment_id is None:
        if given.project_id is not None:
            raise InvalidInput(
                "an application belongs to an environment: send environmentId, which project.one shows",
                field="environmentId",
            )
        return
    if await resource_owners.select_owner(connection, ResourceKind.ENVIRONMENT, given.environment_id) is None:
        raise InvalidInput(f"there is no environment {given.environment_id!r}; see project.all", field="environmentId")


@procedures.mutation("application.update", gives=Literal[True], raises=(Conflict,))
async def update(context: Context, given: Update) -> Answer:
    """Update an application.

    Absent fields stay unchanged; null clears a field. The change takes effect with the next deployment. The header
    X-Pending-Changes says what that deployment will change.
    """
    if given.environment_id is not None:
        async with statement(context.pool) as connection:
            await require_movable(connection, context.vault, context.caller, given.application_id)
    changed = await update_application(context, given.application_id, given.on, must_change=True)
    return Answer(value=True, headers=changed.headers)


@procedures.mutation("application.saveDockerProvider", gives=Literal[True], raises=(Conflict,))
async def save_docker_provider(context: Context, given: Update) -> Answer:
    """Set the image of an application, and the login to its registry.

    Absent fields stay unchanged; null clears a field.
    """
    return await update(context, given)


@procedures.mutation("application.saveEnvironment", gives=Literal[True], raises=(Conflict,))
async def save_environment(context: Context, given: Update) -> Answer:
    """Set the variables of an application.

    Absent fields stay unchanged; null clears a field. The change takes effect with the next deployment.
    """
    return await update(context, given)


@procedures.mutation("application.saveBuildType", gives=Literal[True], raises=(Conflict,))
async def save_build_type(context: Context, given: Update) -> Answer:
    """Store the build settings of an application.

    The gateway returns them, but they have no effect: it does not build images.
    """
    return await update(context, given)


@procedures.mutation("application.refreshToken", gives=Literal[True])
async def refresh_token(context: Context, given: Named) -> Answer:
    """Create a new deploy token.

    The previous token stops working. application.one returns the new one.
    """
    async with transaction(context.pool) as connection:
        await applications.lock_application(connection, given.application_id)
        await deploy_tokens.renew_token(connection, context.vault, given.application_id)
    return Answer(value=True)


@procedures.query("application.one", gives=WholeApplication)
async def select_one(context: Context, given: Named) -> Answer:
    """Return an application with its newest deployments.

    Fields that belong to builds are empty.
    """
    async with transaction(context.pool) as connection:
        await require_application(connection, context, given)
        return Answer(await select_whole_application(connection, context, given.application_id))


async def select_whole_application(
    connection: Connection, context: Context, application_id: str, *, without: Collection[str] = ()
) -> dict[str, Any]:
    """Return the WholeApplication."""
    found = await select_application_row(connection, context, application_id, without=without)
    newest = await deployments.select_deployments_of(connection, [application_id], Page(_RECENT_DEPLOYMENTS))
    reached = await domains.select_domains(connection, application_id)
    records = await steps.select_steps(connection, [one.deployment_id for one in newest])
    names = await select_names(connection, context.caller, [one.reason for one in newest])
    server_id = found["serverId"]
    # `server.one` is closed to restricted keys, so its row is not shown here either.
    shows_server = server_id is not None and context.caller.grants is None
    server = await servers.select_server(connection, context.vault, server_id) if shows_server else None
    environment = await environments.select_environment(
        connection, context.vault, found["environmentId"], without=("variables",)
    )
    project = await projects.select_project(connection, context.vault, environment.project_id, without=("variables",))
    belongs = EnvironmentOfProject.from_environment(
        environment, context.caller, project=ProjectRow.from_project(project, context.caller)
    )
    return {
        **found,
        **{name: [] for name in ("redirects", "security", "previewDeployments")},
        **_SOURCE_VALUES,
        "environment": belongs.model_dump(),
        "server": ServerRow.from_server(server, context.rollouts.engines).model_dump() if server else None,
        "domains": [DomainRow.from_domain(one).model_dump() for one in reached],
        "deployments": [
            DeploymentRow.from_deployment(one, records[one.deployment_id], names=names).model_dump() for one in newest
        ],
    }


@procedures.query("application.all", gives=list[ApplicationRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Paged) -> Answer:
    """List applications, newest first.

    A restricted key gets only its own applications.
    """
    page, grants = given.page, context.caller.grants
    async with transaction(context.pool) as connection:
        only = await resource_owners.select_covered(connection, grants) if grants else None
        found = await applications.select_applications(connection, context.vault, page, only=only)
        ids = [one.application_id for one in found]
        states = await applications.select_states(connection, ids)
        tokens = await deploy_tokens.select_tokens(connection, context.vault, ids)
        seen = await observations.select_observations(connection, ids)
    secrets = context.caller.sees_secrets
    return paged(
        found,
        page,
        lambda one: (one.created_at, one.application_id),
        lambda one: application_row(
            one,
            states.get(one.application_id),
            secrets=secrets,
            token=tokens.get(one.application_id),
            seen=seen.get(one.application_id),
        ),
    )
