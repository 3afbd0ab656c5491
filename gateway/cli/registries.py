"""`gateway registries`."""

from typing import Any

import click

from gateway.cli._runner import (
    command,
    json_option,
    keep,
    page_of,
    paged,
    read_secret,
    say,
    show,
    show_table,
    tell_more,
)


@click.group()
def registries() -> None:
    """Logins kept for all applications, matched with images by address."""


@registries.command()
@click.argument("name")
@click.argument("url", default="")
@click.option("--username", help="Who logs in.")
@click.option("--password-file", metavar="FILE", help="The password, token or key file; - is standard input.")
@click.option("--ca-file", metavar="FILE", help="Certificates, PEM, that are trusted there besides the system's.")
@click.option(
    "--type",
    "registry_type",
    type=click.Choice(["cloud", "ecr"]),
    default="cloud",
    help="ecr: tokens of Amazon's are fetched, as whom the machine's role makes us, or:",
)
@click.option("--access-key-id", metavar="KEY", help="ecr: a key of ours.")
@click.option("--secret-access-key-file", metavar="FILE", help="ecr: what goes with it; - is standard input.")
@click.option("--profile", help="ecr: a profile of the gateway's AWS configuration.")
@click.option("--role-arn", metavar="ARN", help="ecr: a role to assume.")
@click.option("--external-id", help="ecr: what that role's owner wants to be told.")
@click.option("--region", help="ecr: where URL does not tell it.")
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
    """Keep a login for the images of URL and print the registry's id. The registry is not contacted.

    URL is as ghcr.io, registry.example.com:5000/team or https://index.docker.io/v1/; without one, Docker Hub.
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
    async with keep() as kept, transaction(kept.pool) as connection:
        made = await store.insert_registry(connection, kept.vault, registration)
    if as_json:
        show({"registryId": made.registry_id, "registryName": name, "registryUrl": url})
    else:
        say(made.registry_id)


@registries.command("list")
@paged(1000)
@json_option
@command
async def list_registries(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """Show them, the newest first, without their secrets."""
    from gateway.api.procedures.registry import RegistryRow
    from gateway.store import registries as store
    from gateway.store.database import transaction

    page = page_of(limit, cursor)
    async with keep() as kept, transaction(kept.pool) as connection:
        found = await store.select_registries_page(connection, kept.vault, page)
    if as_json:
        show([RegistryRow.from_registry(one) for one in found])
    else:
        rows = [[one.registry_id, one.registry_name, str(one.scope), one.registry_type, _who(one)] for one in found]
        show_table(["ID", "NAME", "IMAGES", "TYPE", "LOGIN"], rows)
    tell_more(page.next(found, lambda one: (one.created_at, one.registry_id)))


def _who(registry: Any) -> str | None:
    from gateway.model.registries import Credentials

    login = registry.login
    return login.username if isinstance(login, Credentials) else str(login) if login else None


@registries.command()
@click.argument("registry_id")
@json_option
@command
async def test(registry_id: str, *, as_json: bool) -> None:
    """Log in now, with what is kept; say what failed, and what to do."""
    from gateway import app
    from gateway.admin.registries import log_in
    from gateway.registry import client
    from gateway.store import registries as store
    from gateway.store.database import transaction

    async with keep() as kept:
        async with transaction(kept.pool) as connection:
            found = await store.select_registry(connection, kept.vault, registry_id)
        async with client.connect(app.insecure(kept.settings), token_hosts=app.token_hosts(kept.settings)) as asking:
            await log_in(asking, found)
    if as_json:
        show({"loggedIn": found.registry_id})
    else:
        say(f"{found.scope.domain} takes the login")


@registries.command()
@click.argument("registry_id")
@json_option
@command
async def remove(registry_id: str, *, as_json: bool) -> None:
    """Forget a login. What runs is not touched."""
    from gateway.store import registries as store
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        removed = await store.delete_registry(connection, kept.vault, registry_id)
    if as_json:
        show({"removed": removed.registry_id})
    else:
        say(f"removed {removed.registry_id}")
