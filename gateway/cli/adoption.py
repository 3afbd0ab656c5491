"""`gateway apps adopt`."""

from typing import TYPE_CHECKING

import click

from gateway.cli._runner import command, json_option, keep, say, show

if TYPE_CHECKING:
    from gateway.model.servers import Server
    from gateway.store.storage import Storage


@click.command()
@click.argument("container")
@click.option("--name", help="What to call the application, instead of the container's name.")
@click.option("--server", help="The server whose engine it runs on, by id or name, instead of the gateway's own.")
@json_option
@command
async def adopt(container: str, *, name: str | None, server: str | None, as_json: bool) -> None:
    """Take over a container or service that runs already.

    CONTAINER is its name or id, whether docker run, compose or a stack started it. Printed is the application's id.

    It is not touched until the next push of its image, or a deploy.
    """
    from gateway.admin.adoption import adopt as take_over
    from gateway.api.procedures._application_row import row
    from gateway.docker.engine import client
    from gateway.store import applications
    from gateway.store.database import transaction

    async with keep() as kept:
        there = await _server(kept, server) if server else None
        async with client.connect(there.access_with_changes({}) if there else kept.settings.docker_host) as engine:
            server_id = there.server_id if there else None
            taken = await take_over(kept.pool, kept.vault, engine, container, name=name, server_id=server_id)
        async with transaction(kept.pool) as connection:
            found = await applications.select_application(connection, kept.vault, taken)
    if as_json:
        show(row(found, None, secrets=True))
    else:
        say(taken)


async def _server(kept: "Storage", named: str) -> "Server":
    from gateway.store import servers
    from gateway.store.database import transaction

    async with transaction(kept.pool) as connection:
        return await servers.select_server(connection, kept.vault, named)
