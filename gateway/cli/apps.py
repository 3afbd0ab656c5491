"""`gateway apps`: create, change, list and show applications. `app_states` starts, stops and deletes them."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._application_options import application_options, parse_options, with_variables
from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    format_time,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_table,
    print_text,
)
from gateway.cli.adoption import adopt, discovered
from gateway.cli.app_states import delete, logs, restart, start, stop
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.setting_text import describe
from gateway.model.slug import slug

if TYPE_CHECKING:
    from gateway.client import Gateway

_UPDATE_TRIES = 5  # while others change the same variables


@click.group()
def apps() -> None:
    """Manage applications."""


@apps.command()
@click.argument("name")
@click.argument("image")
@click.option("--id", "application_id", help="Id of the application; default: a generated one.")
@click.option(
    "--server",
    help="Id or name of the server to run on; default: the gateway's own engine.",
    shell_complete=names_of("server"),
)
@click.option(
    "--environment",
    help="Id or name of the environment that it belongs to; default: the first one.",
    shell_complete=names_of("environment"),
)
@application_options
@json_option
@command
async def create(
    name: str,
    image: str,
    *,
    application_id: str | None,
    server: str | None,
    environment: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Create the application NAME for IMAGE and print its id. The next push or deploy starts it."""
    given = {**parse_options(chosen), "name": name, "dockerImage": image, "containerName": slug(name)}
    if application_id is not None:
        given["applicationId"] = application_id
    async with connect() as gateway:
        if server is not None:
            given["serverId"] = await gateway.find("server", server)
        if environment is not None:
            given["environmentId"] = await gateway.find("environment", environment)
        made = await gateway.call("application.create", given)
    if made["appName"] != slug(name):
        print_text(
            f"Another application has the name, container name or id {slug(name)}. "
            f"The container of this one is called {made['appName']}.",
            err=True,
        )
    print_result(
        {"applicationId": made["applicationId"], "name": name, "image": image}, made["applicationId"], as_json=as_json
    )


@apps.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option("--image", help="The image to run.")
@click.option("--name", help="New name of the application.")
@click.option(
    "--unset",
    multiple=True,
    metavar="FIELD",
    help="Field to reset to its default, for example memoryLimit; repeatable.",
)
@application_options
@json_option
@command
async def update(
    app: str, *, image: str | None, name: str | None, unset: Sequence[str], as_json: bool, **chosen: Any
) -> None:
    """Change APP and print what its next deployment will change. Options that are not given change nothing.

    --publish replaces all ports, --network all networks, --volume and --file all mounts, --env-file all variables;
    --env sets one variable.
    """
    _check_fields(unset)
    given = {field: value for field, value in (("dockerImage", image), ("name", name)) if value is not None}
    sent = {**dict.fromkeys(unset), **parse_options(chosen), **given}
    if not sent:
        raise InvalidInput("Give at least one option; see gateway apps update --help")
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        if chosen["variables"] and chosen["env_file"] is None:
            await set_variables(gateway, application_id, sent, chosen["variables"])
        else:
            await gateway.call("application.update", {"applicationId": application_id, **sent})
        pending = await gateway.call("application.pending", {"applicationId": application_id})
    if as_json:
        print_json({"applicationId": application_id, "pending": pending})
    elif not _print_pending(pending):
        print_text("The next deployment changes nothing.")


async def set_variables(
    gateway: "Gateway", application_id: str, sent: Mapping[str, Any], variables: Sequence[str]
) -> None:
    """Update the application with these variables besides those there are, also those that others set meanwhile."""
    named = {"applicationId": application_id}
    before = (await gateway.call("application.one", named))["env"]
    for tries_left in reversed(range(_UPDATE_TRIES)):
        given = {**named, **sent, "env": with_variables(before, variables), "expectedEnv": before or ""}
        try:
            await gateway.call("application.update", given)
        except Conflict:
            present = (await gateway.call("application.one", named))["env"]
            if present == before or not tries_left:
                raise
            before = present
        else:
            return


def _check_fields(unset: Sequence[str]) -> None:
    """Raise InvalidInput for what is no field of an application. Only this needs to know them: it loads them."""
    if not unset:
        return
    from gateway.admin.applications import is_application_column

    if unknown := [field for field in unset if not is_application_column(field)]:
        raise InvalidInput(f"--unset takes the name of a field, for example memoryLimit or env, not {unknown[0]!r}")


@apps.command()
@click.argument("app", shell_complete=names_of("application"))
@click.argument("name")
@json_option
@command
async def rename(app: str, name: str, *, as_json: bool) -> None:
    """Give APP another NAME. Its container keeps its own name."""
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        await gateway.call("application.update", {"applicationId": application_id, "name": name})
    print_result(
        {"applicationId": application_id, "name": name}, f"renamed {application_id} to {name}", as_json=as_json
    )


def _print_pending(pending: Sequence[Mapping[str, Any]]) -> bool:
    """Print what the next deployment will change. Returns False if it changes nothing."""
    if pending:
        print_text(f"The next deployment (gateway deploy) changes: {', '.join(one['field'] for one in pending)}")
        rows = [(one["field"], _format_value(one["runs"]), _format_value(one["wanted"])) for one in pending]
        print_table(["FIELD", "RUNS", "WANTED"], rows)
    return bool(pending)


def _format_value(value: Any) -> str:
    return "-" if value in (None, [], {}) else describe(value)


_COLUMNS: Columns = {
    "ID": id_in("applicationId"),
    "NAME": itemgetter("name"),
    "CONTAINER": itemgetter("appName"),
    "IMAGE": itemgetter("dockerImage"),
    "STATE": lambda one: one["observed"] and one["observed"]["state"],
    "DEPLOYMENT": itemgetter("deploymentState"),
    "CREATED": time_in("createdAt"),
}


@apps.command("list")
@list_command(1000)
async def list_apps(listing: Listing) -> None:
    """List applications, newest first."""
    async with connect() as gateway:
        await listing.show(gateway, "application.all", _COLUMNS)


@apps.command("show")
@click.argument("app", shell_complete=names_of("application"))
@json_option
@command
async def show_app(app: str, *, as_json: bool) -> None:
    """Show one application, by id, the beginning of it, container name or name."""
    async with connect() as gateway:
        found, pending = await _load(gateway, app)
    if as_json:
        print_json({**found, "pending": pending})
        return
    seen = found["observed"]
    since = moment(seen["since"]) if seen else None
    print_fields(
        {
            "id": found["applicationId"],
            "name": found["name"],
            "container": found["appName"],
            "image": found["dockerImage"],
            "digest": next((one["digest"] for one in found["deployments"] if one["state"] == "succeeded"), None),
            "state": f"{seen['state']} since {format_time(since)}" if since else None,
            "detail": seen["detail"] if seen and seen["detail"] else None,
            "deployment": found["deploymentState"] or "never deployed",
            **_reason(found),
            "wanted": found["desired"],
            "environment": f"{found['environment']['project']['name']} / {found['environment']['name']}",
            "server": found["server"]["name"] if found["server"] else None,
            **_settings(found),
            **_adopted(found),
        }
    )
    _print_pending(pending)


def _reason(found: Mapping[str, Any]) -> dict[str, str]:
    """Return why the newest deployment waits or did not succeed, and the command that shows it whole."""
    newest: Mapping[str, Any] | None = next(iter(found["deployments"]), None)
    if newest is None or newest["reason"] is None:
        return {}
    return {"reason": newest["reason"]["message"], "details": f"gateway deployments show {newest['deploymentId']}"}


def _adopted(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what the application was adopted with, and keeps."""
    kept = found["adopted"]
    if kept is None:
        return {}
    named = [f"{what} {', '.join(kept[what])}" for what in ("variables", "ports", "mounts") if kept.get(what)]
    return {"adopted": "; ".join([kept["dockerImage"], *named])}


async def _load(gateway: "Gateway", app: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the application, and what its next deployment changes."""
    named = {"applicationId": await gateway.find("application", app)}
    found = await gateway.call("application.one", named)
    for shared in (found["environment"], found["environment"]["project"]):
        shared.pop("env", None)  # variables of others too, which are shown where they are set
    return found, await gateway.call("application.pending", named)


def _settings(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that are not at their defaults, as text."""
    from gateway.model.configuration import Configuration

    shown = {}
    for name, value in Configuration().model_dump(mode="json", by_alias=True).items():
        present = found.get(name, value)
        if present != value:
            shown[name] = describe(present)
    return shown


for one in (adopt, discovered, start, stop, restart, delete, logs):
    apps.add_command(one)
