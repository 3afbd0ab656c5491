"""`gateway groups`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gateway.cli._runner import (
    command,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from gateway.store.database import Connection
    from gateway.store.groups import Group

_SETTLE_HELP = "Gather deployments of members until none came for so many seconds; 0: each goes out by itself."
_settle = click.option("--settle", type=click.IntRange(0, 3600), metavar="SECONDS", help=_SETTLE_HELP)


@click.group()
def groups() -> None:
    """Manage groups: applications that go out together."""


@groups.command()
@click.argument("name")
@click.argument("members", nargs=-1, metavar="[APP[:WAVE]]...")
@click.option("--description", default="", help="What the group is.")
@_settle
@json_option
@command
async def create(name: str, members: Sequence[str], *, description: str, settle: int | None, as_json: bool) -> None:
    """Create a group of applications, in waves.

    A wave moves when the one before has succeeded. Example: gateway groups create shop db:1 api:2 web:3
    """
    from gateway.admin import groups as admin
    from gateway.admin.groups import GroupChange
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            waves = await _waves(connection, members)
        group = await admin.create_group(storage.pool, GroupChange(name, description, settle, waves))
    if as_json:
        _print_json(group)
    else:
        print_text(group.group_id)


@groups.command("list")
@paged(100)
@json_option
@command
async def list_groups(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List groups, newest first."""
    from gateway.api.procedures.group import GroupRow
    from gateway.store import groups as store
    from gateway.store.database import statement

    page = parse_page(limit, cursor)
    async with open_storage() as storage, statement(storage.pool) as connection:
        found = await store.select_groups(connection, page)
    if as_json:
        print_json([GroupRow.from_group(one) for one in found])
    else:
        rows = [(one.group_id, one.name, len(one.waves), one.settle, one.created_at) for one in found]
        print_table(["ID", "NAME", "MEMBERS", "SETTLE", "CREATED"], rows)
    print_next_cursor(page.next(found, store.place))


@groups.command()
@click.argument("group")
@json_option
@command
async def show(group: str, *, as_json: bool) -> None:
    """Show GROUP, by its id or name, with its members."""
    from gateway.store import applications
    from gateway.store import groups as store
    from gateway.store.database import statement

    async with open_storage() as storage, statement(storage.pool) as connection:
        found = await store.select_group(connection, await store.select_group_id(connection, group))
        names = await applications.select_names(connection, found.waves)
    if as_json:
        _print_json(found)
        return
    print_fields({"id": found.group_id, "name": found.name, "settle": found.settle, "created": found.created_at})
    members = sorted((wave, names.get(one, one), one) for one, wave in found.waves.items())
    print_table(["WAVE", "APPLICATION", "ID"], members)


@groups.command()
@click.argument("group")
@click.argument("members", nargs=-1, metavar="[APP[:WAVE]]...")
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
    from gateway.admin import groups as admin
    from gateway.admin.groups import GroupChange
    from gateway.store import groups as store
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            group_id = await store.select_group_id(connection, group)
            waves = await _waves(connection, members) if members else None
        found = await admin.update_group(storage.pool, group_id, GroupChange(name, description, settle, waves))
    if as_json:
        _print_json(found)
    else:
        print_text(f"updated {found.name}")


@groups.command()
@click.argument("group")
@json_option
@command
async def remove(group: str, *, as_json: bool) -> None:
    """Remove GROUP. Its applications stay, and a release that has begun is finished."""
    from gateway.admin import groups as admin
    from gateway.store import groups as store
    from gateway.store.database import statement

    async with open_storage() as storage:
        async with statement(storage.pool) as connection:
            group_id = await store.select_group_id(connection, group)
        found = await admin.remove_group(storage.pool, group_id)
    if as_json:
        _print_json(found)
    else:
        print_text(f"removed {found.name}")


def _print_json(group: "Group") -> None:
    from gateway.api.procedures.group import GroupRow

    print_json(GroupRow.from_group(group))


async def _waves(connection: "Connection", members: Sequence[str]) -> Mapping[str, int]:
    """Parse APP[:WAVE]. Raises NotFound, and InvalidInput where an application is named twice."""
    from gateway.model.errors import InvalidInput
    from gateway.store import applications

    waves: dict[str, int] = {}
    for member in members:
        app, colon, number = member.rpartition(":")
        numbered = bool(colon) and number.isdecimal() and len(number) <= 4 and int(number) > 0  # noqa: PLR2004
        application_id = await applications.select_application_id(connection, app if numbered else member)
        if application_id in waves:
            raise InvalidInput(f"{member}: this application is named twice")
        waves[application_id] = int(number) if numbered else 1
    return waves
