"""`gateway webhooks`."""

import json
from collections.abc import Sequence

import click

from gateway.cli._command import command, json_option, keep, read_secret, show, show_table


@click.group()
def webhooks() -> None:
    """Where registries tell of pushes."""


@webhooks.command()
@click.argument("source")
@click.option("--name", default="", help="What to call it.")
@click.option("--secret-file", help="Take the secret from this file (- is standard input) instead of making one.")
@click.option("--host", help="The registry's public host, where its notifications name another or none.")
@click.option("--alias", "aliases", multiple=True, help="A name by which they may call it, as registry:5000.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting of the source.")
@json_option
@command
async def create(
    source: str,
    *,
    name: str,
    secret_file: str | None,
    host: str | None,
    aliases: Sequence[str],
    pairs: Sequence[str],
    as_json: bool,
) -> None:
    """Open an endpoint for SOURCE and print its path and secret: the only time they are shown."""
    import secrets

    from gateway.errors import InvalidInput
    from gateway.reference import parse_domain
    from gateway.sources import SOURCES
    from gateway.store import endpoints
    from gateway.store.database import transaction

    if source not in SOURCES:
        raise InvalidInput(f"there is no source {source!r}; there are: {', '.join(sorted(SOURCES))}")
    if unset := [pair for pair in pairs if "=" not in pair]:
        raise InvalidInput(f"--set takes KEY=VALUE, not {unset[0]!r}")
    settings = dict(pair.split("=", 1) for pair in pairs)
    SOURCES[source].check_settings(settings)
    secret = read_secret(secret_file) or secrets.token_urlsafe(32)
    async with keep() as kept, transaction(kept.pool) as connection:
        _, token = await endpoints.insert_endpoint(
            connection,
            kept.vault,
            source=source,
            name=name or source,
            secret=secret,
            host=parse_domain(host) if host else None,
            aliases=aliases,
            settings=settings,
        )
    path, header = f"/webhooks/{source}/{token}", SOURCES[source].header
    made = {"source": source, "path": path, "secret": secret, "header": header}
    click.echo(json.dumps(made, indent=None if as_json else 2))
    if not as_json:
        base = kept.settings.public_url or f"http://{kept.settings.listen}"
        value = SOURCES[source].header_value
        click.echo(f"\nSend to:  {base.rstrip('/')}{path}", err=True)
        if value is not None:
            click.echo(f"Header:   {header}: {value.format(secret=secret)}", err=True)
        elif header is not None:
            click.echo(f"Secret:   {secret}  (signs each request in {header})", err=True)
        click.echo("Neither is shown again.", err=True)


@webhooks.command("list")
@json_option
@command
async def list_webhooks(*, as_json: bool) -> None:
    """Show all endpoints, without their paths and secrets."""
    from gateway.store import endpoints
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        found = await endpoints.select_endpoints(connection, kept.vault)
    shown = [
        {
            "endpointId": one.endpoint_id,
            "source": one.source,
            "name": one.name,
            "host": one.host,
            "aliases": sorted(one.aliases),
            "createdAt": one.created_at,
        }
        for one in found
    ]
    if as_json:
        show(shown)
    else:
        rows = [(one["endpointId"], one["source"], one["name"], one["host"], one["createdAt"]) for one in shown]
        show_table(["ID", "SOURCE", "NAME", "HOST", "CREATED"], rows)


@webhooks.command()
@click.argument("endpoint")
@json_option
@command
async def remove(endpoint: str, *, as_json: bool) -> None:
    """Close an endpoint, by its id."""
    from gateway.store import endpoints
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        await endpoints.delete_endpoint(connection, endpoint)
    if as_json:
        show({"removed": endpoint})
    else:
        click.echo(f"removed {endpoint}")
