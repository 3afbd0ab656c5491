"""`gateway deploy` and `gateway rollback`."""

import click

from gateway.cli._follow import conclude, follow_option
from gateway.cli._runner import command, json_option, keep


@click.command()
@click.argument("app")
@click.option("--image", help="Deploy this image, and stay on it.")
@click.option("--tag", help="Deploy this tag of the application's repository, and stay on it.")
@click.option("--redeploy", is_flag=True, help="Replace the container even where it runs the newest image.")
@click.option("--title", default="Deployed from the command line", help="What to call it.")
@follow_option
@json_option
@command
async def deploy(
    app: str, *, image: str | None, tag: str | None, redeploy: bool, title: str, follow: bool, as_json: bool
) -> None:
    """Deploy what the image is now at its registry: the application's, or the one that is named.

    APP is the application's id, container name or name. With --follow the exit code
    is 0 only when what was asked for runs.
    """
    from gateway.model.deployments import Kind
    from gateway.queue import enqueue
    from gateway.store import applications
    from gateway.store.database import transaction

    async with keep() as kept:
        async with transaction(kept.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
            application = await applications.select_application(connection, kept.vault, application_id)
        kind = Kind.REDEPLOY if redeploy else Kind.DEPLOY
        deployment_id = await enqueue.request_deployment(
            kept.pool, application, kind, title=title, image=image, tag=tag
        )
        await conclude(kept.pool, deployment_id, follow=follow, as_json=as_json)


@click.command()
@click.argument("app")
@click.option("--to", metavar="DEPLOYMENT", help="The deployment whose version to go back to, instead of the last.")
@click.option("--title", default="Rolled back from the command line", help="What to call it.")
@follow_option
@json_option
@command
async def rollback(app: str, *, to: str | None, title: str, follow: bool, as_json: bool) -> None:
    """Go back to the version that served before.

    APP is the application's id, container name or name. A version that is kept starts again at
    once; another one is made anew, as it was configured then.
    """
    from gateway.queue import enqueue
    from gateway.store import applications
    from gateway.store.database import transaction

    async with keep() as kept:
        async with transaction(kept.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
            application = await applications.select_application(connection, kept.vault, application_id)
        deployment_id = await enqueue.request_rollback(kept.pool, kept.vault, application, to=to, title=title)
        await conclude(kept.pool, deployment_id, follow=follow, as_json=as_json)
