"""`gateway promotions`."""

from operator import itemgetter

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, show_rows, time_in
from gateway.cli._runner import command, connect, json_option, moment, print_result
from gateway.cli._table import Id


@click.group()
def promotions() -> None:
    """Manage what applications get from those that they follow."""


_COLUMNS: Columns = {
    "DIGEST": itemgetter("digest"),
    "APPLICATION": itemgetter("applicationId"),
    "FOLLOWS": itemgetter("follows"),
    "STATE": itemgetter("state"),
    "SINCE": lambda one: moment(one["changedAt"] or one["since"]),
    "DUE": time_in("dueAt"),
    "DEPLOYMENT": lambda one: one["deploymentId"] and Id(one["deploymentId"]),
    "REASON": itemgetter("reason"),
}


@promotions.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@json_option
@command
async def list_promotions(app: str | None, *, as_json: bool) -> None:
    """List what APP, or each application that follows another one, has got and what it waits for, newest first."""
    async with connect() as gateway:
        given = {} if app is None else {"applicationId": await gateway.find("application", app)}
        rows = await gateway.call("promotion.all", given)
        await show_rows(gateway, rows, _COLUMNS, as_json=as_json, applications=["applicationId", "follows"])


@promotions.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option("--digest", metavar="DIGEST", help="Promote this one; default: what the followed application runs.")
@json_option
@command
async def promote(app: str, *, digest: str | None, as_json: bool) -> None:
    """Deploy to APP what the application that it follows has proven. Print the deployment's id."""
    async with connect() as gateway:
        given = {"applicationId": await gateway.find("application", app), "digest": digest}
        made = await gateway.call("promotion.promote", given)
    print_result(made, made["deploymentId"] or "", as_json=as_json)


@promotions.command()
@click.argument("app", shell_complete=names_of("application"))
@json_option
@command
async def withdraw(app: str, *, as_json: bool) -> None:
    """Decline the promotion of APP that waits or is queued. It does not come again by itself."""
    async with connect() as gateway:
        made = await gateway.call("promotion.withdraw", {"applicationId": await gateway.find("application", app)})
    print_result(made, f"withdrew {made['digest']}", as_json=as_json)
