"""application.*: what is kept running, and what may be done with it."""

import string
from secrets import choice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, create_model
from typing_extensions import TypedDict

from gateway import cancel, dispatch
from gateway.applications import Application, parse_app_name, slug
from gateway.deployments import Kind
from gateway.errors import Conflict
from gateway.keys import Permission
from gateway.store import applications, deployments, environments, projects, servers, steps
from gateway.store.database import Connection, transaction
from gateway.web.context import Context
from gateway.web.procedures._changes import Changes, apply
from gateway.web.procedures._own import its_own
from gateway.web.procedures._procedure import Answer, Id, Input, Opens, Procedure, Text
from gateway.web.procedures._reach import refuse_unreachable
from gateway.web.procedures._updating import change
from gateway.web.procedures.columns import ApplicationRow, row
from gateway.web.procedures.deployment import DeploymentRow, shown
from gateway.web.procedures.nesting import (
    EnvironmentRow,
    ProjectRow,
    environment_row,
    project_row,
)
from gateway.web.procedures.server import ServerRow
from gateway.web.procedures.server import row as server_row

_SUFFIX = 6  # characters, as the contract has it


class Create(Changes):
    makes_anew: ClassVar = True
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    application_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")] | None = None
    app_name: Annotated[str, StringConstraints(min_length=1, max_length=56)] | None = None


class Named(Input):
    application_id: Id


class Update(Changes, Named):
    pass


class Deploy(Named):
    title: Text | None = None
    description: Text | None = None


class Rollback(Named):
    deployment_id: Id | None = None
    title: Text | None = None


class OfProject(EnvironmentRow):
    """The environment it belongs to, with its project."""

    project: ProjectRow


# What the contract shows beside an application that is built from source.
_SOURCES = ("github", "gitlab", "bitbucket", "gitea", "registry", "buildRegistry", "rollbackRegistry")
_NOTHING: dict[str, Any] = {
    **dict.fromkeys((*_SOURCES, "unauthorizedProvider"), type(None)),
    "hasGitProviderAccess": bool,
}
_NOT_OF_AN_IMAGE = {**dict.fromkeys(_SOURCES), "hasGitProviderAccess": True, "unauthorizedProvider": None}

WholeApplication: Any = create_model(
    "WholeApplication",
    __base__=ApplicationRow,
    __doc__="An application, with where it belongs, the server it is on and its newest deployments; "
    "what belongs to a build is empty.",
    server=ServerRow | None,
    environment=OfProject,
    deployments=list[DeploymentRow],
    domains=list[Any],
    redirects=list[Any],
    security=list[Any],
    previewDeployments=list[Any],
    **_NOTHING,
)


class Requested(TypedDict):
    """The contract's words for: it is cancelled, or on its way there."""

    success: Literal[True]
    message: str


def _app_name(given: Create) -> str:
    suffix = "".join(choice(string.ascii_lowercase + string.digits) for _ in range(_SUFFIX))
    wanted = "-".join(given.app_name.lower().split()) if given.app_name else slug(given.name)
    return parse_app_name(f"{wanted}-{suffix}")


async def shown_row(connection: Connection, context: Context, application_id: str) -> dict[str, Any]:
    application = await applications.select_application(connection, context.vault, application_id)
    states = await applications.select_states(connection, [application_id])
    return row(application, states.get(application_id), secrets=context.caller.sees_secrets)


async def create(context: Context, given: Create) -> Answer:
    """Make an application, and set what is sent of its columns. Nothing is deployed yet."""
    await refuse_unreachable(context, None, given)
    async with transaction(context.pool) as connection:
        application_id = await applications.insert_application(
            connection,
            application_id=given.application_id,
            name=given.name,
            app_name=_app_name(given),
            description=given.description,
            environment_id=given.environment_id,
        )
        await apply(connection, context.vault, application_id, given)
        return Answer(await shown_row(connection, context, application_id))


async def update(context: Context, given: Update) -> Answer:
    """Set what is sent: absent keeps, null clears.

    It takes effect with the next deployment; the header X-Pending-Changes says what that will change.
    """
    changed = await change(context, given.application_id, lambda _: given, must_change=True)
    return Answer(value=True, headers=changed.headers)


async def save_docker_provider(context: Context, given: Update) -> Answer:
    """Set the image, and the login to its registry: absent keeps, null clears."""
    return await update(context, given)


async def select_one(context: Context, given: Named) -> Answer:
    """The row, and its newest deployments; parts of an application built from source are empty."""
    async with transaction(context.pool) as connection:
        await _known(connection, context, given)
        found = await shown_row(connection, context, given.application_id)
        newest = await deployments.select_deployments(connection, given.application_id, limit=10)
        records = await steps.select_steps(connection, [one.deployment_id for one in newest])
        server_id = found["serverId"]
        server = await servers.select_server(connection, context.vault, server_id) if server_id else None
        environment = await environments.select_environment(connection, context.vault, found["environmentId"])
        project = await projects.select_project(connection, context.vault, environment.project_id)
    parts = {
        "environment": {
            **environment_row(environment, context.caller),
            "project": project_row(project, context.caller),
        },
        "server": None if server is None else server_row(server, context.rollouts.hosts),
        **_NOT_OF_AN_IMAGE,
    }
    empty: dict[str, Any] = {name: [] for name in ("domains", "redirects", "security", "previewDeployments")}
    return Answer(
        {**found, **empty, **parts, "deployments": [shown(one, records[one.deployment_id]) for one in newest]}
    )


async def select_all(context: Context, _given: Input) -> Answer:
    """Return all applications that the key is for."""
    async with transaction(context.pool) as connection:
        everything = await applications.select_applications(connection, context.vault)
        found = await its_own(connection, context.caller, everything)
        states = await applications.select_states(connection, [one.application_id for one in found])
    secrets = context.caller.sees_secrets
    return Answer([row(one, states.get(one.application_id), secrets=secrets) for one in found])


async def _known(connection: Connection, context: Context, given: Named) -> Application:
    await applications.select_live(connection, given.application_id)
    return await applications.select_application(connection, context.vault, given.application_id)


async def _roll_out(context: Context, given: Deploy, kind: Kind, default_title: str) -> Answer:
    async with transaction(context.pool) as connection:
        application = await _known(connection, context, given)
    deployment_id = await dispatch.request_deployment(
        context.pool, application, kind, title=given.title or default_title, description=given.description or ""
    )
    return Answer(headers={"X-Deployment-Id": deployment_id}, changed=True)


async def deploy(context: Context, given: Deploy) -> Answer:
    """Queue a deployment of the image, which replaces nothing where what its tag names runs already."""
    return await _roll_out(context, given, Kind.DEPLOY, "Manual deployment")


async def redeploy(context: Context, given: Deploy) -> Answer:
    """Queue a deployment that pulls the newest image and replaces the container in any case."""
    return await _roll_out(context, given, Kind.REDEPLOY, "Rebuild deployment")


async def rollback(context: Context, given: Rollback) -> Answer:
    """Go back to what served before, or to what the named deployment ran."""
    async with transaction(context.pool) as connection:
        application = await _known(connection, context, given)
    queued = await dispatch.request_rollback(
        context.pool, context.vault, application, to=given.deployment_id, title=given.title or "Rollback"
    )
    return Answer(headers={"X-Deployment-Id": queued}, changed=True)


async def _set_state(context: Context, given: Named, kind: Kind, title: str) -> Answer:
    """Return the application as it was before."""
    async with transaction(context.pool) as connection:
        application = await _known(connection, context, given)
        before = await shown_row(connection, context, given.application_id)
    deployment_id = await dispatch.request_state(context.pool, application, kind, title=title)
    headers = {"X-Deployment-Id": deployment_id} if deployment_id else {}
    return Answer(before, headers=headers, changed=True)


async def start(context: Context, given: Named) -> Answer:
    """Queue its start; return the application as it was before."""
    return await _set_state(context, given, Kind.START, "Start")


async def stop(context: Context, given: Named) -> Answer:
    """Queue its stop, after which pushes are ignored; return the application as it was before."""
    return await _set_state(context, given, Kind.STOP, "Stop")


async def delete(context: Context, given: Named) -> Answer:
    """Queue its deletion with its containers; return the application as it was before."""
    return await _set_state(context, given, Kind.DELETE, "Delete")


async def cancel_deployment(context: Context, given: Named) -> Answer:
    """Cancel what waits and what runs; in the contract's words whatever there was."""
    async with transaction(context.pool) as connection:
        await _known(connection, context, given)
    await cancel.cancel_of(context.pool, given.application_id, running=True)
    return Answer({"success": True, "message": "Deployment cancellation requested"})


async def clean_queues(context: Context, given: Named) -> Answer:
    """Cancel what waits, and leave what runs."""
    async with transaction(context.pool) as connection:
        await _known(connection, context, given)
    await cancel.cancel_of(context.pool, given.application_id, running=False)
    return Answer()


PROCEDURES = [
    Procedure(
        "application.create",
        "mutation",
        Create,
        create,
        gives=ApplicationRow,
        raises=(Conflict,),
        led_by=frozenset({"environment_id"}),
    ),
    Procedure("application.one", "query", Named, select_one, gives=WholeApplication),
    Procedure("application.all", "query", Input, select_all, gives=list[ApplicationRow], opens=Opens.TO_ITS_OWN),
    Procedure("application.update", "mutation", Update, update, gives=Literal[True], raises=(Conflict,)),
    Procedure(
        "application.saveDockerProvider",
        "mutation",
        Update,
        save_docker_provider,
        gives=Literal[True],
        raises=(Conflict,),
    ),
    Procedure("application.deploy", "mutation", Deploy, deploy, gives=None, needs=Permission.DEPLOY),
    Procedure("application.redeploy", "mutation", Deploy, redeploy, gives=None, needs=Permission.DEPLOY),
    Procedure(
        "application.rollback", "mutation", Rollback, rollback, gives=None, raises=(Conflict,), needs=Permission.DEPLOY
    ),
    Procedure(
        "application.cancelDeployment",
        "mutation",
        Named,
        cancel_deployment,
        gives=Requested,
        raises=(Conflict,),
        needs=Permission.DEPLOY,
    ),
    Procedure(
        "application.cleanQueues",
        "mutation",
        Named,
        clean_queues,
        gives=None,
        raises=(Conflict,),
        needs=Permission.DEPLOY,
    ),
    Procedure("application.start", "mutation", Named, start, gives=ApplicationRow, needs=Permission.DEPLOY),
    Procedure("application.stop", "mutation", Named, stop, gives=ApplicationRow, needs=Permission.DEPLOY),
    Procedure("application.delete", "mutation", Named, delete, gives=ApplicationRow),
]
