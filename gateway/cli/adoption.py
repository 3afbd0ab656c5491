"""`gateway apps adopt`, `gateway apps discovered`."""

from typing import TYPE_CHECKING

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Row, show_rows
from gateway.cli._runner import command, connect, json_option, print_result, print_text

if TYPE_CHECKING:
    from gateway.client import Gateway


@click.command()
@click.argument("container")
@click.option("--name", help="Name of the application; default: the container's name.")
@click.option(
    "--server",
    help="Id or name of the server where it runs; default: the gateway's own engine.",
    shell_complete=names_of("server"),
)
@json_option
@command
async def adopt(container: str, *, name: str | None, server: str | None, as_json: bool) -> None:
    """Make an application of a running container or service. Print its id.

    CONTAINER is a name or id; docker run, compose or a stack may have started it.

    The gateway does not touch it until the next push of its image, or a deploy.
    """
    async with connect() as gateway:
        given = {"container": container, "name": name}
        if server is not None:
            given["serverId"] = await gateway.find("server", server)
        row = await gateway.call("application.adopt", given)
    print_result(row, row["applicationId"], as_json=as_json)


#: in words, why pushes do not deploy an application
_PAUSED = {
    "monitor-only": "no push deploys it: monitor-only",
    "unlabelled": "no push deploys it: it no longer carries the label",
    "gone": "no push deploys it: nothing has its name",
}


def _remarks(row: Row) -> str:
    return "; ".join(filter(None, [row["reason"], _PAUSED.get(row["paused"]), *row["notCarried"]]))


@click.command()
@json_option
@command
async def discovered(*, as_json: bool) -> None:
    """List what carries a label of GATEWAY_DISCOVER, and whether it was adopted."""
    columns: Columns = {
        "NAME": lambda row: row["name"],
        "APPLICATION": lambda row: row["applicationId"] or "left alone",
        "REMARKS": _remarks,
    }
    async with connect() as gateway:
        rows = await gateway.call("application.discovered")
        await show_rows(gateway, rows, columns, as_json=as_json, applications=["applicationId"])
        await _say_if_off(gateway)


async def _say_if_off(gateway: "Gateway") -> None:
    """Say on standard error that no label is read; an older gateway does not tell."""
    if (await gateway.call("status.one")).get("discovers") == []:
        where = "for the gateway" if gateway.runs else "for this command"
        print_text(
            f"gateway: discovery is off: no label adopts anything, since GATEWAY_DISCOVER is not set {where}. "
            "To turn it on, set GATEWAY_DISCOVER=labels for the gateway and restart it",
            err=True,
        )
