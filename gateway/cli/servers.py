"""`gateway servers`."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
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
        function = click.option(option, metavar="FILE", help=explained, shell_complete=complete_files)(function)
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
    given = {"name": name, "host": host, "description": description, **_read_files(files)}
    async with connect() as gateway:
        made = await gateway.call("server.create", given)
    print_result({"serverId": made["serverId"], "name": name, "host": host}, made["serverId"], as_json=as_json)


@servers.command()
@click.argument("server", shell_complete=names_of("server"))
@click.option("--name", help="New name.")
@click.option("--host", help="New address of the engine.")
@_access_options
@json_option
@command
async def update(server: str, *, name: str | None, host: str | None, as_json: bool, **files: str | None) -> None:
    """Change the name, address or credentials of SERVER. Options that are not given change nothing."""
    given: dict[str, str | None] = _read_files(files)
    given |= {field: value for field, value in (("name", name), ("host", host)) if value}
    async with connect() as gateway:
        server_id = await gateway.find("server", server)
        await gateway.call("server.update", {"serverId": server_id, **given})
    print_result({"updated": server_id}, f"updated {server_id}", as_json=as_json)


_COLUMNS: Columns = {
    "ID": id_in("serverId"),
    "NAME": itemgetter("name"),
    "HOST": itemgetter("host"),
    "STATE": itemgetter("status"),
    "ENGINE": itemgetter("engineId"),
    "CREATED": time_in("createdAt"),
}


@servers.command("list")
@list_command(1000)
async def list_servers(listing: Listing) -> None:
    """List servers, newest first. STATE is from the last contact."""
    async with connect() as gateway:
        await listing.show(gateway, "server.all", _COLUMNS)


@servers.command("show")
@click.argument("server", shell_complete=names_of("server"))
@json_option
@command
async def show_server(server: str, *, as_json: bool) -> None:
    """Show a server, by id or name, without its credentials."""
    async with connect() as gateway:
        found = await gateway.call("server.one", {"serverId": await gateway.find("server", server)})
    if as_json:
        print_json(found)
    else:
        columns = ("serverId", "name", "description", "host", "tls", "status", "error", "engineId")
        print_fields({**{column: found[column] for column in columns}, "createdAt": moment(found["createdAt"])})


@servers.command()
@click.argument("server", shell_complete=names_of("server"))
@json_option
@command
async def test(server: str, *, as_json: bool) -> None:
    """Connect to the engine of SERVER and print its identity."""
    async with connect() as gateway:
        answered = await gateway.call("server.test", {"serverId": await gateway.find("server", server)})
    if as_json:
        print_json(answered)
    else:
        print_fields(answered)


@servers.command()
@click.argument("server", shell_complete=names_of("server"))
@json_option
@command
async def remove(server: str, *, as_json: bool) -> None:
    """Remove a server without applications, by id or name. Nothing is touched on the server itself."""
    async with connect() as gateway:
        server_id = await gateway.find("server", server)
        await gateway.call("server.remove", {"serverId": server_id})
    print_result({"removed": server_id}, f"removed {server_id}", as_json=as_json)
