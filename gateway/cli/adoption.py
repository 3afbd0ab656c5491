"""`gateway apps adopt`."""

from typing import TYPE_CHECKING

import click

from gateway.cli._runner import command, json_option, open_storage, print_json, print_text

if TYPE_CHECKING:
    from gateway.model.servers import Server
    from gateway.store.storage import Storage


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
    from gateway.admin.adoption import adopt as adopt_container
    from gateway.api.procedures._application_row import application_row
    from gateway.docker.engine import client
    from gateway.store import applications
    from gateway.store.database import transaction

    async with open_storage() as storage:
        there = await _find_server(storage, server) if server else None
        async with client.connect(there.access_with_changes({}) if there else storage.settings.docker_host) as engine:
            server_id = there.server_id if there else None
            taken = await adopt_container(
                storage.pool, storage.vault, engine, container, name=name, server_id=server_id
            )
        async with transaction(storage.pool) as connection:
            found = await applications.select_application(connection, storage.vault, taken)
    if as_json:
        print_json(application_row(found, None, secrets=True))
    else:
        print_text(taken)


async def _find_server(storage: "Storage", named: str) -> "Server":
    from gateway.store import servers
    from gateway.store.database import transaction

    async with transaction(storage.pool) as connection:
        return await servers.select_server(connection, storage.vault, named)
