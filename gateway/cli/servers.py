"""`gateway servers`."""

from collections.abc import Callable
from typing import Any

import click

from gateway.cli._completion import names_of
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    page_of,
    paged,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
    read_secret,
)
from gateway.cli._table import Id


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
    given = {"name": name, "host": host, "description": description, **_read_files(files)}
    async with connect() as gateway:
        made = await gateway.call("server.create", given)
    if as_json:
        print_json({"serverId": made["serverId"], "name": name, "host": host})
    else:
        print_text(made["serverId"])


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
    if as_json:
        print_json({"updated": server_id})
    else:
        print_text(f"updated {server_id}")


@servers.command("list")
@paged(1000)
@json_option
@command
async def list_servers(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List servers, newest first. STATE is from the last contact."""
    async with connect() as gateway:
        shown, following = await gateway.page("server.all", page_of(limit, cursor))
    if as_json:
        print_json(shown)
    else:
        rows = [
            [Id(one["serverId"]), one["name"], one["host"], one["status"], one["engineId"], moment(one["createdAt"])]
            for one in shown
        ]
        print_table(["ID", "NAME", "HOST", "STATE", "ENGINE", "CREATED"], rows)
    print_next_cursor(following)


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
    if as_json:
        print_json({"removed": server_id})
    else:
        print_text(f"removed {server_id}")
