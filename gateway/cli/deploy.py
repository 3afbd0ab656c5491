"""`gateway deploy` and `gateway rollback`."""

import click

from gateway.cli._completion import names_of
from gateway.cli._follow import finish_deployment_command, follow_option
from gateway.cli._runner import command, connect, json_option


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option("--image", help="Deploy this image. It becomes the application's image once it serves.")
@click.option(
    "--tag", help="Deploy this tag of the application's repository. It becomes the application's image once it serves."
)
@click.option("--redeploy", is_flag=True, help="Replace the container even if it already runs the newest image.")
@click.option("--title", default="Deployed from the command line", help="Title of the deployment.")
@click.option(
    "--source",
    metavar="URL",
    help="Repository that the image was built from, with --revision: for its status, where the image has no labels.",
)
@click.option("--revision", metavar="COMMIT", help="Commit that the image was built from, in full.")
@follow_option
@json_option
@command
async def deploy(
    app: str,
    *,
    image: str | None,
    tag: str | None,
    redeploy: bool,
    title: str,
    source: str | None,
    revision: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Deploy the current image of APP from its registry.

    APP is the application's id, the beginning of it, its container name or its name. With --follow, the exit code
    is 0 only if the requested version runs.
    """
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        answered = await gateway.answer(
            "application.redeploy" if redeploy else "application.deploy",
            {
                "applicationId": application_id,
                "title": title,
                "dockerImage": image,
                "tag": tag,
                "source": source,
                "revision": revision,
            },
        )
        await finish_deployment_command(gateway, answered.headers["x-deployment-id"], follow=follow, as_json=as_json)


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option(
    "--to",
    metavar="DEPLOYMENT",
    help="Deployment whose version to restore; default: the previous version.",
    shell_complete=names_of("deployment"),
)
@click.option("--title", default="Rolled back from the command line", help="Title of the deployment.")
@follow_option
@json_option
@command
async def rollback(app: str, *, to: str | None, title: str, follow: bool, as_json: bool) -> None:
    """Restore the previous version of APP.

    Each rollback goes one version further back. It never goes forward. To undo a rollback, name the deployment:
    gateway rollback APP --to DEPLOYMENT.

    APP is the application's id, the beginning of it, its container name or its name. If the container of that version
    was kept, it starts again at once; otherwise it is created again with its recorded configuration.
    """
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        # `adopted` stands for what an application was adopted with.
        wanted = to if to in {None, "adopted"} else await gateway.find("deployment", to or "")
        answered = await gateway.answer(
            "application.rollback", {"applicationId": application_id, "deploymentId": wanted, "title": title}
        )
        await finish_deployment_command(gateway, answered.headers["x-deployment-id"], follow=follow, as_json=as_json)
