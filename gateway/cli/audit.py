"""`gateway audit`."""

import json
from typing import Any

import click

from gateway.cli._runner import command, connect, json_option, moment, print_json, print_table, print_text
from gateway.model.errors import Conflict, NotFound


@click.command()
@click.option("--app", help="Only entries on this application, by id, container name or name; if it is deleted, by id.")
@click.option("--key", "key_id", help="Only entries of the API key with this id.")
@click.option("--action", help="Only this procedure or command, for example application.update.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]), help="Only entries with this outcome.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="Maximum number of rows, newest first.")
@click.option("--before", type=click.IntRange(1, 2**63 - 1), metavar="NUMBER", help="Only rows before this number.")
@json_option
@command
async def audit(
    *,
    app: str | None,
    key_id: str | None,
    action: str | None,
    outcome: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """Show who changed what, and which requests were refused."""
    async with connect() as gateway:
        application_id, unknown = app, None
        try:
            application_id = await gateway.find("application", app) if app else None
        except (NotFound, Conflict) as error:  # a deleted application still has rows under its id
            unknown = error
        given = {
            "applicationId": application_id,
            "keyId": key_id,
            "action": action,
            "outcome": outcome,
            "limit": limit,
            "cursor": before,
        }
        found = (await gateway.call("audit.list", {name: one for name, one in given.items() if one is not None}))[
            "items"
        ]
    if unknown is not None and not found:
        raise unknown
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["number"],
            moment(one["at"]),
            one["who"],
            one["address"],
            one["action"],
            " ".join(filter(None, (one["noun"], one["target"]))) or None,
            f"{one['outcome']} ({one['times']} times)" if one["times"] > 1 else one["outcome"],
            one["detail"] or _format_changes(one["before"], one["after"]),
        )
        for one in found
    ]
    if not rows and (key_id or action):
        print_text("no such rows; --key needs an id from gateway keys list, --action a complete name", err=True)
    print_table(("NUMBER", "AT", "WHO", "FROM", "ACTION", "ON", "OUTCOME", "WHAT"), rows)


def _format_changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """Return each changed field with its old and its new value."""
    was, became = before or {}, after or {}
    return "; ".join(
        f"{name}: {_format_value(was.get(name))} -> {_format_value(became.get(name))}"
        for name in sorted({*was, *became})
    )


def _format_value(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
