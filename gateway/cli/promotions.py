"""`gateway promotions`."""

import click

from gateway.cli._completion import names_of
from gateway.cli._runner import command, connect, json_option, moment, print_json, print_table, print_text
from gateway.cli._table import Id


@click.group()
def promotions() -> None:
    """Manage what applications get from those that they follow."""


@promotions.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@json_option
@command
async def list_promotions(app: str | None, *, as_json: bool) -> None:
    """List what APP, or each application that follows another one, has got and what it waits for, newest first."""
    async with connect() as gateway:
        given = {} if app is None else {"applicationId": await gateway.find("application", app)}
        rows = await gateway.call("promotion.all", given)
        ids = [one for row in rows for one in (row["applicationId"], row["follows"])]
        names = {} if as_json else await gateway.names(ids)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["DIGEST", "APPLICATION", "FOLLOWS", "STATE", "SINCE", "DUE", "DEPLOYMENT", "REASON"],
        [
            (
                row["digest"],
                names.get(row["applicationId"], row["applicationId"]),
                names.get(row["follows"], row["follows"]),
                row["state"],
                moment(row["changedAt"] or row["since"]),
                moment(row["dueAt"]),
                row["deploymentId"] and Id(row["deploymentId"]),
                row["reason"],
            )
            for row in rows
        ],
    )


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
    if as_json:
        print_json(made)
    else:
        print_text(made["deploymentId"] or "")


@promotions.command()
@click.argument("app", shell_complete=names_of("application"))
@json_option
@command
async def withdraw(app: str, *, as_json: bool) -> None:
    """Decline the promotion of APP that waits or is queued. It does not come again by itself."""
    async with connect() as gateway:
        made = await gateway.call("promotion.withdraw", {"applicationId": await gateway.find("application", app)})
    if as_json:
        print_json(made)
    else:
        print_text(f"withdrew {made['digest']}")
