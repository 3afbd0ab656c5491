"""`gateway deployments`."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    format_time,
    indent,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_text,
)
from gateway.cli._table import terminal_width, wrap
from gateway.model.sanitize import safe_line


@click.group()
def deployments() -> None:
    """Show and cancel deployments."""


_COLUMNS: Columns = {
    "ID": id_in("deploymentId"),
    "APPLICATION": itemgetter("applicationId"),
    "KIND": itemgetter("kind"),
    "STATE": itemgetter("state"),
    "IMAGE": itemgetter("image"),
    "CREATED": time_in("createdAt"),
    "REASON": lambda one: one["reason"] and one["reason"]["code"],
}


@deployments.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@list_command(100)
async def list_deployments(app: str | None, listing: Listing) -> None:
    """List deployments of one application or all, newest first."""
    async with connect() as gateway:
        given = {} if app is None else {"applicationId": await gateway.find("application", app)}
        procedure = "deployment.allCentralized" if app is None else "deployment.all"
        await listing.show(gateway, procedure, _COLUMNS, given, applications=["applicationId"])


@deployments.command("show")
@click.argument("deployment", shell_complete=names_of("deployment"))
@json_option
@command
async def show_deployment(deployment: str, *, as_json: bool) -> None:
    """Show a deployment: steps, reason, what its gates answered, last log lines."""
    async with connect() as gateway:
        deployment_id = await gateway.find("deployment", deployment)
        found = await gateway.call("deployment.one", {"deploymentId": deployment_id})
    if as_json:
        print_json(found)
        return
    print_outcome(found, found["steps"])
    for gate in found["gates"]:
        asked = moment(gate["askedAt"])
        at = format_time(asked) if asked else "-"
        print_text(f"  gate {gate['name']}: {gate['verdict']} at {at}, {safe_line(gate['message'])}")
    if found["waitsFor"] is not None:
        print_fields({"position": found["queuePosition"], "waits for": found["waitsFor"]})


@deployments.command("logs")
@click.argument("deployment", shell_complete=names_of("deployment"))
@click.option("--tail", type=click.IntRange(1, 10_000), default=100, help="Last lines to print.", show_default=True)
@json_option
@command
async def deployment_logs(deployment: str, *, tail: int, as_json: bool) -> None:
    """Print the log of a deployment: its steps, why it ended so, the last lines of a container that failed."""
    async with connect() as gateway:
        deployment_id = await gateway.find("deployment", deployment)
        text = await gateway.call("deployment.readLogs", {"deploymentId": deployment_id, "tail": tail})
    if as_json:
        print_json({"deploymentId": deployment_id, "log": text})
    else:
        print_text(text, end="")


@deployments.command("cancel")
@click.argument("deployment", shell_complete=names_of("deployment"))
@json_option
@command
async def cancel_deployment(deployment: str, *, as_json: bool) -> None:
    """Cancel a deployment. A running one puts the old version back."""
    async with connect() as gateway:
        deployment_id = await gateway.find("deployment", deployment)
        state = (await gateway.call("deployment.cancel", {"deploymentId": deployment_id}))["state"]
    print_result(
        {"deploymentId": deployment_id, "state": state},
        "cancelled" if state == "cancelled" else "cancelling: the deployment puts back what it has changed",
        as_json=as_json,
    )


def print_outcome(found: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> None:
    fields = {
        "deployment": found["deploymentId"],
        "state": found["state"],
        "kind": found["kind"],
        "title": found["title"] or None,
        **({"because": found["description"]} if found["description"] else {}),
        "image": found["image"],
        "digest": found["digest"],
        **({"requested by": found["requestedBy"]} if found["requestedBy"] else {}),
        **({"release": found["releaseId"]} if found["releaseId"] else {}),
    }
    if (reason := found["reason"]) is not None:
        fields |= {"reason": reason["message"], "code": reason["code"], "remedy": reason["remedy"]}
    print_fields(fields)
    for step in steps:
        print_text("\n".join(wrap(step_line(step), terminal_width(), "    ")))
    if found["log"]:
        print_text("last lines of the container:")
        print_text(indent(found["log"]))


def step_line(step: Mapping[str, Any]) -> str:
    took = "        …   " if step["milliseconds"] is None else f"{step['milliseconds']:8.0f} ms"
    return f"  {step['step']:<9}{took}  {safe_line(step['detail'])}".rstrip()
