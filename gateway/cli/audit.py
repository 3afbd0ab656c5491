"""`gateway audit`."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import names_of
from gateway.cli._runner import command, connect, json_option, moment, print_json, print_table, print_text
from gateway.cli._table import Id
from gateway.model.audit import plain_fields
from gateway.model.errors import Conflict, GatewayError, NotFound
from gateway.model.setting_text import describe

if TYPE_CHECKING:
    from gateway.client import Gateway

_MAX_OTHERS = 10  # objects that a line names beside its own


@click.command()
@click.option(
    "--app",
    help="Only entries on this application, by id, container name or name; if it is deleted, by id.",
    shell_complete=names_of("application"),
)
@click.option(
    "--key",
    help="Only entries of this API key, by id, prefix or name; if it is deleted, by id.",
    shell_complete=names_of("key"),
)
@click.option("--action", help="Only this procedure or command, for example application.update.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]), help="Only entries with this outcome.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="Maximum number of entries, newest first.")
@click.option("--before", type=click.IntRange(1, 2**63 - 1), metavar="NUMBER", help="Only entries before this number.")
@json_option
@command
async def audit(
    *,
    app: str | None,
    key: str | None,
    action: str | None,
    outcome: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """Show who changed what, and which requests were refused."""
    async with connect() as gateway:
        application_id, no_application = await _find(gateway, "application", app)
        key_id, no_key = await _find(gateway, "key", key)
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
    if not found and (unknown := no_application or no_key) is not None:
        raise unknown
    if as_json:
        print_json(found)
        return
    rows = [_line(list(rows)) for _, rows in groupby(found, lambda one: one["callId"])]
    if not rows and action:
        print_text("no such rows; --action needs a complete name, for example application.update", err=True)
    print_table(("NUMBER", "AT", "WHO", "FROM", "ACTION", "ON", "NAME", "ID", "OUTCOME", "WHAT"), rows)


def _line(rows: Sequence[Mapping[str, Any]]) -> tuple[object, ...]:
    """Return one line for all that a call changed: its application, or what it changed first, and then the others."""
    subject = next((one for one in rows if one["target"] and one["target"] == one["applicationId"]), rows[-1])
    own = [one for one in reversed(rows) if (one["noun"], one["target"]) == (subject["noun"], subject["target"])]
    others = [one for one in reversed(rows) if one not in own]
    changes = [*map(_format_changes, own), *map(_format_other, others[:_MAX_OTHERS])]
    if len(others) > _MAX_OTHERS:
        changes.append(f"and {len(others) - _MAX_OTHERS} more, see --json")
    return (
        rows[-1]["number"],  # with it, --before continues after the whole call
        moment(subject["at"]),
        subject["who"],
        subject["address"],
        subject["action"],
        subject["noun"],
        subject.get("targetName"),
        subject["target"] and Id(subject["target"]),
        f"{subject['outcome']} ({subject['times']} times)" if subject["times"] > 1 else subject["outcome"],
        subject["detail"] or "; ".join(filter(None, changes)),
    )


async def _find(gateway: "Gateway", kind: str, word: str | None) -> tuple[str | None, GatewayError | None]:
    """Return the id that is meant; for none, the word and the error: what is deleted still has rows under its id."""
    if word is None:
        return None, None
    try:
        return await gateway.find(kind, word), None
    except (NotFound, Conflict) as error:
        return word, error


def _format_changes(row: Mapping[str, Any]) -> str:
    """Return each changed field: with its old and its new value, or the value where a row was made or removed."""
    was, became = plain_fields(row["before"]), plain_fields(row["after"])
    if was is None or became is None:
        empty: tuple[Any, ...] = ("", [], {}, None, row["target"])  # these say nothing
        fields = {name: one for name, one in (was or became or {}).items() if one not in empty}
        return "; ".join(f"{name}: {_format_value(fields[name])}" for name in sorted(fields))
    return "; ".join(
        f"{name}: {_format_value(was.get(name))} -> {_format_value(became.get(name))}"
        for name in sorted({*was, *became})
    )


def _format_other(row: Mapping[str, Any]) -> str:
    """Return what became of something else that the call changed."""
    named = " ".join(filter(None, (row["noun"], row.get("targetName") or row["target"])))
    if row["before"] is None or row["after"] is None:
        return f"{named} {'removed' if row['after'] is None else 'added'}"
    return f"{named}: {_format_changes(row)}"


def _format_value(value: Any) -> str:
    return "-" if value is None else describe(value)
