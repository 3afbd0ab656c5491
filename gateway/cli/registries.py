"""`gateway registries`."""

from typing import Any

import click

from gateway.cli._runner import (
    command,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
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
    "--password-file", metavar="FILE", help="Read the password, token or key file from FILE; - is standard input."
)
@click.option("--ca-file", metavar="FILE", help="PEM certificates to trust for this registry, besides the system's.")
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
    from gateway.admin.registries import parse_registration
    from gateway.store import registries as store
    from gateway.store.database import transaction

    secrets = {
        "password": read_secret(password_file),
        "ca_certificate": read_secret(ca_file),
        "secret_access_key": read_secret(secret_access_key_file),
    }
    registration = parse_registration({**plain, **secrets, "registry_name": name, "registry_url": url})
    async with open_storage() as storage, transaction(storage.pool) as connection:
        made = await store.insert_registry(connection, storage.vault, registration)
    if as_json:
        print_json({"registryId": made.registry_id, "registryName": name, "registryUrl": url})
    else:
        print_text(made.registry_id)


@registries.command("list")
@paged(1000)
@json_option
@command
async def list_registries(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List registries, newest first, without their secrets."""
    from gateway.api.procedures.registry import RegistryRow
    from gateway.store import registries as store
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = await store.select_registries_page(connection, storage.vault, page)
    if as_json:
        print_json([RegistryRow.from_registry(one) for one in found])
    else:
        rows = [
            [one.registry_id, one.registry_name, str(one.scope), one.registry_type, _login_name(one)] for one in found
        ]
        print_table(["ID", "NAME", "IMAGES", "TYPE", "LOGIN"], rows)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.registry_id)))


def _login_name(registry: Any) -> str | None:
    from gateway.model.registries import Credentials

    login = registry.login
    return login.username if isinstance(login, Credentials) else str(login) if login else None


@registries.command()
@click.argument("registry_id")
@json_option
@command
async def test(registry_id: str, *, as_json: bool) -> None:
    """Log in with the stored credentials. On failure, print the cause and the remedy."""
    from gateway import app
    from gateway.admin.registries import log_in
    from gateway.registry import client
    from gateway.store import registries as store
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            found = await store.select_registry(connection, storage.vault, registry_id)
        async with client.connect(
            app.insecure_registries(storage.settings), token_hosts=app.token_hosts(storage.settings)
        ) as asking:
            await log_in(asking, found)
    if as_json:
        print_json({"loggedIn": found.registry_id})
    else:
        print_text(f"{found.scope.domain} accepts the login")


@registries.command()
@click.argument("registry_id")
@json_option
@command
async def remove(registry_id: str, *, as_json: bool) -> None:
    """Delete a registry's credentials. Running applications are not touched."""
    from gateway.store import registries as store
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        removed = await store.delete_registry(connection, storage.vault, registry_id)
    if as_json:
        print_json({"removed": removed.registry_id})
    else:
        print_text(f"removed {removed.registry_id}")
