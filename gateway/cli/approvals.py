"""`gateway approvals`."""

from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

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
    print_text,
)

_digest = click.option("--digest", help="The digest that you mean: an error if the approval is for another one.")


@click.group()
def approvals() -> None:
    """Show what waits for an approval, and answer it: as the user of this host, or with your key."""


_COLUMNS: Columns = {
    "ID": id_in("approvalId"),
    "APPLICATION": itemgetter("applicationId"),
    "GATE": itemgetter("gateName"),
    "IMAGE": itemgetter("image"),
    "APPROVALS": lambda one: f"{one['approvals']} of {one['count']}",
    "STATE": itemgetter("standing"),
    "UNTIL": time_in("deadlineAt"),
}


@approvals.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@list_command(100)
async def list_approvals(app: str | None, listing: Listing) -> None:
    """List what waits for an approval, newest first."""
    async with connect() as gateway:
        given = {} if app is None else {"applicationId": await gateway.find("application", app)}
        await listing.show(gateway, "approval.all", _COLUMNS, given, applications=["applicationId"])


@approvals.command("show")
@click.argument("approval", shell_complete=names_of("approval"))
@json_option
@command
async def show_approval(approval: str, *, as_json: bool) -> None:
    """Show what an approval is for, what changes, and who has answered."""
    async with connect() as gateway:
        approval_id = await gateway.find("approval", approval)
        row = await gateway.call("approval.one", {"approvalId": approval_id})
    _print(row, as_json=as_json)


@approvals.command("approve")
@click.argument("approval", shell_complete=names_of("approval"))
@_digest
@click.option("--reason", default="", help="Why, for the audit.")
@json_option
@command
async def approve(approval: str, *, digest: str | None, reason: str, as_json: bool) -> None:
    """Approve that this digest goes out with this configuration. A user of the host counts once, as a key does."""
    await _answer("approval.approve", approval, {"digest": digest, "reason": reason}, as_json=as_json)


@approvals.command("reject")
@click.argument("approval", shell_complete=names_of("approval"))
@_digest
@click.option("--reason", required=True, help="Why: the deployment fails with it.")
@json_option
@command
async def reject(approval: str, *, digest: str | None, reason: str, as_json: bool) -> None:
    """Reject it: the deployment fails."""
    await _answer("approval.reject", approval, {"digest": digest, "reason": reason}, as_json=as_json)


@approvals.command("defer")
@click.argument("approval", shell_complete=names_of("approval"))
@_digest
@click.option("--until", required=True, help="A duration, for example 2h, or a time, for example 2027-01-01T08:00.")
@click.option("--reason", default="", help="Why, for the audit.")
@json_option
@command
async def defer(approval: str, *, digest: str | None, until: str, reason: str, as_json: bool) -> None:
    """Let it wait until a time (in UTC, unless it says otherwise). It is no approval."""
    from gateway.model.api_keys import parse_expiry

    at = parse_expiry(until, datetime.now(UTC))
    given = {"digest": digest, "reason": reason, "until": at.isoformat()}
    await _answer("approval.defer", approval, given, as_json=as_json)


async def _answer(procedure: str, approval: str, given: dict[str, Any], *, as_json: bool) -> None:
    async with connect() as gateway:
        approval_id = await gateway.find("approval", approval)
        row = await gateway.call(procedure, {"approvalId": approval_id, **given})
    _print(row, as_json=as_json)


def _print(row: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    print_fields(
        {
            "approval": row["approvalId"],
            "state": row["standing"],
            "approvals": f"{row['approvals']} of {row['count']}",
            "who may": row["approvers"],
            "until": moment(row["deadlineAt"]),
            **({"deferred until": moment(row["deferredUntil"])} if row["deferredUntil"] else {}),
            "image": row["image"],
            "serving": row["serving"],
            "deployment": row["deploymentId"],
        }
    )
    for change in row["changes"]:
        print_text(f"  changes {change['field']}: {change['runs'] or '-'} -> {change['wanted'] or '-'}")
    for answer in row["answers"]:
        why = f" ({answer['reason']})" if answer["reason"] else ""
        print_text(f"  {answer['name']}: {answer['answer']}{why}")
