"""`gateway servers`."""

from collections.abc import Callable
from typing import Any

import click

from gateway.cli._runner import (
    command,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
    read_secret,
)


@click.group()
def servers() -> None:
    """Manage remote servers to deploy to. The gateway's own engine is not one of them."""


def _access_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the files with credentials."""
    for option, explained in (
        ("--known-hosts", "ssh://: file with the host's public keys, as printed by ssh-keyscan."),
        ("--ssh-key", "ssh://: the gateway's private key."),
        ("--tls-key", "tcp://: private key of the gateway's certificate."),
        ("--tls-cert", "tcp://: the gateway's certificate."),
        ("--tls-ca", "tcp://: certificate of the CA that signed the engine's certificate."),
    ):
        function = click.option(option, metavar="FILE", help=explained)(function)
    return function


def _read_files(files: dict[str, str | None]) -> dict[str, str | None]:
    return {name: read_secret(path) for name, path in files.items() if path is not None}


@servers.command()
@click.argument("name")
@click.argument("host")
@click.option("--description", default="", help="Description of the server.")
@_access_options
@json_option
@command
async def create(name: str, host: str, *, description: str, as_json: bool, **files: str | None) -> None:
    """Register the engine at HOST and print the server's id.

    HOST is for example unix:///run/other.sock, tcp://10.0.0.5:2376 or ssh://deploy@10.0.0.5.
    """
    from gateway.admin.servers import register
    from gateway.model.servers import Access

    access = Access(host).with_changes(_read_files(files))
    async with open_storage() as storage:
        made = await register(storage.pool, storage.vault, name=name, description=description, access=access)
    if as_json:
        print_json({"serverId": made.server_id, "name": name, "host": host})
    else:
        print_text(made.server_id)


@servers.command()
@click.argument("server")
@click.option("--name", help="New name.")
@click.option("--host", help="New address of the engine.")
@_access_options
@json_option
@command
async def update(server: str, *, name: str | None, host: str | None, as_json: bool, **files: str | None) -> None:
    """Change the name, address or credentials of SERVER. Options that are not given change nothing."""
    from gateway.admin import servers as admin

    access = _read_files(files) | ({"host": host} if host else {})
    async with open_storage() as storage:
        found = await admin.update(storage.pool, storage.vault, server, name=name, description=None, access=access)
    if as_json:
        print_json({"updated": found.server_id})
    else:
        print_text(f"updated {found.server_id}")


@servers.command("list")
@paged(1000)
@json_option
@command
async def list_servers(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List servers, newest first. STATE is from the last contact."""
    from gateway.api.procedures.server import ServerRow
    from gateway.store import servers as store
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = await store.select_servers_page(connection, storage.vault, page)
    shown = [ServerRow.from_server(one, ()) for one in found]
    if as_json:
        print_json(shown)
    else:
        rows = [[one.server_id, one.name, one.host, one.status, one.engine_id] for one in shown]
        print_table(["ID", "NAME", "HOST", "STATE", "ENGINE"], rows)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.server_id)))


@servers.command("show")
@click.argument("server")
@json_option
@command
async def show_server(server: str, *, as_json: bool) -> None:
    """Show a server, by id or name, without its credentials."""
    from gateway.api.procedures.server import ServerRow
    from gateway.store import servers as store
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = ServerRow.from_server(await store.select_server(connection, storage.vault, server), ()).model_dump()
    if as_json:
        print_json(found)
    else:
        columns = ("serverId", "name", "description", "host", "tls", "status", "error", "engineId", "createdAt")
        print_fields({column: found[column] for column in columns})


@servers.command()
@click.argument("server")
@json_option
@command
async def test(server: str, *, as_json: bool) -> None:
    """Connect to the engine of SERVER and print its identity."""
    from gateway.admin.servers import identify_engine
    from gateway.api.procedures.server import Identity
    from gateway.store import servers as store
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            found = await store.select_server(connection, storage.vault, server)
        answered = Identity.from_engine(await identify_engine(found.access_with_changes({}))).model_dump()
    if as_json:
        print_json(answered)
    else:
        print_fields(answered)


@servers.command()
@click.argument("server")
@json_option
@command
async def remove(server: str, *, as_json: bool) -> None:
    """Remove a server without applications, by id or name. Nothing is touched on the server itself."""
    from gateway.admin import servers as admin

    async with open_storage() as storage:
        found = await admin.remove(storage.pool, storage.vault, server)
    if as_json:
        print_json({"removed": found.server_id})
    else:
        print_text(f"removed {found.server_id}")
