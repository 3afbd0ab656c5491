"""`gateway registries`."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    print_result,
    read_secret,
)


@click.group()
def registries() -> None:
    """Manage registry credentials. The registry's address tells for which images they are used."""


@registries.command()
@click.argument("name")
@click.argument("url", default="")
@click.option("--username", help="User name.")
@click.option(
    "--password-file",
    metavar="FILE",
    help="Read the password, token or key file from FILE; - is standard input.",
    shell_complete=complete_files,
)
@click.option(
    "--ca-file",
    metavar="FILE",
    help="PEM certificates to trust for this registry, besides the system's.",
    shell_complete=complete_files,
)
@click.option(
    "--type",
    "registry_type",
    type=click.Choice(["cloud", "ecr"]),
    default="cloud",
    help="ecr: fetch tokens with the instance role, or with the options below.",
)
@click.option("--access-key-id", metavar="KEY", help="ecr: AWS access key ID.")
@click.option(
    "--secret-access-key-file",
    metavar="FILE",
    help="ecr: read the AWS secret access key from FILE; - is standard input.",
    shell_complete=complete_files,
)
@click.option("--profile", help="ecr: profile of the gateway's AWS configuration.")
@click.option("--role-arn", metavar="ARN", help="ecr: role to assume.")
@click.option("--external-id", help="ecr: external ID required by the role's trust policy.")
@click.option("--region", help="ecr: AWS region, if URL does not contain it.")
@json_option
@command
async def create(
    name: str,
    url: str,
    *,
    password_file: str | None,
    ca_file: str | None,
    secret_access_key_file: str | None,
    as_json: bool,
    **plain: str | None,
) -> None:
    """Store credentials for the images of URL. Print the registry's id. The registry is not contacted.

    URL is for example ghcr.io, registry.example.com:5000/team or https://index.docker.io/v1/; default: Docker Hub.
    """
    secrets = {
        "password": read_secret(password_file),
        "ca_certificate": read_secret(ca_file),
        "secret_access_key": read_secret(secret_access_key_file),
    }
    given = {**plain, **secrets, "registry_name": name, "registry_url": url}
    async with connect() as gateway:
        made = await gateway.call("registry.create", {field: one for field, one in given.items() if one is not None})
    print_result(
        {"registryId": made["registryId"], "registryName": name, "registryUrl": url},
        made["registryId"],
        as_json=as_json,
    )


@registries.command("list")
@list_command(1000)
async def list_registries(listing: Listing) -> None:
    """List registries, newest first, without their secrets."""
    async with connect() as gateway:
        await listing.show(gateway, "registry.all", _COLUMNS)


def _images(registry: Mapping[str, Any]) -> str:
    """Return which images the login is for: a registry, or a path in it."""
    place = registry["registryUrl"].partition("://")[2] or registry["registryUrl"]
    place = place.rstrip("/").removesuffix("/v1").removesuffix("/v2")
    return "docker.io" if place in {"", "index.docker.io", "registry-1.docker.io", "hub.docker.com"} else place


def _login_name(registry: Mapping[str, Any]) -> str | None:
    """Return the user of the login; for Amazon, whose identity is used."""
    if registry["registryType"] != "ecr":
        return registry["username"] or None
    of = registry["accessKeyId"] or registry["profile"] or "the instance role"
    return f"{of} as {registry['roleArn']}" if registry["roleArn"] else str(of)


_COLUMNS: Columns = {
    "ID": id_in("registryId"),
    "NAME": itemgetter("registryName"),
    "IMAGES": _images,
    "TYPE": itemgetter("registryType"),
    "LOGIN": _login_name,
    "CREATED": time_in("createdAt"),
}


@registries.command()
@click.argument("registry", shell_complete=names_of("registry"))
@json_option
@command
async def test(registry: str, *, as_json: bool) -> None:
    """Log in with the stored credentials. On failure, print the cause and the remedy."""
    async with connect() as gateway:
        registry_id = await gateway.find("registry", registry)
        await gateway.call("registry.testRegistryById", {"registryId": registry_id})
        found = await gateway.call("registry.one", {"registryId": registry_id})
    print_result({"loggedIn": registry_id}, f"{_images(found).partition('/')[0]} accepts the login", as_json=as_json)


@registries.command()
@click.argument("registry", shell_complete=names_of("registry"))
@json_option
@command
async def remove(registry: str, *, as_json: bool) -> None:
    """Delete a registry's credentials, by id or name. Running applications are not touched."""
    async with connect() as gateway:
        registry_id = await gateway.find("registry", registry)
        await gateway.call("registry.remove", {"registryId": registry_id})
    print_result({"removed": registry_id}, f"removed {registry_id}", as_json=as_json)
