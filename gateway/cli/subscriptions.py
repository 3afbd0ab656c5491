"""`gateway subscriptions`."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    print_result,
)


@click.group()
def subscriptions() -> None:
    """Manage which pushed tags an application deploys."""


@subscriptions.command()
@click.argument("app", shell_complete=names_of("application"))
@click.argument("policy", type=click.Choice(["exact", "semver", "glob", "regex", "any"]))
@click.argument("pattern", default="")
@click.option("--repository", default="", help="Repository to subscribe to; default: the repository of the image.")
@click.option("--include", multiple=True, metavar="GLOB", help="Deploy only tags that match one of these; repeatable.")
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Do not deploy tags that match one of these; repeatable."
)
@click.option("--prereleases", is_flag=True, help="semver: deploy prereleases such as 1.3.0-rc.1 too.")
@click.option("--allow-downgrade", is_flag=True, help="semver: deploy a lower version than the running one too.")
@json_option
@command
async def create(
    app: str,
    policy: str,
    pattern: str,
    *,
    repository: str,
    include: Sequence[str],
    exclude: Sequence[str],
    prereleases: bool,
    allow_downgrade: bool,
    as_json: bool,
) -> None:
    """Subscribe APP to more tags. Example: gateway subscriptions create web semver '^1.2'."""
    async with connect() as gateway:
        given: dict[str, Any] = {
            "applicationId": await gateway.find("application", app),
            "repository": repository,
            "policy": policy,
            "pattern": pattern,
            "include": list(include),
            "exclude": list(exclude),
            "prereleases": prereleases,
            "allowDowngrade": allow_downgrade,
        }
        made = await gateway.call("subscription.create", given)
    print_result(made, made["subscriptionId"], as_json=as_json)


@subscriptions.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@list_command(1000)
async def list_subscriptions(app: str | None, listing: Listing) -> None:
    """List subscriptions of one application or all, newest first."""
    async with connect() as gateway:
        given = {} if app is None else {"applicationId": await gateway.find("application", app)}
        await listing.show(gateway, "subscription.all", _COLUMNS, given, applications=["applicationId"])


def _policy(row: dict[str, Any]) -> str:
    return f"{row['policy']} {row['pattern']}".rstrip()


_COLUMNS: Columns = {
    "ID": id_in("subscriptionId"),
    "APPLICATION": itemgetter("applicationId"),
    "REPOSITORY": itemgetter("repository"),
    "POLICY": _policy,
    "FROM": lambda one: "image" if one["fromImage"] else None,
    "CREATED": time_in("createdAt"),
}


@subscriptions.command()
@click.argument("app", shell_complete=names_of("application"))
@click.argument("seconds", type=click.IntRange(0, 2_592_000), required=False)
@json_option
@command
async def reconcile(app: str, seconds: int | None, *, as_json: bool) -> None:
    """Set how often APP's registry is polled for missed pushes.

    SECONDS is the interval; 0 turns polling off. Without SECONDS, the interval set for the registry applies.
    """
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        await gateway.call("subscription.reconcile", {"applicationId": application_id, "seconds": seconds})
    print_result(
        {"applicationId": application_id, "reconcileSeconds": seconds},
        "as set for its registry" if seconds is None else f"every {seconds} s" if seconds else "never",
        as_json=as_json,
    )


@subscriptions.command()
@click.argument("subscription", shell_complete=names_of("subscription"))
@json_option
@command
async def remove(subscription: str, *, as_json: bool) -> None:
    """Remove a subscription by its id."""
    async with connect() as gateway:
        subscription_id = await gateway.find("subscription", subscription)
        await gateway.call("subscription.remove", {"subscriptionId": subscription_id})
    print_result({"removed": subscription_id}, f"removed {subscription_id}", as_json=as_json)
