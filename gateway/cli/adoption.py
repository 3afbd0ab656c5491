"""`gateway apps adopt`."""

import click

from gateway.cli._runner import command, connect, json_option, print_result


@click.command()
@click.argument("container")
@click.option("--name", help="Name of the application; default: the container's name.")
@click.option("--server", help="Id or name of the server where it runs; default: the gateway's own engine.")
@json_option
@command
async def adopt(container: str, *, name: str | None, server: str | None, as_json: bool) -> None:
    """Make an application of a running container or service. Print its id.

    CONTAINER is a name or id; docker run, compose or a stack may have started it.

    The gateway does not touch it until the next push of its image, or a deploy.
    """
    async with connect() as gateway:
        given = {"container": container, "name": name}
        if server is not None:
            given["serverId"] = await gateway.find("server", server)
        row = await gateway.call("application.adopt", given)
    print_result(row, row["applicationId"], as_json=as_json)
