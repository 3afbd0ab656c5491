"""`gateway release` and `gateway releases`."""

import asyncio
import sys
from collections.abc import Sequence
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
    from gateway.queue.release import Wish
    from gateway.store.database import Connection, Pool
    from gateway.store.releases import Release, ReleaseMember

_POLL_INTERVAL = 0.2  # seconds


@click.command()
@click.argument("group", required=False)
@click.option("--environment", metavar="ID", help="Release all applications of this environment, instead of a group.")
@click.option("--image", "images", multiple=True, metavar="APP=IMAGE", help="Release this image of APP; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="APP=TAG", help="Release this tag of APP's image; repeatable.")
@click.option("--redeploy", is_flag=True, help="Replace each container, even if it runs the newest image.")
@click.option("--title", default="Released from the command line", help="Title of the release.")
@click.option("--follow", "-f", is_flag=True, help="Wait until the release ends; the server must be running.")
@json_option
@command
async def release(
    group: str | None,
    *,
    environment: str | None,
    images: Sequence[str],
    tags: Sequence[str],
    redeploy: bool,
    title: str,
    follow: bool,
    as_json: bool,
) -> None:
    """Release the applications of GROUP together: all run the new version at the end, or none does.

    Each is pulled, verified and created before any is touched. If one fails, all are put back. With --follow, the exit
    code is 0 only if all run the new version.
    """
    from gateway.admin import groups as admin
    from gateway.admin.groups import Order
    from gateway.store import groups as store
    from gateway.store.database import statement

    async with open_storage() as storage:
        async with statement(storage.pool) as connection:
            group_id = None if group is None else await store.select_group_id(connection, group)
            wishes = await _wishes(connection, images, tags)
        begun = await admin.begin_release(
            storage.pool, storage.vault, Order(group_id, environment, wishes, title, redeploy)
        )
        for application_id, why in begun.left_out.items():
            print_text(f"left out: {application_id}: {why}", err=True)
        if not follow:
            if as_json:
                print_json({"releaseId": begun.release_id})
            else:
                print_text(begun.release_id)
            return
        found, members = await _follow(storage.pool, begun.release_id, quiet=as_json)
    _print_release(found, members, as_json=as_json)
    if found.state != "succeeded":
        sys.exit(1)


@click.group()
def releases() -> None:
    """Show and cancel releases."""


@releases.command("list")
@click.argument("group", required=False)
@paged(100)
@json_option
@command
async def list_releases(group: str | None, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """List releases of one group or all, newest first."""
    from gateway.api.procedures.release import ReleaseRow
    from gateway.store import groups
    from gateway.store import releases as store
    from gateway.store.database import statement

    page = parse_page(limit, cursor)
    async with open_storage() as storage, statement(storage.pool) as connection:
        group_id = None if group is None else await groups.select_group_id(connection, group)
        found = await store.select_releases(connection, page, group_id=group_id)
    if as_json:
        print_json([ReleaseRow.from_release(one) for one in found])
    else:
        rows = [
            (one.release_id, one.name, one.state, one.created_at, one.reason and one.reason.message) for one in found
        ]
        print_table(["ID", "NAME", "STATE", "CREATED", "REASON"], rows)
    print_next_cursor(page.next(found, store.place))


@releases.command()
@click.argument("release_id", metavar="RELEASE")
@json_option
@command
async def show(release_id: str, *, as_json: bool) -> None:
    """Show a release and its members."""
    from gateway.store.database import statement

    async with open_storage() as storage, statement(storage.pool) as connection:
        found, members = await _load(connection, release_id)
    _print_release(found, members, as_json=as_json)


@releases.command()
@click.argument("release_id", metavar="RELEASE")
@click.option("--abandon", is_flag=True, help="End a release that cannot be put back, as it is.")
@json_option
@command
async def cancel(release_id: str, *, abandon: bool, as_json: bool) -> None:
    """Cancel a release. What has moved is put back."""
    from gateway.queue.release import cancel_release

    async with open_storage() as storage:
        state = await cancel_release(storage.pool, release_id, abandon=abandon)
    if as_json:
        print_json({"releaseId": release_id, "state": state})
    else:
        print_text("the release ends as it is" if abandon else "cancelling: what has moved is put back")


async def _load(connection: "Connection", release_id: str) -> "tuple[Release, list[ReleaseMember]]":
    from gateway.store import releases as store

    found = await store.select_release(connection, release_id)
    return found, await store.select_members(connection, release_id)


async def _follow(pool: "Pool", release_id: str, *, quiet: bool) -> "tuple[Release, list[ReleaseMember]]":
    """Print each change, and return the release once it has ended."""
    from gateway.store.database import statement

    printed: dict[str, str] = {}
    while True:
        async with statement(pool) as connection:
            found, members = await _load(connection, release_id)
        lines = {f"member {one.member.name}": str(one.member.state) for one in members} | {"release": str(found.state)}
        for name, state in lines.items():
            if printed.get(name) != state and not quiet:
                print_text(f"{name}: {state}", err=True)
        printed = lines
        if found.ended:
            return found, members
        await asyncio.sleep(_POLL_INTERVAL)


def _print_release(found: "Release", members: "list[ReleaseMember]", *, as_json: bool) -> None:
    from gateway.api.procedures.release import WholeRelease

    if as_json:
        print_json(WholeRelease.from_members(found, members))
        return
    fields = {
        "release": found.release_id,
        "name": found.name,
        "title": found.title or None,
        "state": found.state,
        "created": found.created_at,
        "ended": found.finished_at,
        **({"requested by": found.asked_by} if found.asked_by else {}),
    }
    if found.reason is not None:
        fields |= {"reason": found.reason.message, "code": found.reason.code, "remedy": found.reason.remedy}
    print_fields(fields)
    rows = [
        (
            one.member.wave,
            one.member.name,
            one.member.state,
            one.deployment_id,
            one.member.reason and one.member.reason.code,
        )
        for one in members
    ]
    print_table(["WAVE", "APPLICATION", "STATE", "DEPLOYMENT", "REASON"], rows)


async def _wishes(connection: "Connection", images: Sequence[str], tags: Sequence[str]) -> "dict[str, Wish]":
    """Parse APP=IMAGE and APP=TAG. Raises InvalidInput, NotFound."""
    from gateway.model.errors import InvalidInput
    from gateway.queue.release import Wish
    from gateway.store import applications

    wishes: dict[str, Wish] = {}
    for option, words in (("image", images), ("tag", tags)):
        for word in words:
            app, equals, wanted = word.partition("=")
            if not (app and equals and wanted):
                raise InvalidInput(f"--{option} {word}: write it as APP={option.upper()}")
            application_id = await applications.select_application_id(connection, app)
            before = wishes.get(application_id, Wish())
            wishes[application_id] = Wish(wanted, before.tag) if option == "image" else Wish(before.image, wanted)
    return wishes
