"""`gateway webhooks`."""

import json
from collections.abc import Sequence

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
def webhooks() -> None:
    """Manage the webhooks that registries send their pushes to."""


@webhooks.command()
@click.argument("source")
@click.option("--name", default="", help="Name of the webhook.")
@click.option("--secret-file", help="Read the secret from this file (- is standard input); default: generate one.")
@click.option("--host", help="Public host of the registry, if its notifications contain another one or none.")
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    help="Other host name of the registry in its notifications, for example registry:5000; repeatable.",
)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Setting of the source; repeatable.")
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    help="Accept only pushes to this repository, for example ghcr.io/acme/*; repeatable.",
)
@click.option(
    "--network", "networks", multiple=True, metavar="CIDR", help="Accept requests only from this network; repeatable."
)
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Rate limit in requests per minute.")
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
    repositories: Sequence[str],
    networks: Sequence[str],
    rate: int | None,
    as_json: bool,
) -> None:
    """Create a webhook for SOURCE and print its path and secret. They are not shown again."""
    from gateway.admin.endpoints import CreateEndpoint, create_endpoint, find_source
    from gateway.cli._setup_steps import setup_steps
    from gateway.model.errors import InvalidInput
    from gateway.store import gateway_address
    from gateway.store.database import transaction

    if unset := [pair for pair in pairs if "=" not in pair]:
        raise InvalidInput(f"--set takes KEY=VALUE, not {unset[0]!r}")
    settings = dict(pair.split("=", 1) for pair in pairs)
    if secret_file is not None and find_source(source).header_with(settings) is None:
        raise InvalidInput(f"{source} sends no header with a secret: omit --secret-file; the path is the secret")
    given = CreateEndpoint(
        source=source,
        name=name,
        secret=read_secret(secret_file),
        host=host,
        aliases=tuple(aliases),
        settings=settings,
        repositories=tuple(repositories),
        networks=tuple(networks),
        rate=rate,
    )
    async with open_storage() as storage, transaction(storage.pool) as connection:
        public_url, listens = await gateway_address.select_serving(connection)
        public_url = public_url or storage.settings.public_url
        made = await create_endpoint(connection, storage.vault, given)
    base = (public_url or listens or f"http://{storage.settings.listen}").rstrip("/")
    printed = {
        "endpointId": made.endpoint_id,
        "source": made.source,
        "path": made.path,
        "url": base + made.path,
        # A source without a header cannot send one: its path is the secret.
        "secret": None if made.header is None else made.secret,
        "header": made.header,
    }
    print_text(json.dumps(printed, indent=None if as_json else 2))
    if not as_json:
        text = setup_steps(
            find_source(source),
            base=base,
            path=made.path,
            secret=made.secret,
            host=host,
            settings=given.settings,
        )
        print_text(f"\nWebhook {made.endpoint_id}. Its path and secret are not shown again.\n\n{text}", err=True)
        if public_url is None:
            print_text(
                "GATEWAY_PUBLIC_URL is not set. The URL may be reachable only on this machine: set GATEWAY_PUBLIC_URL, "
                "or replace the start of the URL with the public address of this gateway.",
                err=True,
            )


@webhooks.command("list")
@paged(1000)
@json_option
@command
async def list_webhooks(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List webhooks, newest first. Their paths and secrets are not shown."""
    from gateway.api.procedures.webhook import WebhookRow
    from gateway.store import endpoints
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = await endpoints.select_endpoints(connection, storage.vault, page)
    if as_json:
        print_json([WebhookRow.from_endpoint(one) for one in found])
    else:
        rows = [
            (one.endpoint_id, one.source, one.name, one.host, "yes" if one.enabled else "no", one.created_at)
            for one in found
        ]
        print_table(["ID", "SOURCE", "NAME", "HOST", "ENABLED", "CREATED"], rows)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.endpoint_id)))


@webhooks.command()
@click.argument("endpoint")
@click.option("--secret-file", help="Read the secret from this file (- is standard input); default: generate one.")
@click.option("--path", is_flag=True, help="Generate a new path instead of a new secret.")
@click.option(
    "--grace",
    type=click.IntRange(0, 2_592_000),
    default=86_400,
    help="Seconds for which the previous path or secret stays valid; default: a day.",
)
@json_option
@command
async def rotate(endpoint: str, *, secret_file: str | None, path: bool, grace: int, as_json: bool) -> None:
    """Replace the secret or the path of a webhook, by its id.

    Without --path the secret is replaced, or the path if that is the only secret. The previous one stays valid for
    the grace period.
    """
    from gateway.admin.endpoints import RotateEndpoint, rotate_endpoint
    from gateway.api.procedures.webhook import RotatedWebhook
    from gateway.store.database import transaction

    given = RotateEndpoint(endpoint_id=endpoint, secret=read_secret(secret_file), path=path, grace=grace)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        made = await rotate_endpoint(connection, storage.vault, given)
    print_text(json.dumps(RotatedWebhook.make(made).model_dump(), indent=None if as_json else 2))
    if not as_json:
        noun = "path" if made.path else "secret"
        until = f"stays valid for {_duration(grace)}" if grace else "is not valid any more"
        print_text(f"The previous {noun} {until}. Set the new {noun} at the registry. It is not shown again.", err=True)


def _duration(seconds: int) -> str:
    size, unit = next(one for one in ((3600, "hour"), (60, "minute"), (1, "second")) if seconds % one[0] == 0)
    return f"{seconds // size} {unit}{'' if seconds == size else 's'}"


@webhooks.command()
@click.argument("endpoint")
@json_option
@command
async def enable(endpoint: str, *, as_json: bool) -> None:
    """Enable a webhook again."""
    await _set_enabled(endpoint, enabled=True, as_json=as_json)


@webhooks.command()
@click.argument("endpoint")
@json_option
@command
async def disable(endpoint: str, *, as_json: bool) -> None:
    """Disable a webhook. Its pushes deploy nothing until it is enabled."""
    await _set_enabled(endpoint, enabled=False, as_json=as_json)


async def _set_enabled(endpoint: str, *, enabled: bool, as_json: bool) -> None:
    from gateway.store import endpoints
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        await endpoints.update_enabled(connection, endpoint, enabled=enabled)
    if as_json:
        print_json({"endpointId": endpoint, "enabled": enabled})
    else:
        print_text(f"{'enabled' if enabled else 'disabled'} {endpoint}")


@webhooks.command()
@click.argument("endpoint")
@json_option
@command
async def remove(endpoint: str, *, as_json: bool) -> None:
    """Delete a webhook by its id."""
    from gateway.store import endpoints
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        await endpoints.delete_endpoint(connection, endpoint)
    if as_json:
        print_json({"removed": endpoint})
    else:
        print_text(f"removed {endpoint}")
