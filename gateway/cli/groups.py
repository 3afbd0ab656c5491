"""`gateway groups`."""

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_table,
)
from gateway.cli._table import Id
from gateway.model.errors import InvalidInput

if TYPE_CHECKING:
    from gateway.client import Gateway

_SETTLE_HELP = "Gather deployments of members until none came for so many seconds; 0: each goes out by itself."
_settle = click.option("--settle", type=click.IntRange(0, 3600), metavar="SECONDS", help=_SETTLE_HELP)


@click.group()
def groups() -> None:
    """Manage groups: applications that go out together."""


@groups.command()
@click.argument("name")
@click.argument("members", nargs=-1, metavar="[APP[:WAVE]]...", shell_complete=names_of("application"))
@click.option("--description", default="", help="What the group is.")
@_settle
@json_option
@command
async def create(name: str, members: Sequence[str], *, description: str, settle: int | None, as_json: bool) -> None:
    """Create a group of applications, in waves.

    A wave moves when the one before has succeeded. Example: gateway groups create shop db:1 api:2 web:3
    """
    async with connect() as gateway:
        given = {
            "name": name,
            "description": description,
            "settle": settle,
            "members": await _members(gateway, members),
        }
        group = await gateway.call("group.create", given)
    print_result(group, group["groupId"], as_json=as_json)


_COLUMNS: Columns = {
    "ID": id_in("groupId"),
    "NAME": itemgetter("name"),
    "MEMBERS": lambda one: len(one["members"]),
    "SETTLE": itemgetter("settle"),
    "CREATED": time_in("createdAt"),
}


@groups.command("list")
@list_command(100)
async def list_groups(listing: Listing) -> None:
    """List groups, newest first."""
    async with connect() as gateway:
        await listing.show(gateway, "group.all", _COLUMNS)


@groups.command()
@click.argument("group", shell_complete=names_of("group"))
@json_option
@command
async def show(group: str, *, as_json: bool) -> None:
    """Show GROUP, by its id or name, with its members."""
    async with connect() as gateway:
        found = await gateway.call("group.one", {"groupId": await gateway.find("group", group)})
        names = {} if as_json else await gateway.names([one["applicationId"] for one in found["members"]])
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "id": found["groupId"],
            "name": found["name"],
            "settle": found["settle"],
            "created": moment(found["createdAt"]),
        }
    )
    members = sorted(
        (one["wave"], names.get(one["applicationId"], one["applicationId"]), one["applicationId"])
        for one in found["members"]
    )
    print_table(["WAVE", "APPLICATION", "ID"], [(wave, name, Id(one)) for wave, name, one in members])


@groups.command()
@click.argument("group", shell_complete=names_of("group"))
@click.argument("members", nargs=-1, metavar="[APP[:WAVE]]...", shell_complete=names_of("application"))
@click.option("--name", help="New name.")
@click.option("--description", help="What the group is.")
@_settle
@json_option
@command
async def update(
    group: str,
    members: Sequence[str],
    *,
    name: str | None,
    description: str | None,
    settle: int | None,
    as_json: bool,
) -> None:
    """Change GROUP. If you name members, they become all of its members."""
    async with connect() as gateway:
        given: dict[str, Any] = {"groupId": await gateway.find("group", group)}
        wanted = {"name": name, "description": description, "settle": settle}
        given |= {field: value for field, value in wanted.items() if value is not None}
        if members:
            given["members"] = await _members(gateway, members)
        found = await gateway.call("group.update", given)
    print_result(found, f"updated {found['name']}", as_json=as_json)


@groups.command()
@click.argument("group", shell_complete=names_of("group"))
@json_option
@command
async def remove(group: str, *, as_json: bool) -> None:
    """Remove GROUP. Its applications stay, and a release that has begun is finished."""
    async with connect() as gateway:
        found = await gateway.call("group.remove", {"groupId": await gateway.find("group", group)})
    print_result(found, f"removed {found['name']}", as_json=as_json)


async def _members(gateway: "Gateway", members: Sequence[str]) -> list[dict[str, Any]]:
    """Parse APP[:WAVE]. Raises NotFound, and InvalidInput where an application is named twice."""
    waves: dict[str, int] = {}
    for member in members:
        app, colon, number = member.rpartition(":")
        numbered = bool(colon) and number.isdecimal() and len(number) <= 4 and int(number) > 0  # noqa: PLR2004
        application_id = await gateway.find("application", app if numbered else member)
        if application_id in waves:
            raise InvalidInput(f"{member}: this application is named twice")
        waves[application_id] = int(number) if numbered else 1
    return [{"applicationId": one, "wave": wave} for one, wave in waves.items()]
