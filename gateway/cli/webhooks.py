"""`gateway webhooks`."""

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter

import click

from gateway.cli._completion import complete_files, complete_sources, names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_text,
    read_secret,
)
from gateway.model.errors import InvalidInput


@click.group()
def webhooks() -> None:
    """Manage the webhooks that registries send their pushes to."""


@webhooks.command()
@click.argument("source", shell_complete=complete_sources)
@click.option("--name", default="", help="Name of the webhook.")
@click.option(
    "--secret-file",
    help="Read the secret from this file (- is standard input); default: generate one.",
    shell_complete=complete_files,
)
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
    if unset := [pair for pair in pairs if "=" not in pair]:
        raise InvalidInput(f"--set takes KEY=VALUE, not {unset[0]!r}")
    settings = dict(pair.split("=", 1) for pair in pairs)
    if secret_file is not None and not _takes_secret(source, settings):
        raise InvalidInput(f"{source} sends no header with a secret: omit --secret-file; the path is the secret")
    given = {
        "source": source,
        "name": name,
        "secret": read_secret(secret_file),
        "host": host,
        "aliases": list(aliases),
        "settings": settings,
        "repositories": list(repositories),
        "networks": list(networks),
        "rate": rate,
    }
    async with connect() as gateway:
        reached = await gateway.call("status.address")
        made = await gateway.call("webhook.create", given)
        base = (reached["publicUrl"] or gateway.url or reached["listens"] or "http://127.0.0.1:8080").rstrip("/")
    printed = {
        "endpointId": made["endpointId"],
        "source": made["source"],
        "path": made["path"],
        "url": base + made["path"],
        # A source without a header cannot send one: its path is the secret.
        "secret": None if made["header"] is None else made["secret"],
        "header": made["header"],
    }
    print_text(json.dumps(printed, indent=None if as_json else 2))
    if as_json:
        return
    print_text(f"\nWebhook {made['endpointId']}. Its path and secret are not shown again.\n", err=True)
    from gateway.cli._setup_steps import setup_steps
    from gateway.sources import SOURCES

    if (known := SOURCES.get(source)) is not None:  # else the gateway is newer, and knows more
        steps = setup_steps(known, base=base, path=made["path"], secret=made["secret"], host=host, settings=settings)
        print_text(steps, err=True)
    if reached["publicUrl"] is None:
        print_text(
            "GATEWAY_PUBLIC_URL is not set. The URL may be reachable only on this machine: set GATEWAY_PUBLIC_URL, "
            "or replace the start of the URL with the public address of this gateway.",
            err=True,
        )


def _takes_secret(source: str, settings: Mapping[str, str]) -> bool:
    from gateway.sources import SOURCES

    return source not in SOURCES or SOURCES[source].header_with(settings) is not None


_COLUMNS: Columns = {
    "ID": id_in("endpointId"),
    "SOURCE": itemgetter("source"),
    "NAME": itemgetter("name"),
    "HOST": itemgetter("host"),
    "ENABLED": lambda one: "yes" if one["enabled"] else "no",
    "CREATED": time_in("createdAt"),
}


@webhooks.command("list")
@list_command(1000)
async def list_webhooks(listing: Listing) -> None:
    """List webhooks, newest first. Their paths and secrets are not shown."""
    async with connect() as gateway:
        await listing.show(gateway, "webhook.all", _COLUMNS)


@webhooks.command()
@click.argument("endpoint", shell_complete=names_of("webhook"))
@json_option
@command
async def show(endpoint: str, *, as_json: bool) -> None:
    """Show a webhook, by its id or name, without its path and its secret."""
    async with connect() as gateway:
        found = await gateway.call("webhook.one", {"endpointId": await gateway.find("webhook", endpoint)})
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "id": found["endpointId"],
            "source": found["source"],
            "name": found["name"] or None,
            "enabled": "yes" if found["enabled"] else "no",
            "host": found["host"],
            "aliases": ", ".join(found["aliases"]) or None,
            **{f"setting {name}": value for name, value in found["settings"].items()},
            "repositories": ", ".join(found["repositories"]) or "any",
            "networks": ", ".join(found["networks"]) or "any",
            "rate": f"{found['rate']} a minute" if found["rate"] else None,
            "former valid until": moment(found["formerValidUntil"]),
            "created": moment(found["createdAt"]),
        }
    )


@webhooks.command()
@click.argument("endpoint", shell_complete=names_of("webhook"))
@click.option(
    "--secret-file",
    help="Read the secret from this file (- is standard input); default: generate one.",
    shell_complete=complete_files,
)
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
    secret = read_secret(secret_file)
    async with connect() as gateway:
        given = {"endpointId": await gateway.find("webhook", endpoint), "path": path, "grace": grace}
        made = await gateway.call("webhook.rotate", given | ({} if secret is None else {"secret": secret}))
    print_text(json.dumps(made, indent=None if as_json else 2))
    if not as_json:
        noun = "path" if made["path"] else "secret"
        until = f"stays valid for {_duration(grace)}" if grace else "is not valid any more"
        print_text(f"The previous {noun} {until}. Set the new {noun} at the registry. It is not shown again.", err=True)


def _duration(seconds: int) -> str:
    size, unit = next(one for one in ((3600, "hour"), (60, "minute"), (1, "second")) if seconds % one[0] == 0)
    return f"{seconds // size} {unit}{'' if seconds == size else 's'}"


@webhooks.command()
@click.argument("endpoint", shell_complete=names_of("webhook"))
@json_option
@command
async def enable(endpoint: str, *, as_json: bool) -> None:
    """Enable a webhook again."""
    await _set_enabled(endpoint, enabled=True, as_json=as_json)


@webhooks.command()
@click.argument("endpoint", shell_complete=names_of("webhook"))
@json_option
@command
async def disable(endpoint: str, *, as_json: bool) -> None:
    """Disable a webhook. Its pushes deploy nothing until it is enabled."""
    await _set_enabled(endpoint, enabled=False, as_json=as_json)


async def _set_enabled(endpoint: str, *, enabled: bool, as_json: bool) -> None:
    async with connect() as gateway:
        endpoint_id = await gateway.find("webhook", endpoint)
        await gateway.call("webhook.enable" if enabled else "webhook.disable", {"endpointId": endpoint_id})
    print_result(
        {"endpointId": endpoint_id, "enabled": enabled},
        f"{'enabled' if enabled else 'disabled'} {endpoint_id}",
        as_json=as_json,
    )


@webhooks.command()
@click.argument("endpoint", shell_complete=names_of("webhook"))
@json_option
@command
async def remove(endpoint: str, *, as_json: bool) -> None:
    """Delete a webhook by its id or name."""
    async with connect() as gateway:
        endpoint_id = await gateway.find("webhook", endpoint)
        await gateway.call("webhook.remove", {"endpointId": endpoint_id})
    print_result({"removed": endpoint_id}, f"removed {endpoint_id}", as_json=as_json)
