"""`gateway deploy` and `gateway rollback`."""

import click

from gateway.cli._follow import finish_deployment_command, follow_option
from gateway.cli._runner import command, json_option, open_storage


@click.command()
@click.argument("app")
@click.option("--image", help="Deploy this image. It becomes the application's image once it serves.")
@click.option(
    "--tag", help="Deploy this tag of the application's repository. It becomes the application's image once it serves."
)
@click.option("--redeploy", is_flag=True, help="Replace the container even if it already runs the newest image.")
@click.option("--title", default="Deployed from the command line", help="Title of the deployment.")
@follow_option
@json_option
@command
async def deploy(
    app: str, *, image: str | None, tag: str | None, redeploy: bool, title: str, follow: bool, as_json: bool
) -> None:
    """Deploy the current image of APP from its registry.

    APP is the application's id, container name or name. With --follow, the exit code
    is 0 only if the requested version runs.
    """
    from gateway.model.deployments import Kind
    from gateway.queue import enqueue
    from gateway.store import applications
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
            application = await applications.select_application(connection, storage.vault, application_id)
        kind = Kind.REDEPLOY if redeploy else Kind.DEPLOY
        deployment_id = await enqueue.request_deployment(
            storage.pool, application, kind, title=title, image=image, tag=tag
        )
        await finish_deployment_command(storage.pool, deployment_id, follow=follow, as_json=as_json)


@click.command()
@click.argument("app")
@click.option("--to", metavar="DEPLOYMENT", help="Deployment whose version to restore; default: the previous version.")
@click.option("--title", default="Rolled back from the command line", help="Title of the deployment.")
@follow_option
@json_option
@command
async def rollback(app: str, *, to: str | None, title: str, follow: bool, as_json: bool) -> None:
    """Restore the previous version of APP.

    Each rollback goes one version further back. It never goes forward. To undo a rollback, name the deployment:
    gateway rollback APP --to DEPLOYMENT.

    APP is the application's id, container name or name. If the container of that version was
    kept, it starts again at once; otherwise it is created again with its recorded configuration.
    """
    from gateway.queue import enqueue
    from gateway.store import applications
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
            application = await applications.select_application(connection, storage.vault, application_id)
        deployment_id = await enqueue.request_rollback(storage.pool, storage.vault, application, to=to, title=title)
        await finish_deployment_command(storage.pool, deployment_id, follow=follow, as_json=as_json)
