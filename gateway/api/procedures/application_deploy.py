"""application.*: queue deployments, starts, stops and deletions, and cancel them."""

from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Text
from gateway.api.procedures._response import Response
from gateway.api.procedures.application import Named, WholeApplication, require_application, select_whole_application
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.api_keys import Caller, Permission
from gateway.model.applications import Application
from gateway.model.commits import origin_of
from gateway.model.deployments import Kind
from gateway.model.errors import Conflict, Forbidden, InvalidInput
from gateway.model.reference import Reference
from gateway.queue import cancel, enqueue
from gateway.store import applications, deployments
from gateway.store.database import statement, transaction

procedures = Procedures()


class Deploy(Named):
    title: Text | None = None
    description: Text | None = None
    docker_image: Annotated[
        Text | None,
        Field(
            description="Image to deploy. With scope admin, it becomes the application's image once it serves. "
            "With scope deploy, it is deployed once and must be in the repository of the "
            "application's image."
        ),
    ] = None
    tag: Annotated[
        Text | None,
        Field(
            description="Tag to deploy, in the repository of the application's image. With scope admin, it "
            "becomes the application's tag once it serves. With scope deploy, it is deployed once.",
            validation_alias=AliasChoices("tag", "imageTag", "image_tag"),
        ),
    ] = None
    source: Annotated[
        Text | None,
        Field(
            description="Address of the repository that the image was built from, for the status of its commit; the "
            "image's own labels come first."
        ),
    ] = None
    revision: Annotated[
        Text | None, Field(description="Full hash of the commit that the image was built from; with `source`.")
    ] = None


class Reload(Named):
    app_name: Text | None = None


class Rollback(Named):
    deployment_id: Annotated[
        Id | None,
        Field(
            description="Deployment whose version to restore; `adopted`: what was adopted. Null: the previous version."
        ),
    ] = None
    title: Text | None = None


class Requested(Response):
    """Dokploy's answer to a cancellation."""

    success: Literal[True]
    message: str


def refuse_another_repository(caller: Caller, application: Application, image: str | None) -> None:
    """Raises Forbidden when a key without scope admin names an image of another repository."""
    if image is None or caller.permission is Permission.ADMIN:
        return
    configured = application.reference
    if configured is None or Reference.parse(image).repository != configured.repository:
        raise Forbidden(
            f"a key of scope {caller.permission.scope_name} may deploy another tag of the application's repository; "
            "an image from elsewhere takes one of scope admin"
        )


async def _roll_out(context: Context, given: Deploy, kind: Kind, default_title: str) -> Answer:
    async with statement(context.pool) as connection:
        application = await require_application(connection, context, given)
    refuse_another_repository(context.caller, application, given.docker_image)
    origin = origin_of(given.source, given.revision)
    if origin is None and (given.source or given.revision):
        raise InvalidInput(
            "send both source, such as https://github.com/acme/web, and revision, the full hash of a commit",
            field="revision" if given.source else "source",
        )
    deployment_id = await enqueue.request_deployment(
        context.pool,
        application,
        kind,
        title=given.title or default_title,
        description=given.description or "",
        image=given.docker_image,
        tag=given.tag,
        keep_image=context.caller.permission is Permission.ADMIN,
        origin=origin,
    )
    return Answer(headers={"X-Deployment-Id": deployment_id}, changed=True)


@procedures.mutation("application.deploy", gives=None, needs=Permission.DEPLOY, queues=True)
async def deploy(context: Context, given: Deploy) -> Answer:
    """Queue a deployment of the application's image, or of the image or tag you send.

    If the same version runs already, nothing is replaced.
    """
    return await _roll_out(context, given, Kind.DEPLOY, "Manual deployment")


@procedures.mutation("application.redeploy", gives=None, needs=Permission.DEPLOY, queues=True)
async def redeploy(context: Context, given: Deploy) -> Answer:
    """Queue a deployment that replaces the container in any case.

    It pulls the newest image, or the image or tag you send.
    """
    return await _roll_out(context, given, Kind.REDEPLOY, "Rebuild deployment")


@procedures.mutation("application.reload", gives=Literal[True], needs=Permission.DEPLOY, queues=True)
async def reload(context: Context, given: Reload) -> Answer:
    """Redeploy the configured image.

    The container is replaced in any case.
    """
    answer = await _roll_out(context, Deploy(application_id=given.application_id), Kind.REDEPLOY, "Reload")
    return replace(answer, value=True)


@procedures.mutation("application.killBuild", gives=None, needs=Permission.DEPLOY)
async def kill_build(context: Context, given: Named) -> Answer:
    """Cancel the running deployment.

    Queued deployments stay. The gateway does not build images; the name is Dokploy's.
    """
    async with statement(context.pool) as connection:
        await require_application(connection, context, given, without=applications.TO_RUN)
        runs = await deployments.select_running(connection, given.application_id)
    if runs is not None:
        with suppress(Conflict):  # it has just ended, or ends by itself
            await cancel.cancel_deployment(context.pool, runs.deployment_id)
    return Answer()


@procedures.mutation("application.rollback", gives=None, raises=(Conflict,), needs=Permission.DEPLOY, queues=True)
async def rollback(context: Context, given: Rollback) -> Answer:
    """Queue a rollback to the previous version, or to the version of the deployment you send.

    Each rollback without deploymentId goes one version further back. It never goes forward.
    """
    async with statement(context.pool) as connection:
        application = await require_application(connection, context, given)
    queued = await enqueue.request_rollback(
        context.pool, context.vault, application, to=given.deployment_id, title=given.title or "Rollback"
    )
    return Answer(headers={"X-Deployment-Id": queued}, changed=True)


async def _set_state(context: Context, given: Named, kind: Kind, title: str) -> Answer:
    """Return the application as it was before."""
    async with statement(context.pool) as connection:
        without = () if kind is Kind.START else applications.TO_RUN
        application = await require_application(connection, context, given, without=without)
        before = await select_whole_application(connection, context, given.application_id, without=without)
    deployment_id = await enqueue.request_state(context.pool, application, kind, title=title)
    headers = {"X-Deployment-Id": deployment_id} if deployment_id else {}
    return Answer(before, headers=headers, changed=True)


@procedures.mutation("application.start", gives=WholeApplication, needs=Permission.DEPLOY, queues=True)
async def start(context: Context, given: Named) -> Answer:
    """Queue a start of the application.

    The answer shows the application as it was before.
    """
    return await _set_state(context, given, Kind.START, "Start")


@procedures.mutation("application.stop", gives=WholeApplication, needs=Permission.DEPLOY, queues=True)
async def stop(context: Context, given: Named) -> Answer:
    """Queue a stop of the application.

    A stopped application ignores pushes. The answer shows the application as it was before.
    """
    return await _set_state(context, given, Kind.STOP, "Stop")


@procedures.mutation("application.delete", gives=WholeApplication, queues=True)
async def delete(context: Context, given: Named) -> Answer:
    """Queue the deletion of the application and its containers.

    The answer shows the application as it was before.
    """
    return await _set_state(context, given, Kind.DELETE, "Delete")


@procedures.mutation("application.cancelDeployment", gives=Requested, raises=(Conflict,), needs=Permission.DEPLOY)
async def cancel_deployment(context: Context, given: Named) -> Answer:
    """Cancel the queued and the running deployment.

    The answer is the same if there is none.
    """
    async with statement(context.pool) as connection:
        await require_application(connection, context, given, without=applications.TO_RUN)
    await cancel.cancel_deployments(context.pool, given.application_id, running=True)
    return Answer(Requested.make(message="Deployment cancellation requested"))


@procedures.mutation("application.cleanQueues", gives=None, raises=(Conflict,), needs=Permission.DEPLOY)
async def clean_queues(context: Context, given: Named) -> Answer:
    """Cancel queued deployments.

    A running deployment continues.
    """
    async with statement(context.pool) as connection:
        await require_application(connection, context, given, without=applications.TO_RUN)
    await cancel.cancel_deployments(context.pool, given.application_id, running=False)
    return Answer()


@procedures.mutation("application.markRunning", gives=None)
async def mark_running(context: Context, given: Named) -> Answer:
    """Do nothing.

    The gateway observes the status of an application; nobody sets it.
    """
    async with statement(context.pool) as connection:
        await require_application(connection, context, given, without=applications.TO_RUN)
    return Answer()


@procedures.mutation("application.clearDeployments", gives=Literal[True])
async def clear_deployments(context: Context, given: Named) -> Answer:
    """Delete the stored container logs of an application's ended deployments.

    The deployments stay.
    """
    async with transaction(context.pool) as connection:
        await require_application(connection, context, given, without=applications.TO_RUN)
        await applications.lock_row(connection, given.application_id)
        await deployments.clear_logs(connection, given.application_id)
    return Answer(value=True)
