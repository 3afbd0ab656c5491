"""`gateway release` and `gateway releases`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import names_of
from gateway.cli._errors import FAILED, UNKNOWN
from gateway.cli._follow import Followed
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._progress import Progress
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_table,
    print_text,
)
from gateway.cli._table import Id
from gateway.model.errors import InvalidInput

if TYPE_CHECKING:
    from gateway.client import Gateway

_ENDED = frozenset({"succeeded", "put_back", "failed"})
_UNDER_WAY = frozenset({"preparing", "moving", "going_back"})  # of a member


@click.command()
@click.argument("group", required=False, shell_complete=names_of("group"))
@click.option(
    "--environment",
    metavar="ID",
    help="Release all applications of this environment, instead of a group.",
    shell_complete=names_of("environment"),
)
@click.option("--image", "images", multiple=True, metavar="APP=IMAGE", help="Release this image of APP; repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="APP=TAG", help="Release this tag of APP's image; repeatable.")
@click.option("--redeploy", is_flag=True, help="Replace each container, even if it runs the newest image.")
@click.option("--title", default="Released from the command line", help="Title of the release.")
@click.option("--follow", "-f", is_flag=True, help="Wait until the release ends; the exit code tells how it ended.")
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
    async with connect() as gateway:
        given: dict[str, Any] = {"title": title, "redeploy": redeploy}
        if group is not None:
            given["groupId"] = await gateway.find("group", group)
        if environment is not None:
            given["environmentId"] = await gateway.find("environment", environment)
        given["members"] = await _wishes(gateway, images, tags)
        begun = await gateway.call("release.create", given)
        for one in begun["leftOut"]:
            print_text(f"left out: {one['applicationId']}: {one['reason']}", err=True)
        if not follow:
            print_result({"releaseId": begun["releaseId"]}, begun["releaseId"], as_json=as_json)
            return
        found = await _follow(gateway, begun["releaseId"], as_json=as_json)
    _print_release(found, as_json=as_json)
    if found["state"] != "succeeded":
        sys.exit(FAILED if found["state"] in _ENDED else UNKNOWN)


@click.group()
def releases() -> None:
    """Show and cancel releases."""


_COLUMNS: Columns = {
    "ID": id_in("releaseId"),
    "NAME": itemgetter("name"),
    "STATE": itemgetter("state"),
    "CREATED": time_in("createdAt"),
    "REASON": lambda one: one["reason"] and one["reason"]["message"],
}


@releases.command("list")
@click.argument("group", required=False, shell_complete=names_of("group"))
@list_command(100)
async def list_releases(group: str | None, listing: Listing) -> None:
    """List releases of one group or all, newest first."""
    async with connect() as gateway:
        given = {} if group is None else {"groupId": await gateway.find("group", group)}
        await listing.show(gateway, "release.all", _COLUMNS, given)


@releases.command()
@click.argument("release_id", metavar="RELEASE", shell_complete=names_of("release"))
@json_option
@command
async def show(release_id: str, *, as_json: bool) -> None:
    """Show a release and its members."""
    async with connect() as gateway:
        found = await gateway.call("release.one", {"releaseId": await gateway.find("release", release_id)})
    _print_release(found, as_json=as_json)


@releases.command()
@click.argument("release_id", metavar="RELEASE", shell_complete=names_of("release"))
@click.option("--abandon", is_flag=True, help="End a release that cannot be put back, as it is.")
@json_option
@command
async def cancel(release_id: str, *, abandon: bool, as_json: bool) -> None:
    """Cancel a release. What has moved is put back."""
    async with connect() as gateway:
        found = await gateway.find("release", release_id)
        state = (await gateway.call("release.cancel", {"releaseId": found, "abandon": abandon}))["state"]
    print_result(
        {"releaseId": found, "state": state},
        "the release ends as it is" if abandon else "cancelling: what has moved is put back",
        as_json=as_json,
    )


async def _follow(gateway: "Gateway", release_id: str, *, as_json: bool) -> dict[str, Any]:
    """Print each change, and return the release once it has ended, or as it is where nobody rolls it out."""
    progress, printed, found = Progress(quiet=as_json), dict[str, str](), dict[str, Any]()
    states = Followed(gateway, "release", release_id, progress).states(_engine_away)
    async with aclosing(states):
        async for found in states:
            lines = {f"member {one['name']}": _described(one) for one in found["members"]}
            lines["release"] = found["state"]
            for name, state in lines.items():
                if printed.get(name) != state:
                    progress.line(f"{name}: {state}")
            printed = lines
            if found["state"] in _ENDED:
                break
    return found


def _described(member: Mapping[str, Any]) -> str:
    """Return the state of a member, with what it waits for or why it failed."""
    return f"{member['state']}: {member['reason']['message']}" if member["reason"] else str(member["state"])


def _engine_away(found: Mapping[str, Any]) -> str | None:
    """Return why an engine does not answer that a member waits for: the others cannot end without it."""
    waiting = (one for one in found["members"] if one["state"] in _UNDER_WAY and one["reason"] is not None)
    reasons = (one["reason"] for one in waiting if one["reason"]["code"] == "engine_unreachable")
    return next((str(one["message"]) for one in reasons), None)


def _print_release(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    fields = {
        "release": found["releaseId"],
        "name": found["name"],
        "title": found["title"] or None,
        "state": found["state"],
        "created": moment(found["createdAt"]),
        "ended": moment(found["finishedAt"]),
        **({"requested by": found["requestedBy"]} if found["requestedBy"] else {}),
    }
    if (reason := found["reason"]) is not None:
        fields |= {"reason": reason["message"], "code": reason["code"], "remedy": reason["remedy"]}
    print_fields(fields)
    rows = [
        (
            one["wave"],
            one["name"],
            one["state"],
            one["deploymentId"] and Id(one["deploymentId"]),
            one["reason"] and one["reason"]["code"],
        )
        for one in found["members"]
    ]
    print_table(["WAVE", "APPLICATION", "STATE", "DEPLOYMENT", "REASON"], rows)


async def _wishes(gateway: "Gateway", images: Sequence[str], tags: Sequence[str]) -> list[dict[str, str]]:
    """Parse APP=IMAGE and APP=TAG. Raises InvalidInput, NotFound."""
    wishes: dict[str, dict[str, str]] = {}
    for option, words in (("image", images), ("tag", tags)):
        for word in words:
            app, equals, wanted = word.partition("=")
            if not (app and equals and wanted):
                raise InvalidInput(f"--{option} {word}: write it as APP={option.upper()}")
            application_id = await gateway.find("application", app)
            wish = wishes.setdefault(application_id, {"applicationId": application_id})
            wish["dockerImage" if option == "image" else "tag"] = wanted
    return list(wishes.values())
