"""`gateway alerts`."""

import json
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._lists import Columns, id_in, show_rows, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    print_fields,
    print_json,
    print_result,
    print_text,
    read_secret,
)

if TYPE_CHECKING:
    from gateway.client import Gateway

_RECEIVERS = ("apprise", "webhook", "github", "gitlab", "gitea")
_EVENTS = (
    *("started", "waiting", "succeeded", "first", "recovered", "unchanged", "failed", "rolled_back", "cancelled"),
    *("trouble", "missing", "drifted", "stopped", "unhealthy", "restarting"),
)

_UUID = 36  # characters

_app_option = click.option(
    "--app", metavar="APP", help="Of this application, by its name or id.", shell_complete=names_of("application")
)
_project_option = click.option(
    "--project", metavar="PROJECT", help="Of this project, by its name or id.", shell_complete=names_of("project")
)


def _settings(function: Any) -> Any:
    """Add the options of what an alert has."""
    for option in reversed(
        (
            click.option(
                "--event", "events", multiple=True, type=click.Choice(_EVENTS), help="An event to send; repeatable."
            ),
            click.option("--quiet", "quiet", multiple=True, metavar="JSON", help="A window in which nothing is sent."),
            click.option("--address", metavar="URL", help="Where it is sent, if nothing in that is secret."),
            click.option(
                "--address-file",
                metavar="FILE",
                help="Read the address from FILE; - is standard input.",
                shell_complete=complete_files,
            ),
            click.option(
                "--secret-file",
                metavar="FILE",
                help="webhook: read what to sign with from FILE.",
                shell_complete=complete_files,
            ),
            click.option(
                "--token-file",
                metavar="FILE",
                help="github, gitlab, gitea: read the token from FILE.",
                shell_complete=complete_files,
            ),
            click.option("--app-id", metavar="ID", help="github: of a GitHub App, in place of a token."),
            click.option(
                "--private-key-file",
                metavar="FILE",
                help="github: read the App's private key from FILE.",
                shell_complete=complete_files,
            ),
            click.option(
                "--repository",
                "repositories",
                multiple=True,
                metavar="NAME",
                help="Only its commits, such as acme/*.",
            ),
            click.option("--artifact-record", is_flag=True, help="github: record where images run, too."),
            click.option(
                "--allow-private", is_flag=True, help="The address may be in a private network, or without TLS."
            ),
        )
    ):
        function = option(function)
    return function


def _given(
    *,
    events: Sequence[str],
    quiet: Sequence[str],
    address: str | None,
    address_file: str | None,
    secret_file: str | None,
    token_file: str | None,
    app_id: str | None,
    private_key_file: str | None,
    repositories: Sequence[str],
    artifact_record: bool,
    allow_private: bool,
) -> dict[str, Any]:
    """Return what was given, as the API takes it."""
    if address is not None and address_file is not None:
        raise click.UsageError("Give --address or --address-file.")
    found = {
        "events": list(events),
        "quietHours": [_window(one) for one in quiet],
        "address": address if address_file is None else read_secret(address_file),
        "secret": read_secret(secret_file),
        "token": read_secret(token_file),
        "appId": app_id,
        "privateKey": read_secret(private_key_file),
        "repositories": list(repositories),
        "artifactRecord": artifact_record,
        "allowPrivate": allow_private,
    }
    return {name: value for name, value in found.items() if value}


def _window(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(
            '--quiet is JSON, such as {"start": "22:00", "duration": "8h", "zone": "Europe/Berlin"}'
        ) from error


@click.group()
def alerts() -> None:
    """Manage alerts: who gets which events of applications."""


@alerts.command("list")
@_app_option
@_project_option
@json_option
@command
async def list_alerts(*, app: str | None, project: str | None, as_json: bool) -> None:
    """List alerts, and how their receivers do."""
    async with connect() as gateway:
        found = await gateway.call("alert.all", await _owner(gateway, app, project))
        await show_rows(gateway, found, _ALERTS, as_json=as_json, applications=["applicationId"])


def _state(alert: dict[str, Any]) -> str:
    if not alert["enabled"]:
        return "off"
    return f"failing: {alert['lastError']}" if alert["lastError"] else "well"


_ALERTS: Columns = {
    "NAME": itemgetter("name"),
    "RECEIVER": itemgetter("receiver"),
    "TARGET": itemgetter("target"),
    "OF": lambda one: one["applicationId"] or one["projectId"] or "all",
    "STATE": _state,
    "WAITING": itemgetter("waiting"),
    "ID": id_in("alertId"),
}
_DELIVERIES: Columns = {
    "ID": id_in("alertDeliveryId"),
    "ALERT": itemgetter("alertName"),
    "APPLICATION": itemgetter("applicationName"),
    "EVENT": itemgetter("title"),
    "STATE": itemgetter("state"),
    "ATTEMPTS": itemgetter("attempts"),
    "QUEUED": time_in("queuedAt"),
    "ERROR": lambda one: one["error"] or "",
}


async def _owner(gateway: "Gateway", app: str | None, project: str | None) -> dict[str, str]:
    if app is not None and project is not None:
        raise click.UsageError("Give --app or --project, or neither for all applications.")
    if app is not None:
        return {"applicationId": await gateway.find("application", app)}
    return {"projectId": await gateway.find("project", project)} if project is not None else {}


@alerts.command()
@click.argument("name")
@click.argument("receiver", type=click.Choice(_RECEIVERS))
@_app_option
@_project_option
@_settings
@json_option
@command
async def create(
    name: str, receiver: str, *, app: str | None, project: str | None, as_json: bool, **settings: Any
) -> None:
    """Set an alert: RECEIVER gets events of an application, of a project, or of all. Print its id.

    The signing secret of a webhook is printed once.

    For example: gateway alerts create log webhook --address https://hooks.example.com/deployed --event failed
    """
    given = {"name": name, "receiver": receiver, **_given(**settings)}
    if receiver == "apprise" and settings["address"] is not None:
        raise click.UsageError("An address of Apprise has secrets: put it into a file, and give --address-file.")
    async with connect() as gateway:
        made = await gateway.call("alert.create", {**given, **await _owner(gateway, app, project)})
    _print_made(made, as_json=as_json)


def _print_made(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    elif made["secret"]:
        print_fields({"alert": made["alertId"], "secret, shown once": made["secret"]})
    else:
        print_text(made["alertId"])


@alerts.command()
@click.argument("alert", shell_complete=names_of("alert"))
@click.option("--name", help="Another name.")
@click.option("--on/--off", "enabled", default=None, help="Tell the receiver, at once if it was paused; or do not.")
@click.option("--rotate-secret", is_flag=True, help="webhook: sign with a new secret, for a day also with the old one.")
@_settings
@json_option
@command
async def update(
    alert: str, *, name: str | None, enabled: bool | None, rotate_secret: bool, as_json: bool, **settings: Any
) -> None:
    """Change what is given of ALERT. --event, --quiet and --repository replace all that there were."""
    given = {**_given(**settings), "name": name, "enabled": enabled, "rotateSecret": rotate_secret or None}
    async with connect() as gateway:
        sent = {"alertId": await gateway.find("alert", alert)}
        sent |= {name: value for name, value in given.items() if value is not None}
        changed = await gateway.call("alert.update", sent)
    _print_made(changed, as_json=as_json)


@alerts.command()
@click.argument("alert", shell_complete=names_of("alert"))
@json_option
@command
async def remove(alert: str, *, as_json: bool) -> None:
    """Remove ALERT, with what waits for its receiver."""
    async with connect() as gateway:
        removed = await gateway.call("alert.remove", {"alertId": await gateway.find("alert", alert)})
    print_result(removed, f"removed {removed['name']}", as_json=as_json)


@alerts.command("test")
@click.argument("alert", shell_complete=names_of("alert"))
@json_option
@command
async def try_out(alert: str, *, as_json: bool) -> None:
    """Tell the receiver of ALERT of a test. The command exits with 1 if it does not take it."""
    async with connect() as gateway:
        tried = await gateway.call("alert.test", {"alertId": await gateway.find("alert", alert)})
    print_result(tried, "delivered" if tried["delivered"] else f"not delivered: {tried['error']}", as_json=as_json)
    click.get_current_context().exit(0 if tried["delivered"] else 1)


@alerts.command()
@click.option("--alert", metavar="ALERT", help="Of this alert, by its name or id.", shell_complete=names_of("alert"))
@_app_option
@click.option("--state", type=click.Choice(("waiting", "delivered", "failed")), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, help="Maximum number of rows, newest first.")
@json_option
@command
async def deliveries(*, alert: str | None, app: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the deliveries of alerts, also those that wait, newest first."""
    async with connect() as gateway:
        given: dict[str, Any] = {"limit": limit, **await _owner(gateway, app, None)}
        if alert is not None:
            given["alertId"] = await gateway.find("alert", alert)
        found = await gateway.call("alert.deliveries", given if state is None else {**given, "state": state})
        await show_rows(gateway, found, _DELIVERIES, as_json=as_json)


@alerts.command()
@click.argument("delivery", required=False, shell_complete=names_of("alert-delivery"))
@click.option(
    "--alert",
    metavar="ALERT",
    help="All deliveries of this alert that were given up.",
    shell_complete=names_of("alert"),
)
@json_option
@command
async def replay(delivery: str | None, *, alert: str | None, as_json: bool) -> None:
    """Deliver once more: DELIVERY, by its id or the beginning of it, or with --alert all that were given up."""
    if (delivery is None) == (alert is None):
        raise click.UsageError("Give the id of a delivery, or --alert.")
    async with connect() as gateway:
        if alert is not None:
            given = {"alertId": await gateway.find("alert", alert)}
        else:
            given = {"alertDeliveryId": await _delivery_id(gateway, delivery or "")}
        replayed = await gateway.call("alert.replay", given)
    print_result(replayed, f"to be delivered again: {replayed['count']}", as_json=as_json)


async def _delivery_id(gateway: "Gateway", word: str) -> str:
    """Return the id of a delivery. A whole one is not looked up, which an older gateway cannot."""
    return word if len(word) >= _UUID else await gateway.find("alert-delivery", word)
